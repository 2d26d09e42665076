"""References from one resource to another (AIP-4231's `google.api.resource_reference`), found in messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from server.schema.columns import is_map
from server.schema.model import Schema


class References:
    """The references of a schema's messages: string fields, single or repeated, nested ones too."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._types: dict[str, str] = {}

    def of(self, message: Message) -> list[tuple[str, str, str]]:
        """Of each reference that is set: the field's path, the type it refers to, and the name it holds."""
        found = []
        for path, kind, holder, field in self._fields(message, ""):
            value = getattr(holder, field.name)
            if field.is_repeated:
                found += [(f"{path}[{i}]", kind, name) for i, name in enumerate(value)]
            elif value:
                found.append((path, kind, value))
        return found

    def rename(self, message: Message, names: Mapping[str, str]) -> None:
        """Puts other names in the place of those that are keys of `names`."""
        for _, _, holder, field in self._fields(message, ""):
            value = getattr(holder, field.name)
            if field.is_repeated:
                value[:] = [names.get(name, name) for name in value]
            elif value in names:
                setattr(holder, field.name, names[value])

    def _fields(self, message: Any, path: str) -> Iterator[tuple[str, str, Any, FieldDescriptor]]:
        for field, value in message.ListFields():
            here = f"{path}{field.name}"
            if field.type == FieldDescriptor.TYPE_STRING and (kind := self._type(field)):
                yield here, kind, message, field
            elif field.message_type is None or is_map(field):
                continue
            elif field.is_repeated:
                for i, item in enumerate(value):
                    yield from self._fields(item, f"{here}[{i}].")
            else:
                yield from self._fields(value, f"{here}.")

    def _type(self, field: FieldDescriptor) -> str:
        """The type that a field refers to; empty where it is no reference."""
        if field.full_name not in self._types:
            self._types[field.full_name] = self._read(field)
        return self._types[field.full_name]

    def _read(self, field: FieldDescriptor) -> str:
        pool = self._schema.pool
        try:
            extension = pool.FindExtensionByName("google.api.resource_reference")
            wanted: Descriptor = pool.FindMessageTypeByName("google.protobuf.FieldOptions")
        except KeyError:
            return ""  # the schema never imports it
        # Read again with this pool's own class: only that one knows its extensions.
        options = self._schema.message_class(wanted.full_name).FromString(field.GetOptions().SerializeToString())
        return str(options.Extensions[extension].type) if options.HasExtension(extension) else ""
