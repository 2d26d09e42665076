"""Brings the database up to date: Transom's own tables by numbered files, the app's by its schema.

Safe to start anywhere, any number of times, by many at once: one advisory lock, one transaction per step, and
what is done is written down in that same transaction.
"""

from __future__ import annotations

from pathlib import Path

import psycopg

from server.schema.model import Schema
from server.schema.tables import Present, statements

FOLDER = Path(__file__).parent / "migrations"
LOCK = 0x7472616E736F6D
"""Key of the advisory lock under which the database is changed ("transom")."""

_COLUMNS = """
select c.message, c.number, c.column_name, c.column_type, coalesce(a.attnotnull, false)
from transom.catalogue c join transom.tables t using (message)
left join pg_attribute a on a.attrelid = to_regclass(format('%I.%I', t.table_schema, t.table_name)) and a.attname = c.column_name
"""
"""The catalogue of columns, with what only Postgres knows of them."""

_BY_OWNER = """
select t.table_schema, t.table_name
from transom.tables t
join pg_index i on i.indrelid = to_regclass(format('%I.%I', t.table_schema, t.table_name))
join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0] and a.attname = '_owner'
"""
"""Tables with an index that begins with the owner."""


def migrate(dsn: str, schema: Schema) -> list[str]:
    """What was done, a line each; empty where nothing was to do.

    Raises SchemaError where the schema asks for a change that would lose data.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(%s)", [LOCK])
        return [*_own(connection), *_app(connection, schema)]


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


def _app(connection: psycopg.Connection, schema: Schema) -> list[str]:
    with connection.transaction():
        tables = {
            message: (table_schema, table_name)
            for message, table_schema, table_name in connection.execute(
                "select message, table_schema, table_name from transom.tables"
            )
        }
        columns = {(message, number): Present(*rest) for message, number, *rest in connection.execute(_COLUMNS)}
        by_owner = {(table_schema, table_name) for table_schema, table_name in connection.execute(_BY_OWNER)}
        todo = statements(schema, tables, columns, by_owner)
        done = []
        for statement in todo:
            text = statement.as_string(connection)
            connection.execute(text.encode())
            if not text.startswith(("insert", "update")):
                done.append(text)
        return done
