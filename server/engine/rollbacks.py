"""Rollback (AIP-162): a resource becomes again what it was in one of its revisions, by one more update.

As in any update, what the caller may not see or set stays as it is: managed and OUTPUT_ONLY fields, fields hidden by rules,
and the time at which it expires. The rule `update` decides, and its new revision says what it has become.
"""

from __future__ import annotations

from server.engine.identity import version_of
from server.engine.refusals import absent
from server.engine.resources import ATTEMPTS, Call, Resources, refusal, stale
from server.engine.revisions import revision_id, snapshot
from server.errors import Invalid, Stale
from server.schema.model import Kind, Resource
from server.store.changes import Change, Outcome, Row

_OWN = frozenset({"expire_time", "ttl"})


async def roll_back(
    resources: Resources,
    call: Call,
    resource: Resource,
    name: str,
    revision: str,
    *,
    etag: str = "",
    validate_only: bool = False,
    asking: bool = False,
) -> tuple[bytes, bytes]:
    """The resource called `name`, serialized, as the caller may see it, once it is again what it was in the revision of that
    id; and, serialized so, the revision that says it now: the new one, or that one where nothing had to be changed. The rule of
    the method that updates it is asked, too, where that is said.

    Raises Invalid, NotFound where the caller may not get the one or the other, Denied, Unauthenticated, Precondition where it is
    deleted, or would newly refer to what is gone or hidden from the caller, and Stale where `etag` is given and another change
    came first.
    """
    decisions, access, records = resources.decisions, resources.access, resources.records
    kind = next(r for r in resources.schema.resources.values() if r.snapshot_of == resource.message)
    decisions.check_name(resource, name)
    taken = f"{name}/revisions/{revision}"
    if not revision or kind.pattern_of(taken) is None:
        raise Invalid.field("revision_id", "is no id of a revision", "INVALID_NAME")
    await access.admit(call, resource, "update")
    async with records.turn(resource, name):
        for _ in range(ATTEMPTS):
            row = await records.latest(resource, name)
            if row is None:
                raise absent(resource, name)
            changing = await access.changing(call, resource, row)
            old = await records.latest(kind, taken)
            if old is None or not await access.readable(call, kind, taken):
                raise absent(kind, taken)
            taken_then = decisions.parse(kind, old.payload)
            then = taken_then.snapshot
            # What the revision keeps from the caller must not come out by being restored.
            kept = changing.hidden | await access.veiled(call.caller, kind, taken_then)
            kept |= _OWN if resource.expires else frozenset()
            result, change = decisions.update(resource, row, then, ["*"], etag="", origin=call.origin, kept=kept)
            await changing.check(result)
            await resources.refer(call, change)
            if asking:
                before = decisions.parse(resource, row.payload)
                paths = [f.name for f in resource.fields if getattr(before, f.name) != getattr(result, f.name)]
                await resources.methods.check_each(
                    access, call, Kind.UPDATE, resource, message=result, update_mask=paths, etag=etag
                )
            if etag and version_of(etag) != row.version:
                raise stale(resource, name)
            outcome = Outcome.DONE if change is None or validate_only else await records.write(change)
            if outcome is Outcome.DONE:
                if change is not None and not validate_only:
                    old = await _written(resources, kind, change, row.owner)
                shown = changing.shown(result).SerializeToString(deterministic=True)
                return shown, await access.seen(call.caller, kind, old) or b""
            assert change is not None
            if etag or outcome not in (Outcome.CHANGED, Outcome.ABSENT):
                raise refusal(change, outcome)
    raise Stale("Others keep changing it; retry.", reason="CONCURRENT_CHANGE", retry_after=0.1)


async def _written(resources: Resources, kind: Resource, change: Change, owner: str) -> Row:
    """The revision of a change: as it is stored or, where the change is only gathered, about as it will be."""
    name = f"{change.name}/revisions/{revision_id(change.version)}"
    stored = await resources.records.latest(kind, name)
    if stored is not None:
        return stored
    message = snapshot(resources.decisions, kind, name, change.payload)
    return Row(name, message.SerializeToString(deterministic=True), 0, owner)
