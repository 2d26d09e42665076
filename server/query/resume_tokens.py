"""Resume tokens: where a watch goes on, as text that a client carries from one stream to the next. Pure.

A token says for which watch it is good, whose rights it was told by, of which history of the database its position is, and
what of the events after that was told already. What is told after it are the contents of old events, which nobody can read
otherwise: that its bearer was told all before them, by the same rights, must be true. So it is signed, with a key of the database
(`transom.relay`); it holds no secret. Where the present is told after a token, and nothing of the past, the key may be empty.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Collection
from typing import NamedTuple

from server.errors import Expired, Invalid

TOLD_MAX = 50
"""Events after the position that a token can say were told."""
CHARACTERS_MAX = 1000
"""Of a token. Most have 70."""

_FORM = struct.Struct(">B8s8sIIQB")
_ID = struct.Struct(">Q")
_MAC = 16
"""Bytes of the signature, at the end: keyed BLAKE2b of all before it."""
_VERSION = 2
_INT8_MAX = 2**63 - 1


class Place(NamedTuple):
    """Where a watch goes on."""

    standing: bytes
    """Whose rights it was told by."""
    position: int
    """All events up to this one were told."""
    told: frozenset[int]
    """And these after it: ids."""


def digest(text: str) -> bytes:
    """Eight bytes that stand for a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def sealed(
    key: bytes,
    watch: bytes,
    standing: bytes,
    history: tuple[int, int],
    position: int,
    told: Collection[int] = frozenset(),
) -> str:
    """The token, signed with the key. `watch` and `standing` are digests; `history` is the system's fingerprint and the timeline.
    Empty where more was told than a token can say."""
    if len(told) > TOLD_MAX:
        return ""
    raw = _FORM.pack(_VERSION, watch, standing, *history, position, len(told)) + b"".join(map(_ID.pack, sorted(told)))
    return base64.urlsafe_b64encode(raw + _signature(key, raw)).decode().rstrip("=")


def opened(key: bytes, token: str, watch: bytes, history: tuple[int, int]) -> Place:
    """What a token says.

    Raises Invalid (INVALID_RESUME_TOKEN) for what is no token of this watch, Expired (RESUME_TOKEN_EXPIRED) for one of another
    history, or that was signed with another key: by another database, or by nobody.
    """
    if len(token) > CHARACTERS_MAX:
        raise _no_token()
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as fault:
        raise _no_token() from fault
    raw, signature = raw[:-_MAC], raw[-_MAC:]
    if len(raw) < _FORM.size or raw[0] != _VERSION:
        raise _no_token()
    _, whose, standing, system, timeline, position, count = _FORM.unpack_from(raw)
    if len(raw) != _FORM.size + count * _ID.size or count > TOLD_MAX or position > _INT8_MAX:
        raise _no_token()
    if whose != watch:
        raise Invalid.field(
            "resume_token",
            "was given for another watch; all else must be as it was asked there",
            "INVALID_RESUME_TOKEN",
        )
    if (system, timeline) != history or not hmac.compare_digest(signature, _signature(key, raw)):
        raise expired()
    return Place(standing, position, frozenset(one for (one,) in _ID.iter_unpack(raw[_FORM.size :])))


def _signature(key: bytes, raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=_MAC, key=key).digest()


def expired() -> Expired:
    """The refusal for a token after which not everything can be told."""
    return Expired(
        "What came after this token is kept no more: watch without it, and begin with what there is.",
        reason="RESUME_TOKEN_EXPIRED",
    )


def _no_token() -> Invalid:
    return Invalid.field("resume_token", "is not a token that this method gave", "INVALID_RESUME_TOKEN")
