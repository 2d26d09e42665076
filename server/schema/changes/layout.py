"""The layout of a schema: all that its servers take for granted of the tables."""

from __future__ import annotations

import hashlib

from server.schema.changes.comparison import shape
from server.schema.changes.indexes import wanted
from server.schema.model import Schema


def digest(schema: Schema) -> str:
    """What tells layouts apart: two schemas with the same one may be served side by side without any change."""
    told = []
    for message, resource in sorted(schema.resources.items()):
        told.append(f"{message} {resource.table_schema}.{resource.table_name}")
        for field in sorted(resource.fields, key=lambda f: f.number):
            told.append(
                f" {field.number} {field.column} {field.column_type} {field.default} {shape(field.descriptor)} "
                f"{sorted(field.behaviors)}"
            )
        told += sorted(
            f" {sorted(f.number for f in o.fields)}" for o in resource.descriptor.oneofs if len(o.fields) > 1
        )
        told += sorted(f" {p.text}" for p in resource.patterns)
        told += sorted(f" {index.name}" for index in wanted(resource))
    return hashlib.sha256("\n".join(told).encode()).hexdigest()
