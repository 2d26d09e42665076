"""How a field is kept in Postgres: the natural type, so that the data is ordinary SQL to anyone who looks."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

from google.protobuf.descriptor import FieldDescriptor as F

IDENTIFIER_BYTES = 63
"""Longest identifier of Postgres (NAMEDATALEN - 1)."""

_SCALARS = {
    F.TYPE_STRING: "text",
    F.TYPE_BYTES: "bytea",
    F.TYPE_BOOL: "boolean",
    F.TYPE_DOUBLE: "double precision",
    F.TYPE_FLOAT: "real",
    F.TYPE_INT32: "integer",
    F.TYPE_SINT32: "integer",
    F.TYPE_SFIXED32: "integer",
    F.TYPE_UINT32: "bigint",
    F.TYPE_FIXED32: "bigint",
    F.TYPE_INT64: "bigint",
    F.TYPE_SINT64: "bigint",
    F.TYPE_SFIXED64: "bigint",
    F.TYPE_UINT64: "numeric(20)",
    F.TYPE_FIXED64: "numeric(20)",
    F.TYPE_ENUM: "text",
}
_MESSAGES = {
    "google.protobuf.Timestamp": "timestamptz",
    "google.protobuf.Duration": "interval",
    "google.protobuf.StringValue": "text",
    "google.protobuf.BytesValue": "bytea",
    "google.protobuf.BoolValue": "boolean",
    "google.protobuf.DoubleValue": "double precision",
    "google.protobuf.FloatValue": "real",
    "google.protobuf.Int32Value": "integer",
    "google.protobuf.UInt32Value": "bigint",
    "google.protobuf.Int64Value": "bigint",
    "google.protobuf.UInt64Value": "numeric(20)",
}
_ZEROS = {
    "text": "''",
    "bytea": "''",
    "boolean": "false",
    "double precision": "0",
    "real": "0",
    "integer": "0",
    "bigint": "0",
    "numeric(20)": "0",
}


def column_type(field: F) -> tuple[str, str | None]:
    """The column's type, and its default: what a row written before the field existed reads as.

    The default is None, and the column may be NULL, where the field knows absence from zero.
    """
    if is_map(field):
        return "jsonb", "'{}'"
    if field.is_repeated:
        return "jsonb", "'[]'"
    if field.type in (F.TYPE_MESSAGE, F.TYPE_GROUP):
        return _MESSAGES.get(field.message_type.full_name, "jsonb"), None
    kind = _SCALARS[field.type]
    if field.type == F.TYPE_ENUM and not field.has_presence:
        return kind, "'" + field.enum_type.values[0].name + "'"
    return kind, None if field.has_presence else _ZEROS[kind]


@lru_cache(maxsize=8192)
def is_map(field: F) -> bool:
    """Whether it is a map: asked of every field again and again, and dear to find out."""
    return bool(field.type == F.TYPE_MESSAGE and field.message_type.GetOptions().map_entry)


def snake(name: str) -> str:
    """CamelCase or lowerCamelCase → lower_snake_case."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return re.sub(r"[^a-z0-9_]+", "_", name.lower())


def identifier(name: str) -> str:
    """`name`, made short enough for Postgres; a shortened one ends in a digest, so that no two become the same."""
    if len(name.encode()) <= IDENTIFIER_BYTES:
        return name
    return f"{name[:54]}_{digest(name)}"


def digest(name: str) -> str:
    """8 characters that tell `name` from others."""
    return hashlib.sha256(name.encode()).hexdigest()[:8]
