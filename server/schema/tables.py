"""The tables a schema wants, and the SQL that makes them out of what is there. Pure.

The number of a field is its column's identity: `present` (the catalogue) says which
column a number lives in, so a field that was renamed keeps its data. Only what adds
is planned; a change that would need more is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from psycopg import sql

from server.schema.compilation import SchemaError
from server.schema.model import Resource, Schema

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


@dataclass(frozen=True, slots=True)
class Present:
    """A column that is there, as the catalogue has it."""

    table_schema: str
    table_name: str
    column_name: str
    column_type: str


def statements(
    schema: Schema, tables: Mapping[str, tuple[str, str]], columns: Mapping[tuple[str, int], Present]
) -> list[sql.Composable]:
    """The SQL, in order, that makes the database fit the schema; empty where it does already.

    `tables` is the catalogue's (schema, table) by message, `columns` its columns by message and field number.
    Raises SchemaError where a column would have to change its type.
    """
    out: list[sql.Composable] = []
    faults: list[str] = []
    made = {schema for schema, _ in tables.values()}
    # Those that are there go first: a table that is renamed may leave its name to a new one.
    for resource in sorted(schema.resources.values(), key=lambda r: r.message not in tables):
        if resource.table_schema not in made:
            made.add(resource.table_schema)
            out.append(sql.SQL("create schema if not exists {}").format(sql.Identifier(resource.table_schema)))
        if resource.message in tables:
            out += _altered(resource, tables[resource.message], columns, faults)
        else:
            out += _created(resource)
    if faults:
        raise SchemaError("\n".join(faults))
    return out


def _created(resource: Resource) -> Iterable[sql.Composable]:
    wanted: list[sql.Composable] = [sql.SQL("{} {}").format(sql.Identifier(n), sql.SQL(d)) for n, d in SYSTEM]
    wanted += [_definition(f.column, f.column_type, f.default) for f in resource.fields if f.column != "name"]
    table = sql.Identifier(resource.table_schema, resource.table_name)
    yield sql.SQL("create table {} ({})").format(table, sql.SQL(", ").join(wanted))
    yield sql.SQL("create index on {} (_parent, name)").format(table)
    yield sql.SQL("insert into transom.tables (message, table_schema, table_name) values ({}, {}, {})").format(
        sql.Literal(resource.message), sql.Literal(resource.table_schema), sql.Literal(resource.table_name)
    )
    for field in resource.fields:
        yield _catalogued(resource, field.number, field.column, field.column_type)


def _altered(
    resource: Resource, at: tuple[str, str], columns: Mapping[tuple[str, int], Present], faults: list[str]
) -> Iterable[sql.Composable]:
    where = f"{resource.descriptor.file.name}: {resource.message}"
    table = sql.Identifier(*at)
    if at != (resource.table_schema, resource.table_name):
        yield sql.SQL("alter table {} rename to {}").format(table, sql.Identifier(resource.table_name))
        table = sql.Identifier(at[0], resource.table_name)
        yield sql.SQL("update transom.tables set table_name = {} where message = {}").format(
            sql.Literal(resource.table_name), sql.Literal(resource.message)
        )
    renames: list[sql.Composable] = []
    for field in resource.fields:
        present = columns.get((resource.message, field.number))
        if present is None:
            yield sql.SQL("alter table {} add column {}").format(
                table, _definition(field.column, field.column_type, field.default)
            )
            yield _catalogued(resource, field.number, field.column, field.column_type)
        elif present.column_type != field.column_type:
            faults.append(
                f"{where}.{field.name}: number {field.number} is kept as {present.column_type} and would become "
                f"{field.column_type}: give the field a new number"
            )
        elif present.column_name != field.column:
            renames.append(
                sql.SQL("alter table {} rename column {} to {}").format(
                    table, sql.Identifier(present.column_name), sql.Identifier(field.column)
                )
            )
            renames.append(_catalogued(resource, field.number, field.column, field.column_type))
    yield from renames


def _definition(column: str, kind: str, default: str | None) -> sql.Composable:
    if default is None:
        return sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(kind))
    return sql.SQL("{} {} not null default {}").format(sql.Identifier(column), sql.SQL(kind), sql.SQL(default))


def _catalogued(resource: Resource, number: int, column: str, kind: str) -> sql.Composable:
    return sql.SQL(
        "insert into transom.catalogue (message, number, table_schema, table_name, column_name, column_type) "
        "values ({}, {}, {}, {}, {}, {}) on conflict (message, number) do update set column_name = excluded.column_name"
    ).format(*map(sql.Literal, (resource.message, number, resource.table_schema, resource.table_name, column, kind)))
