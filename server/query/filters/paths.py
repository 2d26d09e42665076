"""Where in a resource a value is: a path of names → the steps that lead there, and the type of what is found.

Both the condition in SQL and the predicate in Python go the same steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from server.query.filters.syntax import Fault, Segment, shown
from server.schema.columns import is_map
from server.schema.kinds import Kind, kind_of
from server.schema.model import Behavior, Field, Resource, Schema

F = FieldDescriptor


@dataclass(frozen=True, slots=True)
class Member:
    """To a field of a message."""

    field: FieldDescriptor


@dataclass(frozen=True, slots=True)
class Key:
    """To the value of a map's key."""

    text: str
    """As JSON has it."""
    value: Any
    """As the map has it."""


@dataclass(frozen=True, slots=True)
class Item:
    """To each item of a repeated field."""


@dataclass(frozen=True, slots=True)
class Property:
    """To a property of a JSON object."""

    text: str


Step = Member | Key | Item | Property


@dataclass(frozen=True, slots=True)
class Path:
    """From a resource to a value, or to several where there is an Item among the steps."""

    at: int
    text: str
    root: Field
    steps: tuple[Step, ...]
    kind: Kind
    field: FieldDescriptor
    """That of the value, or of the map or list it is a value of."""
    repeated: bool = False
    """It leads to a whole repeated field."""

    @property
    def in_column(self) -> bool:
        """Whether it is a column's own value, and not inside of a document."""
        return (
            not self.steps
            and not self.repeated
            and self.kind not in (Kind.MESSAGE, Kind.MAP, Kind.DYNAMIC, Kind.OPAQUE)
        )

    @property
    def many(self) -> bool:
        """Whether it may lead to several values."""
        return any(isinstance(step, Item) for step in self.steps)

    @property
    def may_miss(self) -> bool:
        """Whether the last field tells absence from its default."""
        last = self.steps[-1] if self.steps else None
        return not (last is None or isinstance(last, Member)) or self.field.has_presence

    @property
    def fields(self) -> tuple[FieldDescriptor, ...]:
        """The fields of the steps that lead to one."""
        return tuple(step.field for step in self.steps if isinstance(step, Member))

    def items(self) -> Path:
        """To each item of the repeated field that this leads to."""
        return Path(self.at, self.text, self.root, (*self.steps, Item()), self.kind, self.field)

    def member(self, field: FieldDescriptor) -> Path:
        """To a field of the message that this leads to."""
        return _whole(self.at, self.text, self.root, (*self.steps, Member(field)), field)

    def key(self, at: int, text: str) -> Path:
        """To the value of a key of the map, or of a property, that this leads to. Raises Fault for what is no key, with its
        place."""
        if self.kind is Kind.DYNAMIC:
            return Path(self.at, self.text, self.root, (*self.steps, Property(text)), Kind.DYNAMIC, self.field)
        entry = self.field.message_type.fields_by_name
        value = entry["value"]
        step = _key(entry["key"], at, text)
        return Path(self.at, self.text, self.root, (*self.steps, step), kind_of(value), value)


class Paths:
    """The paths of one resource."""

    def __init__(self, schema: Schema, resource: Resource) -> None:
        self._behaviors = schema.behaviors
        self._fields = resource.fields
        self._message = resource.descriptor

    def of(self, segments: Sequence[Segment], *, items: bool) -> Path:
        """The path that names say. `items`: it may go through repeated fields, to each of their items.

        Raises Fault, naming the place, for what leads nowhere.
        """
        first, rest = segments[0], segments[1:]
        field = self.member(self._message, first)
        found = next(f for f in self._fields if f.number == field.number)
        path = _whole(first.at, first.text, found, (), found.descriptor)
        for segment in rest:
            path = self._further(path, segment, items=items)
        return path

    def _further(self, path: Path, segment: Segment, *, items: bool) -> Path:
        text = f"{path.text}.{segment.text}"
        if path.repeated:
            if segment.text.isdigit():
                raise Fault(segment.at, f"{shown(path.text)} is repeated: no single item of it can be asked for")
            if not items:
                raise Fault(segment.at, f"{shown(path.text)} is repeated: of what is in it only `:` can be asked")
            path = path.items()
        path = Path(path.at, text, path.root, path.steps, path.kind, path.field)
        match path.kind:
            case Kind.MAP | Kind.DYNAMIC:
                return path.key(segment.at, segment.text)
            case Kind.MESSAGE:
                field = self.member(path.field.message_type, segment)
                return path.member(field)
        raise Fault(segment.at, f"{shown(path.text.rpartition('.')[0])} has no fields")

    def member(self, message: Descriptor | None, segment: Segment) -> FieldDescriptor:
        """The field of a message. Raises Fault."""
        assert message is not None
        known = message.fields_by_name
        field = known.get(segment.text) or known.get(_spelled(message.fields).get(segment.text, ""))
        if field is None or self._unkept(field):
            raise Fault(segment.at, f"{shown(segment.text)} is no field of {message.full_name}")
        return field

    def _unkept(self, field: FieldDescriptor) -> bool:
        """Whether it comes in and is not kept (INPUT_ONLY)."""
        return Behavior.INPUT_ONLY in self._behaviors.get(field.full_name, ())


def _whole(at: int, text: str, root: Field, steps: tuple[Step, ...], field: FieldDescriptor) -> Path:
    return Path(at, text, root, steps, kind_of(field), field, field.is_repeated and not is_map(field))


def _key(key: FieldDescriptor, at: int, text: str) -> Key:
    if key.type == F.TYPE_STRING:
        return Key(text, text)
    if key.type == F.TYPE_BOOL:
        if text not in ("true", "false"):
            raise Fault(at, f"{shown(text)} is no key: the keys are true and false")
        return Key(text, text == "true")
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 20:
        raise Fault(at, f"{shown(text)} is no key: the keys are whole numbers")
    return Key(str(int(text)), int(text))


def _spelled(fields: Sequence[FieldDescriptor]) -> Mapping[str, str]:
    """The fields' names by their spelling in JSON, where it is that of one only."""
    found: dict[str, list[str]] = {}
    for field in fields:
        for spelling in {field.json_name, field.camelcase_name}:
            found.setdefault(spelling, []).append(field.name)
    return {spelling: named[0] for spelling, named in found.items() if len(named) == 1}
