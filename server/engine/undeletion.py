"""Undelete (AIP-164): what was deleted softly is there again, and with it what was deleted along with it.

Who may delete a resource may undelete it: by the rule `delete`, judged on it as it is stored, and by that scope.
"""

from __future__ import annotations

from server.engine.identity import version_of
from server.engine.refusals import absent
from server.engine.resources import ATTEMPTS, Call, Resources, refusal, stale
from server.errors import Stale
from server.schema.model import Resource
from server.store.changes import Became, Outcome


async def undelete(
    resources: Resources, call: Call, resource: Resource, name: str, *, etag: str = "", validate_only: bool = False
) -> bytes:
    """The resource, serialized, as the caller may see it, once it is undeleted.

    Raises Invalid, NotFound, Denied, Unauthenticated, AlreadyExists where it is not deleted, Stale where `etag` is given and
    another change came first, and Precondition where what it lives below is deleted itself.
    """
    resources.decisions.check_name(resource, name)
    await resources.access.admit(call, resource, "delete")
    async with resources.records.turn(resource, name):
        for _ in range(ATTEMPTS):
            row = await resources.records.latest(resource, name)
            if row is None:
                raise absent(resource, name)
            await resources.access.delete(call, resource, row)
            change = resources.decisions.unmarked(resource, row, call.origin)
            if etag and version_of(etag) != row.version:
                raise stale(resource, name)
            outcome: Became = Outcome.DONE if validate_only else await resources.records.write(change)
            if outcome is Outcome.DONE:
                return await resources.shown(call, resource, row, change)
            if etag or outcome not in (Outcome.CHANGED, Outcome.ABSENT):
                raise refusal(change, outcome)
    raise Stale("Others keep changing it; retry.", reason="CONCURRENT_CHANGE", retry_after=0.1)
