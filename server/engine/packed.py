"""Messages in messages, also those that are packed in an Any."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError, Message

from server.schema.columns import is_map
from server.schema.model import Schema

ANY = "google.protobuf.Any"

DEPTH_MAX = 8
"""Anys in Anys that are looked into: how deep they are is the client's to say, and bounded by nothing else."""


def within(message: Any) -> list[Any]:
    """The messages that the fields of a message hold."""
    found: list[Any] = []
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if not is_map(field):
            found += value if field.is_repeated else [value]
        elif field.message_type.fields_by_name["value"].message_type is not None:
            found += value.values()
    return found


def unpacked(schema: Schema, held: Any) -> Message | None:
    """What is packed in an Any; None where that is nothing that the schema knows."""
    try:
        kind = schema.message_class(held.type_url.rpartition("/")[2])
        inner: Message = kind.FromString(held.value)
    except (KeyError, DecodeError):
        return None
    return inner


def canonical(schema: Schema, message: Message) -> bytes:
    """The bytes of a message, the same for all that are equal, however their maps were ordered when they were packed."""
    copy = type(message)()
    copy.CopyFrom(message)
    _pack_anew(schema, copy, DEPTH_MAX)
    return copy.SerializeToString(deterministic=True)


def _pack_anew(schema: Schema, message: Any, depth: int) -> None:
    if message.DESCRIPTOR.full_name != ANY:
        for one in within(message):
            _pack_anew(schema, one, depth)
    elif depth and (inner := unpacked(schema, message)) is not None:
        _pack_anew(schema, inner, depth - 1)
        message.value = inner.SerializeToString(deterministic=True)
