"""The keys of a JSON Web Key Set (RFC 7517) that a signature may be checked with. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

KEYS = 50
"""Keys of one set that are looked at; what comes after them is not there."""

RSA_BITS = 2048, 8192
"""Shorter ones can be broken; with longer ones, each check costs a moment that others wait."""

KID = 256
"""Characters of a key's id."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key: its id, "" where it has none; the algorithm it is for, "" where it does not say."""

    kid: str
    alg: str
    key: Key


def public_keys(document: Mapping[str, Any]) -> tuple[PublicKey, ...]:
    """The keys of the set that are good for signatures and public. What is malformed, secret, symmetric, too weak or for
    something else is left out: a set may hold keys that nobody here understands (RFC 7517, 5)."""
    given = document.get("keys")
    found = (_public_key(one) for one in given[:KEYS] if isinstance(one, dict)) if isinstance(given, list) else ()
    return tuple(key for key in found if key is not None)


def _public_key(given: dict[str, Any]) -> PublicKey | None:
    kid, alg, use = given.get("kid", ""), given.get("alg", ""), given.get("use", "sig")
    operations = given.get("key_ops", ["verify"])
    if not (isinstance(kid, str) and isinstance(alg, str) and len(kid) <= KID and use == "sig"):
        return None
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    kind = given.get("kty")
    try:
        # Only what makes the key: nothing else that a document says about it has a say here.
        if kind == "RSA":
            rsa = RSAKey.import_key({"kty": "RSA", "n": given["n"], "e": given["e"]})
            if not RSA_BITS[0] <= rsa.public_key.key_size <= RSA_BITS[1]:
                return None
            key: Key = rsa
        elif kind == "EC":
            key = ECKey.import_key({"kty": "EC", "crv": given["crv"], "x": given["x"], "y": given["y"]})
        elif kind == "OKP" and given.get("crv") == "Ed25519":
            key = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": given["x"]})
        else:
            return None
        assert key.public_key is not None  # made at once, so that a bad point or number is found here
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return None if "d" in given else PublicKey(kid, alg, key)
