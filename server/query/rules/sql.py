"""Rule → SQL: a condition over a row `t` of the resource's table and a row `q` that says who asks (`ASKING`).

CEL's errors are NULLs here: AND, OR and NOT of three-valued logic treat NULL as CEL treats errors, so a condition is
met where it `is true`. Nothing in it may raise: one row must not be able to refuse a whole page.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from psycopg import sql

from server.query.rules import tree
from server.query.rules.lowering import SPAN_MOST, TIME_LEAST, TIME_MOST, Refused
from server.query.rules.tree import Kind, Node, Type
from server.schema.model import Resource

ASKING = {
    "caller.name": ("name", "text"),
    "caller.id": ("id", "text"),
    "caller.kind": ("kind", "text"),
    "caller.roles": ("roles", "jsonb"),
    "caller.verified": ("verified", "boolean"),
    "caller.session_age": ("session_age", "bigint"),
    "now": ("now", "timestamptz"),
}
"""Columns of `q` and their types, by what they are called in rules; a session's age is in microseconds."""

SQL_MOST = 100_000
"""Characters of a condition."""

_OPERATORS = {"==": "=", "!=": "<>"}
_EPOCH = "timestamptz '1970-01-01 00:00:00+00'"
_CASTS = {Kind.BOOL: "boolean", Kind.INT: "bigint", Kind.UINT: "numeric", Kind.STRING: "text"}


class Conditions:
    """Makes the conditions of one resource's rules. `segments` says where in the name a `path.<variable>` stands."""

    def __init__(self, resource: Resource, segments: Mapping[str, int]) -> None:
        self._resource = resource
        self._segments = segments
        self._aliases = 0
        self._elements: dict[str, str] = {}
        self._tables = {resource.message: resource}

    def of(self, node: Node) -> str:
        """The SQL of a node of a scalar kind; NULL where it is an error. Enums' numbers are bigints.

        Raises Refused where it would be longer than SQL_MOST characters.
        """
        make: Callable[[Any], str] = getattr(self, f"_{type(node).__name__.lower()}")
        return _bounded(make(node))

    # What is known beside the message.

    def _constant(self, node: tree.Constant) -> str:
        value = node.value
        match node.type.kind:
            case Kind.BOOL:
                return "true" if value else "false"
            case Kind.INT:
                return f"'{value}'::bigint"
            case Kind.UINT:
                return f"'{value}'::numeric"
            case Kind.DOUBLE:
                return f"({literal(repr(value))}::double precision)"
            case Kind.BYTES:
                return f"'\\x{value.hex()}'::bytea"
            case Kind.TIMESTAMP:
                return f"({_EPOCH} + interval '{value} microseconds')"
            case Kind.DURATION:
                return f"interval '{value} microseconds'"
        return f"{literal(value)}::text"

    def _given(self, node: tree.Given) -> str:
        if node.name == "owner":
            return "nullif(t._owner, '')"
        if node.name == "parent":
            return "t._parent"
        if node.name == "caller.session_age":
            return "(q.session_age * interval '1 microsecond')"
        if node.name in ASKING:
            return f"q.{ASKING[node.name][0]}"
        return f"split_part(t.name, '/', {self._segments[node.name.removeprefix('path.')] + 1})"

    # Fields.

    def _select(self, node: tree.Select) -> str:
        if isinstance(node.of, tree.Found):
            return self._in_found(node.of, lambda alias, resource: _column(alias, resource, node.field))
        if isinstance(node.of, tree.Root):
            return _column("t", self._resource, node.field)
        if tree.may_fail(node.of):
            return _scalar(self._member(node), node.type, None)
        return _scalar(f"({self._json(node.of)} -> {literal(node.field.name)})", node.type, node.field)

    def _member(self, node: tree.Select) -> str:
        """The jsonb of a field of a message that may be an error. What the message misses is put below it: `coalesce` would
        not tell an error."""
        name = node.field.name
        missing = orjson.dumps({name: _default_json(node)}).decode()
        return f"(({literal(missing)}::jsonb || {self._json(node.of)}) -> {literal(name)})"

    def _has(self, node: tree.Has) -> str:
        if isinstance(node.of, tree.Found):
            return self._in_found(node.of, lambda alias, resource: _set(alias, resource, node.field))
        if isinstance(node.of, tree.Root):
            return _set("t", self._resource, node.field)
        return f"jsonb_exists({self._json(node.of)}, {literal(node.field.name)})"

    def _in_found(self, node: tree.Found, expression: Callable[[str, Resource], str]) -> str:
        alias = self._alias()
        name = self.of(node.name)
        return f"(select {expression(alias, node.resource)} from {table(node.resource)} {alias} where {alias}.name = {name})"

    def _exists(self, node: tree.Exists) -> str:
        alias, name = self._alias(), self.of(node.name)

        def found(name: str) -> str:
            return f"exists (select 1 from {table(node.resource)} {alias} where {alias}.name = {name})"

        return self._known([name], lambda held: found(held[0])) if tree.may_fail(node.name) else found(name)

    def _item(self, node: tree.Item) -> str:
        value = f"({self._json(node.of)} -> {self.of(node.key)})"
        return _scalar(value, node.type, None)

    def _element(self, node: tree.Element) -> str:
        return _scalar(self._elements[node.name], node.type, None)

    def _json(self, node: Node) -> str:
        """The SQL of a message, a list or a map: jsonb, as columns have it."""
        return _bounded(self._document(node))

    def _document(self, node: Node) -> str:
        match node:
            case tree.Given():
                return f"q.{ASKING[node.name][0]}"
            case tree.Element():
                return self._elements[node.name]
            case tree.Item():
                return f"({self._json(node.of)} -> {self.of(node.key)})"
            case tree.Select(of=tree.Found() as found):
                return self._in_found(found, lambda alias, resource: _document(alias, resource, node.field))
            case tree.Select(of=tree.Root()):
                return _document("t", self._resource, node.field)
            case tree.Select():
                empty = "{}" if node.type.kind is not Kind.LIST else "[]"
                # A missing field of a message that is there is empty; of one that is an error, an error.
                if tree.may_fail(node.of):
                    return self._member(node)
                return f"coalesce({self._json(node.of)} -> {literal(node.field.name)}, '{empty}'::jsonb)"
        raise AssertionError(node)

    def _alias(self) -> str:
        self._aliases += 1
        return f"g{self._aliases}"

    def _known(self, values: Sequence[str], expression: Callable[[list[str]], str]) -> str:
        """`expression` of the values, each of which is evaluated once; NULL where one of them is."""
        alias = self._alias()
        held = [f"{alias}.v{i}" for i in range(len(values))]
        shown = ", ".join(f"{value} as v{i}" for i, value in enumerate(values))
        there = " and ".join(f"{one} is not null" for one in held)
        # OFFSET 0 keeps Postgres from writing the values out wherever they are used.
        return f"(select {expression(held)} from (select {shown} offset 0) {alias} where {there})"

    # Logic.

    def _and(self, node: tree.And) -> str:
        return f"({self.of(node.left)} and {self.of(node.right)})"

    def _or(self, node: tree.Or) -> str:
        return f"({self.of(node.left)} or {self.of(node.right)})"

    def _not(self, node: tree.Not) -> str:
        return f"(not {self.of(node.of)})"

    def _if(self, node: tree.If) -> str:
        test, then, other = self.of(node.test), self.of(node.then), self.of(node.other)
        return f"(case {test} when true then {then} when false then {other} end)"

    def _quantified(self, node: tree.Quantified) -> str:
        alias = self._alias()
        of = self._json(node.of)
        before = self._elements.get(node.variable)
        self._elements[node.variable] = f"{alias}.value"
        test = self.of(node.test)
        if before is not None:
            self._elements[node.variable] = before
        decided = "false" if node.every else "true"
        met = "not met" if node.every else "met"

        def found(of: str) -> str:
            return (
                f"(select case when bool_or({met}) then {decided} when bool_or(met is null) then null "
                f"else not {decided} end from (select {test} as met from jsonb_array_elements({of}) {alias}) as tested)"
            )

        return self._known([of], lambda held: found(held[0])) if tree.may_fail(node.of) else found(of)

    def _compared(self, node: tree.Compared) -> str:
        if label := self._labelled(node):
            return label
        sides = (node.left, node.right)
        left, right = self._operands(sides)
        if node.left.type.kind is Kind.DOUBLE and not all(_plain(side) for side in sides):
            return self._known([left, right], lambda held: _comparison(node.op, Kind.DOUBLE, *held))
        return _comparison(node.op, node.left.type.kind, left, right)

    def _operands(self, nodes: Sequence[Node]) -> list[str]:
        """Values that can be compared with one another."""
        computed = nodes[0].type.kind in (Kind.TIMESTAMP, Kind.DURATION) and any(_computed(n) for n in nodes)
        return [self._micros(n) if computed else self.of(n) for n in nodes]

    def _labelled(self, node: tree.Compared) -> str:
        """An enum field compared with a constant: by its name, as it is stored, so that an index may serve."""
        for field, constant in ((node.left, node.right), (node.right, node.left)):
            if field.type.enum and isinstance(constant, tree.Constant) and node.op in _OPERATORS:
                label = self._label(field)
                if label:
                    return _among(label, _labels_of(field.type.enum, constant.value), negated=node.op == "!=")
        return ""

    def _label(self, node: Node) -> str:
        """The stored text of an enum; empty where it is computed."""
        match node:
            case tree.Select(of=tree.Root()):
                return _stored("t", self._resource, node.field)
            case tree.Select(of=tree.Found() as found):
                return self._in_found(found, lambda alias, resource: _stored(alias, resource, node.field))
        return ""

    def _oneof(self, node: tree.OneOf) -> str:
        kind = node.value.type.kind
        if all(_plain(n) for n in (node.value, *node.options)):
            options = [tree.Compared(tree.BOOL, node.at, "==", node.value, option) for option in node.options]
            return "(" + " or ".join(self.of(o) for o in options) + ")" if options else "false"

        def among(held: list[str]) -> str:
            return " or ".join(_comparison("==", kind, held[0], option) for option in held[1:]) or "false"

        return self._known(self._operands((node.value, *node.options)), among)

    def _contained(self, node: tree.Contained) -> str:
        of = self._json(node.of)
        if node.of.type.kind is Kind.MAP or (node.of.type.of and node.of.type.of.kind is Kind.STRING):
            return f"jsonb_exists({of}, {self.of(node.value)})"
        assert isinstance(node.of, tree.Select)
        field, value = node.of.field, self.of(node.value)
        if field.enum_type:
            if isinstance(node.value, tree.Constant):
                return f"jsonb_exists_any({of}, {_array(_labels_of(field.enum_type, node.value.value))})"
            numbers = field.enum_type.values_by_number
            labels = " ".join(f"when {n} then {_array(_labels_of(field.enum_type, n))}" for n in numbers)

            def found(held: list[str]) -> str:
                return f"jsonb_exists_any({of}, case {held[0]} {labels} else array[{held[0]}::text] end)"

            return self._known([value], found)
        if isinstance(node.of.of, tree.Root | tree.Found):
            return f"({of} @> to_jsonb({value}))"
        # Numbers in columns are JSON numbers; inside of messages, those of 64 bits are texts. A field may have been of 32
        # bits when the row was written.
        either = "{0} @> to_jsonb({1}) or {0} @> to_jsonb({1}::text)"
        return self._known([of, value], lambda held: either.format(*held))

    # Values.

    def _joined(self, node: tree.Joined) -> str:
        return f"({self.of(node.left)} || {self.of(node.right)})"

    def _shifted(self, node: tree.Shifted) -> str:
        raise AssertionError("times that are computed are compared in microseconds")

    def _micros(self, node: Node) -> str:
        """A timestamp, since 1970, or a duration, in microseconds: numeric, which no sum overflows."""
        return _bounded(self._numeric(node))

    def _numeric(self, node: Node) -> str:
        match node:
            case tree.Constant():
                return f"({node.value}::numeric)"
            case tree.Shifted():
                least, most = TIME_LEAST, TIME_MOST
                if node.type.kind is Kind.DURATION:
                    least, most = -SPAN_MOST, SPAN_MOST
                op = "+" if node.sign > 0 else "-"
                value = f"({self._micros(node.left)} {op} {self._micros(node.right)})"
                return f"(select v from (select {value} as v offset 0) s where v between {least} and {most})"
            case tree.If():
                test, then, other = self.of(node.test), self._micros(node.then), self._micros(node.other)
                return f"(case {test} when true then {then} when false then {other} end)"
        return f"(extract(epoch from {self.of(node)}) * 1000000)"

    def _size(self, node: tree.Size) -> str:
        match node.of.type.kind:
            case Kind.STRING:
                return f"char_length({self.of(node.of)})::bigint"
            case Kind.BYTES:
                return f"octet_length({self.of(node.of)})::bigint"
            case Kind.MAP:
                of = self._json(node.of)
                keys = "(select count(*) from jsonb_object_keys({}))"
                return (
                    self._known([of], lambda held: keys.format(held[0])) if tree.may_fail(node.of) else keys.format(of)
                )
        return f"jsonb_array_length({self._json(node.of)})::bigint"

    def _text(self, node: tree.Text) -> str:
        of, part = self.of(node.of), self.of(node.part)
        if node.op == "startsWith":
            return f"starts_with({of}, {part})"
        if node.op == "endsWith":
            return f"starts_with(reverse({of}), reverse({part}))"
        return f"(strpos({of}, {part}) > 0)"


def literal(text: str) -> str:
    """A text as SQL writes it."""
    return sql.Literal(text).as_string(None)


def table(resource: Resource) -> str:
    """The resource's table, quoted."""
    return sql.Identifier(resource.table_schema, resource.table_name).as_string(None)


def _bounded(text: str) -> str:
    if len(text) > SQL_MOST:
        raise Refused(0, f"becomes more than {SQL_MOST} characters of SQL; say it in a simpler way")
    return text


def _plain(node: Node) -> bool:
    """Whether its SQL is short and no error: it may stand in several places."""
    if isinstance(node, tree.Select):
        return isinstance(node.of, tree.Root)
    return isinstance(node, tree.Constant | tree.Given) and not tree.may_fail(node)


def _comparison(op: str, kind: Kind, left: str, right: str) -> str:
    op = _OPERATORS.get(op, op)
    if kind is Kind.DOUBLE:
        # For Postgres NaN equals NaN and is above all; for CEL, as for IEEE 754, it is neither.
        if op == "<>":
            return f"({left} <> {right} or {left} = 'NaN' or {right} = 'NaN')"
        return f"({left} {op} {right} and {left} <> 'NaN' and {right} <> 'NaN')"
    if kind is Kind.STRING and op not in _OPERATORS.values():
        return f'({left} collate "C" {op} {right} collate "C")'
    return f"({left} {op} {right})"


def _computed(node: Node) -> bool:
    return isinstance(node, tree.Shifted) or (
        isinstance(node, tree.If) and node.type.kind in (Kind.TIMESTAMP, Kind.DURATION)
    )


def _named(alias: str, resource: Resource, field: FieldDescriptor) -> str:
    found = next(f for f in resource.fields if f.number == field.number)
    return f"{alias}.{sql.Identifier(found.column).as_string(None)}"


def _stored(alias: str, resource: Resource, field: FieldDescriptor) -> str:
    """An enum's column: the name of its value."""
    column = _named(alias, resource, field)
    if not field.has_presence:
        return column
    return f"coalesce({column}, {literal(_label_of(field.enum_type, field.default_value))})"


def _column(alias: str, resource: Resource, field: FieldDescriptor) -> str:
    """The value of a scalar field of a row; its default where it is not set."""
    column = _named(alias, resource, field)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return _number(_stored(alias, resource, field), field.enum_type)
    if field.message_type is not None:
        default = _EPOCH if field.message_type.full_name.endswith("Timestamp") else "interval '0'"
        return f"coalesce({column}, {default})"
    if field.has_presence:
        column = f"coalesce({column}, {_default(field)})"
    if field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64):
        return f"{column}::bigint"
    if field.cpp_type in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64):
        return f"{column}::numeric"
    return f"{column}::double precision" if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT else column


def _document(alias: str, resource: Resource, field: FieldDescriptor) -> str:
    """The jsonb of a message, list or map of a row."""
    column = _named(alias, resource, field)
    return column if field.is_repeated else f"coalesce({column}, '{{}}'::jsonb)"


def _set(alias: str, resource: Resource, field: FieldDescriptor) -> str:
    column = _named(alias, resource, field)
    if field.is_repeated:
        return f"({column} not in ('{{}}'::jsonb, '[]'::jsonb))"
    if field.has_presence:
        # Without a look-up `is not null` would be enough; in one, an absent row has to stay NULL.
        return f"({column} is not null)"
    if field.type == FieldDescriptor.TYPE_ENUM:
        return _among(column, _labels_of(field.enum_type, 0), negated=True)
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return f"({column}::text <> '0')"  # -0.0 is set
    return f"({column} <> {_default(field)})"


def _default(field: FieldDescriptor) -> str:
    value = field.default_value
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "true" if value else "false"
    if field.type == FieldDescriptor.TYPE_BYTES:
        return f"'\\x{value.hex()}'::bytea"
    return f"{literal(value)}::text" if field.type == FieldDescriptor.TYPE_STRING else literal(repr(value))


def _default_json(node: tree.Select) -> Any:
    """The default of a field of a message inside of a document, as columns have it."""
    field = node.field
    if node.type.kind in (Kind.LIST, Kind.MAP, Kind.MESSAGE):
        return [] if node.type.kind is Kind.LIST else {}
    if field.enum_type:
        return _label_of(field.enum_type, field.default_value)
    if isinstance(field.default_value, bytes):
        return base64.b64encode(field.default_value).decode()
    return field.default_value if isinstance(field.default_value, bool) else str(field.default_value)


def _scalar(json: str, kind: Type, field: FieldDescriptor | None) -> str:
    """A value inside a document, by the JSON mapping of columns. Of a `field`, what is missing is its default."""
    text = f"({json} #>> '{{}}')"
    if kind.enum is not None:
        value = _number(text, kind.enum)
    elif kind.kind is Kind.BYTES:
        value = f"decode({text}, 'base64')"
    elif kind.kind is Kind.DOUBLE:
        value = f"{text}::real::double precision" if kind.single else f"{text}::double precision"
    else:
        value = f"{text}::{_CASTS[kind.kind]}"
    if field is None:
        return value
    if kind.enum is not None:
        return f"coalesce({value}, {field.default_value})"
    return f"coalesce({value}, {_default(field)})"


def _number(text: str, enum: EnumDescriptor | None) -> str:
    """The number of an enum's stored name. A number without a name is stored as such; a name that is no longer one is an
    error."""
    assert enum is not None
    names = " ".join(f"when {literal(value.name)} then {value.number}" for value in enum.values)
    return f"(case {text} {names} else (case when {text} ~ '^-?[0-9]{{1,10}}$' then {text}::bigint end) end)"


def _labels_of(enum: EnumDescriptor | None, number: int) -> list[str]:
    """What a number may be stored as: by each of its names, as aliases come and go."""
    assert enum is not None
    return [value.name for value in enum.values if value.number == number] or [str(number)]


def _among(column: str, labels: Sequence[str], *, negated: bool) -> str:
    if len(labels) == 1:
        return f"({column} {'<>' if negated else '='} {literal(labels[0])})"
    return f"({column} {'not ' if negated else ''}in ({', '.join(map(literal, labels))}))"


def _array(texts: Sequence[str]) -> str:
    return f"array[{', '.join(map(literal, texts))}]::text[]"


def _label_of(enum: EnumDescriptor | None, number: int) -> str:
    assert enum is not None
    known = enum.values_by_number.get(number)
    return known.name if known is not None else str(number)
