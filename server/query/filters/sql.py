"""Filter → SQL: a condition over a row `t` of the resource's table. Constants are parameters, so that filters of one shape
share a statement.

It never raises, whatever a row holds, and is met where it is true: NULL is as false. What can be is said so that an index
serves: a column against a constant (btree), `@>` and `?` of a document (GIN), `like` and `ilike` (trigrams).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import orjson
from google.protobuf.descriptor import FieldDescriptor as F

from server.errors import Invalid
from server.query.filters import tree
from server.query.filters.constants import EPOCH, is_single, single
from server.query.filters.paths import Item, Key, Member, Path, Property, Step
from server.query.filters.tree import Node
from server.query.rules.lowering import TIME_LEAST, TIME_MOST
from server.schema import expressions
from server.schema.expressions import column, comparable, literal, patterned, search_text, searched
from server.schema.kinds import Kind, scalar_of
from server.schema.model import Field, Resource

SQL_MOST = 500_000
"""Characters of a condition."""

Readable = Callable[[str], str | None]
"""The SQL by which a row shows a field, by the field's name; None for what all see."""

_CASTS = {
    "integer": "bigint",  # compared as such: an index on integers knows that, too
    "numeric(20)": "numeric",
}


class Conditions:
    """Writes one condition. `values` are the statement's parameters, to which it adds its own, as texts; `place` says how the
    parameter of a number, from 1, is written."""

    def __init__(
        self, resource: Resource, values: list[Any], place: Callable[[int], str], readable: Readable, now: int
    ) -> None:
        self._resource = resource
        self._values = values
        self._place = place
        self._readable = readable
        self._now = now
        self._aliases = 0

    def of(self, node: Node) -> str:
        """The SQL of a node. Raises Invalid where it would be longer than SQL_MOST characters."""
        make: Callable[[Any], str] = getattr(self, f"_{type(node).__name__.lower()}")
        text = make(node)
        if len(text) > SQL_MOST:
            raise Invalid.field("filter", "asks too often of fields that not everybody may see", "FILTER_TOO_LONG")
        return text

    # Logic.

    def _and(self, node: tree.And) -> str:
        return "(" + " and ".join(map(self.of, node.parts)) + ")"

    def _or(self, node: tree.Or) -> str:
        return "(" + " or ".join(map(self.of, node.parts)) + ")"

    def _not(self, node: tree.Not) -> str:
        return f"(({self.of(node.of)}) is not true)"

    # Leaves.

    def _compared(self, node: tree.Compared) -> str:
        path = node.path
        constant = node.constant
        if node.relative:
            constant = min(max(self._now + constant, TIME_LEAST), TIME_MOST)
        if path.in_column:
            return self._of_column(path, node.op, constant)
        if node.op == "=" and path.steps and _has_forms(path, constant):
            document, steps = self._held(path)
            forms = [self._given(_wrapped(steps, form), "jsonb") for form in _forms(path, constant)]
            return _either([f"{document} @> {form}" for form in forms])
        return self._reached(path, lambda at: self._of_json(path, at, node.op, constant))

    def _of_column(self, path: Path, op: str, constant: Any) -> str:
        value = comparable(path.kind, self.column(path.root))
        if path.kind is Kind.ENUM:
            labels = [self._given(label, "text") for label in _labels(path.field, constant)]
            return f"{value} = {labels[0]}" if len(labels) == 1 else f"{value} in ({', '.join(labels)})"
        text = as_text(path.kind, constant)
        kind = path.root.column_type
        return f"{value} {op} {self._given(text, _CASTS.get(kind, kind))}"

    def _of_json(self, path: Path, at: _At, op: str, constant: Any) -> str:
        if path.kind is Kind.DYNAMIC:
            return self._of_dynamic(at, op, constant)
        value = at.value(path)
        match path.kind:
            case Kind.STRING:
                return f"{value} {op} {self._given(constant, 'text')}"
            case Kind.INT | Kind.DURATION:
                return f"{value} {op} {self._given(str(constant), 'numeric')}"
            case Kind.DOUBLE:
                number = as_text(path.kind, as_json(path, constant))
                return f"{value} {op} {self._given(number, 'numeric')}"
            case Kind.TIMESTAMP:
                return f"{value} {op} {self._given(instant_text(constant), 'text')}"
        texts = [one if isinstance(one, str) else orjson.dumps(one).decode() for one in _forms(path, constant)]
        return _either([f"{value} = {self._given(text, 'text')}" for text in dict.fromkeys(texts)])

    def _of_dynamic(self, at: _At, op: str, constant: Sequence[Any]) -> str:
        if op == "=":
            return _either([f"{at.json} = {self._given(orjson.dumps(one).decode(), 'jsonb')}" for one in constant])
        first = constant[0]
        if isinstance(first, str):
            text = self._given(first, "text")
            return f"(case when jsonb_typeof({at.json}) = 'string' then {at.text} collate \"C\" {op} {text} end)"
        number = self._given(repr(first), "numeric")
        return f"(case when jsonb_typeof({at.json}) = 'number' then ({at.json})::numeric {op} {number} end)"

    def _like(self, node: tree.Like) -> str:
        path, op = node.path, "ilike" if node.folded else "like"
        pattern = self._given("%".join(map(_escaped, node.parts)), "text")
        if path.in_column:
            found = f"{patterned(self.column(path.root))} {op} {pattern}"
            if path.root.search and any(node.parts):
                # It follows from the first, and an index for words serves it.
                words = self._given("%".join(map(_escaped, ("", *filter(None, node.parts), ""))), "text")
                found = f"({found} and {self._searched()} ilike {words})"
            return found
        if path.kind is Kind.DYNAMIC:
            return self._reached(
                path,
                lambda at: f"(case when jsonb_typeof({at.json}) = 'string' then {at.text} {op} {pattern} end)",
            )
        return self._reached(path, lambda at: f"{at.value(path)} {op} {pattern}")

    def _present(self, node: tree.Present) -> str:
        path = node.path
        if not path.steps:
            return _set(path, self.column(path.root))
        last = path.steps[-1]
        if path.repeated or path.kind is Kind.MAP:
            return self._reached(path, lambda at: f"{at.json} not in ('[]'::jsonb, '{{}}'::jsonb)")
        if isinstance(last, Key) and not path.many and len(path.steps) == 1:
            return f"{self.column(path.root)} ? {self._given(last.text, 'text')}"
        if isinstance(last, Member) and path.kind is Kind.DOUBLE and not last.field.has_presence:
            return self._reached(path, lambda at: f"{at.value(path)} <> 0")
        return self._reached(path, lambda at: f"{at.json} is not null")

    def _holds(self, node: tree.Holds) -> str:
        constants = [self._given(orjson.dumps(one).decode(), "jsonb") for one in node.constant]

        def holds(at: _At) -> str:
            listed = _either([f"{at.json} @> {one}" for one in constants])
            same = [f"{at.json} = {one}" for one in constants]
            return _either([*same, f"(case when jsonb_typeof({at.json}) = 'array' then {listed} end)"])

        return self._reached(node.path, holds)

    def _found(self, node: tree.Found) -> str:
        pattern = self._given("%".join(map(_escaped, node.parts)), "text")
        condition = f"{self._searched()} ilike {pattern}"
        if any(self._readable(field.name) is not None for field in searched(self._resource)):
            # The first is what an index serves; the second sees only what the caller may.
            condition = f"({condition} and {search_text(self._resource, self.column)} ilike {pattern})"
        return condition

    def _searched(self) -> str:
        """All that words are looked for in, as an index has it."""
        return search_text(self._resource, lambda field: column(field, "t"))

    # Places.

    def _held(self, path: Path) -> tuple[str, Sequence[Step]]:
        """The document that is asked whether it has something, and the steps in it: the column, or the list or map in a message
        that the schema has an index of."""
        document = self.column(path.root)
        inside = path.steps[: next(i for i, step in enumerate(path.steps) if not isinstance(step, Member))]
        fields = [step.field for step in inside if isinstance(step, Member)]
        name = ".".join([path.root.name, *(field.name for field in fields)])
        if fields and any([at for at, _ in index.paths] == [name] for index in self._resource.indexes):
            return expressions.document(document, fields), path.steps[len(inside) :]
        return document, path.steps

    def column(self, field: Field) -> str:
        """The value of a field's column; as if it were not set where the row does not show it."""
        return self.guarded(field, self._readable)

    @staticmethod
    def guarded(field: Field, readable: Readable) -> str:
        """The same, of any condition."""
        name = column(field, "t")
        guard = readable(field.name) if field.column != "name" else None
        return name if guard is None else f"(case when {guard} then {name} else {field.default or 'null'} end)"

    def _reached(self, path: Path, leaf: Callable[[_At], str]) -> str:
        """`leaf` of what the path leads to, or of any of it."""

        def further(at: _At, steps: Sequence[Any]) -> str:
            if not steps:
                return leaf(at)
            step, rest = steps[0], steps[1:]
            if isinstance(step, Item):
                self._aliases += 1
                item = f"g{self._aliases}"
                inner = further(_At(f"{item}.value", f"({item}.value #>> '{{}}')"), rest)
                # In its lax mode `$[*]` fails for nothing.
                return f"exists (select from jsonb_path_query({at.json}, '$[*]') {item}(value) where {inner})"
            name = literal(step.field.name) if isinstance(step, Member) else self._given(step.text, "text")
            return further(_At(f"({at.json} -> {name})", f"({at.json} ->> {name})", at.json), rest)

        document = self.column(path.root)
        return further(_At(document, f"({document} #>> '{{}}')"), path.steps)

    def _given(self, value: str, kind: str) -> str:
        self._values.append(value)
        return f"{self._place(len(self._values))}::{kind}"


class _At:
    """A place in a document: its JSON and its text, as SQL, and the JSON of the message or map that it is a member of."""

    __slots__ = ("holder", "json", "text")

    def __init__(self, json: str, text: str, holder: str = "") -> None:
        self.json, self.text, self.holder = json, text, holder

    def value(self, path: Path) -> str:
        """What is compared there."""
        last = path.steps[-1] if path.steps else None
        if isinstance(last, Member):
            return expressions.member(self.holder, last.field)
        return expressions.scalar(path.kind, self.text)


def _either(conditions: Sequence[str]) -> str:
    return conditions[0] if len(conditions) == 1 else f"({' or '.join(conditions)})"


def _set(path: Path, value: str) -> str:
    field, kept = path.field, path.root
    if path.repeated or path.kind is Kind.MAP:
        return f"{value} not in ('[]'::jsonb, '{{}}'::jsonb)"
    if field.has_presence:
        return f"{value} is not null"
    if path.kind is Kind.ENUM:
        return f"{value} not in ({', '.join(map(literal, _labels(field, 0)))})"
    return f"{value} <> {kept.default or literal('')}"


def _has_forms(path: Path, constant: Any) -> bool:
    """Whether the document holds the value in one of few forms, by which it can be found: in a map, a list or JSON, and none
    that is left out because it is the default."""
    last = path.steps[-1]
    if isinstance(last, Member) and not last.field.has_presence and constant == last.field.default_value:
        return False
    return path.kind not in (Kind.TIMESTAMP, Kind.DURATION) and any(
        isinstance(step, Key | Item | Property) for step in path.steps
    )


def _forms(path: Path, constant: Any) -> list[Any]:
    """What JSON may have for a constant."""
    match path.kind:
        case Kind.DYNAMIC:
            return list(constant)
        case Kind.ENUM:
            labels = _labels(path.field, constant)
            return [*labels, constant] if labels == [str(constant)] else list(labels)
        case Kind.BYTES:
            return [base64.b64encode(constant).decode()]
        case Kind.INT if scalar_of(path.field).cpp_type in (F.CPPTYPE_INT64, F.CPPTYPE_UINT64):
            return [str(constant), constant]  # a text inside of messages, a number where a column is a list of them
        case Kind.DOUBLE:
            number = as_json(path, constant)
            return [as_text(path.kind, number) if number != number or abs(number) == float("inf") else number]
    return [constant]


def as_json(path: Path, number: float) -> float:
    """A number as JSON has it: of single precision, in a message the shortest that means it, in a column all its digits."""
    inside = path.field.message_type is not None or any(isinstance(step, Member) for step in path.steps)
    if not inside or not is_single(path) or number != number or abs(number) == float("inf"):
        return number
    return next(short for digits in range(6, 10) if single(short := float(f"{number:.{digits}g}")) == number)


def _wrapped(steps: Sequence[Step], value: Any) -> str:
    """The least document that has the value where the steps lead."""
    for step in reversed(steps):
        match step:
            case Item():
                value = [value]
            case Member(field=field):
                value = {field.name: value}
            case Key(text=text) | Property(text=text):
                value = {text: value}
    return orjson.dumps(value).decode()


def _labels(field: F, number: int) -> list[str]:
    """What a number is stored as: by its name, or one of its names; without one, by its digits."""
    return [v.name for v in field.enum_type.values if v.number == number] or [str(number)]


def as_text(kind: Kind, constant: Any) -> str:
    """A constant as Postgres reads it."""
    match kind:
        case Kind.BOOL:
            return "true" if constant else "false"
        case Kind.BYTES:
            return f"\\x{constant.hex()}"
        case Kind.TIMESTAMP:
            return f"{instant_text(constant)}Z"
        case Kind.DURATION:
            return f"{constant} microseconds"
        case Kind.DOUBLE:
            return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(repr(constant), repr(constant))
    return str(constant)


def instant_text(micros: int) -> str:
    """A time with all its microseconds: `2026-11-22T17:00:00.000000`."""
    return (EPOCH + timedelta(microseconds=micros)).isoformat(timespec="microseconds")[:26]


def _escaped(text: str) -> str:
    """A text in a pattern of LIKE."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
