"""Names of files in a resource: read and removed where its fields, or what is in them, refer to files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from server.schema.model import Field, FileReference


def of(message: Any, field: Field, reference: FileReference) -> Iterator[tuple[str, str]]:
    """The path and the name of each reference that is set; of repeated ones, empty names too."""
    for holder, last, path in _holders(message, (field.descriptor, *reference.steps), ""):
        if last.is_repeated:
            yield from ((f"{path}[{i}]", name) for i, name in enumerate(getattr(holder, last.name)))
        elif name := getattr(holder, last.name):
            yield path, name


def remove(message: Any, field: Field, reference: FileReference, name: str) -> None:
    """Takes the references to the file of this name out."""
    for holder, last, _ in _holders(message, (field.descriptor, *reference.steps), ""):
        if last.is_repeated:
            items = getattr(holder, last.name)
            items[:] = [one for one in items if one != name]
        elif getattr(holder, last.name) == name:
            holder.ClearField(last.name)


def _holders(message: Any, steps: Sequence[FieldDescriptor], path: str) -> Iterator[tuple[Any, FieldDescriptor, str]]:
    """The messages that have the last of the steps, with it and its path."""
    step, *further = steps
    here = f"{path}{step.name}"
    if not further:
        yield message, step, here
    elif step.is_repeated:
        for i, item in enumerate(getattr(message, step.name)):
            yield from _holders(item, further, f"{here}[{i}].")
    elif message.HasField(step.name):
        yield from _holders(getattr(message, step.name), further, f"{here}.")
