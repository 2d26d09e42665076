"""Singletons (AIP-156): resources that are there because their parent is, whether or not anybody has said anything of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.engine.refusals import absent
from server.schema.model import Resource
from server.store.changes import Row

if TYPE_CHECKING:
    from server.engine.resources import Call, Resources


async def get(resources: Resources, call: Call, resource: Resource, name: str) -> bytes:
    """The singleton called `name`, serialized, as the caller may see it, where it is not stored: with the values that a new
    one has.

    Raises NotFound where it is stored after all, and hidden, and where there is no such parent, or not for this caller.
    """
    [stored] = await resources.records.find([(resource, name)], call.caller.name)
    if stored is not None:
        raise absent(resource, name)
    there = await row(resources, call, resource, name, call.caller.name)
    seen = await resources.access.seen(call.caller, resource, there)
    if seen is None:
        raise absent(resource, name)
    return seen


async def row(resources: Resources, call: Call, resource: Resource, name: str, reader: str | None) -> Row:
    """What would be stored of it: it belongs to who owns the parent. `reader` as for the store.

    Raises NotFound where there is no such parent, or not for this caller. A parent that the schema does not keep is always
    there, and nobody owns it.
    """
    pattern = resource.pattern_of(name)
    assert pattern is not None
    owner = ""
    kept = resources.schema.parent_of(resource, pattern)
    if kept is not None:
        parent = pattern.parent_of(name)
        if not await resources.access.readable(call, kept, parent, reader):
            raise absent(resource, name)
        [above] = await resources.records.find([(kept, parent)], reader)
        if above is None:
            raise absent(resource, name)
        owner = above.owner
    message = resources.decisions.implied(resource, name)
    return Row(name, message.SerializeToString(deterministic=True), 0, owner)
