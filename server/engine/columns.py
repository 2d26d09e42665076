"""A message → the values of its columns, in Postgres's text form."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import orjson
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor as F
from google.protobuf.message import Message

from server.errors import Invalid
from server.schema.columns import is_map
from server.schema.model import Resource
from server.store.changes import Value

_FLOATS = {F.CPPTYPE_FLOAT, F.CPPTYPE_DOUBLE}


class Columns:
    """The encoders of one resource's fields, chosen once."""

    def __init__(self, resource: Resource) -> None:
        self._encoders = [
            (f.name, f.default is None, _encoder(f.descriptor)) for f in resource.fields if f.column != "name"
        ]

    def values(self, message: Message) -> tuple[Value, ...]:
        """The values, in the order of the resource's fields.

        Raises Invalid, naming the field, for what the message may hold but a column cannot: U+0000 in a text, a
        timestamp or duration out of its range.
        """
        return tuple(
            None if may_miss and not message.HasField(name) else _checked(name, encode, getattr(message, name))
            for name, may_miss, encode in self._encoders
        )


def _checked(name: str, encode: Callable[[Any], Value], value: Any) -> Value:
    try:
        text = encode(value)
    except (ValueError, OverflowError, json_format.Error) as fault:
        raise Invalid.field(name, "holds a value out of its range", "OUT_OF_RANGE") from fault
    if isinstance(text, str) and ("\0" in text or "\\u0000" in text):
        raise Invalid.field(name, "holds the character U+0000, which cannot be stored", "CHARACTER_NOT_STORABLE")
    return text


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
    return repr if field.cpp_type in _FLOATS else str


def _message(field: F) -> Callable[[Any], Value]:
    name = field.message_type.full_name
    if name == "google.protobuf.Timestamp":
        return lambda value: str(value.ToJsonString())
    if name == "google.protobuf.Duration":
        return _interval
    if name == "google.protobuf.BytesValue":
        return lambda value: bytes(value.value)
    if name == "google.protobuf.BoolValue":
        return lambda value: "true" if value.value else "false"
    if name.startswith("google.protobuf.") and name.endswith("Value") and "value" in field.message_type.fields_by_name:
        return lambda value: str(value.value)
    item = _json_of(field)
    return lambda value: _json(item(value))


def _interval(value: Any) -> str:
    value.ToJsonString()  # refuses what is out of range
    micros = value.seconds * 1_000_000 + int(value.nanos / 1000)
    return f"{micros} microseconds"


def _json_of(field: F) -> Callable[[Any], Any]:
    """Of one element: what stands in a jsonb column, as the ProtoJSON mapping has it but with the fields' own names."""
    if field.type in (F.TYPE_MESSAGE, F.TYPE_GROUP):
        return _document
    if field.type == F.TYPE_ENUM:
        return _label(field)
    if field.type == F.TYPE_BYTES:
        return lambda value: base64.b64encode(value).decode()
    if field.cpp_type in _FLOATS:
        return lambda value: value if value == value and abs(value) != float("inf") else str(value)
    return lambda value: value


def _document(message: Message) -> Any:
    try:
        return json_format.MessageToDict(message, preserving_proto_field_name=True)
    except TypeError:  # an Any of a type this schema does not know: kept as it came
        return {
            "@type": getattr(message, "type_url", ""),
            "value": base64.b64encode(message.SerializeToString()).decode(),
        }


def _label(field: F) -> Callable[[int], str]:
    names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
    return lambda number: names.get(number, str(number))


def _key(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_SUBCLASS).decode()
