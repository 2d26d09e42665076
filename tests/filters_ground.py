"""Random books, and random filters and orders of them: what the property tests of filters are made of.

Everything comes from one `random.Random`, so that a number is a case.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from random import Random
from typing import Any

import psycopg
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict
from rules_ground import EPOCH, Row, World, tables_made

from deploy.native.stack import PROJECT
from server.query.filters import Filter
from server.query.filters.syntax import STARS_MOST
from server.schema.columns import is_map
from server.schema.compilation import compile_app
from server.schema.model import Resource, Schema
from server.schema.reading import read

F = FieldDescriptor
NOW = 1_790_000_000_000_000
ADA = "users/ada"
UNKEPT = frozenset({"secret", "pin"})

STRINGS = [
    "", "a", "A", "ab", "b", "é", "É", "a%b", "a_b", 'q"q', "back\\slash", "a*b", "x\ny", "it's", "{}", "%", "null", "true",
    "42", "red", "dark red", "Red", "😀", "$1", "\ufeff", "\x1f",
]  # fmt: skip
BYTES = [b"", b"a", b"\0", b"\xff\xfe"]
INTS = [0, 1, -1, 2, 3, 42]
NUMBERS = [
    0.0,
    -0.0,
    1.0,
    0.1,
    0.5,
    -1.5,
    42.0,
    float("nan"),
    float("inf"),
    float("-inf"),
    3.4028234663852886e38,
    1e-45,
]
DOUBLES = [*NUMBERS, 0.10000000149011612, 1e308, 5e-324]
TIMES = [0, 1, -1, NOW, NOW - 1, NOW + 500_000, -62_135_596_800_000_000, 253_402_300_799_999_999]
SPANS = [0, 1, -1, 1_500_000, 20_000_000, -3_600_000_000, 315_576_000_000_000_000]
KEYS = ["", "a", "b", "k.1", "é", 'q"']
JSON = [
    None,
    True,
    False,
    0,
    1,
    42,
    0.1,
    -1.5,
    "",
    "a",
    "42",
    "true",
    "red",
    [],
    ["a", 42],
    {},
    {"a": "red"},
    {"a": {"b": 42}},
]
WIDE = {
    F.CPPTYPE_INT32: [2**31 - 1, -(2**31)],
    F.CPPTYPE_INT64: [2**63 - 1, -(2**63), 2**53 + 1],
    F.CPPTYPE_UINT32: [2**32 - 1],
    F.CPPTYPE_UINT64: [2**64 - 1, 2**63, 2**53 + 1],
}
LABELS = ["STATE_UNSPECIFIED", "OPEN", "AVAILABLE", "LENT", "LOST"]


@cache
def catalogue() -> Schema:
    """The schema of the books."""
    return read(compile_app(PROJECT / "tests" / "protos" / "catalogue"))


def books() -> Resource:
    """The books."""
    return catalogue().resources["catalogue.v1.Book"]


@dataclass
class Shelf:
    """Rows of books in a real table."""

    connection: psycopg.Connection[Any]
    rows: list[Row]

    def meeting(self, found: list[Filter], guards: dict[str, str]) -> dict[str, list[bool]]:
        """Whether each filter's condition is met, by the row's name."""
        values: list[Any] = []
        said = ", ".join(f"({one.condition(values, readable=guards.get, now=NOW)}) is true" for one in found)
        rows = self.asked(f"select t.name, array_to_string(array[{said}], ',') from {TABLE} t", values)
        return {name: [one == "t" for one in every.split(",")] for name, every in rows}

    def asked(self, text: str, values: list[Any]) -> list[tuple[str, ...]]:
        """What a statement answers, its parameters given as texts."""
        result = self.connection.pgconn.exec_params(text.encode(), [None if v is None else v.encode() for v in values])
        if result.status != psycopg.pq.ExecStatus.TUPLES_OK:
            raise AssertionError(f"{result.error_message.decode()}\n{text}\n{values}")
        return [
            tuple(
                "" if (value := result.get_value(row, column)) is None else value.decode()
                for column in range(result.nfields)
            )
            for row in range(result.ntuples)
        ]


TABLE = "catalogue_v1.books"


def shelf(connection: psycopg.Connection[Any], random: Random, number: int) -> Shelf:
    """Books in a table, in the transaction of the connection."""
    rows = []
    for i in range(number):
        name = f"shelves/{random.choice('ab')}/books/{i}"
        message = book(random)
        message.name = name
        rows.append(Row(books(), name, message, random.choice(["", ADA, "users/bob"])))
    tables_made(connection, World(catalogue(), rows, [], NOW))
    return Shelf(connection, rows)


# ------------------------------------------------------------------------------------------------- messages


def book(random: Random) -> Any:
    """A book with some of its fields filled."""
    return _message(random, books().descriptor, 0)


def _message(random: Random, descriptor: Descriptor, depth: int) -> Any:
    message = catalogue().message_class(descriptor.full_name)()
    for field in descriptor.fields:
        if field.name not in UNKEPT and random.random() < (0.6 if depth == 0 else 0.35):
            _fill(random, message, field, depth)
    return message


def _fill(random: Random, message: Any, field: FieldDescriptor, depth: int) -> None:
    if is_map(field):
        key, value = (field.message_type.fields_by_name[n] for n in ("key", "value"))
        held = getattr(message, field.name)
        for _ in range(random.randint(0, 3)):
            at = random.choice({F.TYPE_STRING: KEYS, F.TYPE_BOOL: [True, False]}.get(key.type, INTS))
            if value.message_type is None:
                held[at] = _scalar(random, value)
            else:
                held[at].CopyFrom(_held(random, value, depth))
    elif field.is_repeated:
        held = getattr(message, field.name)
        for _ in range(random.randint(0, 3)):
            if field.message_type is None:
                held.append(_scalar(random, field))
            elif depth < 3:
                held.add().CopyFrom(_held(random, field, depth))
    elif field.message_type is None:
        setattr(message, field.name, _scalar(random, field))
    elif depth < 3:
        held = getattr(message, field.name)
        held.CopyFrom(_held(random, field, depth))
        held.SetInParent()


def _held(random: Random, field: FieldDescriptor, depth: int) -> Any:
    kind = field.message_type.full_name
    made = catalogue().message_class(kind)()
    if kind == "google.protobuf.Timestamp":
        micros = random.choice(TIMES)
        made.seconds, made.nanos = micros // 10**6, micros % 10**6 * 1000 + random.choice([0, 0, 999])
    elif kind == "google.protobuf.Duration":
        micros = random.choice(SPANS)
        sign = -1 if micros < 0 else 1
        seconds, rest = divmod(abs(micros), 10**6)
        more = random.choice([0, 0, 999]) if seconds < 315_576_000_000 else 0
        made.seconds, made.nanos = sign * seconds, sign * (rest * 1000 + more)
    elif kind == "google.protobuf.Struct":
        ParseDict({k: random.choice(JSON) for k in random.sample(["a", "b", "k.1"], random.randint(0, 3))}, made)
    elif kind == "google.protobuf.Value":
        ParseDict(random.choice(JSON), made)
    elif kind == "google.protobuf.FieldMask":
        made.paths.extend(random.sample(["a", "b"], random.randint(0, 2)))
    elif kind.startswith("google.protobuf."):
        made.value = _scalar(random, field.message_type.fields_by_name["value"])
    else:
        return _message(random, field.message_type, depth + 1)
    return made


def _scalar(random: Random, field: FieldDescriptor) -> Any:
    if field.type == F.TYPE_ENUM:
        return random.choice([0, 1, 2, 3, 77, -5])
    if field.type == F.TYPE_STRING:
        return random.choice(STRINGS)
    if field.type == F.TYPE_BYTES:
        return random.choice(BYTES)
    if field.type == F.TYPE_BOOL:
        return random.random() < 0.5
    if field.type == F.TYPE_FLOAT:
        return random.choice(NUMBERS)
    if field.type == F.TYPE_DOUBLE:
        return random.choice(DOUBLES)
    signed = field.cpp_type in (F.CPPTYPE_INT32, F.CPPTYPE_INT64)
    return random.choice([i for i in INTS if signed or i >= 0] + WIDE[field.cpp_type])


# ------------------------------------------------------------------------------------------------- filters


def filter_text(random: Random, depth: int = 3) -> str:
    """A filter that is right."""
    way = random.random()
    if depth > 0 and way < 0.4:
        parts = [filter_text(random, depth - 1) for _ in range(random.randint(2, 3))]
        return "(" + random.choice([" AND ", " OR ", " ", "\n AND "]).join(parts) + ")"
    if depth > 0 and way < 0.55:
        return random.choice(["NOT ", "-"]) + "(" + filter_text(random, depth - 1) + ")"
    if way < 0.62:
        return _quoted(random, random.choice(STRINGS)) if random.random() < 0.7 else random.choice(["a", "Red*", "d*r"])
    if way < 0.68:
        name = random.choice(["startsWith", "endsWith", "contains"])
        of = random.choice(
            ["title", "subtitle", "note", "author.given_name", "labels.a", "name", "author.mentor.given_name"]
        )
        return f"{name}({of}, {_quoted(random, random.choice(STRINGS), stars=False)})"
    return _restriction(random)


def _restriction(random: Random) -> str:
    has = random.random() < 0.5
    text, field, repeated = _path(random, has)
    whole = is_map(field) or _is_message(field)
    if random.random() < 0.12 and not (has and whole):
        return f"{text}:null" if has else f"{text}{random.choice([' = ', ' != '])}null"
    single = not repeated and not is_map(field)
    if has or not single:
        if random.random() < 0.25:
            return f"{text}:*"
        if is_map(field):
            key = field.message_type.fields_by_name["key"]
            keys = {F.TYPE_STRING: KEYS, F.TYPE_BOOL: ["true", "false"]}.get(key.type, [*map(str, INTS)])
            return f"{text}:{_quoted(random, random.choice(keys), stars=False)}"
        if _is_message(field):
            if field.message_type.full_name == "google.protobuf.FieldMask":
                return f"{text}:*"
            fields = [f for f in field.message_type.fields if f.name not in UNKEPT]
            return f"{text}:{random.choice(fields).name}"
        op = ":"
    else:
        if _is_message(field):
            return f"{text} = null"
        op = random.choice(["=", "=", "!=", *(["<", "<=", ">", ">="] if _ordered(field) else [])])
    if random.random() < 0.1:
        values = [_value(random, field, op) for _ in range(2)]
        return f"{text} {op} ({values[0]} {random.choice(['OR', 'AND'])} {values[1]})"
    blank = random.choice(["", " "])
    return f"{text}{blank}{op}{blank}{_value(random, field, op)}"


def _path(random: Random, has: bool) -> tuple[str, FieldDescriptor, bool]:
    """A path, its last field, and whether it leads to a whole repeated field."""
    descriptor, text, depth = books().descriptor, "", 0
    while True:
        field = random.choice([f for f in descriptor.fields if f.name not in UNKEPT])
        name = field.json_name if random.random() < 0.1 else field.name
        text = f"{text}.{name}" if text else name
        repeated = field.is_repeated and not is_map(field)
        if is_map(field) and random.random() < 0.6:
            key, field = (field.message_type.fields_by_name[n] for n in ("key", "value"))
            at = random.choice({F.TYPE_STRING: KEYS, F.TYPE_BOOL: ["true", "false"]}.get(key.type, [*map(str, INTS)]))
            text = f"{text}.{_quoted(random, at, stars=False)}"
        if _is_json(field) and (not repeated or has) and random.random() < 0.7:
            for _ in range(random.randint(1, 2)):
                text += random.choice([".a", ".b", '."k.1"'])
            return text, field, False
        if not _is_message(field) or is_map(field) or (repeated and not has) or depth >= 3 or random.random() < 0.1:
            return text, field, repeated
        if field.message_type.full_name == "google.protobuf.FieldMask":
            return text, field, repeated
        descriptor, depth = field.message_type, depth + 1


def _is_message(field: FieldDescriptor) -> bool:
    name = field.message_type.full_name if field.message_type is not None else "google.protobuf."
    return not name.startswith("google.protobuf.") or name == "google.protobuf.FieldMask"


def _is_json(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.full_name in (
        "google.protobuf.Struct",
        "google.protobuf.Value",
    )


def _ordered(field: FieldDescriptor) -> bool:
    if field.message_type is not None:
        return field.message_type.full_name not in ("google.protobuf.BoolValue", "google.protobuf.BytesValue")
    return field.type not in (F.TYPE_BOOL, F.TYPE_BYTES, F.TYPE_ENUM)


def _value(random: Random, field: FieldDescriptor, op: str) -> str:
    kind = field.message_type.full_name if field.message_type is not None else ""
    if kind == "google.protobuf.Timestamp":
        if random.random() < 0.2:
            return random.choice(["now()", "ago(0.000001s)", "ago(-0.5s)"])
        moment = (EPOCH + timedelta(microseconds=random.choice(TIMES))).isoformat().replace("+00:00", "Z")
        return random.choice([moment, f'"{moment}"'])
    if kind == "google.protobuf.Duration":
        span = random.choice(SPANS)
        return f"{'-' if span < 0 else ''}{abs(span) // 10**6}.{abs(span) % 10**6:06}s"
    if _is_json(field):
        some = ["true"] if op in ("=", "!=", ":") else []
        return random.choice([*some, '"true"', "42", '"42"', "0.1", "red", '"red"', "-1.5", "a", '""', "0", "r*"])
    if kind:
        field = field.message_type.fields_by_name["value"]
    if field.type == F.TYPE_ENUM:
        return random.choice([*LABELS, "77", "2", "-5"])
    if field.type == F.TYPE_STRING:
        return _quoted(random, random.choice(STRINGS), stars=op in ("=", "!=", ":"))
    if field.type == F.TYPE_BYTES:
        return f'"{base64.b64encode(random.choice(BYTES)).decode()}"'
    if field.type == F.TYPE_BOOL:
        return random.choice(["true", "false"])
    value = _scalar(random, field)
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(str(value), str(value))


def _quoted(random: Random, text: str, stars: bool = True) -> str:
    """A text in quotes, some of it perhaps a wildcard."""
    quote = random.choice("\"'")
    out = []
    for char in text:
        wild = stars and out.count("*") < STARS_MOST and random.random() < 0.15
        out.append("*" if wild else f"\\{char}" if char in f"\\*{quote}" else char)
    return quote + "".join(out) + quote


# ------------------------------------------------------------------------------------------------- orders

ORDERED = [
    "name", "title", "summary", "state", "last_state", "priority", "rank", "copies", "pages", "views", "weight", "price", "lent",
    "rare", "create_time", "read_time", "loan", "subtitle", "note", "stock", "checked", "score", "paper", "megabytes",
    "author.given_name", "author.middle_name", "author.age", "author.likes", "author.income", "author.height", "author.alive",
    "author.state", "author.birth_time", "author.career", "author.mentor.age", "author.stock", "cost.units", "place.latitude",
]  # fmt: skip


def order_text(random: Random) -> str:
    """An order that is right."""
    keys = random.sample(ORDERED, random.randint(1, 3))
    return ",".join(f" {key}{random.choice(['', ' desc', ' asc'])} " for key in keys)
