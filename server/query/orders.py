"""Orders: in which order a List shows its resources (AIP-132), and where in it a page ends.

`"state, create_time desc, address.city"`: paths of fields, each ascending or `desc`. What is not set comes first, and last where
it descends; texts are in the order of their bytes, enums in that of their numbers, and NaN is above all other numbers. The
resource's name decides between equals, in the direction of the last key, so that an order is always total.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from server.errors import Invalid
from server.query.filters.paths import Path, Paths
from server.query.filters.predicate import values
from server.query.filters.sql import Conditions, Readable, as_json, as_text, instant_text
from server.query.filters.syntax import Fault, names, shown
from server.schema import expressions
from server.schema.expressions import comparable, literal
from server.schema.kinds import Kind
from server.schema.model import Resource, Schema

KEYS_MOST = 8
"""Keys of an order."""
LENGTH_MOST = 1000
"""Characters of an order."""
TEXT_MOST = 500
"""Characters of a text, that a page may end at: its token holds them."""

_DIRECTION = re.compile(r"(.*?)(?:\s+(asc|desc))?", re.DOTALL)
_UNORDERED = frozenset({Kind.BYTES, Kind.DYNAMIC, Kind.MESSAGE, Kind.MAP, Kind.OPAQUE})
_PLAIN = {
    "bigint": r"-?\d{1,19}",
    "numeric": r"-?\d+(\.\d+)?([eE][+-]?\d{1,3})?|NaN|-?Infinity",
    "boolean": "true|false",
}
_FORMS = {
    **_PLAIN,
    "double precision": _PLAIN["numeric"],
    "timestamptz": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z",
    "interval": r"-?\d{1,18} microseconds",
    "text": r"[^\0]*",
}

Value = str | None
"""The value of a key, as Postgres reads it; None where it is not set."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of an order."""

    path: Path
    descending: bool
    nullable: bool
    """Whether its values may be NULL. Where they may not, a row that does not show it has the default."""
    type: str
    """The Postgres type of its values."""

    @property
    def field(self) -> str:
        """The top-level field that it depends on."""
        return self.path.root.name

    def sql(self, readable: Readable = lambda name: None) -> str:
        """Its value of a row `t`; NULL, or the default, where the row does not show it."""
        path = self.path
        guarded = Conditions.guarded(path.root, readable)
        if path.kind is Kind.ENUM:
            stored = expressions.nested(guarded, path.fields) if path.steps else guarded
            return _number_of(path, stored)
        if path.steps:
            return expressions.nested(guarded, path.fields)
        return comparable(path.kind, guarded)

    def value(self, name: str, message: Any) -> Value:
        """Its value of a resource, as the caller sees it: with the fields cleared that the caller does not see."""
        if self.path.root.column == "name":
            return name
        for found in values(self.path, message):
            return self._text(found)
        return None

    def _text(self, value: Any) -> str:
        kind = self.path.kind
        if not self.path.steps:
            return str(value) if kind in (Kind.ENUM, Kind.STRING) else as_text(kind, value)
        if kind is Kind.TIMESTAMP:
            return instant_text(value)
        return as_text(Kind.DOUBLE, as_json(self.path, value)) if kind is Kind.DOUBLE else _plain(kind, value)


@dataclass(frozen=True, slots=True)
class Order:
    """An order of the resources of one message: its keys, and the name last."""

    text: str
    """As it is written after it was read: equal orders are written in one way."""
    keys: tuple[Key, ...]
    """Without the name, where that only decides between equals."""
    by_name: bool
    """Whether the name decides between equals. It does not where it is itself the last key."""
    descending: bool
    """The direction of the name."""
    fields: frozenset[str]
    """The top-level fields that it depends on."""

    def sql(self, readable: Readable = lambda name: None) -> str:
        """What stands behind ORDER BY, for rows `t`. `readable` is as in a filter's condition."""
        parts = []
        for key in self.keys:
            # Said of what is never NULL, too: an index that says it would not be seen to fit.
            nulls = "" if key.path.root.column == "name" else " nulls last" if key.descending else " nulls first"
            parts.append(f"{key.sql(readable)}{' desc' if key.descending else ''}{nulls}")
        if self.by_name:
            parts.append(f"t.name{' desc' if self.descending else ''}")
        return ", ".join(parts)

    def place(self, name: str, message: Any, hidden: Collection[str] = ()) -> list[Value]:
        """Where a resource stands: the values of the keys, and the name. `hidden` are the top-level fields that the caller does
        not see.

        Raises Invalid where a value is too long for a page to end at.
        """
        if hidden and not self.fields.isdisjoint(hidden):
            shown_message = type(message)()
            shown_message.CopyFrom(message)
            for one in hidden:
                shown_message.ClearField(one)
            message = shown_message
        found = [key.value(name, message) for key in self.keys]
        for key, value in zip(self.keys, found, strict=True):
            if value is not None and len(value) > TEXT_MOST and key.field != "name":
                raise Invalid.field(
                    "order_by",
                    f"a {key.path.text} of more than {TEXT_MOST} characters ends a page",
                    "ORDER_VALUE_TOO_LONG",
                )
        return [*found, name] if self.by_name else found

    def checked(self, place: Any) -> list[Value]:
        """A place that comes from outside. Raises Invalid where it is none of this order."""
        types = [key.type for key in self.keys] + (["text"] if self.by_name else [])
        if (
            not isinstance(place, list)
            or len(place) != len(types)
            or not all(one is None or _is_form(kind, one) for kind, one in zip(types, place, strict=True))
            or (self.by_name and place[-1] is None)
        ):
            raise Invalid.field("page_token", "is not a token that this method gave", "INVALID_PAGE_TOKEN")
        return place

    def after(
        self,
        place: Sequence[Value],
        parameters: list[Any],
        write: Callable[[int], str] = "${}".format,
        readable: Readable = lambda name: None,
    ) -> str:
        """The condition in SQL of what comes after a place, over rows `t`. Parameters are added and written as those of a
        filter's condition are."""
        terms: list[tuple[str, str, Value, bool, bool]] = [
            (key.sql(readable), key.type, value, key.descending, key.nullable)
            for key, value in zip(self.keys, place, strict=False)
        ]
        if self.by_name:
            terms.append(("t.name", "text", place[-1], self.descending, False))

        def given(kind: str, value: str) -> str:
            parameters.append(value)
            return f"{write(len(parameters))}::{kind}"

        if len({descending for *_, descending, _ in terms}) == 1 and not any(nullable for *_, nullable in terms):
            # One direction and no NULLs: a comparison of rows, which an index over all of them serves.
            op = "<" if terms[0][3] else ">"
            left = ", ".join(value for value, *_ in terms)
            right = ", ".join(given(kind, value or "") for _, kind, value, *_ in terms)
            return f"({left}) {op} ({right})" if len(terms) > 1 else f"{left} {op} {right}"
        condition = ""
        for value, kind, at, descending, nullable in reversed(terms):
            if at is None:
                beyond, same = ("false" if descending else f"{value} is not null"), f"{value} is null"
            else:
                constant = given(kind, at)
                beyond, same = f"{value} {'<' if descending else '>'} {constant}", f"{value} = {constant}"
                if descending and nullable:
                    beyond = f"({beyond} or {value} is null)"
            condition = f"({beyond} or ({same} and {condition}))" if condition else beyond
        return condition


def parse(text: str, schema: Schema, resource: Resource) -> Order:
    """The order that a text says: by name where it says nothing. Raises Invalid of the field `order_by`, with the column and
    what is wrong there."""
    try:
        return _parsed(text, Paths(schema, resource))
    except Fault as fault:
        raise fault.refusal("order_by") from None


def _parsed(text: str, paths: Paths) -> Order:
    if len(text) > LENGTH_MOST:
        raise Fault(LENGTH_MOST, f"the order has {len(text)} characters; {LENGTH_MOST} are the most")
    keys: list[Key] = []
    by_name = True
    if text.strip():
        at = 0
        for part in text.split(","):
            key = _key(part, at, paths)
            at += len(part) + 1
            if any(key.path.text == other.path.text for other in keys):
                raise Fault(at - len(part) - 1, f"{shown(key.path.text)} is there twice")
            if by_name:  # names differ: nothing behind one could decide
                keys.append(key)
            if len(keys) > KEYS_MOST:
                raise Fault(at - len(part) - 1, f"the order has more than {KEYS_MOST} keys")
            by_name = by_name and key.path.root.column != "name"
    descending = keys[-1].descending if keys else False
    written = ", ".join(f"{key.path.text}{' desc' if key.descending else ''}" for key in keys)
    return Order(written, tuple(keys), by_name, descending, frozenset(key.field for key in keys))


def _key(part: str, begin: int, paths: Paths) -> Key:
    at = begin + len(part) - len(part.lstrip())
    found = _DIRECTION.fullmatch(part.strip())
    assert found is not None
    if not found[1]:
        raise Fault(at, "a field is missing")
    if " " in found[1].strip() and not found[1].count('"'):
        raise Fault(at, f"{shown(part.strip())} is no field, with `desc` or without")
    path = paths.of(names(found[1], at), items=False)
    if path.repeated or path.kind in _UNORDERED:
        raise Fault(
            at, f"{shown(path.text)} has no order: only single numbers, texts, times, enums and booleans have one"
        )
    if len(path.fields) < len(path.steps):
        raise Fault(at, f"{shown(path.text)} is a key of a map, by which nothing is ordered")
    nullable = bool(path.steps) or (path.root.default is None and path.root.column != "name")
    return Key(path, found[2] == "desc", nullable, _type(path))


def _type(path: Path) -> str:
    match path.kind:
        case Kind.ENUM:
            return "bigint"
        case Kind.INT | Kind.DOUBLE | Kind.DURATION if path.steps:
            return "numeric"
        case _ if path.steps:
            return "text"
    kind = path.root.column_type
    return {"integer": "bigint", "numeric(20)": "numeric", "real": "double precision"}.get(kind, kind)


def _number_of(path: Path, stored: str) -> str:
    """The number of an enum's stored name; a number without a name is stored as such."""
    labels = " ".join(f"when {literal(v.name)} then {v.number}" for v in path.field.enum_type.values)
    return f"(case {stored} {labels} else (case when {stored} ~ '^-?[0-9]{{1,10}}$' then {stored}::bigint end) end)"


def _plain(kind: Kind, value: Any) -> str:
    return as_text(kind, value) if kind is Kind.BOOL else str(value)


def _is_form(kind: str, value: Any) -> bool:
    if (
        not isinstance(value, str)
        or len(value) > 4 * TEXT_MOST
        or not re.fullmatch(_FORMS[kind], value, re.DOTALL | re.ASCII)
    ):
        return False
    if kind == "bigint":
        return -(2**63) <= int(value) < 2**63
    try:
        if kind == "timestamptz":
            datetime.fromisoformat(value)
        if kind == "double precision":
            return repr(float(value)) == value or value in ("NaN", "Infinity", "-Infinity")
    except ValueError:
        return False
    return True
