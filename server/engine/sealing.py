"""What must be read again, but not by who reads the database: sealed with the installation's key.

A sealed text is `1`, the first 4 bytes of its key's SHA-256, a nonce of 12 bytes, and AES-256-GCM's answer. The key is
derived (HKDF-SHA256) from a secret and the purpose, so that what was sealed for one purpose opens for no other; what the
text is about (`of`) is bound to it, so that it opens in no other's row.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from server.errors import Internal, Precondition

_VERSION = b"\x01"
_MARK, _NONCE = 4, 12


class Seal:
    """Seals with the first of an installation's secrets and opens with any: to change the key, put a new one in front and
    keep the old one until nothing sealed with it is left."""

    def __init__(self, given: Sequence[str], purpose: str) -> None:
        self._keys = [_derived(secret, purpose) for secret in given]

    def seal(self, text: bytes, of: str) -> bytes:
        """`text`, sealed. Raises Precondition (SECRET_NOT_SET) where the installation has no secret."""
        if not self._keys:
            raise Precondition("This installation has no secret to seal with.", reason="SECRET_NOT_SET")
        key, nonce = self._keys[0], secrets.token_bytes(_NONCE)
        return _VERSION + _mark(key) + nonce + AESGCM(key).encrypt(nonce, text, of.encode())

    def open(self, sealed: bytes, of: str) -> bytes:
        """The text. Raises Internal where it was sealed with a secret that is not given any more, or for another `of`."""
        version, mark, rest = sealed[:1], sealed[1 : 1 + _MARK], sealed[1 + _MARK :]
        for key in self._keys:
            if version == _VERSION and mark == _mark(key):
                try:
                    return AESGCM(key).decrypt(rest[:_NONCE], rest[_NONCE:], of.encode())
                except (InvalidTag, ValueError):
                    break
        lost = LookupError("TRANSOM_SECRET does not hold the secret it was sealed with")
        raise Internal("Something that was sealed cannot be opened.") from lost

    def outdated(self, sealed: bytes) -> bool:
        """Whether it was sealed with another secret than the first, and should be sealed anew."""
        return bool(self._keys) and sealed[: 1 + _MARK] != _VERSION + _mark(self._keys[0])


def _derived(secret: str, purpose: str) -> bytes:
    return HKDF(SHA256(), length=32, salt=None, info=f"transom {purpose}".encode()).derive(secret.encode())


def _mark(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()[:_MARK]
