"""Codes of authenticator apps (TOTP, RFC 6238) and recovery codes. Pure."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b32encode

import pyotp

STEP = 30
"""Seconds a code is shown."""
DRIFT = 1
"""Steps that an app's clock may be ahead or behind."""
DIGITS = 6
SECRET_BYTES = 20
"""As many as HMAC-SHA1 makes use of (RFC 4226, 4.)."""

RECOVERY_CODES = 10
_RECOVERY_BYTES = 10
"""80 bits: too many to try, even for who has read their hashes."""
_MISREAD = str.maketrans({"0": "o", "1": "l", "8": "b", " ": None, "-": None, "\t": None, "\n": None})


def fresh_secret() -> str:
    """A secret for an app, in base32."""
    return b32encode(secrets.token_bytes(SECRET_BYTES)).decode()


def uri(secret: str, account: str, issuer: str) -> str:
    """What apps take as a QR code or as a link."""
    return pyotp.TOTP(secret, name=account, issuer=issuer, digits=DIGITS, interval=STEP).provisioning_uri()


def digits(code: str) -> str | None:
    """A code without the spaces people put into it; None where it is none."""
    plain = "".join(code.split()) if len(code) <= 4 * DIGITS else ""
    return plain if len(plain) == DIGITS and plain.isascii() and plain.isdigit() else None


def step_of(secret: str, code: str, now: float) -> int | None:
    """The latest step whose code this is, of those that count at `now`; None where it is none of theirs."""
    codes = pyotp.HOTP(secret, digits=DIGITS)
    current = int(now // STEP)
    found = None
    for step in range(max(current - DRIFT, 0), current + DRIFT + 1):
        if hmac.compare_digest(codes.at(step), code):  # all are compared: the time taken says nothing
            found = step
    return found


def fresh_recovery_codes() -> list[str]:
    """New recovery codes, as they are shown: `abcd-efgh-ijkl-mnop`, without 0, 1, 8 and 9."""
    return [_grouped(b32encode(secrets.token_bytes(_RECOVERY_BYTES)).decode().lower()) for _ in range(RECOVERY_CODES)]


def recovery_hash(user_id: str, code: str) -> bytes:
    """What is kept of a recovery code: however it is typed, its hash is the same."""
    plain = code.lower().translate(_MISREAD)
    return hashlib.sha256(f"{user_id} {plain}".encode()).digest()


def _grouped(text: str) -> str:
    return "-".join(text[i : i + 4] for i in range(0, len(text), 4))
