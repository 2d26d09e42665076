"""The columns of a table that is there, on their way to what a resource wants."""

from __future__ import annotations

import re

from psycopg import sql

from server.schema import tables
from server.schema.changes.draft import Cut, Draft
from server.schema.changes.renames import renames
from server.schema.changes.state import Table, TableState
from server.schema.changes.steps import BESIDE, MOMENT, ROWS, Kind, Step
from server.schema.columns import digest, identifier
from server.schema.model import Field, Resource

WIDENED = {("integer", "bigint"), ("integer", "numeric(20)"), ("bigint", "numeric(20)")}
"""Types of columns, and what each may become."""

_COPY = re.compile(r"_next(\d+)")
_ASIDE = re.compile(r"^(_was\d+_)+")


def called(draft: Draft, resource: Resource, table: TableState) -> dict[int, str]:
    """The columns of the fields that are served, by number, as they are called when the table is as the resource wants it."""
    return dict(table.numbers) | {f.number: f.column for f in resource.fields}


def columns_of(resource: Resource, table: TableState) -> dict[str, str]:
    """What the columns of the resource's fields are called now, for those that are there."""
    return {f.name: table.numbers[f.number] for f in resource.fields if f.number in table.numbers}


def copied(resource: Resource, table: TableState) -> dict[str, str]:
    """The columns that take the place of others, for fields that get another type; by field."""
    return {f.name: _copy(f) for f in resource.fields if _widens(f, table)}


def follow(draft: Draft, resource: Resource, table: TableState, cut: Cut, place: Table) -> None:
    """Plans what makes the columns those of the resource; refuses what cannot be."""
    where = f"{resource.descriptor.file.name}: {resource.message}"
    at = sql.Identifier(*place)
    copies = {f.number: f for f in resource.fields if _widens(f, table)}
    _abandoned(table, cut, at, copies, digest(resource.message))
    for field in copies.values():
        _widen(draft, resource, table, cut, field, at)
    for number, old, new in renames(
        table.numbers,
        {f.number: f.column for f in resource.fields},
        lambda n, c: identifier(f"_was{n}_{c}"),
        [n for n, _ in tables.SYSTEM],
    ):
        if "name" in (old, new):
            draft.refuse(
                where, f"the names are in another field than they were: number {number} was {old!r}", "keep them"
            )
            continue
        cut.columns.append(
            sql.SQL("alter table {} rename column {} to {}").format(at, sql.Identifier(old), sql.Identifier(new))
        )
        cut.noted.append(_renamed(resource, number, new))
    for field in resource.fields:
        _field(draft, resource, table, cut, field, at)


def _field(draft: Draft, resource: Resource, table: TableState, cut: Cut, field: Field, at: sql.Identifier) -> None:
    where = f"{resource.descriptor.file.name}: {resource.message}.{field.name}"
    here = table.columns.get(table.numbers.get(field.number, ""))
    if here is None:
        cut.columns.append(sql.SQL("alter table {} add column {}").format(at, tables.definition(field)))
        cut.noted.append(tables.catalogued(resource, field))
        return
    before = draft.before(resource)
    stem = _ASIDE.sub("", here.name)
    if before is not None and all(f.number != field.number for f in before.fields) and stem != field.column:
        draft.refuse(
            where,
            f"number {field.number} was that of {stem!r}, whose values are still there, and would be read as {field.name!r}",
            "give the field a number that was never used",
        )
    kind = table.types[field.number]
    if kind != field.column_type and (kind, field.column_type) not in WIDENED:
        draft.refuse(
            where,
            f"number {field.number} is kept as {kind} and would become {field.column_type}",
            "give the field a new number",
        )
        return
    if field.column == "name":
        return
    column = sql.Identifier(field.column)
    if here.not_null and field.default is None:
        # The field has learned to tell absence from zero (it became `optional`).
        cut.columns.append(
            sql.SQL("alter table {} alter column {} drop not null, alter column {} drop default").format(
                at, column, column
            )
        )
    elif field.default is not None and _plain(here.default) != _plain(field.default):
        cut.columns.append(
            sql.SQL("alter table {} alter column {} set default {}").format(at, column, sql.SQL(field.default))
        )
    if field.default is not None and not here.not_null:
        _never_null(draft, resource, table, (table.schema, resource.table_name), field)


def _never_null(draft: Draft, resource: Resource, table: TableState, place: Table, field: Field) -> None:
    """The field cannot tell absence from zero any more: NULL becomes zero, which is what servers read there already."""
    column, at, check = sql.Identifier(field.column), sql.Identifier(*place), f"_never_null{field.number}"
    key = f"never null {resource.message} {field.number}"
    if key not in draft.state.filled:
        draft.alone.append(
            Step(
                Kind.FILL,
                place,
                (sql.SQL("{} = {}").format(column, sql.SQL(field.default or "")).as_string(None),),
                ROWS,
                scans=True,
                rows=table.rows,
                key=key,
                where=sql.SQL("{} is null").format(column).as_string(None),
            )
        )
    named = sql.Identifier(check)
    if check not in table.constraints:
        added = sql.SQL("alter table {} add constraint {} check ({} is not null) not valid").format(at, named, column)
        draft.alone.append(Step(Kind.ALTER, place, (added.as_string(None),), MOMENT))
    valid = sql.SQL("alter table {} validate constraint {}").format(at, named)
    draft.alone.append(Step(Kind.VALIDATE, place, (valid.as_string(None),), BESIDE, scans=True, rows=table.rows))
    # With the check, Postgres need not look at the rows again.
    done = sql.SQL("alter table {} alter column {} set not null, drop constraint {}").format(at, column, named)
    draft.alone.append(Step(Kind.ALTER, place, (done.as_string(None),), MOMENT, noted=(forgotten(key),)))


def _widen(draft: Draft, resource: Resource, table: TableState, cut: Cut, field: Field, at: sql.Identifier) -> None:
    """A column of the wider type beside the other one: a trigger keeps it in step, a fill brings it up to date, and the cut
    puts it in the place of the other. To change the type in place would rewrite the table while everybody waits."""
    old, new = table.numbers[field.number], _copy(field)
    was, here = table.columns[old], table.columns.get(new)
    key = f"widen {resource.message} {field.number} {field.column_type}"
    value = sql.SQL("{}::{}").format(sql.Identifier(old), sql.SQL(field.column_type))
    function, trigger = _function(resource, table, field), sql.Identifier(new)
    present = sql.Identifier(*table.place)
    if here is None:
        body = sql.SQL("begin new.{} := new.{}; return new; end").format(sql.Identifier(new), value)
        statements = (
            sql.SQL("alter table {} add column {} {}{}").format(
                present,
                sql.Identifier(new),
                sql.SQL(field.column_type),
                # As the other one is: what may be NULL in it is NULL in this one.
                sql.SQL(f" not null default {was.default}" if was.not_null else ""),
            ),
            sql.SQL("create or replace function {}() returns trigger language plpgsql as {}").format(
                function, sql.Literal(body.as_string(None))
            ),
            sql.SQL("create trigger {} before insert or update on {} for each row execute function {}()").format(
                trigger, present, function
            ),
        )
        draft.first.append(
            Step(
                Kind.ALTER,
                table.place,
                tuple(s.as_string(None) for s in statements),
                MOMENT,
                noted=(forgotten(key),),
            )
        )
    if here is None or key not in draft.state.filled:
        draft.first.append(
            Step(
                Kind.FILL,
                table.place,
                (sql.SQL("{} = {}").format(sql.Identifier(new), value).as_string(None),),
                ROWS,
                scans=True,
                rows=table.rows,
                key=key,
                where=sql.SQL("{} is distinct from {}").format(sql.Identifier(new), value).as_string(None),
            )
        )
    cut.columns += [
        sql.SQL("drop trigger {} on {}").format(trigger, at),
        sql.SQL("drop function {}()").format(function),
        sql.SQL("alter table {} drop column {}").format(at, sql.Identifier(old)),
        sql.SQL("alter table {} rename column {} to {}").format(at, sql.Identifier(new), sql.Identifier(old)),
    ]
    cut.noted += [tables.catalogued(resource, field, old), forgotten(key)]


def _abandoned(table: TableState, cut: Cut, at: sql.Identifier, copies: dict[int, Field], mark: str) -> None:
    """Copies that an apply began which another schema does not want."""
    for name, column in table.columns.items():
        found = _COPY.fullmatch(name)
        wanted = copies.get(int(found[1])) if found else None
        if found and (wanted is None or wanted.column_type != column.type):
            cut.columns += [
                sql.SQL("drop trigger if exists {} on {}").format(sql.Identifier(name), at),
                sql.SQL("drop function if exists {}()").format(sql.Identifier(table.schema, f"{name}_{mark}")),
                sql.SQL("alter table {} drop column {}").format(at, sql.Identifier(name)),
            ]


def _widens(field: Field, table: TableState) -> bool:
    kind = table.types.get(field.number)
    return kind is not None and (kind, field.column_type) in WIDENED


def _copy(field: Field) -> str:
    return f"_next{field.number}"


def _function(resource: Resource, table: TableState, field: Field) -> sql.Identifier:
    return sql.Identifier(table.schema, f"_next{field.number}_{digest(resource.message)}")


def _renamed(resource: Resource, number: int, column: str) -> str:
    return (
        sql.SQL("update transom.catalogue set column_name = {} where message = {} and number = {}")
        .format(sql.Literal(column), sql.Literal(resource.message), sql.Literal(number))
        .as_string(None)
    )


def forgotten(key: str) -> str:
    """The statement that forgets how far a fill was."""
    return sql.SQL("delete from transom.schema_fills where key = {}").format(sql.Literal(key)).as_string(None)


def _plain(default: str | None) -> str | None:
    """A default without what Postgres adds when it prints one: `'0'::numeric` is 0, and no bytes are `'\\x'::bytea`."""
    return None if default is None else default.partition("::")[0].strip("'").removeprefix("\\x")
