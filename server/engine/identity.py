"""What identifies a resource beyond its name: ids, uids, versions and the etags made of them."""

from __future__ import annotations

import os
import re
import secrets

_DIGITS = "0123456789abcdefghijklmnopqrstuv"
_PAIRS = [high + low for high in _DIGITS for low in _DIGITS]
_TIME_BITS, _RANDOM_BITS = 44, 56
_ETAG = re.compile(r'"?([0-9a-f]{1,15})"?')


def fresh_id(now: int) -> str:
    """An id for a resource made at `now` (microseconds since 1970): 20 characters that sort by time.

    44 bits of milliseconds and 56 random ones, 5 to a character in an alphabet that keeps the order; the first
    character is a letter, as AIP-122 would have it, until the year 2422.
    """
    bits = (now // 1000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
    text = "".join([_PAIRS[bits >> shift & 1023] for shift in range(_TIME_BITS + _RANDOM_BITS - 10, -1, -10)])
    return chr(ord("a") + int(text[0], 32)) + text[1:]


def fresh_uid() -> str:
    """A uid (AIP-148): a UUID4, never given twice, not even for a name that is used again."""
    bits = bytearray(os.urandom(16))
    bits[6], bits[8] = bits[6] & 0x0F | 0x40, bits[8] & 0x3F | 0x80  # its version and variant (RFC 9562)
    text = bits.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def etag_of(version: int) -> str:
    """The etag (AIP-154) of a version."""
    return f"{version:x}"


def version_of(etag: str) -> int:
    """The version of an etag; -1, which none has, for what is no etag."""
    return int(found[1], 16) if (found := _ETAG.fullmatch(etag)) else -1
