"""The tables a schema wants, and the SQL that makes them out of what is there. Pure.

The number of a field is its column's identity: `present` (the catalogue) says which
column a number lives in, so a field that was renamed keeps its data. Only what adds
is planned; a change that would need more is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from psycopg import sql

from server.schema.columns import digest, identifier
from server.schema.compilation import SchemaError
from server.schema.model import Resource, Schema

K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Hashable)

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


Table = tuple[str, str]
"""Schema and name."""


@dataclass(frozen=True, slots=True)
class Present:
    """A column that is there, as the catalogue has it."""

    column_name: str
    column_type: str
    not_null: bool = False


def statements(
    schema: Schema,
    tables: Mapping[str, Table],
    columns: Mapping[tuple[str, int], Present],
    by_owner: Collection[Table] = (),
) -> list[sql.Composable]:
    """The SQL, in order, that makes the database fit the schema; empty where it does already.

    `tables` is the catalogue's (schema, table) by message, `columns` its columns by message and field number, `by_owner`
    the tables whose rows can be found by their owner. A table or column that the schema no longer has stays, with its
    data; one that is in the way of a new one gets another name. Raises SchemaError where a column would have to change
    its type.
    """
    out: list[sql.Composable] = [_owners(table) for table in tables.values() if table not in by_owner]
    faults: list[str] = []
    wanted = {r.message: (r.table_schema, r.table_name) for r in schema.resources.values()}
    for message, old, new in _renames(tables, wanted, lambda m, t: (t[0], identifier(f"_was_{t[1]}_{digest(m)}"))):
        out += _table_renamed(message, old, new)
    made = {schema for schema, _ in tables.values()}
    for resource in schema.resources.values():
        if resource.table_schema not in made:
            made.add(resource.table_schema)
            out.append(sql.SQL("create schema if not exists {}").format(sql.Identifier(resource.table_schema)))
        if resource.message in tables:
            out += _altered(resource, {n: p for (m, n), p in columns.items() if m == resource.message}, faults)
        else:
            out += _created(resource)
    if faults:
        raise SchemaError("\n".join(faults))
    return out


def _renames(present: Mapping[K, V], wanted: Mapping[K, V], aside: Callable[[K, V], V]) -> Iterable[tuple[K, V, V]]:
    """What to rename from what to what, in order, so that each of `present` that is wanted is called as wanted and no two
    are ever called the same. What is in the way goes `aside`: for good, where it is not wanted itself."""
    names = dict(present)
    for key, name in present.items():
        if key not in wanted and name in wanted.values():
            names[key] = aside(key, name)
            yield key, name, names[key]
    left = [k for k in wanted if k in present and present[k] != wanted[k]]
    while left:
        free = next((k for k in left if wanted[k] not in names.values()), None)
        key = left[0] if free is None else free  # all in a circle (a is renamed to b, b to a): one steps aside
        new = aside(key, present[key]) if free is None else wanted[key]
        yield key, names[key], new
        names[key] = new
        if free is not None:
            left.remove(key)


def _table_renamed(message: str, old: Table, new: Table) -> Iterable[sql.Composable]:
    yield sql.SQL("alter table {} rename to {}").format(sql.Identifier(*old), sql.Identifier(new[1]))
    for catalogue in ("tables", "catalogue"):
        yield sql.SQL("update {} set table_name = {} where message = {}").format(
            sql.Identifier("transom", catalogue), sql.Literal(new[1]), sql.Literal(message)
        )


def _created(resource: Resource) -> Iterable[sql.Composable]:
    wanted: list[sql.Composable] = [sql.SQL("{} {}").format(sql.Identifier(n), sql.SQL(d)) for n, d in SYSTEM]
    wanted += [_definition(f.column, f.column_type, f.default) for f in resource.fields if f.column != "name"]
    table = sql.Identifier(resource.table_schema, resource.table_name)
    yield sql.SQL("create table {} ({})").format(table, sql.SQL(", ").join(wanted))
    yield sql.SQL("create index on {} (_parent, name)").format(table)
    yield _owners((resource.table_schema, resource.table_name))
    yield sql.SQL("insert into transom.tables (message, table_schema, table_name) values ({}, {}, {})").format(
        sql.Literal(resource.message), sql.Literal(resource.table_schema), sql.Literal(resource.table_name)
    )
    for field in resource.fields:
        yield _catalogued(resource, field.number, field.column, field.column_type)


def _owners(table: Table) -> sql.Composable:
    """The index by which all that belongs to an account is found."""
    return sql.SQL("create index on {} (_owner)").format(sql.Identifier(*table))


def _altered(resource: Resource, present: Mapping[int, Present], faults: list[str]) -> Iterable[sql.Composable]:
    where = f"{resource.descriptor.file.name}: {resource.message}"
    table = sql.Identifier(resource.table_schema, resource.table_name)
    kinds = {n: p.column_type for n, p in present.items()}
    wanted = {f.number: f.column for f in resource.fields}
    for number, old, new in _renames(
        {n: p.column_name for n, p in present.items()}, wanted, lambda n, c: identifier(f"_was{n}_{c}")
    ):
        if "name" in (old, new):
            faults.append(f"{where}: the names are in another field than they were: number {number} was {old!r}")
            continue
        yield sql.SQL("alter table {} rename column {} to {}").format(table, sql.Identifier(old), sql.Identifier(new))
        yield _catalogued(resource, number, new, kinds[number])
    for field in resource.fields:
        here = present.get(field.number)
        if here is None:
            yield sql.SQL("alter table {} add column {}").format(
                table, _definition(field.column, field.column_type, field.default)
            )
            yield _catalogued(resource, field.number, field.column, field.column_type)
        elif here.column_type != field.column_type:
            faults.append(
                f"{where}.{field.name}: number {field.number} is kept as {here.column_type} and would become "
                f"{field.column_type}: give the field a new number"
            )
        elif here.not_null and field.default is None and field.column != "name":
            # The field has learned to tell absence from zero (it became `optional`).
            yield sql.SQL("alter table {} alter column {} drop not null, alter column {} drop default").format(
                table, *[sql.Identifier(field.column)] * 2
            )


def _definition(column: str, kind: str, default: str | None) -> sql.Composable:
    if default is None:
        return sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(kind))
    return sql.SQL("{} {} not null default {}").format(sql.Identifier(column), sql.SQL(kind), sql.SQL(default))


def _catalogued(resource: Resource, number: int, column: str, kind: str) -> sql.Composable:
    return sql.SQL(
        "insert into transom.catalogue (message, number, table_schema, table_name, column_name, column_type) "
        "values ({}, {}, {}, {}, {}, {}) on conflict (message, number) do update set column_name = excluded.column_name"
    ).format(*map(sql.Literal, (resource.message, number, resource.table_schema, resource.table_name, column, kind)))
