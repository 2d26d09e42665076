"""Which fields refer to files: a resource's own, and those of the messages that it holds. Pure.

A reference that is not looked at would neither keep its file nor let anybody read it, so a schema with one where it cannot be
looked at is refused: in a map, in a message that holds itself, in anything but a string.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from server.schema.columns import is_map
from server.schema.keeping import FILE, Unkept
from server.schema.model import Behavior, Field, FileReference, OnDelete

FILE_TYPES_MAX = 50
"""Media types that one field takes."""

FILE_PATHS_MAX = 20
"""Places of one field, in all the messages it holds, that refer to files: each is an index."""

_FILE_TYPE = re.compile(r"[a-z]+/(\*|[a-z0-9][a-z0-9!#$&^_.+-]*)")


class FileFields:
    """Finds them in one schema."""

    def __init__(
        self,
        option: Callable[[FieldDescriptor], Any],
        referred: Callable[[FieldDescriptor], Any],
        behaviors: Callable[[FieldDescriptor], frozenset[Behavior]],
    ) -> None:
        """They answer `(transom.schema.v1.field)`, `google.api.resource_reference`, each None where it is not written, and the
        behaviors of a field."""
        self._option = option
        self._referred = referred
        self._behaviors = behaviors
        self._holding: dict[str, bool] = {}
        self.read: set[str] = set()
        """Full names of the fields of messages, in resources, that were found."""

    def of(self, field: Field) -> tuple[FileReference, ...]:
        """The references to files of one field of a resource. Raises Unkept."""
        found = tuple(self._in(field.descriptor, (), ()))
        if len(found) > FILE_PATHS_MAX:
            raise Unkept(f"file: refers to files at more than {FILE_PATHS_MAX} places")
        return found

    def _in(
        self, field: FieldDescriptor, steps: tuple[FieldDescriptor, ...], above: tuple[str, ...]
    ) -> Iterator[FileReference]:
        message = field.message_type
        inside = message is not None and self._holds(message)
        if not inside and not self._refers(field):
            said = self._option(field)
            if said is not None and said.HasField("file"):
                where = f"{field.full_name}: " if steps else ""
                raise Unkept(f"file: {where}needs a string, or several, with a google.api.resource_reference to {FILE}")
            return
        if Behavior.INPUT_ONLY in self._behaviors(field):
            return  # it is never stored
        if message is None or not inside:
            self.read.add(field.full_name)
            yield self._reference(field, steps)
            return
        if is_map(field):
            raise Unkept(f"file: {field.full_name}: what a map holds cannot refer to files: make it a repeated field")
        if message.full_name in above:
            raise Unkept(f"file: {field.full_name}: a message that holds itself cannot refer to files")
        for one in message.fields:
            yield from self._in(one, (*steps, one), (*above, message.full_name))

    def _refers(self, field: FieldDescriptor) -> bool:
        referred = self._referred(field)
        return referred is not None and referred.type == FILE

    def _holds(self, message: Descriptor) -> bool:
        """Whether something in it refers to files."""
        if message.full_name not in self._holding:
            seen, left, found = {message.full_name}, [message], False
            while left and not found:
                for field in left.pop().fields:
                    held = field.message_type
                    if held is not None and held.full_name not in seen:
                        seen.add(held.full_name)
                        found = found or self._holding.get(held.full_name, False)
                        if held.full_name not in self._holding:
                            left.append(held)
                    found = found or self._refers(field)
            # Where there is nothing, there is nothing in all that is in it.
            self._holding |= {message.full_name: True} if found else dict.fromkeys(seen, False)
        return self._holding[message.full_name]

    def _reference(self, field: FieldDescriptor, steps: tuple[FieldDescriptor, ...]) -> FileReference:
        said, where = self._option(field), f"{field.full_name}: " if steps else ""
        rules = said.file if said is not None and said.HasField("file") else None
        if field.type != FieldDescriptor.TYPE_STRING:
            raise Unkept(f"file: {where}a reference to files is a string, or several")
        label = "restrict"
        if said is not None and said.on_delete:
            label = said.DESCRIPTOR.fields_by_name["on_delete"].enum_type.values_by_number[said.on_delete].name.lower()
        if OnDelete(label) is OnDelete.CASCADE:
            raise Unkept(f"on_delete: {where}a file takes nothing with it: RESTRICT or CLEAR")
        if OnDelete(label) is OnDelete.CLEAR and Behavior.REQUIRED in self._behaviors(field):
            raise Unkept(f"on_delete: {where}the field is REQUIRED: it cannot be cleared")
        types = tuple(rules.content_types) if rules is not None else ()
        if len(types) > FILE_TYPES_MAX:
            raise Unkept(f"file: {where}has more than {FILE_TYPES_MAX} content_types")
        if wrong := next((one for one in types if not _FILE_TYPE.fullmatch(one)), ""):
            raise Unkept(f"file: {where}{wrong!r} is no media type in lower case, nor one with * after the /")
        if rules is not None and rules.size_bytes_max < 0:
            raise Unkept(f"file: {where}size_bytes_max is below 0")
        return FileReference(OnDelete(label), types, rules.size_bytes_max if rules is not None else 0, steps)
