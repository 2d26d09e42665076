"""Parameters and results in Postgres's binary form, as far as the hot path needs them."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

_HEADER = Struct("!iiiii")
_INT4 = Struct("!i")
_INT8 = Struct("!q")
_TEXT_OID, _BYTEA_OID, _INT4_OID = 25, 17, 23
_length = _INT4.pack
_NULL = _length(-1)


def text_array(values: Sequence[str | None]) -> bytes:
    """A one-dimensional text[]."""
    return _array(_TEXT_OID, [v.encode() if v is not None else None for v in values])


def bytea_array(values: Sequence[bytes | None]) -> bytes:
    """A one-dimensional bytea[]."""
    return _array(_BYTEA_OID, values)


def int4_array(values: Sequence[int]) -> bytes:
    """A one-dimensional integer[]."""
    return _array(_INT4_OID, [_INT4.pack(v) for v in values])


def int8(value: bytes | None) -> int:
    """A bigint of a result; 0 for NULL."""
    return int(_INT8.unpack(value)[0]) if value is not None else 0


def int4(value: bytes | None) -> int:
    """An integer of a result; 0 for NULL."""
    return int(_INT4.unpack(value)[0]) if value is not None else 0


def _array(oid: int, values: Sequence[bytes | None]) -> bytes:
    # dimensions, whether it holds NULLs, element type, length, lower bound; then length and bytes of each element
    out = [_HEADER.pack(1, 1, oid, len(values), 1)]
    for value in values:
        out += (_NULL,) if value is None else (_length(len(value)), value)
    return b"".join(out)
