"""Consistency tokens: a position in the log, as text that a client carries from a write to a later read, its own or
somebody else's, on whichever server.

A token says of which history its position is: of which system (Postgres' system identifier) and timeline. Positions of
one history can be compared. After the replica was promoted, all that is left of the timeline before is older than
the first position of the new one. Of any other history nothing can be said: such a token asks for the primary, which has
all there is. So does one with a position that the primary has not reached. No token can make a read wait, or see more than
its caller may; a forged one makes its own reads dearer, and those are counted as any others. So tokens are not signed.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from typing import NamedTuple

from server.errors import Invalid

HEADER = "x-transom-consistency"
"""Of requests: one token, or several with commas between them. Of the answer to what wrote: its token."""

TOKENS_MAX = 8
"""Tokens of one request."""

CHARACTERS_MAX = 64
"""Of one token. Those of this version have 23."""

PRIMARY = 2**63 - 1
"""A position that no replica reaches: only the primary will do."""

_VERSION, _VERSIONS_MAX = 1, 15
_FORM = struct.Struct(">BIIQ")


class History(NamedTuple):
    """What a position in the log belongs to."""

    system: int
    """Postgres' system identifier."""
    timeline: int

    @property
    def fingerprint(self) -> int:
        """Of the system, 32 bits: tells installations apart, and nothing else of them."""
        return zlib.crc32(self.system.to_bytes(8, "big", signed=True))


def sealed(history: History, position: int) -> str:
    """The token of a position."""
    raw = _FORM.pack(_VERSION, history.fingerprint, history.timeline, position)
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def opened(text: str, history: History | None, since: int) -> int:
    """The position that reads must show at least for all tokens of `text` to be heeded, where the present is `history`, of
    which this process knows the positions from `since` on. Raises Invalid (INVALID_CONSISTENCY_TOKEN)."""
    words = text.split(",")
    if len(words) > TOKENS_MAX:
        raise _invalid(f"has more than {TOKENS_MAX} tokens")
    return max(_position(word.strip(), history, since) for word in words)


def _position(word: str, history: History | None, since: int) -> int:
    if not 0 < len(word) <= CHARACTERS_MAX:
        raise _invalid("is not a token that a write gave")
    try:
        raw = base64.b64decode(word + "=" * (-len(word) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as fault:
        raise _invalid("is not a token that a write gave") from fault
    if raw and _VERSION < raw[0] <= _VERSIONS_MAX:
        return PRIMARY  # of a server that is newer than this one, while one version is rolled out over another
    if len(raw) != _FORM.size or raw[0] != _VERSION:
        raise _invalid("is not a token that a write gave")
    _, system, timeline, position = _FORM.unpack(raw)
    if history is None or system != history.fingerprint or timeline > history.timeline:
        return PRIMARY
    return min(int(position), PRIMARY) if timeline == history.timeline else since


def _invalid(what: str) -> Invalid:
    return Invalid(f"{HEADER} {what}.", reason="INVALID_CONSISTENCY_TOKEN", metadata={"header": HEADER})
