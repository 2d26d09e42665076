"""When rows go by themselves, where the schema begins to say so or says it otherwise: what is in the rows is reckoned anew.

The index over that is made last and has another name where it is reckoned otherwise: where it is, all rows say what the schema
wants.
"""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from server.schema.changes.draft import Draft
from server.schema.changes.indexes import ENDS, OURS, Wanted, ends
from server.schema.changes.state import Table, TableState
from server.schema.changes.steps import BESIDE, PROBE_ROWS, ROWS, Kind, Probe, Refusal, Step
from server.schema.model import Resource
from server.schema.tables import ENDS as COLUMNS


def follow(draft: Draft, resource: Resource, table: TableState, place: Table) -> None:
    """Plans what makes the rows of a table, and its index, say when they go; refuses where some would go at once by surprise."""
    wanted = ends(resource) if resource.ends else None
    stale = [n for n in table.indexes if n.startswith(OURS) and n.endswith(ENDS) and (not wanted or n != wanted.name)]
    whole = wanted is None or bool(table.indexes.get(wanted.name))
    if draft.deployed:
        draft.then += [] if wanted is None or whole else [_built(wanted, table, place)]
    elif stale or not whole:
        draft.alone += _anew(resource, table, place, stale, wanted)
        draft.probes += _asked(draft, resource, table, bool(stale))


def _anew(
    resource: Resource, table: TableState, place: Table, stale: list[str], wanted: Wanted | None
) -> Iterator[Step]:
    for name in stale:
        gone = sql.SQL("drop index concurrently if exists {}").format(sql.Identifier(table.schema, name))
        yield Step(Kind.DROP, place, (gone.as_string(None),), BESIDE)
    key = f"ends {resource.message} {wanted.name if wanted else 'never'}"
    yield Step(
        Kind.REBUILD,
        place,
        (),
        ROWS,
        scans=True,
        rows=table.rows,
        key=key,
        message=resource.message,
        fields=COLUMNS,
        columns=tuple((column, "timestamptz") for column in COLUMNS),
    )
    if wanted is not None:
        yield _built(wanted, table, place)


def _built(wanted: Wanted, table: TableState, place: Table) -> Step:
    statement = wanted.statement(place, beside=True)
    return Step(Kind.INDEX, place, (statement,), BESIDE, scans=True, rows=table.rows, key=wanted.name)


def _asked(draft: Draft, resource: Resource, table: TableState, ended: bool) -> Iterator[Probe]:
    """Whether there are rows that would go with the first sweep, of a resource that has begun to go by itself."""
    before = draft.before(resource) if ended else None
    where = f"{resource.descriptor.file.name}: {resource.message}"
    numbers = {f.name: table.numbers.get(f.number) for f in resource.fields}
    if resource.expires and (before is None or not before.expires) and (column := numbers.get("expire_time")):
        yield _over(
            table, sql.SQL("{} <= now()").format(sql.Identifier(column)), f"{where}.expire_time",
            "would expire, and {count} rows are over: they would go for good, with all that is below",
            "delete these rows, or take away their expire_time, first",
        )  # fmt: skip
    if resource.soft_delete and (before is None or not before.soft_delete) and (column := numbers.get("delete_time")):
        yield _over(
            table,
            sql.SQL("{} <= now() - make_interval(secs => {})").format(
                sql.Identifier(column), sql.Literal(resource.retention)
            ),
            f"{where}.delete_time",
            "would be deleted softly, and {count} rows were deleted longer ago than the retention: they would go for good, with "
            "all that is below",
            "delete these rows, or take away their delete_time, first",
        )  # fmt: skip


def _over(table: TableState, condition: sql.Composable, where: str, reason: str, advice: str) -> Probe:
    text = sql.SQL("select count(*) from (select 1 from {} where {} limit {}) as asked").format(
        sql.Identifier(*table.place), condition, sql.Literal(PROBE_ROWS)
    )
    return Probe(text.as_string(None), Refusal(where, reason, advice))
