"""Answers of the past, as their caller may see them now: rights may have changed since, and what was answered may be gone."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from server.caller import Caller
from server.engine.packed import ANY, unpacked, within
from server.engine.refusals import absent
from server.engine.resources import Call, Resources
from server.errors import NotFound
from server.schema.model import Kind, Method, Resource
from server.store.changes import Row

SLICE = 100
"""Resources that are read at once."""


@dataclass(frozen=True, slots=True)
class Told:
    """A resource that is told in one of several replies."""

    reply: int
    resource: Resource
    name: str
    message: Any


def deleted(method: Method, request: Any) -> set[str]:
    """Names of what a request to a method is to delete."""
    if method.kind is Kind.DELETE:
        return {request.name}
    if method.kind is Kind.BATCH_DELETE:
        return {one if isinstance(one, str) else one.name for one in getattr(request, method.requests_field)}
    return set()


class Retelling:
    """Of answers in which resources may be, at any depth, also packed in an Any."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    async def shown(self, call: Call, reply: Any, *, judged: bool = True, gone: Container[str] = ()) -> None:
        """Takes out of `reply` the fields of resources that the caller may not see now.

        Raises NotFound where one of them is gone, or hidden from the caller. Unless they are `judged` by the resources' rules:
        an app's own method shows what it likes. What was deleted by the very call that answered so (`gone`: their names) is
        shown as what is nobody's.
        """
        [refused] = await self.all_shown(call, [reply], judged=judged, gone=[gone])
        if refused is not None:
            raise refused

    async def all_shown(
        self, call: Call, replies: Sequence[Any], *, judged: bool = True, gone: Sequence[Container[str]]
    ) -> list[NotFound | None]:
        """Does so with several replies, each with what its call deleted; why each of them cannot be shown."""
        refusals: list[NotFound | None] = [None] * len(replies)
        if call.caller.trusted:
            return refusals
        packed: list[tuple[Any, Any]] = []
        found = [self._told(at, m) for at, reply in enumerate(replies) for m in self._within(reply, packed)]
        for start in range(0, len(found), SLICE):
            some = found[start : start + SLICE]
            rows = await self._rows(some)
            hidden = await self._hidden(call, rows) if judged else ()
            for told in some:
                row = rows.get((told.resource.message, told.name))
                absent_now = judged and row is None and told.name not in gone[told.reply]
                if absent_now or (told.resource.message, told.name) in hidden:
                    refusals[told.reply] = absent(told.resource, told.name)
                else:
                    owner = row.owner if row else ""
                    await self._resources.access.redact(call.caller, told.resource, told.message, owner)
        for holder, message in packed:
            holder.value = message.SerializeToString(deterministic=True)
        return refusals

    def in_scope(self, caller: Caller, reply: Any) -> bool:
        """Whether a trusted caller may get resources of all types that are told in `reply`."""
        return all(caller.in_scope(message.DESCRIPTOR.full_name, "get") for message in self._within(reply, []))

    def _told(self, reply: int, message: Any) -> Told:
        resource = self._resources.schema.resources[message.DESCRIPTOR.full_name]
        return Told(reply, resource, getattr(message, resource.name_field), message)

    async def _rows(self, some: Sequence[Told]) -> dict[tuple[str, str], Row]:
        """What is stored of them now, by message and name."""
        wanted = {(t.resource.message, t.name): (t.resource, t.name) for t in some if t.resource.pattern_of(t.name)}
        rows = await self._resources.records.find(list(wanted.values()), None)
        return {key: row for key, row in zip(wanted, rows, strict=True) if row is not None}

    async def _hidden(self, call: Call, rows: dict[tuple[str, str], Row]) -> set[tuple[str, str]]:
        """Those that the caller may not get."""
        hidden: set[tuple[str, str]] = set()
        for message in {message for message, _ in rows}:
            keys = [key for key in rows if key[0] == message]
            resource = self._resources.schema.resources[message]
            seen = await self._resources.access.visible(call.caller, resource, [rows[key] for key in keys])
            hidden |= {key for key, may in zip(keys, seen, strict=True) if not may}
        return hidden

    def _within(self, message: Any, packed: list[tuple[Any, Any]]) -> Iterator[Any]:
        """The resources in a message. What is packed in an Any is put into `packed`, to be packed again."""
        name = message.DESCRIPTOR.full_name
        if name in self._resources.schema.resources:
            yield message
        elif name == ANY:
            inner = unpacked(self._resources.schema, message)
            if inner is not None:
                yield from self._within(inner, packed)
                packed.append((message, inner))
        else:
            for one in within(message):
                yield from self._within(one, packed)
