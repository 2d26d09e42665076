"""What a change means to the rows there are: what they are asked before, what is written anew, what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator

from psycopg import sql

from server.schema.changes.comparison import Difference, difference, type_name
from server.schema.changes.draft import Draft
from server.schema.changes.state import TableState
from server.schema.changes.steps import PROBE_ROWS, ROWS, Kind, Probe, Refusal, Step
from server.schema.columns import digest
from server.schema.model import Behavior, Field, Resource, Schema
from server.schema.names import Pattern


def judge(draft: Draft, resource: Resource, table: TableState) -> None:
    """Refuses, or asks the rows, or plans what has to be written anew, for all that differs from what is deployed."""
    before = draft.before(resource)
    if before is None:
        return
    where = f"{resource.descriptor.file.name}: {resource.message}"
    _patterns(draft, resource, before, table, where)
    fields = {f.number: f for f in before.fields}
    for field in resource.fields:
        old = fields.get(field.number)
        _required(draft, field, old, table, f"{where}.{field.name}")
        if old is not None and field.column != "name":
            _values(draft, resource, field, old, table, f"{where}.{field.name}")
    _oneofs(draft, resource, before, where)


def _values(draft: Draft, resource: Resource, field: Field, old: Field, table: TableState, where: str) -> None:
    found = difference(old.descriptor, field.descriptor)
    kind, here = table.types.get(field.number), table.numbers.get(field.number)
    if here is None:
        return
    if found.refused:
        if kind == field.column_type:  # else the column's own refusal says so
            for reason in found.refused:
                draft.refuse(where, f"number {field.number}: {reason}", "give the field a new number")
        return
    column = sql.Identifier(here)
    if found.unsigned:
        negative = (
            sql.SQL("{} < 0")
            if not field.descriptor.is_repeated
            else sql.SQL("jsonb_path_exists({}, '$.** ? (@ < 0)')")
        )
        _ask(
            draft, table, negative.format(column), where,
            f"{type_name(old.descriptor)} would become {type_name(field.descriptor)}, and {{count}} rows have a negative value",
            "give the field a new number, or change these rows first",
        )  # fmt: skip
    for label in sorted(found.gone):
        holds = sql.SQL("{} = {}").format(column, sql.Literal(label))
        if kind == "jsonb":
            path = f'$.** ? (@ == "{label}")'
            holds = sql.SQL("jsonb_path_exists({}, {})").format(column, sql.Literal(path))
        _ask(
            draft, table, holds, where,
            f"the enum value {label} is gone, and {{count}} rows have it",
            "keep it, marked deprecated, or change these rows first",
        )  # fmt: skip
    gained = old.default is not None and field.default is None
    if gained:
        found.names.add(field.name)
    anew = bool(found.stale or found.labels or gained)
    if draft.old_runs and anew and (named := _named_in_rules(draft, found.names)):
        draft.refuse(
            where,
            f"{', '.join(sorted(found.names))} would be called or kept otherwise, and a rule names {named}: rows that are not "
            "written anew yet would be judged wrongly",
            "for an enum value, add the new name as an alias after the old one (allow_alias); for a field, add a new one, "
            "fill it, move the rules to it, and drop the old one",
        )
        return
    if steps := list(_anew(draft, resource, field, old, found, table, gained)):
        draft.alone += steps
        draft.notes.append(
            f"{where}: until its column is written anew, servers of the new schema do not find such rows by "
            f"{', '.join(sorted(found.names)) or 'the new values'}; what is read is right all along"
        )


def _anew(
    draft: Draft, resource: Resource, field: Field, old: Field, found: Difference, table: TableState, gained: bool
) -> Iterator[Step]:
    place = table.schema, resource.table_name
    column = sql.Identifier(field.column)
    assert draft.previous is not None
    step = f"{field.number} {resource.message} {digest(f'{draft.previous.image!r}{draft.target.image!r}')}"
    labels = found.labels
    grown = bool(found.numbers) and not found.stale
    if labels and not found.stale and not labels.keys() & set(labels.values()):
        key = f"labels {step}"
        if key not in draft.state.filled:
            cases = sql.SQL(" ").join(
                sql.SQL("when {} then {}").format(sql.Literal(a), sql.Literal(b)) for a, b in labels.items()
            )
            yield Step(
                Kind.FILL,
                place,
                (sql.SQL("{} = case {} {} end").format(column, column, cases).as_string(None),),
                ROWS,
                scans=True,
                rows=table.rows,
                key=key,
                where=sql.SQL("{} in ({})")
                .format(column, sql.SQL(", ").join(map(sql.Literal, labels)))
                .as_string(None),
            )
        labels = {}
    if found.stale or labels or (grown and field.column_type == "jsonb") or gained:
        key = f"anew {step}"
        condition: sql.Composable = sql.SQL("")
        if grown and not labels and not gained:
            # Only what holds one of the new values holds it as a number.
            numbers = " || ".join(f'@ == {n} || @ == "{n}"' for n in sorted(found.numbers))
            condition = sql.SQL("jsonb_path_exists({}, {})").format(column, sql.Literal(f"$.** ? ({numbers})"))
        elif gained and not found.stale:
            condition = sql.SQL("{} = {}").format(column, sql.SQL(old.default or "''"))
        if key not in draft.state.filled:
            yield Step(
                Kind.REBUILD,
                place,
                (),
                ROWS,
                scans=True,
                rows=table.rows,
                key=key,
                message=resource.message,
                fields=(field.name,),
                columns=((field.column, field.column_type),),
                where=condition.as_string(None),
            )


def _required(draft: Draft, field: Field, old: Field | None, table: TableState, where: str) -> None:
    was = old.behaviors if old is not None else frozenset()
    if Behavior.REQUIRED not in field.behaviors or Behavior.REQUIRED in was or field.column == "name":
        return
    if field.behaviors & {Behavior.INPUT_ONLY, Behavior.OUTPUT_ONLY}:
        return
    here = table.numbers.get(field.number)
    if old is None or here is None:
        empty: sql.Composable = sql.SQL("true")
    else:
        column = sql.Identifier(here)
        zero = old.default
        empty = sql.SQL("{} is null").format(column)
        if zero is not None:
            empty = sql.SQL("{} = {}").format(column, sql.SQL(zero))
    _ask(
        draft, table, empty, where,
        "would be REQUIRED, and {count} rows have nothing there: they could not be updated any more",
        "add it without REQUIRED, fill these rows, then make it REQUIRED",
    )  # fmt: skip


def _patterns(draft: Draft, resource: Resource, before: Resource, table: TableState, where: str) -> None:
    gone = [p for p in before.patterns if _regex(p) not in {_regex(q) for q in resource.patterns}]
    if not gone:
        return
    left = "|".join(_regex(p) for p in resource.patterns)
    _ask(
        draft, table, sql.SQL("name !~ {}").format(sql.Literal(f"^(?:{left})$")), where,
        f"the pattern {', '.join(p.text for p in gone)} is gone, and {{count}} resources have such names",
        "keep the pattern, or delete these resources first",
    )  # fmt: skip


def _oneofs(draft: Draft, resource: Resource, before: Resource, where: str) -> None:
    """Refuses where several fields that could be set at once would become one of each other."""
    there = {f.number: f.descriptor for f in before.fields}
    for oneof in resource.descriptor.oneofs:
        moved = [
            f.name
            for f in oneof.fields
            if f.number in there
            and (there[f.number].containing_oneof is None or len(there[f.number].containing_oneof.fields) == 1)
        ]
        if len(oneof.fields) > 1 and len(moved) > 1:
            draft.refuse(
                f"{where}.{oneof.name}",
                f"{', '.join(moved)} could be set together, and only one of them could be read any more",
                "give the fields of the oneof new numbers",
            )


def _ask(draft: Draft, table: TableState, condition: sql.Composable, where: str, reason: str, advice: str) -> None:
    text = sql.SQL("select count(*) from (select 1 from {} where {} limit {}) as asked").format(
        sql.Identifier(*table.place), condition, sql.Literal(PROBE_ROWS)
    )
    draft.probes.append(Probe(text.as_string(None), Refusal(where, reason, advice)))


def _named_in_rules(draft: Draft, names: set[str]) -> str:
    """The first of the names that an expression of either schema has as a word; empty where none has."""
    texts = [text for schema in draft.served for text in _expressions(schema)]
    return next((n for n in sorted(names) if any(re.search(rf"\b{re.escape(n)}\b", t) for t in texts)), "")


def _expressions(schema: Schema) -> Iterator[str]:
    for resource in schema.resources.values():
        yield from (text for _, text in resource.rules)
        yield from (text for field in resource.fields for _, text in field.rules)
    for method in schema.methods():
        if method.access is not None and method.access.rule:
            yield method.access.rule
    for terms in schema.terms.values():
        yield from (text for _, text in terms)


def _regex(pattern: Pattern) -> str:
    """The pattern for Postgres: whatever its variables are called."""
    return "/".join(
        (".+" if segment.endswith("=**}") else "[^/]+") if "{" in segment else re.escape(segment)
        for segment in pattern.segments
    )
