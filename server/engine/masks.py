"""Field masks (AIP-134, AIP-161): which parts of a resource an update touches."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from server.engine.behaviors import copy_field
from server.errors import Invalid
from server.schema.columns import is_map

PATHS_MAX = 500
"""Paths of one mask."""

DEPTH_MAX = 100
"""Segments of one path: protobuf reads no message that is nested more deeply."""

RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
"""Of whole numbers, by kind: the least and the greatest."""

THERE = "\0"
"""The last segment of a path that says of a message that it is there. No name and no key has this character."""

_SEGMENT = re.compile(r"`((?:[^`\x00]|``)*)`|([^.`\x00]+)")


def implied(message: Message) -> list[str]:
    """The mask of an update that gives none: every field that is populated (AIP-134)."""
    return [one.name for one, _ in message.ListFields()]


def apply(target: Message, source: Message, paths: Sequence[str], skip: frozenset[str]) -> None:
    """Gives `target` what `source` has at each path; what `source` lacks there is cleared. `*` is every field.

    Fields named in `skip` stay as they are at any path into them: they are not the client's to set. A path ends
    at a field or at one key of a map; it leads through singular messages only. One that ends in a dot says of such a
    message that it is there, and nothing of what is in it.

    Raises Invalid for a path that leads nowhere.
    """
    if len(paths) > PATHS_MAX:
        raise Invalid.field("update_mask", f"must have at most {PATHS_MAX} paths", "TOO_MANY_PATHS")
    if "*" in paths:
        if len(paths) > 1:
            raise Invalid.field("update_mask", "'*' must stand alone", "INVALID_PATH")
        paths = [one.name for one in target.DESCRIPTOR.fields]
    for path in paths:
        segments = _segments(path)
        _check(target.DESCRIPTOR, segments, path)
        if segments[0] not in skip:
            _apply(target, source, segments)


def segments_to(descriptor: Any, path: str) -> list[str]:
    """The segments of a path that leads from a message to a field or one key of a map. Raises Invalid."""
    segments = _segments(path)
    _check(descriptor, segments, path)
    if segments[-1] == THERE:
        raise Invalid.field("update_mask", f"{path[:100]!r} is no path", "INVALID_PATH")
    return segments


def _segments(path: str) -> list[str]:
    """What stands between the dots; a key of a map may stand in backticks, and then hold dots (AIP-161)."""
    segments: list[str] = []
    at = 0
    while found := _SEGMENT.match(path, at):
        segments.append(found[2] if found[1] is None else found[1].replace("``", "`"))
        at = found.end() + 1
        if found.end() == len(path) and len(segments) <= DEPTH_MAX:
            return segments
        if at == len(path) and path[-1] == ".":
            return [*segments, THERE]
        if path[found.end() : at] != "." or len(segments) > DEPTH_MAX:
            break
    raise Invalid.field("update_mask", f"{path[:100]!r} is no path", "INVALID_PATH")


def _check(descriptor: Any, segments: Sequence[str], path: str) -> None:
    head, *rest = segments
    one = descriptor.fields_by_name.get(head)
    if one is None:
        raise Invalid.field("update_mask", f"{path[:100]!r} is not a field of {descriptor.name}", "INVALID_PATH")
    if not rest:
        return
    if is_map(one):
        if len(rest) > 1:
            raise Invalid.field(
                "update_mask", f"{path[:100]!r} leads into the value of a map; name its key only", "INVALID_PATH"
            )
        try:
            key_of(one, rest[0])
        except ValueError:
            raise Invalid.field(
                "update_mask", f"{path[:100]!r} names a key that the map cannot have", "INVALID_PATH"
            ) from None
    elif one.is_repeated or one.message_type is None:
        raise Invalid.field(
            "update_mask", f"{path[:100]!r} leads into {head[:100]!r}, which is no singular message", "INVALID_PATH"
        )
    elif rest[0] != THERE:
        _check(one.message_type, rest, path)


def _apply(target: Any, source: Any, segments: Sequence[str]) -> None:
    head, *rest = segments
    one = target.DESCRIPTOR.fields_by_name[head]
    if not rest:
        if one.has_presence and not source.HasField(head):
            target.ClearField(head)
        else:
            copy_field(target, source, one)
    elif is_map(one):
        _apply_key(getattr(target, head), getattr(source, head), key_of(one, rest[0]), one)
    elif rest[0] == THERE:
        getattr(target, head).SetInParent()
    elif source.HasField(head):
        _apply(getattr(target, head), getattr(source, head), rest)
    elif target.HasField(head):
        _apply(getattr(target, head), type(getattr(target, head))(), rest)


def key_of(one: FieldDescriptor, written: str) -> str | int | bool:
    """A key of the map `one` as a path writes it (AIP-161). Raises ValueError where it is none."""
    kind = one.message_type.fields_by_name["key"]
    if written == THERE:
        raise ValueError("a message is asked for")
    if kind.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return written
    if kind.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return ("false", "true").index(written) == 1
    if not re.fullmatch(r"-?[0-9]{1,20}", written, re.ASCII) or not _fits(int(written), kind.cpp_type):
        raise ValueError(written)
    return int(written)


def _fits(number: int, cpp_type: int) -> bool:
    least, most = RANGES[cpp_type]
    return least <= number <= most


def _apply_key(target: Any, source: Any, key: str | int | bool, one: FieldDescriptor) -> None:
    if key not in source:
        if key in target:
            del target[key]
    elif one.message_type.fields_by_name["value"].message_type is not None:
        target[key].CopyFrom(source[key])
    else:
        target[key] = source[key]
