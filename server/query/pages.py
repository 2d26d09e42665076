"""Page tokens and page replies (AIP-158)."""

from __future__ import annotations

import base64
import binascii
import hashlib

from server.errors import Invalid

TOKEN_BYTES_MAX = 2048
_DIGEST = 8
_VERSION = b"1"


def size_of(asked: int, default: int, most: int) -> int:
    """How many to answer. Raises Invalid for a negative wish; lowers one that is too large."""
    if asked < 0:
        raise Invalid.field("page_size", "must not be negative", "NEGATIVE")
    return min(asked or default, most)


def sealed(query: str, after: str) -> str:
    """The token for what follows `after` in the results of `query`. Opaque; good for this query only."""
    return base64.urlsafe_b64encode(_VERSION + _digest(query) + after.encode()).decode().rstrip("=")


def opened(token: str, query: str) -> str:
    """Where the token says to go on: the `after` it was sealed with; empty for the first page.

    Raises Invalid for what is no token of this query.
    """
    if not token:
        return ""
    if len(token) > TOKEN_BYTES_MAX:
        raise Invalid.field("page_token", "is not a token that this method gave", "INVALID_PAGE_TOKEN")
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        after = raw[1 + _DIGEST :].decode()
    except (binascii.Error, ValueError) as fault:
        raise Invalid.field("page_token", "is not a token that this method gave", "INVALID_PAGE_TOKEN") from fault
    if raw[:1] != _VERSION or raw[1 : 1 + _DIGEST] != _digest(query) or "\0" in after:
        raise Invalid.field(
            "page_token",
            "was given for another request; only page_size may change from page to page",
            "INVALID_PAGE_TOKEN",
        )
    return after


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
