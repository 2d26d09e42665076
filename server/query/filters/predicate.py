"""Filter → Python: whether a message is one that the condition in SQL would find."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from json import dumps
from operator import eq, ge, gt, le, lt
from typing import Any

from google.protobuf import struct_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict

from server.query.filters import tree
from server.query.filters.paths import Item, Key, Member, Path, Property
from server.query.filters.tree import Node
from server.schema.expressions import SEPARATOR
from server.schema.kinds import Kind
from server.schema.model import Field

Test = Callable[[Any, int], bool]
"""Of a message, and the time in microseconds since 1970."""

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {"=": eq, "<": lt, "<=": le, ">": gt, ">=": ge}


class Predicates:
    """Makes the tests of one resource's filters. `searched` are the fields that words are looked for in."""

    def __init__(self, searched: Sequence[Field]) -> None:
        self._searched = [(f.name, f.descriptor.is_repeated, f.descriptor.has_presence) for f in searched]

    def of(self, node: Node) -> Test:
        """The test that a node is."""
        make: Callable[[Any], Test] = getattr(self, f"_{type(node).__name__.lower()}")
        return make(node)

    def _and(self, node: tree.And) -> Test:
        tests = [self.of(part) for part in node.parts]
        return lambda message, now: all(test(message, now) for test in tests)

    def _or(self, node: tree.Or) -> Test:
        tests = [self.of(part) for part in node.parts]
        return lambda message, now: any(test(message, now) for test in tests)

    def _not(self, node: tree.Not) -> Test:
        test = self.of(node.of)
        return lambda message, now: not test(message, now)

    def _compared(self, node: tree.Compared) -> Test:
        path, compare, constant = node.path, _COMPARE[node.op], node.constant
        if path.kind is Kind.DYNAMIC:
            same = _same if node.op == "=" else _ordered(compare)
            return lambda message, now: any(same(value, constant) for value in values(path, message))
        if node.relative:
            return lambda message, now: any(compare(value, now + constant) for value in values(path, message))
        if path.kind is Kind.DOUBLE:
            key = number_key(constant)
            return lambda message, now: any(compare(number_key(value), key) for value in values(path, message))
        return lambda message, now: any(compare(value, constant) for value in values(path, message))

    def _like(self, node: tree.Like) -> Test:
        path, parts = node.path, node.parts
        if node.folded:
            parts = tuple(map(folded, parts))
            return lambda message, now: any(stands(parts, folded(value)) for value in values(path, message))
        return lambda message, now: any(
            isinstance(value, str) and stands(parts, value) for value in values(path, message)
        )

    def _present(self, node: tree.Present) -> Test:
        path = node.path
        return lambda message, now: any(_there(path, holder) for holder in _holders(path, message))

    def _holds(self, node: tree.Holds) -> Test:
        path, constant = node.path, node.constant

        def holds(message: Any, now: int) -> bool:
            return any(
                _same(value, constant) or (isinstance(value, list) and any(_same(item, constant) for item in value))
                for value in values(path, message)
            )

        return holds

    def _found(self, node: tree.Found) -> Test:
        parts = tuple(map(folded, node.parts))
        return lambda message, now: stands(parts, folded(self._text(message)))

    def _text(self, message: Any) -> str:
        texts: list[str] = []
        for name, repeated, presence in self._searched:
            if repeated:
                texts.append(dumps(list(getattr(message, name)), ensure_ascii=False))
            else:
                texts.append(getattr(message, name) if not presence or message.HasField(name) else "")
        return SEPARATOR.join(texts)


def values(path: Path, message: Any) -> Iterator[Any]:
    """What a path leads to: nothing where it is not set."""
    for holder in _holders(path, message):
        yield from _taken(path, holder)


def number_key(value: float) -> tuple[bool, float]:
    """By what numbers are compared: as for Postgres, NaN equals NaN and is above all others."""
    return (True, 0.0) if value != value else (False, value)


def folded(text: str) -> str:
    """A text without the difference of capital letters: letter by letter, as Postgres does it in a UTF-8 locale."""
    if text.isascii():
        return text.lower()
    return "".join(low if len(low := char.lower()) == 1 else low[0] for char in text)


def stands(parts: Sequence[str], text: str) -> bool:
    """Whether the parts stand in the text in their order, the first at its beginning and the last at its end."""
    if len(parts) == 1:
        return parts[0] == text
    first, last = parts[0], parts[-1]
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in parts[1:-1]:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


# A place: what holds the value, and how to get it there.


def _holders(path: Path, message: Any) -> Iterator[Any]:
    """All but the last step: what holds the value. A message that is not set holds nothing."""
    steps = (Member(path.root.descriptor), *path.steps)
    return _gone(steps[:-1], message)


def _gone(steps: Sequence[Any], value: Any) -> Iterator[Any]:
    if not steps:
        yield value
        return
    for found in _stepped(steps[0], value):
        yield from _gone(steps[1:], found)


def _stepped(step: Any, value: Any) -> Iterable[Any]:
    """One step: to what is set."""
    match step:
        case Member(field=field):
            found = getattr(value, field.name)
            if field.is_repeated or not field.has_presence or value.HasField(field.name):
                return [json(found) if _is_json(field) else found]
            return []
        case Key(value=key):
            # Looking would make a message in the map.
            return [_plain(value[key])] if key in value else []
        case Item():
            return [_plain(item) for item in value]
        case Property(text=name):
            return [value[name]] if isinstance(value, dict) and name in value else []
    raise AssertionError(step)


def _taken(path: Path, holder: Any) -> Iterable[Any]:
    last = path.steps[-1] if path.steps else Member(path.root.descriptor)
    for found in _stepped(last, holder):
        yield _scalar(path, found)


def _there(path: Path, holder: Any) -> bool:
    last = path.steps[-1] if path.steps else Member(path.root.descriptor)
    found = list(_stepped(last, holder))
    if not found or not isinstance(last, Member):
        return bool(found)
    field = last.field
    if field.is_repeated:
        return len(found[0]) > 0
    return bool(field.has_presence or found[0] != field.default_value)


def _scalar(path: Path, value: Any) -> Any:
    if path.kind is Kind.TIMESTAMP:
        return value.seconds * 1_000_000 + value.nanos // 1000
    if path.kind is Kind.DURATION:
        return value.seconds * 1_000_000 + int(value.nanos / 1000)
    return value.value if path.field.message_type is not None and path.kind in _WRAPPED else value


# JSON.


def json(value: Any) -> Any:
    """What google.protobuf.Struct, Value or ListValue says."""
    return MessageToDict(value)


def _is_json(field: FieldDescriptor) -> bool:
    return not field.is_repeated and field.message_type is not None and field.message_type.full_name in _JSON


def _plain(value: Any) -> Any:
    return json(value) if getattr(getattr(value, "DESCRIPTOR", None), "full_name", "") in _JSON else value


def _same(value: Any, constant: Sequence[Any]) -> bool:
    # For Python True equals 1.
    return any(isinstance(value, bool) is isinstance(one, bool) and value == one for one in constant)


def _ordered(compare: Callable[[Any, Any], Any]) -> Callable[[Any, Sequence[Any]], bool]:
    def ordered(value: Any, constant: Sequence[Any]) -> bool:
        first = constant[0]
        if _is_number(first):
            return _is_number(value) and bool(compare(value, first))
        return isinstance(value, str) and isinstance(first, str) and bool(compare(value, first))

    return ordered


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_WRAPPED = frozenset({Kind.BOOL, Kind.INT, Kind.DOUBLE, Kind.STRING, Kind.BYTES})
_JSON = frozenset(m.DESCRIPTOR.full_name for m in (struct_pb2.Struct, struct_pb2.Value, struct_pb2.ListValue))
