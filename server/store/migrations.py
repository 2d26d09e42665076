"""Brings the database up to date: Transom's own tables by numbered files, the app's by its schema.

Safe to start anywhere, any number of times, by many at once: one does it, the others wait and find it done; what is done
is written down in the transaction that does it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from server.schema.model import Schema
from server.store.schemas.applying import Applying, exclusively
from server.store.schemas.execution import Encode, Report

FOLDER = Path(__file__).parent / "migrations"


def migrate(dsn: str, schema: Schema, encode: Encode | None = None) -> list[str]:
    """What was done, a line each; empty where nothing was to do. What is to be done when the processes that serve another
    schema have gone is left.

    Raises SchemaError where the schema asks for a change that would lose data, or for one that needs `encode`.
    """
    with changing(dsn) as (connection, done):
        return [*done, *Applying(connection, schema, who="migrate", encode=encode).apply()[0]]


@contextmanager
def changing(dsn: str, report: Report = lambda _: None) -> Iterator[tuple[psycopg.Connection, list[str]]]:
    """A connection to change the database by, as the only one who does, with Transom's own tables up to date; and what was
    done for that."""
    with (
        psycopg.connect(dsn, autocommit=True, application_name="transom apply") as connection,
        exclusively(connection, report),
    ):
        yield connection, _own(connection)


def _own(connection: psycopg.Connection) -> list[str]:
    connection.execute("create schema if not exists transom")
    connection.execute(
        "create table if not exists transom.migrations "
        "(name text primary key, done_time timestamptz not null default clock_timestamp())"
    )
    done = {row[0] for row in connection.execute("select name from transom.migrations")}
    new = [f for f in sorted(FOLDER.glob("*.sql")) if f.stem not in done]
    for file in new:
        with connection.transaction():
            connection.execute(file.read_bytes())
            connection.execute("insert into transom.migrations (name) values (%s)", [file.stem])
    return [f"migration {file.stem}" for file in new]
