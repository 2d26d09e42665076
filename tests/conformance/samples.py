"""Requests made out of a schema alone: what it requires, and a little of what it allows, as ProtoJSON."""

from __future__ import annotations

from itertools import chain, repeat
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor import FieldDescriptor as F

from server.schema.columns import is_map
from server.schema.model import Behavior, Resource, Schema
from server.schema.names import Pattern

DEPTH = 6
"""Messages within messages."""

_KNOWN: dict[str, Any] = {
    "google.protobuf.Timestamp": "2035-01-01T00:00:00Z",
    "google.protobuf.Duration": "600s",
    "google.protobuf.FieldMask": "name",
    "google.protobuf.Struct": {"a": 1},
    "google.protobuf.Value": 1,
    "google.protobuf.ListValue": [1],
    "google.protobuf.StringValue": "text",
    "google.protobuf.BoolValue": True,
    "google.protobuf.BytesValue": "dGV4dA==",
    "google.protobuf.Any": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"},
}
_PLAIN = ("display_name", "description", "title")


class Samples:
    """Samples of one schema's messages."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def resource(self, resource: Resource, text: str) -> dict[str, Any]:
        """A resource as a client may send it, without its name; its plain field, if it has one, says `text`."""
        out = self._message(resource.descriptor, 0)
        for name in (resource.name_field, *resource.managed):
            out.pop(name, None)
        field = self.plain(resource)
        return out | ({field: text} if field else {})

    def plain(self, resource: Resource) -> str:
        """A field of text that a client may set and change at will; empty where there is none."""
        fields = {
            f.name
            for f in resource.fields
            if f.descriptor.type == F.TYPE_STRING
            and not f.descriptor.is_repeated
            and not f.behaviors & {Behavior.OUTPUT_ONLY, Behavior.IMMUTABLE, Behavior.INPUT_ONLY, Behavior.IDENTIFIER}
            and f.name not in (resource.name_field, *resource.managed)
            and f.descriptor.full_name not in self._schema.references
            and f.descriptor.containing_oneof is None
        }
        return next((name for name in (*_PLAIN, *sorted(fields)) if name in fields), "")

    def required(self, message: Descriptor, given: dict[str, Any]) -> dict[str, Any]:
        """A request with what it requires beyond what is `given`."""
        return {k: v for k, v in self._message(message, 0).items() if k not in given} | given

    def _message(self, message: Descriptor, depth: int) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for field in message.fields:
            behaviors = self._schema.behaviors.get(field.full_name, frozenset())
            chosen = field.containing_oneof is not None and len(field.containing_oneof.fields) > 1
            taken = chosen and any(f.name in out for f in field.containing_oneof.fields)
            if Behavior.REQUIRED in behaviors and Behavior.OUTPUT_ONLY not in behaviors and not taken:
                out[field.name] = self._value(field, depth)
        return out

    def _value(self, field: F, depth: int) -> Any:
        if not depth and field.name == "filter":
            return "name:*"
        if is_map(field):
            return {"k": self._one(field.message_type.fields_by_name["value"], depth)}
        return [self._one(field, depth)] if field.is_repeated else self._one(field, depth)

    def _one(self, field: F, depth: int) -> Any:
        if field.message_type is not None:
            name = field.message_type.full_name
            if name in _KNOWN:
                return _KNOWN[name]
            if name.startswith("google.protobuf.") and name.endswith("Value"):
                return 1
            return self._message(field.message_type, depth + 1) if depth < DEPTH else {}
        if field.enum_type is not None:
            return field.enum_type.values[min(1, len(field.enum_type.values) - 1)].name
        if field.type == F.TYPE_STRING:
            return "projects/p/things/t" if field.full_name in self._schema.references else "text"
        return {F.CPPTYPE_BOOL: True, F.CPPTYPE_STRING: "dGV4dA=="}.get(field.cpp_type, 1)


def named(pattern: Pattern, first: str) -> str:
    """A name of the pattern, in which the first id is given and the others are `x1`."""
    ids = chain([first], repeat("x1"))
    return "/".join(next(ids) if segment.startswith("{") else segment for segment in pattern.segments)
