"""Purge (AIP-165): what a filter finds goes for good, with all that is below it.

What can be undeleted is no exception, whether it is deleted already or not. It goes in bites of one transaction each: who dies
on the way, or is asked for more than one call does, is called again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from server.engine.identity import etag_of
from server.engine.lists import Wanted
from server.engine.resources import Call, Resources
from server.errors import Denied, Invalid, NotFound, Refusal, Unauthenticated
from server.query.filters import Filter
from server.schema.model import Kind, Resource
from server.store.changes import Change, Outcome, Row

PURGE_MAX = 10_000
"""Resources that one call purges, or counts."""
LOOKED_MAX = 50_000
"""Resources that one call looks at, whether the caller may delete them or not."""
SAMPLE = 100
"""Names that are answered of what would be purged: the first in their order."""
BITE = 200
"""Resources of one transaction."""
EVERYTHING = "*"


@dataclass(slots=True)
class Purged:
    """What was purged, or would be."""

    count: int = 0
    sample: list[str] = field(default_factory=list)


async def purge(
    resources: Resources,
    call: Call,
    resource: Resource,
    parent: str,
    filter: str,
    *,
    force: bool = False,
    asking: bool = False,
) -> Purged:
    """Purges what meets the filter (`*`: everything) below the parent, as far as the caller may list and delete it, and by the
    rule of the method that deletes one where that is to be asked; without `force` nothing, but answers how many that would
    be, and names.

    Raises Invalid, NotFound where there is no such parent or the caller may not get it, Denied, Unauthenticated.
    """
    if not filter.strip():
        raise Invalid.field("filter", "is required; `*` is everything", "REQUIRED")
    await resources.access.admit(call, resource, "delete")
    text = "" if filter.strip() == EVERYTHING else filter
    wanted = Wanted(parent, filter=text, deleted=True)
    check = resources.lists.filter(resource, text) if text else None
    done, after, looked = Purged(), "", 0
    while done.count < PURGE_MAX and looked < LOOKED_MAX:
        found = await resources.lists.some(call, resource, wanted, after, BITE)
        if not found:
            return done
        after, looked = found[-1].name, looked + len(found)
        rows = await resources.records.find([(resource, one.name) for one in found], None)
        mine = [row for row in rows if row is not None and await _may_go(resources, call, resource, row, check, asking)]
        mine = mine[: PURGE_MAX - done.count]
        if force:
            done.count += await _removed(resources, call, resource, mine)
        else:
            done.count += len(mine)
            done.sample += [row.name for row in mine[: SAMPLE - len(done.sample)]]
    return done


async def _may_go(
    resources: Resources, call: Call, resource: Resource, row: Row, check: Filter | None, asking: bool
) -> bool:
    """Whether the caller may delete what is there now, and it still meets the filter, as the caller sees it."""
    try:
        await resources.access.delete(call, resource, row)
        if asking:
            # With all that is below it.
            await resources.methods.check_each(resources.access, call, Kind.DELETE, resource, name=row.name, force=True)
    except (NotFound, Denied, Unauthenticated):
        return False
    if check is None:
        return True
    seen = await resources.access.seen(call.caller, resource, row)
    return seen is not None and check.matches(row.name, resources.decisions.parse(resource, seen))


async def _removed(resources: Resources, call: Call, resource: Resource, rows: Sequence[Row]) -> int:
    """How many of the rows are removed: all of them together or, where that cannot be, each that can."""
    changes = [_change(resources, call, resource, row, force=False) for row in rows]
    if changes and all(o is Outcome.DONE for o in await resources.records.commit(changes)):
        return len(changes)
    return sum([await _removed_alone(resources, call, resource, row) for row in rows])


async def _removed_alone(resources: Resources, call: Call, resource: Resource, row: Row) -> bool:
    """Whether it is removed, with what is below it. What others changed meanwhile stays, and what something refers to."""
    try:
        outcome = await resources.records.write(_change(resources, call, resource, row, force=False))
        if outcome is Outcome.OCCUPIED:
            outcome = await resources.records.write(_change(resources, call, resource, row, force=True))
    except Refusal as refused:
        if refused.code.name != "FAILED_PRECONDITION":
            raise
        return False
    return outcome is Outcome.DONE


def _change(resources: Resources, call: Call, resource: Resource, row: Row, *, force: bool) -> Change:
    etag = etag_of(row.version)
    return resources.decisions.delete(resource, row.name, etag=etag, force=force, origin=call.origin, verb="purged")
