"""What an update makes of the values that are stored, whatever they are by then: sums, unions, the time. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Any, cast

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

from server.engine import masks
from server.engine.behaviors import Behaviors
from server.errors import Invalid, Precondition
from server.schema.columns import is_map
from server.schema.kinds import scalar_of
from server.schema.model import Behavior, Resource

TRANSFORMS_MAX = 100
"""Transforms of one request."""

ITEMS_MAX = 10_000
"""Items of a list that is transformed: all of them are looked at, each time."""

_FLOAT_MAX = 3.4028234663852886e38
"""The greatest finite float of 32 bits."""

_TIMESTAMP = "google.protobuf.Timestamp"
_WHOLE = re.compile(r"-?[0-9]{1,20}", re.ASCII)


class Operation(StrEnum):
    """What to make of a value."""

    INCREMENT = auto()
    MAXIMUM = auto()
    MINIMUM = auto()
    APPEND_MISSING = auto()
    REMOVE_ALL = auto()
    COMMIT_TIME = auto()


@dataclass(frozen=True, slots=True)
class Transform:
    """One transform, as it was asked for."""

    part: str
    """Where it stands in the request."""
    path: str
    operation: Operation
    operand: Any = None
    """As ProtoJSON writes a value of the field; a list, where it is of several."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A value within a message: a field, a wrapper in a field, or an entry of a map."""

    field: FieldDescriptor
    """What it is a value of: of a map, its `value`; of a wrapper, that of the wrapper."""
    read: Callable[[], Any]
    """None where it is not set."""
    write: Callable[[Any], None]
    holder: Any
    """The message that has the field."""


def apply(resource: Resource, message: Any, transforms: Sequence[Transform], now: int, behaviors: Behaviors) -> None:
    """Transforms `message`, in order; `now` is in microseconds since 1970.

    Raises Invalid, naming the part of the request, for a path that leads nowhere or to what is not the caller's to set, for a
    value or an operand of another kind than the operation is for, and for a result that the field cannot hold; Precondition for
    a list that is too long.
    """
    if len(transforms) > TRANSFORMS_MAX:
        raise Invalid.field("transforms", f"must be at most {TRANSFORMS_MAX}", "TOO_MANY")
    kept = {resource.name_field, *resource.managed, *behaviors.hidden(resource)}
    if resource.snapshot_of:
        kept.add("snapshot")  # it is what the resource was, never what a client says
    for one in transforms:
        _one(one, _place(message, one, kept, behaviors), now)


def _one(one: Transform, place: _Place, now: int) -> None:
    match one.operation:
        case Operation.INCREMENT:
            place.write(_sum(one, place))
        case Operation.MAXIMUM | Operation.MINIMUM:
            _bound(one, place)
        case Operation.APPEND_MISSING:
            items = _items(one, place)
            there = set(map(_identity, items))
            for element in _elements(one, place):
                if (identity := _identity(element)) not in there:
                    there.add(identity)
                    items.append(element)
        case Operation.REMOVE_ALL:
            items = _items(one, place)
            unwanted = set(map(_identity, _elements(one, place)))
            left = [item for item in items if _identity(item) not in unwanted]
            if len(left) < len(items):
                copies = [_copy(item) for item in left]
                del items[:]
                items.extend(copies)
        case Operation.COMMIT_TIME:
            if not _is_time(place):
                raise _wrong(one, "is no google.protobuf.Timestamp")
            time = type(getattr(place.holder, place.field.name))()
            time.FromMicroseconds(now)
            place.write(time)


def _place(message: Any, one: Transform, kept: set[str], behaviors: Behaviors) -> _Place:
    try:
        segments = masks.segments_to(message.DESCRIPTOR, one.path)
    except Invalid as fault:
        raise Invalid.field(
            f"{one.part}.field", fault.violations[0].description if fault.violations else fault.message, "INVALID_PATH"
        ) from None
    holder = message
    for i, segment in enumerate(segments):
        field = holder.DESCRIPTOR.fields_by_name[segment]
        if (holder is message and segment in kept) or Behavior.OUTPUT_ONLY in behaviors.of(field):
            raise Invalid.field(f"{one.part}.field", f"{one.path[:100]!r} is not yours to set", "OUTPUT_ONLY")
        if is_map(field) and i + 1 < len(segments):
            return _entry(holder, field, segments[i + 1])
        if i + 1 == len(segments):
            return _field(holder, field)
        holder = getattr(holder, segment)
    raise AssertionError("a path has a segment")


def _field(holder: Any, field: FieldDescriptor) -> _Place:
    value = scalar_of(field)
    if value is not field and not field.is_repeated:
        inner = field.name

        def read_wrapped() -> Any:
            return getattr(holder, inner).value if holder.HasField(inner) else None

        def write_wrapped(new: Any) -> None:
            wrapper = getattr(holder, inner)
            wrapper.SetInParent()
            wrapper.value = new

        return _Place(value, read_wrapped, write_wrapped, holder)

    def read() -> Any:
        return None if field.has_presence and not holder.HasField(field.name) else getattr(holder, field.name)

    def write(new: Any) -> None:
        if field.message_type is not None:
            getattr(holder, field.name).CopyFrom(new)
        else:
            setattr(holder, field.name, new)

    return _Place(field, read, write, holder)


def _entry(holder: Any, field: FieldDescriptor, written: str) -> _Place:
    assert field.message_type is not None
    entries, key = getattr(holder, field.name), masks.key_of(field, written)
    value = field.message_type.fields_by_name["value"]

    def write(new: Any) -> None:
        entries[key] = new

    return _Place(value, lambda: entries.get(key), write, holder)


# Numbers and times.


def _sum(one: Transform, place: _Place) -> int | float:
    number = _number(one, place)
    found = place.read() or 0
    total = found + number
    if isinstance(total, int):
        least, most = masks.RANGES[place.field.cpp_type]
        fits = least <= total <= most
    else:
        limit = _FLOAT_MAX if place.field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT else math.inf
        fits = not math.isfinite(found) or (math.isfinite(total) and abs(total) <= limit)
    if not fits:
        raise _wrong(one, "cannot hold the sum", "OUT_OF_RANGE")
    return total


def _bound(one: Transform, place: _Place) -> None:
    wants = max if one.operation is Operation.MAXIMUM else min
    found = place.read()
    if _is_time(place):
        given = type(getattr(place.holder, place.field.name))()
        try:
            given.FromJsonString(one.operand)
        except (ValueError, AttributeError, TypeError) as fault:
            raise _operand(one, "must be a timestamp, as `2030-01-31T12:00:00Z`") from fault
        if found is None or wants(_instant(found), _instant(given)) != _instant(found):
            place.write(given)
        return
    number = _number(one, place)
    if not isinstance(number, float):
        least, most = masks.RANGES[place.field.cpp_type]
        if not least <= number <= most:
            raise _operand(one, "is not in the range of the field", "OUT_OF_RANGE")
    elif place.field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT and abs(number) > _FLOAT_MAX:
        raise _operand(one, "is not in the range of the field", "OUT_OF_RANGE")
    if found is None or math.isnan(found) or wants(found, number) != found:
        place.write(number)


def _number(one: Transform, place: _Place) -> int | float:
    """The operand, as a number of the field's kind."""
    field, given = place.field, one.operand
    if field.is_repeated or field.message_type is not None or field.enum_type is not None:
        raise _wrong(one, "is no number")
    if field.cpp_type in masks.RANGES:
        if isinstance(given, str) and _WHOLE.fullmatch(given):
            return int(given)
        if isinstance(given, float) and given.is_integer():
            return int(given)
        raise _operand(one, "must be a whole number")
    if field.cpp_type not in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        raise _wrong(one, "is no number")
    try:
        number = float(given) if isinstance(given, float | str) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _operand(one, "must be a number")
    return number


def _is_time(place: _Place) -> bool:
    field = place.field
    return (
        not field.is_repeated
        and field.message_type is not None
        and field.message_type.full_name == _TIMESTAMP
        and field.containing_type is place.holder.DESCRIPTOR
    )


def _instant(time: Any) -> tuple[int, int]:
    return time.seconds, time.nanos


# Elements.


def _items(one: Transform, place: _Place) -> Any:
    if not place.field.is_repeated or is_map(place.field):
        raise _wrong(one, "is no repeated field")
    items = getattr(place.holder, place.field.name)
    if len(items) > ITEMS_MAX:
        raise Precondition(
            f"{one.path} has {len(items)} items; a list of more than {ITEMS_MAX} is not transformed.",
            reason="LIST_TOO_LONG",
            metadata={"field": one.path},
        )
    return items


def _elements(one: Transform, place: _Place) -> Iterator[Any]:
    """The operand, as items of the field."""
    scratch = type(place.holder)()
    pool = cast(DescriptorPool, place.holder.DESCRIPTOR.file.pool)
    try:
        json_format.ParseDict({place.field.name: one.operand}, scratch, descriptor_pool=pool)
    except json_format.ParseError as fault:
        raise _operand(one, "has an element that is no value of the field") from fault
    yield from getattr(scratch, place.field.name)


def _identity(item: Any) -> Any:
    """What two items that are equal share."""
    return item.SerializeToString(deterministic=True) if hasattr(item, "SerializeToString") else item


def _copy(item: Any) -> Any:
    if not hasattr(item, "SerializeToString"):
        return item
    copy = type(item)()
    copy.CopyFrom(item)
    return copy


def _wrong(one: Transform, why: str, reason: str = "WRONG_TYPE") -> Invalid:
    return Invalid.field(f"{one.part}.field", f"{one.path[:100]!r} {why}", reason)


def _operand(one: Transform, why: str, reason: str = "INVALID_OPERAND") -> Invalid:
    return Invalid.field(f"{one.part}.{one.operation}", why, reason)
