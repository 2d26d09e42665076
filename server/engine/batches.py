"""What batches of standard methods have in common (AIP-231, 233, 234, 235): bounds, parents, and reading many at once."""

from __future__ import annotations

from collections.abc import Sequence

from server.engine import singletons
from server.engine.resources import Call, Resources
from server.engine.units import too_large
from server.errors import Invalid, NotFound
from server.schema.model import Resource
from server.store.changes import PAGE_BYTES_MAX

NAMES_MAX = 1000
"""Names of one BatchGet."""

SLICE = 100
"""Resources that are read at once: what is too much for a reply is noticed before all of it is in memory."""

TOLD_MAX = 10
"""Names that a refusal tells."""


def check_count(field: str, count: int, most: int) -> None:
    """Raises Invalid for a batch of nothing, or of too much."""
    if not count:
        raise Invalid.field(field, "is required", "REQUIRED")
    if count > most:
        raise Invalid.field(field, f"must have at most {most} items", "TOO_MANY")


def lies_below(resource: Resource, name: str, parent: str) -> bool:
    """Whether `name` is that of a resource directly below `parent`; each `-` there stands for any id (AIP-159)."""
    pattern = resource.pattern_of(name)
    return pattern is None or fits(pattern.parent_of(name), parent)


def fits(actual: str, parent: str) -> bool:
    """Whether one parent is what another says, where each `-` stands for any id."""
    segments, wanted = actual.split("/"), parent.split("/")
    return len(segments) == len(wanted) and all(w in ("-", s) for s, w in zip(segments, wanted, strict=True))


async def get_all(
    resources: Resources, call: Call, resource: Resource, parent: str, names: Sequence[str], field: str = "names"
) -> list[bytes]:
    """The resources of these names, serialized, as the caller may see them, in the order of the names.

    Raises NotFound where one of them is absent or hidden, and names these; Invalid for what is no name, or not below
    `parent` where that is given, and where all together are larger than a reply may be; Denied, Unauthenticated.
    """
    check_count(field, len(names), NAMES_MAX)
    for i, name in enumerate(names):
        resources.decisions.check_name(resource, name, f"{field}[{i}]")
        if parent and not lies_below(resource, name, parent):
            raise Invalid.field(f"{field}[{i}]", f"is not below {parent}", "OTHER_PARENT")
    found: list[bytes] = []
    missing: list[str] = []
    size = 0
    for start in range(0, len(names), SLICE):
        some = names[start : start + SLICE]
        for name, row in zip(some, await resources.access.get_all(call, resource, some), strict=True):
            payload = row.payload if row is not None else await _implied(resources, call, resource, name)
            if payload is None:
                missing.append(name)
            else:
                found.append(payload)
                size += len(payload)
        if size > PAGE_BYTES_MAX and len(found) > 1:
            raise too_large()
    if missing:
        told = list(dict.fromkeys(missing))
        more = f" and {len(told) - TOLD_MAX} more" if len(told) > TOLD_MAX else ""
        raise NotFound(
            f"{', '.join(told[:TOLD_MAX])}{more} {'do' if len(told) > 1 else 'does'} not exist.",
            metadata={"name": told[0], "names": ",".join(told[:TOLD_MAX]), "count": str(len(told))},
            resource=(resource.type, told[0]),
        )
    return found


async def _implied(resources: Resources, call: Call, resource: Resource, name: str) -> bytes | None:
    """A singleton that is not stored, where its parent lets it be there."""
    if not resource.singleton(name):
        return None
    try:
        return await singletons.get(resources, call, resource, name)
    except NotFound:
        return None
