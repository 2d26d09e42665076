"""Aggregates: what is told of groups of resources, and how Postgres is asked for it (`transom.data.v1.Aggregate`).

A group is what shares the values of some paths. Every value comes from Postgres as a text, and exactly: what it is in the
reply, its kind says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum, auto

from google.protobuf.descriptor import EnumDescriptor

from server.errors import Invalid, Refusal
from server.query import orders
from server.query.filters import Filter, Filters
from server.query.filters.sql import Readable
from server.query.filters.tree import Present
from server.query.orders import Key
from server.schema.kinds import Kind
from server.schema.model import Resource, Schema

GROUP_BY_MOST, AGGREGATIONS_MOST, ORDER_MOST = 5, 20, 5
"""Of one request."""

_ALIAS = re.compile(r"[a-z][a-z0-9_]{0,62}")
_SUMMED = frozenset({Kind.INT, Kind.DOUBLE, Kind.DURATION})


class Function(StrEnum):
    """What is told of a path."""

    COUNT = auto()
    SUM = auto()
    AVG = auto()
    MIN = auto()
    MAX = auto()


@dataclass(frozen=True, slots=True)
class Asked:
    """One number, as it is asked for."""

    function: Function
    path: str = ""
    alias: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """One value of each row."""

    name: str
    """Its path, of what is grouped by; else its alias."""
    kind: Kind
    enum: EnumDescriptor | None = None
    key: Key | None = None
    function: Function | None = None
    """None for what is grouped by."""
    present: Filter | None = None
    """Of a COUNT of a path: which resources are counted."""

    @property
    def fields(self) -> frozenset[str]:
        """The top-level fields that it depends on."""
        if self.present is not None:
            return self.present.fields
        return frozenset({self.key.field}) if self.key is not None else frozenset()

    def sql(self, parameters: list[str | None], readable: Readable, now: int) -> str:
        """Its value of a group of rows `t`, which can be ordered. What it needs is added to the statement's parameters."""
        if self.function is Function.COUNT:
            if self.present is None:
                return "count(*)"
            return f"count(*) filter (where {self.present.condition(parameters, readable=readable, now=now)})"
        assert self.key is not None
        value = self.key.sql(readable)
        if self.kind is Kind.TIMESTAMP and self.key.type == "text":
            value = f'({value})::text collate "C"'
        elif self.kind in (Kind.TIMESTAMP, Kind.DURATION) and self.key.type != "numeric":
            value = f"(extract(epoch from {value}) * 1000000)"
        elif self.kind is Kind.DOUBLE and self.function in (Function.SUM, Function.AVG):
            value = f"({value})::{self.key.type}::text::numeric"  # their sum is never out of range, and needs no order
        elif self.kind is Kind.DOUBLE:
            value = f"({value})::{self.key.type}"
        elif self.kind is Kind.BOOL:
            value = f'({value})::text collate "C"'
        return value if self.function is None else f"{self.function.value}({value})"


@dataclass(frozen=True, slots=True)
class Grouping:
    """What is told of which groups."""

    groups: tuple[Column, ...]
    values: tuple[Column, ...]
    order: tuple[tuple[int, bool], ...]
    """Places of columns, the groups' first, and whether each descends. It is total."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """All, in order."""
        return (*self.groups, *self.values)


def grouping(
    schema: Schema, filters: Filters, resource: Resource, group_by: Sequence[str], asked: Sequence[Asked], order_by: str
) -> Grouping:
    """What a request asks for. Raises Invalid, naming the part of the request."""
    if not group_by and not asked:
        raise Invalid.field("aggregations", "is required where group_by is empty", "REQUIRED")
    if len(group_by) > GROUP_BY_MOST:
        raise Invalid.field("group_by", f"has more than {GROUP_BY_MOST} paths", "TOO_MANY")
    if len(asked) > AGGREGATIONS_MOST:
        raise Invalid.field("aggregations", f"has more than {AGGREGATIONS_MOST}", "TOO_MANY")
    groups = []
    for i, path in enumerate(group_by):
        key = _key(schema, resource, path, f"group_by[{i}]")
        groups.append(Column(path, key.path.kind, key.path.field.enum_type, key))
    values = [_value(schema, filters, resource, one, f"aggregations[{i}]") for i, one in enumerate(asked)]
    for field, columns in (("group_by", groups), ("aggregations", values)):
        for i, column in enumerate(columns):
            if column.name in [other.name for other in columns[:i]]:
                raise Invalid.field(f"{field}[{i}]", f"{column.name[:100]!r} is there twice", "DUPLICATE")
    names = [column.name for column in (*groups, *values)]
    order = _order(order_by, names)
    order += [(i, False) for i in range(len(groups)) if i not in [at for at, _ in order]]
    return Grouping(tuple(groups), tuple(values), tuple(order))


def _key(schema: Schema, resource: Resource, path: str, field: str) -> Key:
    try:
        parsed = orders.parse(path, schema, resource)
    except Invalid as fault:
        raise _said_of(fault, field) from None
    if len(parsed.keys) != 1 or parsed.keys[0].path.text != path.strip():
        raise Invalid.field(field, "must be the path of one field", "INVALID_PATH")
    return parsed.keys[0]


def _value(schema: Schema, filters: Filters, resource: Resource, asked: Asked, field: str) -> Column:
    function, path = asked.function, asked.path
    alias = asked.alias or re.sub(r"[^a-z0-9]+", "_", f"{function.value}_{path.lower()}").strip("_")
    if not _ALIAS.fullmatch(alias):
        raise Invalid.field(f"{field}.alias", "must be lower_snake_case, at most 63 characters", "INVALID_ALIAS")
    if function is Function.COUNT:
        return Column(alias, Kind.INT, function=function, present=_present(filters, path, field) if path else None)
    if not path:
        raise Invalid.field(f"{field}.path", "is required", "REQUIRED")
    key = _key(schema, resource, path, f"{field}.path")
    kind = key.path.kind
    if function in (Function.SUM, Function.AVG) and kind not in _SUMMED:
        raise Invalid.field(f"{field}.path", "is no number and no duration", "NOT_A_NUMBER")
    if function is Function.AVG and kind is Kind.INT:
        return Column(alias, Kind.DOUBLE, key=key, function=function)
    return Column(alias, kind, key.path.field.enum_type, key, function)


def _present(filters: Filters, path: str, field: str) -> Filter:
    try:
        found = filters.parse(f"{path}:*")
    except Invalid as fault:
        raise _said_of(fault, f"{field}.path") from None
    if not isinstance(found.node, Present):
        raise Invalid.field(f"{field}.path", "must be the path of one field", "INVALID_PATH")
    return found


def _order(text: str, names: Sequence[str]) -> list[tuple[int, bool]]:
    found: list[tuple[int, bool]] = []
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if len(parts) > ORDER_MOST:
        raise Invalid.field("order_by", f"has more than {ORDER_MOST} keys", "TOO_MANY")
    for part in parts:
        name, _, direction = part.rpartition(" ") if part.endswith((" desc", " asc")) else (part, "", "asc")
        name = name.strip()
        if name not in names:
            raise Invalid.field(
                "order_by", f"{name[:100]!r} is in neither group_by nor aggregations", "INVALID_ORDER_BY"
            )
        if names.index(name) in [at for at, _ in found]:
            raise Invalid.field("order_by", f"{name[:100]!r} is there twice", "INVALID_ORDER_BY")
        found.append((names.index(name), direction == "desc"))
    return found


def _said_of(fault: Invalid, field: str) -> Refusal:
    return Invalid.fields([replace(v, field=field) for v in fault.violations])
