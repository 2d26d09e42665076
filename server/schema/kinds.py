"""Kinds of values: what filters, orders and indexes know of a field's type."""

from __future__ import annotations

from enum import StrEnum, auto

from google.protobuf.descriptor import FieldDescriptor

from server.schema.columns import is_map

F = FieldDescriptor


class Kind(StrEnum):
    """Kinds of values. Timestamps and durations are microseconds: what Postgres keeps of them."""

    BOOL = auto()
    INT = auto()
    DOUBLE = auto()
    STRING = auto()
    BYTES = auto()
    ENUM = auto()
    TIMESTAMP = auto()
    DURATION = auto()
    DYNAMIC = auto()
    """Whatever JSON has: google.protobuf.Struct, Value and ListValue, and what is in them."""
    MESSAGE = auto()
    MAP = auto()
    OPAQUE = auto()
    """A message whose JSON does not have its fields (Any, FieldMask): it can only be there or not."""


def kind_of(field: FieldDescriptor) -> Kind:
    """The kind of a field's value, or of its items' where it is repeated."""
    if is_map(field):
        return Kind.MAP
    if field.type in _KINDS:
        return _KINDS[field.type]
    if field.message_type is None:
        return Kind.INT
    name = field.message_type.full_name
    if name.startswith("google.protobuf."):
        return _WELL_KNOWN.get(name, Kind.OPAQUE)
    return Kind.MESSAGE


def scalar_of(field: FieldDescriptor) -> FieldDescriptor:
    """The field that says what numbers are: a wrapper's `value`, or the field itself."""
    if field.message_type is not None and "value" in field.message_type.fields_by_name and not is_map(field):
        name = field.message_type.full_name
        if name.startswith("google.protobuf.") and name.endswith("Value") and name != "google.protobuf.Value":
            value: FieldDescriptor = field.message_type.fields_by_name["value"]
            return value
    return field


_KINDS = {
    F.TYPE_BOOL: Kind.BOOL,
    F.TYPE_STRING: Kind.STRING,
    F.TYPE_BYTES: Kind.BYTES,
    F.TYPE_ENUM: Kind.ENUM,
    F.TYPE_DOUBLE: Kind.DOUBLE,
    F.TYPE_FLOAT: Kind.DOUBLE,
}
_WELL_KNOWN = {
    "google.protobuf.Timestamp": Kind.TIMESTAMP,
    "google.protobuf.Duration": Kind.DURATION,
    "google.protobuf.StringValue": Kind.STRING,
    "google.protobuf.BytesValue": Kind.BYTES,
    "google.protobuf.BoolValue": Kind.BOOL,
    "google.protobuf.DoubleValue": Kind.DOUBLE,
    "google.protobuf.FloatValue": Kind.DOUBLE,
    "google.protobuf.Int32Value": Kind.INT,
    "google.protobuf.UInt32Value": Kind.INT,
    "google.protobuf.Int64Value": Kind.INT,
    "google.protobuf.UInt64Value": Kind.INT,
    "google.protobuf.Struct": Kind.DYNAMIC,
    "google.protobuf.Value": Kind.DYNAMIC,
    "google.protobuf.ListValue": Kind.DYNAMIC,
}
