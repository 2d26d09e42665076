"""Page tokens and page replies (AIP-158)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import Any

import orjson

from server.errors import Invalid

TOKEN_BYTES_MAX = 24_000
"""Of an order by many long texts; most have a hundred."""
_DIGEST = 8
_NAME, _PLACE = b"1", b"2"
"""What a token holds, by its first byte."""


def size_of(asked: int, default: int, most: int) -> int:
    """How many to answer. Raises Invalid for a negative wish; lowers one that is too large."""
    if asked < 0:
        raise Invalid.field("page_size", "must not be negative", "NEGATIVE")
    return min(asked or default, most)


def sealed(query: str, after: str) -> str:
    """The token for what follows the name `after` in the results of `query`. Opaque; good for this query only.

    It holds no secret and gives no right: what a page shows is decided when it is asked for.
    """
    return _token(_NAME, query, after.encode())


def opened(token: str, query: str) -> str:
    """Where the token says to go on: the `after` it was sealed with; empty for the first page.

    Raises Invalid for what is no token of this query.
    """
    return _held(_NAME, query, token) if token else ""


def sealed_place(query: str, place: Sequence[str | None]) -> str:
    """As sealed, for what follows a place in an order: of values that the caller has seen."""
    return _token(_PLACE, query, orjson.dumps(place))


def opened_place(token: str, query: str) -> Any:
    """The place that a token was sealed with, as JSON has it, which is still to be checked; None for the first page.

    Raises Invalid for what is no token of this query.
    """
    if not token:
        return None
    try:
        return orjson.loads(_held(_PLACE, query, token))
    except orjson.JSONDecodeError as fault:
        raise _no_token() from fault


def _token(version: bytes, query: str, held: bytes) -> str:
    return base64.urlsafe_b64encode(version + _digest(query) + held).decode().rstrip("=")


def _held(version: bytes, query: str, token: str) -> str:
    if len(token) > TOKEN_BYTES_MAX:
        raise _no_token()
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        held = raw[1 + _DIGEST :].decode()
    except (binascii.Error, ValueError) as fault:
        raise _no_token() from fault
    if raw[:1] != version or raw[1 : 1 + _DIGEST] != _digest(query) or "\0" in held:
        raise Invalid.field(
            "page_token",
            "was given for another request; only page_size may change from page to page",
            "INVALID_PAGE_TOKEN",
        )
    return held


def _no_token() -> Invalid:
    return Invalid.field("page_token", "is not a token that this method gave", "INVALID_PAGE_TOKEN")


def frame(number: int, value: bytes) -> bytes:
    """One length-delimited field on the wire. A message is its fields' frames, one after the other.

    Source: protobuf.dev, "Encoding": key = number << 3 | 2, then the length, then the bytes.
    """
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    """A base-128 varint."""
    return _VARINTS[value] if value < len(_VARINTS) else _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_VARINTS = [_varint(n) for n in range(1 << 12)]
"""Those of lengths that most resources have: a List asks for one per resource."""


def _digest(query: str) -> bytes:
    return hashlib.blake2b(query.encode(), digest_size=_DIGEST).digest()
