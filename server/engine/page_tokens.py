"""Where the next page begins, as an opaque word: for lists that are newest first."""

from __future__ import annotations

import base64
import binascii
import hashlib
from datetime import UTC, datetime, timedelta

from server.errors import Invalid

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BOUND = 8

Place = tuple[datetime, str]
"""Creation time and id of the last one shown."""


def size(wanted: int, usual: int, most: int) -> int:
    """How many to show where `wanted` are asked for (AIP-158)."""
    if wanted < 0:
        raise Invalid.field("page_size", "must not be negative", "NEGATIVE")
    return min(wanted, most) if wanted else usual


def sealed(place: Place, scope: str) -> str:
    """The token that goes on after `place`, in the list that `scope` names: which one, and whose.

    It holds no secret and gives no right: the list itself shows only what the
    caller may see. The scope is in it so that a mix-up is refused, not served.
    """
    microseconds = (place[0] - _EPOCH) // timedelta(microseconds=1)
    body = microseconds.to_bytes(8, "big", signed=True) + place[1].encode()
    return base64.urlsafe_b64encode(_bound(body, scope) + body).decode().rstrip("=")


def opened(token: str, scope: str) -> Place | None:
    """The place a token was made of; None for the empty token. Raises Invalid where it is not of this scope."""
    if not token:
        return None
    try:
        raw = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        body = raw[_BOUND:]
        if len(body) > 8 and raw[:_BOUND] == _bound(body, scope):
            return _EPOCH + timedelta(microseconds=int.from_bytes(body[:8], "big", signed=True)), body[8:].decode()
    except (binascii.Error, ValueError, OverflowError):
        pass
    raise Invalid.field("page_token", "is not the next_page_token of such a list", "PAGE_TOKEN_INVALID")


def _bound(body: bytes, scope: str) -> bytes:
    return hashlib.blake2b(body, digest_size=_BOUND, key=hashlib.sha256(scope.encode()).digest()).digest()
