"""Answers of the past, as their caller may see them now: rights may have changed since, and what was answered may be gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message

from server.engine.access import absent
from server.engine.resources import Call, Resources
from server.schema.columns import is_map

ANY = "google.protobuf.Any"


class Retelling:
    """Of answers in which resources may be, at any depth, also packed in an Any."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    async def shown(self, call: Call, reply: Any, *, judged: bool = True) -> None:
        """Takes out of `reply` the fields of resources that the caller may not see now.

        Raises NotFound where one of them is gone, or hidden from the caller. Unless they are `judged` by the resources' rules:
        an app's own method shows what it likes.
        """
        if call.caller.trusted:
            return
        packed: list[tuple[Any, Any]] = []
        for message in self._within(reply, packed):
            resource = self._resources.schema.resources[message.DESCRIPTOR.full_name]
            name = getattr(message, resource.name_field)
            row = await self._resources.records.latest(resource, name) if resource.pattern_of(name) else None
            if judged and (row is None or not (await self._resources.access.visible(call.caller, resource, [row]))[0]):
                raise absent(resource, name)
            await self._resources.access.redact(call.caller, resource, message, row.owner if row else "")
        for holder, message in packed:
            holder.value = message.SerializeToString(deterministic=True)

    def _within(self, message: Any, packed: list[tuple[Any, Any]]) -> Iterator[Any]:
        """The resources in a message. What is packed in an Any is put into `packed`, to be packed again."""
        name = message.DESCRIPTOR.full_name
        if name in self._resources.schema.resources:
            yield message
        elif name == ANY:
            inner = self._unpacked(message)
            if inner is not None:
                yield from self._within(inner, packed)
                packed.append((message, inner))
        else:
            for field, value in message.ListFields():
                for one in _messages(field, value):
                    yield from self._within(one, packed)

    def _unpacked(self, held: Any) -> Message | None:
        try:
            kind = self._resources.schema.message_class(held.type_url.rpartition("/")[2])
        except KeyError:
            return None
        inner: Message = kind.FromString(held.value)
        return inner


def _messages(field: Any, value: Any) -> list[Any]:
    if field.message_type is None:
        return []
    if is_map(field):
        return list(value.values()) if field.message_type.fields_by_name["value"].message_type is not None else []
    return list(value) if field.is_repeated else [value]
