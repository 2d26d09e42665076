"""A value as it is written in a filter → a constant of its field's type (AIP-160, "Comparison Operators")."""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from server.query.filters.paths import Path
from server.query.filters.syntax import Fault, Literal, shown
from server.schema.kinds import Kind, scalar_of

F = FieldDescriptor
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DURATION_SECONDS_MOST = 315_576_000_000
"""About 10,000 years: as google.protobuf.Duration has them."""

_RANGES = {
    F.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    F.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    F.CPPTYPE_UINT32: (0, 2**32 - 1),
    F.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)
_WHOLE = re.compile(r"-?\d{1,10}", re.ASCII)
_DURATION = re.compile(r"(-?)(\d{1,12})(?:\.(\d{1,9}))?s", re.ASCII)
_INSTANT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d))?", re.ASCII
)
_SINGLE_MOST = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]
_ODD = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_LABELS_SHOWN = 10


def constant(path: Path, literal: Literal) -> Any:
    """The constant that a literal is for the values of a path. Raises Fault."""
    text = literal.text
    match path.kind:
        case Kind.BOOL:
            if text not in ("true", "false"):
                raise Fault(literal.at, f"{shown(text)} is neither true nor false, as {shown(path.text)} is")
            return text == "true"
        case Kind.INT:
            return _whole(path, literal)
        case Kind.DOUBLE:
            return _double(path, literal)
        case Kind.STRING:
            return text
        case Kind.BYTES:
            return _bytes(literal)
        case Kind.ENUM:
            return _enum(path, literal)
        case Kind.TIMESTAMP:
            return instant(literal)
        case Kind.DURATION:
            return duration(literal)
        case Kind.DYNAMIC:
            return _dynamic(literal)
    raise Fault(literal.at, f"{shown(path.text)} has no value that could be compared")


def duration(literal: Literal) -> int:
    """Microseconds of `1.5s`. Raises Fault."""
    found = _DURATION.fullmatch(literal.text)
    if found is None or int(found[2]) > DURATION_SECONDS_MOST:
        raise Fault(literal.at, f"{shown(literal.text)} is no duration, as 20s and 1.5s are")
    micros = int(found[2]) * 1_000_000 + int((found[3] or "").ljust(9, "0")[:6])
    return -micros if found[1] else micros


def instant(literal: Literal) -> int:
    """Microseconds since 1970 of an RFC 3339 time, or of a day's beginning in UTC. Raises Fault."""
    found = _INSTANT.fullmatch(literal.text)
    try:
        if found is None:
            raise ValueError
        year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
        moment = datetime(year, month, day, hour, minute, second, int((found[7] or "").ljust(6, "0")[:6]), UTC)
        moment -= _offset(found[8] or "Z")
    except (ValueError, OverflowError):
        raise Fault(
            literal.at, f"{shown(literal.text)} is no time, as 2026-04-21T11:30:00-04:00 and 2026-04-21 are"
        ) from None
    return (moment - EPOCH) // timedelta(microseconds=1)


def single(value: float) -> float:
    """The number as single precision keeps it."""
    found: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return found


def is_single(path: Path) -> bool:
    """Whether numbers at the path are kept in single precision."""
    return bool(scalar_of(path.field).type == F.TYPE_FLOAT)


def _offset(text: str) -> timedelta:
    if text in "Zz":
        return timedelta()
    hours, minutes = int(text[1:3]), int(text[4:6])
    if hours > 23 or minutes > 59:
        raise ValueError
    offset = timedelta(hours=hours, minutes=minutes)
    return -offset if text[0] == "-" else offset


def _whole(path: Path, literal: Literal) -> int:
    field = scalar_of(path.field)
    least, most = _RANGES[field.cpp_type]
    if not _NUMBER.fullmatch(literal.text):
        raise Fault(literal.at, f"{shown(literal.text)} is no number, as {shown(path.text)} is")
    number = Decimal(literal.text)
    if number and number.adjusted() > 20:
        raise Fault(literal.at, _beyond(literal, least, most))
    if number != number.to_integral_value():
        raise Fault(literal.at, f"{shown(literal.text)} is no whole number, as {shown(path.text)} is")
    if not least <= int(number) <= most:
        raise Fault(literal.at, _beyond(literal, least, most))
    return int(number)


def _beyond(literal: Literal, least: int, most: int) -> str:
    return f"{shown(literal.text)} is out of range: {least} to {most}"


def _double(path: Path, literal: Literal) -> float:
    if literal.text in _ODD:
        return _ODD[literal.text]
    if not _NUMBER.fullmatch(literal.text):
        raise Fault(literal.at, f"{shown(literal.text)} is no number, as {shown(path.text)} is")
    number = float(literal.text)
    try:
        number = single(number) if is_single(path) else number
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise Fault(literal.at, f"{shown(literal.text)} is out of the range of {shown(path.text)}")
    return number


def _bytes(literal: Literal) -> bytes:
    text = literal.text.translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Fault(literal.at, f"{shown(literal.text)} is not base64, by which bytes are written") from None


def _enum(path: Path, literal: Literal) -> int:
    enum = path.field.enum_type
    known = enum.values_by_name.get(literal.text)
    if known is not None:
        return int(known.number)
    if _WHOLE.fullmatch(literal.text) and -(2**31) <= int(literal.text) < 2**31:
        return int(literal.text)
    labels = list(enum.values_by_name)
    more = ", …" if len(labels) > _LABELS_SHOWN else ""
    raise Fault(
        literal.at,
        f"{shown(literal.text)} is no value of {enum.full_name}, which has {', '.join(labels[:_LABELS_SHOWN])}{more}",
    )


def _dynamic(literal: Literal) -> tuple[Any, ...]:
    """What JSON may have where this is written: a text, and without quotes what it reads as, too."""
    text = literal.text
    if literal.quoted:
        return (text,)
    if text in ("true", "false"):
        return (text == "true", text)
    if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return (float(text), text)
    return (text,)
