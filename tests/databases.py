"""Databases of tests. A schema is migrated to once; what else wants it gets a copy, which costs half of that."""

from __future__ import annotations

import secrets

import psycopg
from psycopg.conninfo import make_conninfo

from server.schema.changes import layout
from server.schema.model import Schema
from server.store.migrations import migrate

_MIGRATED: dict[tuple[str, bytes, str], str] = {}
"""Names of the databases to copy, by server and schema. They go with their server."""


def create(admin: str, name: str, schema: Schema | None) -> None:
    """Creates a database with the tables of a schema and Transom's own, or without any. Raises as `migrate` does."""
    template = "" if schema is None else f" template {_migrated(admin, schema)}"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"create database {name}{template}")


def _migrated(admin: str, schema: Schema) -> str:
    key = admin, schema.image, layout.digest(schema)
    if key not in _MIGRATED:
        name = f"migrated_{secrets.token_hex(4)}"
        create(admin, name, None)
        migrate(make_conninfo(admin, dbname=name), schema)
        _MIGRATED[key] = name
    return _MIGRATED[key]
