"""Tokens and names that cannot be guessed."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets

SESSION = "tss_"
KEY = "tsk_"
WORD = "tsw_"

_TOKEN = re.compile(r"ts[sk]_[A-Za-z0-9_-]{43}")
_WORD = re.compile(r"tsw_[A-Za-z0-9_-]{43}")


def new_token(prefix: str) -> str:
    """A new token: `prefix` tells people and secret scanners what it is, 32 random bytes tell us whose."""
    return prefix + secrets.token_urlsafe(32)


def looks_like_token(text: str) -> bool:
    """Whether `text` has a token's shape; what has not is refused without asking anybody."""
    return _TOKEN.fullmatch(text) is not None


def looks_like_word(text: str) -> bool:
    """Whether `text` has the shape of a word that was mailed; no call can be made with one."""
    return _WORD.fullmatch(text) is not None


def digest(token: str) -> bytes:
    """What is kept of a token: its SHA-256. A token is random enough that no slow hash is needed."""
    return hashlib.sha256(token.encode()).digest()


def new_id() -> str:
    """A new resource id: 128 random bits as 26 lower-case letters and digits (AIP-122)."""
    return base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()
