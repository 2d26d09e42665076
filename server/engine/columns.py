"""A message → the values of its columns, in Postgres's text form."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, cast

import orjson
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor as F
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from server.errors import Invalid
from server.schema.columns import is_map
from server.schema.model import Managed, Resource
from server.store.changes import Value

_EPOCH = datetime(1970, 1, 1)  # UTC, as all times here; written so, with Z
_DURATION_MAX = 315_576_000_000
"""Seconds of a Duration, as google/protobuf/duration.proto bounds it."""
_AS_THEY_ARE = {F.TYPE_STRING, F.TYPE_BOOL, F.TYPE_DOUBLE, F.TYPE_INT32, F.TYPE_UINT32, F.TYPE_SINT32}
"""Types whose values are the same in Python and in the ProtoJSON mapping, but for floats that are no numbers."""
_FLOATS = {F.CPPTYPE_FLOAT, F.CPPTYPE_DOUBLE}
_ODD_FLOATS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_JSON_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""U+0000 as JSON writes it, and not the six characters of its name behind an escaped backslash."""


class _NotStorable(Exception):
    """A text with U+0000: no text of Postgres may have it."""


class Columns:
    """The encoders of one resource's fields, chosen once."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        empty = message_factory.GetMessageClass(resource.descriptor)()
        self._encoders: list[tuple[str, int, Value, Callable[[Any], Value]]] = []
        for one in resource.fields:
            if one.column != "name":
                encode = _encoder(one.descriptor)
                absent = None if one.default is None else encode(getattr(empty, one.name))
                self._encoders.append((one.name, one.descriptor.number, absent, encode))

    def values(self, message: Message) -> tuple[Value, ...]:
        """The values, in the order of the resource's fields; then, of what may end by itself, when it was deleted and when it
        goes for good.

        Raises Invalid, naming the field, for what the message may hold but a column cannot: U+0000 in a text, a
        timestamp or duration out of its range.
        """
        found: list[Value] = []
        name, there = "", {field.number: value for field, value in message.ListFields()}
        try:
            for name, number, absent, encode in self._encoders:  # noqa: B007 - the one that fails is told
                found.append(encode(there[number]) if number in there else absent)
        except _NotStorable:
            raise Invalid.field(
                name, "holds the character U+0000, which cannot be stored", "CHARACTER_NOT_STORABLE"
            ) from None
        except (ValueError, OverflowError, RecursionError, json_format.Error) as fault:
            raise Invalid.field(name, "holds a value out of its range", "OUT_OF_RANGE") from fault
        values = tuple(found)
        return values + ends(self._resource, message) if self._resource.ends else values


def ends(resource: Resource, message: Any) -> tuple[Value, Value]:
    """When a resource was deleted softly, and when it goes for good: at its `expire_time`, or earlier where it was deleted and
    cannot be undeleted any more."""
    deleted, when = None, []
    if resource.expires and message.HasField("expire_time"):
        when.append(message.expire_time.ToMicroseconds())
    if resource.soft_delete and message.HasField("delete_time"):
        deleted = message.delete_time.ToMicroseconds()
        told = [m for m in (Managed.PURGE_TIME, Managed.EXPIRE_TIME) if m in resource.managed and message.HasField(m)]
        when += [getattr(message, one).ToMicroseconds() for one in told] or [deleted + resource.retention * 1_000_000]
    return _at(deleted), _at(min(when, default=None))


def _at(micros: int | None) -> Value:
    if micros is None:
        return None
    time = Timestamp()
    time.FromMicroseconds(micros)
    return _instant(time)


def _encoder(field: F) -> Callable[[Any], Value]:
    if is_map(field):
        item = _json_of(field.message_type.fields_by_name["value"])
        return lambda entries: _json({_key(k): item(entries[k]) for k in entries})
    if field.is_repeated:
        item = _json_of(field)
        return lambda items: _json([item(i) for i in items])
    if field.type == F.TYPE_ENUM:
        return _label(field)
    if field.type in (F.TYPE_MESSAGE, F.TYPE_GROUP):
        return _message(field)
    if field.type == F.TYPE_BYTES:
        return bytes
    if field.cpp_type == F.CPPTYPE_BOOL:
        return lambda value: "true" if value else "false"
    if field.type == F.TYPE_STRING:
        return _text
    return repr if field.cpp_type in _FLOATS else str


def _message(field: F) -> Callable[[Any], Value]:
    name = field.message_type.full_name
    if name == "google.protobuf.Timestamp":
        return _instant
    if name == "google.protobuf.Duration":
        return _interval
    if name == "google.protobuf.BytesValue":
        return lambda value: bytes(value.value)
    if name == "google.protobuf.BoolValue":
        return lambda value: "true" if value.value else "false"
    if name == "google.protobuf.StringValue":
        return lambda value: _text(value.value)
    if name.startswith("google.protobuf.") and name.endswith("Value") and "value" in field.message_type.fields_by_name:
        return lambda value: str(value.value)
    item = _json_of(field)
    return lambda value: _json(item(value))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not UTF-8")  # proto2 lets it pass, as bytes
    if "\0" in value:
        raise _NotStorable
    return value


def _instant(value: Any) -> str:
    if not 0 <= value.nanos < 1_000_000_000:
        raise ValueError("nanos out of range")
    # Microseconds are what Postgres keeps. It would round: up, after the year 9999 where that ends.
    time = _EPOCH + timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)  # OverflowError beyond its range
    return f"{time.isoformat()}Z"


def _interval(value: Any) -> str:
    if abs(value.seconds) > _DURATION_MAX or abs(value.nanos) >= 1_000_000_000 or value.seconds * value.nanos < 0:
        raise ValueError("out of range")
    micros = value.seconds * 1_000_000 + int(value.nanos / 1000)
    return f"{micros} microseconds"


def _json_of(field: F) -> Callable[[Any], Any]:
    """Of one element: what stands in a jsonb column, as the ProtoJSON mapping has it but with the fields' own names."""
    if field.type in (F.TYPE_MESSAGE, F.TYPE_GROUP):
        message = field.message_type
        flat = all(f.type in _AS_THEY_ARE and not f.is_repeated for f in message.fields)
        return _flat if flat and not message.full_name.startswith("google.protobuf.") else _document
    if field.type == F.TYPE_ENUM:
        return _label(field)
    if field.type == F.TYPE_BYTES:
        return lambda value: base64.b64encode(value).decode()
    if field.cpp_type in _FLOATS:
        return lambda value: value if math.isfinite(value) else _ODD_FLOATS[str(value)]
    return lambda value: value


def _flat(message: Message) -> Any:
    """As _document, of a message whose fields JSON has as they are: several times faster."""
    found = {field.name: value for field, value in message.ListFields()}
    for name, value in found.items():
        if isinstance(value, float) and not math.isfinite(value):
            found[name] = _ODD_FLOATS[str(value)]
    return found


def _document(message: Message) -> Any:
    try:
        return json_format.MessageToDict(
            message,
            preserving_proto_field_name=True,
            descriptor_pool=cast(DescriptorPool, message.DESCRIPTOR.file.pool),
        )
    except (TypeError, DecodeError):
        # An Any of a type that this schema does not know, or that is not what it says: kept as it came.
        return {
            "@type": getattr(message, "type_url", ""),
            "value": base64.b64encode(message.SerializeToString()).decode(),
        }


def _label(field: F) -> Callable[[int], str]:
    # Of several names of one number the first, as everywhere else; iterating would give the last.
    names = {number: field.enum_type.values_by_number[number].name for number in field.enum_type.values_by_number}
    return lambda number: names.get(number, str(number))


def _key(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _json(value: Any) -> str:
    text = orjson.dumps(value).decode()
    if "\\u0000" in text and _JSON_NUL.search(text):
        raise _NotStorable
    return text
