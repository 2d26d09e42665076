"""Expressions over a resource's columns that conditions, orders and indexes are all written in, so that they meet. Pure.

A text is compared and ordered by its bytes (`collate "C"`), whatever the database's own order is. A pattern (`like`, `ilike`)
and a word are looked for with the database's own collation (`collate "default"`), which knows the capital letters of more
than English; so does an index on their trigrams. What is in a document is read in a way that fails for no row and says NULL of
what is not set. All is immutable, as an index needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import orjson
from google.protobuf.descriptor import FieldDescriptor
from psycopg import sql

from server.schema.kinds import Kind, kind_of
from server.schema.model import Field, Resource

SEPARATOR = "\x1f"
"""Between the texts that words are searched in (U+001F, the unit separator): no word reaches from one into the next."""

_NUMBER = r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$"
_DEFAULTS = {Kind.BOOL: "false", Kind.INT: "0", Kind.DOUBLE: "0"}


def literal(text: str) -> str:
    """A text as SQL writes it."""
    return sql.Literal(text).as_string(None)


def column(field: Field, alias: str = "") -> str:
    """The field's column, quoted; of the row `alias`."""
    name: str = sql.Identifier(*(part for part in (alias, field.column) if part)).as_string(None)
    return name


def indexed(resource: Resource, path: str) -> str:
    """What a btree index of a path, `state` or `address.city`, is on: in parentheses where it is no column, with the order of
    texts that conditions and orders ask for. Where it may be NULL, orders ask for NULLs first (last, where they descend).

    Of a map, a repeated field or a message it is the column, for GIN.
    """
    names = path.split(".")
    field = next(f for f in resource.fields if f.name == names[0])
    if len(names) == 1:
        return comparable(kind_of(field.descriptor), column(field)) if _single(field.descriptor) else column(field)
    steps, at = [], field.descriptor
    for name in names[1:]:
        at = at.message_type.fields_by_name[name]
        steps.append(at)
    found = nested(column(field), steps)
    text = kind_of(at) in _TEXTS
    return f"({found.removesuffix(_C)}){_C}" if text else f"({found})"


def comparable(kind: Kind, value: str) -> str:
    """What is compared and ordered of a value of a column whose SQL is `value`."""
    return f"{value}{_C}" if kind in (Kind.STRING, Kind.ENUM) else value


def nested(message: str, steps: Sequence[FieldDescriptor]) -> str:
    """What is compared and ordered of a field of the message whose JSON is `message`, or of one in that."""
    return member(document(message, steps[:-1]), steps[-1])


def document(message: str, steps: Sequence[FieldDescriptor]) -> str:
    """The JSON of a field of the message whose JSON is `message`, or of one in that."""
    for step in steps:
        message = f"({message} -> {literal(step.name)})"
    return message


def member(holder: str, field: FieldDescriptor) -> str:
    """The same of a field of the message whose JSON is `holder`."""
    text = f"({holder} ->> {literal(field.name)})"
    if not field.has_presence:
        text = f"(case when {holder} is not null then coalesce({text}, {literal(_default(field))}) end)"
    return scalar(kind_of(field), text)


def inside(message: str, steps: Sequence[FieldDescriptor]) -> str:
    """The JSON array of all values where `steps` lead, through repeated fields too, in the message, or the several, whose JSON is
    `message`. For GIN, and to be asked with `?`."""
    path = "$" + "".join(f".{orjson.dumps(step.name).decode()}" for step in steps) + "[*]"
    return f"jsonb_path_query_array({message}, {literal(path)})"


def scalar(kind: Kind, text: str) -> str:
    """What is compared and ordered of a value whose text in JSON is `text`: numbers as such, durations in microseconds, times as
    texts with all their microseconds, all else as the text that it is.

    It is NULL for a text of another form: a field may have left one that was of another type.
    """
    match kind:
        case Kind.INT | Kind.DOUBLE:
            return (
                f"(case when {text} in ('NaN', 'Infinity', '-Infinity') or "
                f"(length({text}) < 2000 and {text} ~ '{_NUMBER}') then {text}::numeric end)"
            )
        case Kind.TIMESTAMP:
            # In JSON they are in UTC. The cast to a time could fail, and is not immutable.
            dot = f"case when strpos({text}, '.') > 0 then '' else '.' end"
            return f"rpad(left(rtrim({text}, 'Z') || {dot}, 26), 26, '0'){_C}"
        case Kind.DURATION:
            return (
                f"trunc((case when {text} ~ '^-?[0-9]{{1,12}}(\\.[0-9]{{1,9}})?s$' then rtrim({text}, 's')::numeric end)"
                " * 1000000)"
            )
    return f"{text}{_C}"


def patterned(value: str) -> str:
    """What patterns are compared with, of a text whose SQL is `value`."""
    return f'{value} collate "default"'


def searched(resource: Resource) -> tuple[Field, ...]:
    """The fields that words without a field are looked for in, in the order of the message."""
    return tuple(f for f in resource.fields if f.search)


def search_text(resource: Resource, value: Callable[[Field], str]) -> str:
    """The text that words are looked for in, of columns whose SQL is `value`: all searchable fields, one after the other. Of a
    repeated one, its items as JSON has them."""
    parts = []
    for field in searched(resource):
        text = value(field)
        if field.descriptor.is_repeated:
            text = f"({text} #>> '{{}}')"
        parts.append(f"coalesce({text}, '')" if field.default is None else text)
    return "(" + patterned("(" + " || chr(31) || ".join(parts) + ")") + ")"


def search_expression(resource: Resource) -> str:
    """What an index for words is on: `create index … using gin (<this> gin_trgm_ops)`, with the extension pg_trgm. Empty where
    no field is searchable."""
    return search_text(resource, column) if searched(resource) else ""


def _single(field: FieldDescriptor) -> bool:
    return not field.is_repeated


def _default(field: FieldDescriptor) -> str:
    """How JSON would have the value that it leaves out."""
    kind = kind_of(field)
    if kind is Kind.ENUM:
        name: str = field.enum_type.values[0].name
        return name
    return _DEFAULTS.get(kind, "")


_C = ' collate "C"'
_TEXTS = frozenset({Kind.BOOL, Kind.STRING, Kind.BYTES, Kind.ENUM, Kind.TIMESTAMP})
