"""The columns that tables are made of, and the SQL of a table that is not there yet. Pure.

How a table follows a schema that changes is planned in server/schema/changes/.
"""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from server.schema.changes import indexes
from server.schema.columns import digest, identifier
from server.schema.model import Field, Resource

ENDS = ("_delete_time", "_expire_time")
"""Columns that say when a resource was deleted softly, and when it goes."""

SYSTEM = (
    ("name", 'text collate "C" primary key'),
    ("_parent", 'text collate "C" not null'),
    ("_uid", "uuid not null"),
    ("_owner", "text not null"),
    ("_version", "bigint not null"),
    ("_create_time", "timestamptz not null"),
    ("_update_time", "timestamptz not null"),
    ("_delete_time", "timestamptz"),
    ("_expire_time", "timestamptz"),
    ("_payload", "bytea not null"),
)
"""Columns every table has: the resource name, what the engine keeps, and the serialized message that reads answer with."""


def created(resource: Resource) -> Iterator[sql.Composable]:
    """The statements that make the resource's table, with its indexes."""
    place = resource.table_schema, resource.table_name
    columns: list[sql.Composable] = [sql.SQL("{} {}").format(sql.Identifier(n), sql.SQL(d)) for n, d in SYSTEM]
    columns += [definition(f) for f in resource.fields if f.column != "name"]
    yield sql.SQL("create table {} ({})").format(sql.Identifier(*place), sql.SQL(", ").join(columns))
    for keys in indexes.SYSTEM:
        yield system_index(place, keys)
    for one in indexes.wanted(resource):
        yield sql.SQL(one.statement(place, beside=False))
    yield whose(place, resource)


def system_index(table: tuple[str, str], keys: tuple[str, ...]) -> sql.Composable:
    """The statement that makes one of the indexes every table has."""
    return sql.SQL("create index on {} ({})").format(
        sql.Identifier(*table), sql.SQL(", ").join(map(sql.Identifier, keys))
    )


def whose(table: tuple[str, str], resource: Resource) -> sql.Composable:
    """The statement that lets Postgres learn how far a row's parent tells its owner. Where it does, as in everybody's own
    collection, a list of what is one's own there is all that is there, and Postgres would take it for next to nothing."""
    name = identifier(f"tx_{digest(resource.message)}_whose")
    return sql.SQL("create statistics if not exists {} (dependencies) on _parent, _owner from {}").format(
        sql.Identifier(table[0], name), sql.Identifier(*table)
    )


def definition(field: Field, column: str = "") -> sql.Composable:
    """Name, type and default of a field's column, under its own name or another. Texts are compared by their bytes, as
    everywhere."""
    kind = f'{field.column_type} collate "C"' if field.column_type == "text" else field.column_type
    named = sql.Identifier(column or field.column)
    if field.default is None:
        return sql.SQL("{} {}").format(named, sql.SQL(kind))
    return sql.SQL("{} {} not null default {}").format(named, sql.SQL(kind), sql.SQL(field.default))


def catalogued(resource: Resource, field: Field, column: str = "") -> str:
    """The statement that writes down which column a field lives in."""
    return (
        sql.SQL(
            "insert into transom.catalogue (message, number, table_schema, table_name, column_name, column_type) "
            "values ({}, {}, {}, {}, {}, {}) on conflict (message, number) do update "
            "set column_name = excluded.column_name, column_type = excluded.column_type, table_name = excluded.table_name"
        )
        .format(
            *map(
                sql.Literal,
                (
                    resource.message,
                    field.number,
                    resource.table_schema,
                    resource.table_name,
                    column or field.column,
                    field.column_type,
                ),
            )
        )
        .as_string(None)
    )
