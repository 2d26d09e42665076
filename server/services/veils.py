"""Where in a reply resources may be of which not every reader sees all, however deep. But for what is packed in an Any."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from server.schema.columns import is_map


class Veils:
    """Of one reply. `veiled` are the full names of the resources with hidden fields."""

    def __init__(self, reply: Descriptor, veiled: Collection[str]) -> None:
        self._veiled = veiled
        self._leading = _leading(reply, veiled)

    def within(self, message: Any) -> Iterator[Any]:
        """Those resources in a message, itself first; what was taken out of one meanwhile is not looked into."""
        name = message.DESCRIPTOR.full_name
        if name not in self._leading:
            return
        if name in self._veiled:
            yield message
        for field, value in message.ListFields():
            if field.message_type is None or field.message_type.full_name not in self._leading:
                continue
            if is_map(field):
                values = [value[key] for key in value] if _value(field).message_type else []
            else:
                values = list(value) if field.is_repeated else [value]
            for one in values:
                yield from self.within(one)


def _leading(reply: Descriptor, veiled: Collection[str]) -> frozenset[str]:
    """Full names of the messages in `reply`, itself included, that are such resources or lead to one."""
    holders: dict[str, set[str]] = {}
    """By message, those that have a field of it."""
    left, seen = [reply], {reply.full_name}
    while left:
        message = left.pop()
        for held in (f.message_type for f in message.fields if f.message_type is not None):
            holders.setdefault(held.full_name, set()).add(message.full_name)
            if held.full_name not in seen:
                seen.add(held.full_name)
                left.append(held)
    leading: set[str] = set()
    upwards = [name for name in veiled if name in seen]
    while upwards:
        name = upwards.pop()
        if name not in leading:
            leading.add(name)
            upwards += holders.get(name, ())
    return frozenset(leading)


def _value(field: FieldDescriptor) -> FieldDescriptor:
    assert field.message_type is not None
    return field.message_type.fields_by_name["value"]
