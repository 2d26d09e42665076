"""State and schema → Plan: what is to be done, in which order, and what is refused.

Everything is planned from what is there, so a plan that was carried out in part and planned again is what is left of it.
While servers of the schema before run (`old_runs`), nothing is done that they would notice: tables only grow, what has two
names is shown under both by a view in the table's place, and what only the new schema's servers may see is left for
`later`: planned again when none of the others runs, it comes first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from psycopg import sql

from server.schema import tables
from server.schema.changes import columns, endings, indexes, rows
from server.schema.changes.draft import Cut, Draft
from server.schema.changes.renames import renames
from server.schema.changes.state import VIEW, State, Table, TableState
from server.schema.changes.steps import BESIDE, MOMENT, NEW, PROBE_ROWS, Kind, Plan, Probe, Refusal, Step
from server.schema.columns import digest, identifier
from server.schema.model import Resource, Schema


def planned(state: State, target: Schema, previous: Schema | None = None, *, old_runs: bool = False) -> Plan:
    """How to get from `state` to `target`.

    `previous` is the schema that is deployed, `old_runs` whether servers of it may be running.
    """
    draft = Draft(state, target, previous, old_runs and previous is not None)
    _names_clash(draft)
    made = [r for r in target.resources.values() if r.message not in state.tables]
    kept = [r for r in target.resources.values() if r.message in state.tables]
    _asides(draft)
    for resource in kept:
        _follow(draft, resource)
    for message, table in state.tables.items():
        if table.columns:
            _system_indexes(draft, message, table)
    steps = [*draft.first, *_cuts(draft), *_created(state, made), *draft.then]
    _left_behind(draft)
    later = _later(draft)
    return Plan(
        tuple(draft.refusals),
        tuple(draft.probes),
        tuple(steps if draft.old_runs else [*steps, *draft.alone]),
        tuple(later if draft.old_runs else ()),
        tuple(draft.notes),
    )


def exposure(shown: Mapping[str, int]) -> str:
    """What a view shows, as text: names of columns and the numbers of their fields."""
    return ",".join(f"{name}={number}" for name, number in sorted(shown.items()))


def _names_clash(draft: Draft) -> None:
    """Refuses where a table's name is that of one resource for some servers and of another for others."""
    owners: dict[Table, str] = {}
    for schema in reversed(draft.served):
        for resource in schema.resources.values():
            place = resource.table_schema, resource.table_name
            other = owners.setdefault(place, resource.message)
            if other != resource.message:
                draft.refuse(
                    f"{resource.descriptor.file.name}: {resource.message}",
                    f"its table {'.'.join(place)} is that of {other} for the servers that run",
                    "free the name in one change and take it in the next, or stop all servers first",
                )


def _asides(draft: Draft) -> None:
    """Tables that no running server knows give way to those that need their names."""
    known = {m for s in draft.served for m in s.resources}
    wanted = {
        (r.table_schema, name)
        for s in draft.served
        for r in s.resources.values()
        for name in (r.table_name, _base(r.table_name))
    }
    for message, table in draft.state.tables.items():
        if message not in known and table.place in wanted:
            new = identifier(f"_was_{table.base}_{digest(message)}")
            draft.moved[message] = (table.schema, new)
            draft.first.append(
                Step(
                    Kind.ALTER,
                    table.place,
                    (_rename_table(table.place, new).as_string(None),),
                    MOMENT,
                    noted=(*_placed(message, new), *_named(message, new)),
                )
            )


def _follow(draft: Draft, resource: Resource) -> None:
    table = draft.state.tables[resource.message]
    views = _views(draft, resource)
    place = table.schema, _base(resource.table_name) if views else resource.table_name
    cut = Cut(place)
    rows.judge(draft, resource, table)
    columns.follow(draft, resource, table, cut, place)
    _declared_indexes(draft, resource, table, place)
    endings.follow(draft, resource, table, place)
    wanted = {name: exposure(shown) for name, shown in views.items()}
    if wanted != dict(table.views) or cut.columns or place != table.place or table.name != resource.table_name:
        cut.drops = [sql.SQL("drop view {}").format(sql.Identifier(table.schema, v)) for v in table.views]
        if place != table.place:
            cut.renamed = [_rename_table(table.place, place[1])]
            cut.noted += _placed(resource.message, place[1])
        if table.name != resource.table_name:
            cut.noted += _named(resource.message, resource.table_name)
        cut.shown = list(views.items())
        cut.views = [one for name, shown in cut.shown for one in _view(draft, resource, table, place, name, shown)]
        draft.cuts.append((table, cut))


def _views(draft: Draft, resource: Resource) -> dict[str, dict[str, int]]:
    """The views that stand for the table while it has two names, or a column of it has: what each shows. Mostly none."""
    versions = [s.resources[resource.message] for s in draft.served if resource.message in s.resources]
    names = list(dict.fromkeys(v.table_name for v in versions))
    shown: dict[str, int] = {}
    aliases: dict[int, set[str]] = {}
    for version in versions:
        for one in version.fields:
            if shown.setdefault(one.column, one.number) != one.number:
                draft.refuse(
                    f"{resource.descriptor.file.name}: {resource.message}",
                    f"the column {one.column!r} is that of number {one.number} for the servers that run, and would be "
                    f"that of number {shown[one.column]}",
                    "free the name in one change and take it in the next, or stop all servers first",
                )
            aliases.setdefault(one.number, set()).add(one.column)
    if len(names) == 1 and all(len(a) == 1 for a in aliases.values()):
        return {}
    return dict.fromkeys(names, shown)


def _view(
    draft: Draft, resource: Resource, table: TableState, place: Table, name: str, shown: Mapping[str, int]
) -> Iterator[sql.Composable]:
    called = columns.called(draft, resource, table)
    system = [sql.Identifier(n) for n, _ in tables.SYSTEM]
    listed = [
        sql.SQL("{} as {}").format(sql.Identifier(called[number]), sql.Identifier(alias))
        for alias, number in sorted(shown.items())
        if alias != "name"
    ]
    view = sql.Identifier(table.schema, name)
    yield sql.SQL("create view {} as select {} from {}").format(
        view, sql.SQL(", ").join([*system, *listed]), sql.Identifier(*place)
    )
    yield sql.SQL("comment on view {} is {}").format(view, sql.Literal(VIEW + exposure(shown)))


def _cuts(draft: Draft) -> list[Step]:
    """One transaction for each table; or for all together, where nobody can be in the middle of anything."""
    groups = [[one] for one in draft.cuts] if draft.old_runs else [draft.cuts] if draft.cuts else []
    steps = []
    for group in groups:
        cuts = [cut for _, cut in group]
        statements = [s for cut in cuts for s in cut.drops]
        statements += _circle_free(group) if len(group) > 1 else [s for cut in cuts for s in cut.renamed]
        statements += [s for cut in cuts for s in (*cut.columns, *cut.views)]
        noted = [n for cut in cuts for n in cut.noted]
        steps.append(
            Step(
                Kind.ALTER,
                group[0][0].place,
                tuple(s.as_string(None) for s in statements),
                MOMENT,
                noted=tuple(noted),
            )
        )
    return steps


def _circle_free(group: list[tuple[TableState, Cut]]) -> list[sql.Composable]:
    """The renames of several tables, in an order in which no two are ever called the same."""
    present: dict[int, Table] = {i: table.place for i, (table, _) in enumerate(group)}
    wanted = {i: cut.place for i, (_, cut) in enumerate(group) if cut.renamed}
    out: list[sql.Composable] = []
    for _, old, new in renames(present, wanted, lambda i, t: (t[0], identifier(f"_was{i}_{t[1]}"))):
        out.append(_rename_table(old, new[1]))
    return out


def _created(state: State, made: list[Resource]) -> Iterator[Step]:
    there = set(state.schemas)
    for resource in made:
        statements = [] if resource.table_schema in there else [f"create schema if not exists {_quoted(resource)}"]
        there.add(resource.table_schema)
        statements += [s.as_string(None) for s in tables.created(resource)]
        place = sql.SQL("insert into transom.tables (message, table_schema, table_name) values ({}, {}, {})").format(
            *map(sql.Literal, (resource.message, resource.table_schema, resource.table_name))
        )
        noted = [place.as_string(None), *(tables.catalogued(resource, f) for f in resource.fields)]
        yield Step(Kind.ALTER, (resource.table_schema, resource.table_name), tuple(statements), NEW, noted=tuple(noted))


def _declared_indexes(draft: Draft, resource: Resource, table: TableState, place: Table) -> None:
    copied = columns.copied(resource, table)
    wanted = [w for w in indexes.wanted(resource, copied) if not w.name.endswith(indexes.ENDS)]
    for one in wanted:
        if table.indexes.get(one.name):
            continue
        before_cut = any(name in copied for name in one.fields)
        at = table.place if before_cut else place
        step = Step(
            Kind.INDEX, at, (one.statement(at, beside=True),), BESIDE, scans=True, rows=table.rows, key=one.name
        )
        (draft.first if before_cut else draft.then).append(step)
        there = columns.columns_of(resource, table)
        if one.unique and all(name in there for name in one.fields):
            [as_it_is] = [w for w in indexes.wanted(resource, there) if w.name == one.name]
            draft.probes.append(
                Probe(
                    as_it_is.duplicates(table.place, PROBE_ROWS),
                    Refusal(
                        f"{resource.descriptor.file.name}: {resource.message}.{', '.join(one.fields)}",
                        "would be unique, and {count} values are there more than once",
                        "change these resources first",
                    ),
                )
            )
    kept = {w.name for w in wanted}
    stale = [n for n in table.indexes if n.startswith(indexes.OURS) and not n.endswith(indexes.ENDS) and n not in kept]
    draft.alone += [_dropped(table.schema, place, name) for name in stale]


def _system_indexes(draft: Draft, message: str, table: TableState) -> None:
    place = draft.moved.get(message, table.place)
    for later, cut in draft.cuts:
        if later is table:
            place = cut.place
    for keys in indexes.SYSTEM:
        if not any(found[: len(keys)] == keys for found in table.keys):
            name = identifier(f"{table.name}_{'_'.join(keys)}_key_{digest(''.join(table.place))}")
            statement = sql.SQL("create index concurrently {} on {} ({})").format(
                sql.Identifier(name), sql.Identifier(*place), sql.SQL(", ").join(map(sql.Identifier, keys))
            )
            draft.then.append(
                Step(
                    Kind.INDEX,
                    place,
                    (statement.as_string(None),),
                    BESIDE,
                    scans=True,
                    rows=table.rows,
                    key=name,
                )
            )


def _dropped(schema: str, place: Table, name: str) -> Step:
    statement = sql.SQL("drop index concurrently if exists {}").format(sql.Identifier(schema, name))
    return Step(Kind.DROP, place, (statement.as_string(None),), BESIDE)


def _later(draft: Draft) -> Iterator[Step]:
    """What is left for the end, as it will be: the views go, then come the steps that only the new servers may see."""
    for table, cut in draft.cuts:
        if cut.views:
            schema, base = cut.place
            names = [n for n, _ in cut.shown]
            resource = draft.target.resources[next(m for m, t in draft.state.tables.items() if t is table)]
            statements = [sql.SQL("drop view {}").format(sql.Identifier(schema, n)) for n in names]
            statements.append(_rename_table((schema, base), resource.table_name))
            yield Step(Kind.ALTER, cut.place, tuple(s.as_string(None) for s in statements), MOMENT)
    yield from draft.alone


def _left_behind(draft: Draft) -> None:
    """Says which data nobody can read any more, and that they stay."""
    if draft.previous is None:
        return
    for message, before in draft.previous.resources.items():
        after = draft.target.resources.get(message)
        if after is None:
            draft.notes.append(
                f"{message} is not served any more: its table {before.table_schema}.{before.table_name} stays, with its rows"
            )
            continue
        numbers = {f.number for f in after.fields}
        for gone in (f for f in before.fields if f.number not in numbers):
            draft.notes.append(
                f"{message}.{gone.name} is not served any more: its column stays, with what is in it; reserve the number "
                f"{gone.number} and the name"
            )


def _placed(message: str, base: str) -> list[str]:
    text = sql.SQL("update transom.tables set base = {} where message = {}")
    return [text.format(sql.Literal(base), sql.Literal(message)).as_string(None)]


def _named(message: str, name: str) -> list[str]:
    return [
        sql.SQL("update {} set table_name = {} where message = {}")
        .format(sql.Identifier("transom", t), sql.Literal(name), sql.Literal(message))
        .as_string(None)
        for t in ("tables", "catalogue")
    ]


def _rename_table(place: Table, name: str) -> sql.Composed:
    return sql.SQL("alter table {} rename to {}").format(sql.Identifier(*place), sql.Identifier(name))


def _base(table: str) -> str:
    """What a table is called while views stand in its place."""
    return identifier(f"_base_{table}")


def _quoted(resource: Resource) -> str:
    return sql.Identifier(resource.table_schema).as_string(None)
