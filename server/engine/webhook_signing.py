"""What is posted is signed as Standard Webhooks has it: HMAC-SHA256 of id, time and body.

Source: standardwebhooks.com, the specification: `webhook-signature` is `v1,` and the base64 of the HMAC of
`<webhook-id>.<webhook-timestamp>.<body>`; several, while a secret is rotated, with a space between them. A secret is written as
`whsec_` and the base64 of 24 to 64 bytes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

PREFIX = "whsec_"
BYTES = 32
"""Of a secret."""
PURPOSE = "webhook secrets"
"""What they are sealed for."""
AGENT = "Transom-Webhooks/1"


def new_secret() -> bytes:
    """A secret that nobody has."""
    return secrets.token_bytes(BYTES)


def written(secret: bytes) -> str:
    """As receivers are given it."""
    return PREFIX + base64.b64encode(secret).decode()


def headers(message: str, time: int, body: bytes, given: Sequence[bytes]) -> dict[str, str]:
    """The headers of a post at a time, in seconds since 1970, signed with each of the secrets."""
    signed = f"{message}.{time}.".encode() + body
    signatures = [base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode() for secret in given]
    return {
        "content-type": "application/json",
        "user-agent": AGENT,
        "webhook-id": message,
        "webhook-timestamp": str(time),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
