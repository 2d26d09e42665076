"""What an ID token must be (OpenID Connect Core 1.0, 3.1.3.7; RFC 8725), and what it says. Pure."""

from __future__ import annotations

import hashlib
import hmac
import math
import unicodedata
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.util import urlsafe_b64decode

from server.engine.text import EMAIL, domain_key, email_key
from server.errors import Unauthenticated
from server.providers import Provider
from server.store.key_sets import PublicKey

ALGORITHMS: Mapping[str, tuple[type[Key], str]] = {
    "RS256": (RSAKey, ""),
    "RS384": (RSAKey, ""),
    "RS512": (RSAKey, ""),
    "PS256": (RSAKey, ""),
    "ES256": (ECKey, "P-256"),
    "ES384": (ECKey, "P-384"),
    "EdDSA": (OKPKey, "Ed25519"),
    "Ed25519": (OKPKey, "Ed25519"),
}
"""The signatures that are accepted, each with its kind of key and curve. All are made with a key that only the issuer
has: neither `none` nor HS256, whose key whoever checks has, too."""

TOKEN = 16_384
"""Characters of an ID token."""

HEADER = 2048
"""Bytes of its header."""

LEEWAY = 60.0
"""Seconds that the clocks of the issuer and of this machine may differ."""

OLDEST = 86_400.0
"""Seconds after which a token is no sign of somebody who signs in now, whenever it expires."""

SUBJECT = 255
AUDIENCES = 20
NAME = 100

_REGISTRY = jws.JWSRegistry(algorithms=list(ALGORITHMS), strict_check_header=False)
_REGISTRY.max_header_length = HEADER


@dataclass(frozen=True, slots=True)
class Header:
    """What a token says of its own signature. Where its key can be fetched (`jku`, `x5u`), or which it is (`jwk`,
    `x5c`), is not for the token to say: that is not even read."""

    algorithm: str
    kid: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """Who somebody is, as an issuer says in a token that is in order."""

    issuer: str
    subject: str
    email: str
    """The address, where the issuer has verified it and is trusted for that; else empty."""
    email_key: str
    """Its one spelling; empty without one."""
    said_email: str
    """The address as the issuer says it, of whatever worth; for the eyes of its owner."""
    authoritative: bool
    """Whether the issuer gives out this address itself, so that it always is who signs in there."""
    name: str
    """To be shown; may be empty."""
    token_hash: bytes
    """Tells this token from every other, however its signature is spelled."""
    expire: float
    """Unix time after which the token is refused for its age alone."""


def header(token: str) -> Header:
    """The header of a token. Raises Unauthenticated where that is no token, or signed in no accepted way."""
    if len(token) > TOKEN or token.count(".") != 2 or not token.isascii():
        raise refused("format")
    try:
        raw = urlsafe_b64decode(token.partition(".")[0].encode())
        said = orjson.loads(raw)
    except ValueError as fault:
        raise refused("format") from fault
    if len(raw) > HEADER or not isinstance(said, dict):
        raise refused("format")
    algorithm, kid, kind = said.get("alg"), said.get("kid", ""), said.get("typ", "JWT")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise refused("algorithm")
    # Tokens of other kinds are signed with the same keys: at+jwt gives access, logout+jwt ends sessions. What `crit`
    # names must be understood (RFC 7515), and nothing of it is.
    if not isinstance(kind, str) or kind.upper() != "JWT" or "crit" in said or not isinstance(kid, str):
        raise refused("format")
    return Header(algorithm, kid)


def key(keys: Sequence[PublicKey], header: Header) -> Key:
    """The issuer's key that must have made the signature. Raises Unauthenticated where there is no such key, or where
    the token names none and there are several."""
    kind, curve = ALGORITHMS[header.algorithm]
    found = [
        one.key
        for one in keys
        if (one.kid == header.kid or not header.kid)
        and one.alg in ("", header.algorithm)
        and isinstance(one.key, kind)
        and (not curve or getattr(one.key, "curve_name", "") == curve)
    ]
    if len(found) != 1:
        raise refused("key")
    return found[0]


def claims(token: str, key: Key, header: Header) -> dict[str, Any]:
    """What the token says, once its signature was found to be `key`'s. Raises Unauthenticated."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # EdDSA has a newer name; it is not a weaker signature
            signed = jws.deserialize_compact(token, key, [header.algorithm], _REGISTRY)
        said = orjson.loads(signed.payload or b"")
    except (JoseError, ValueError, TypeError, RecursionError) as fault:
        raise refused("signature") from fault
    if signed.headers().get("alg") != header.algorithm or not isinstance(said, dict):
        raise refused("format")
    return said


def claimed(
    token: str, said: Mapping[str, Any], provider: Provider, *, clients: Collection[str], nonce: str, now: float
) -> Claimed:
    """Who somebody is, by the claims of a token whose signature is the issuer's.

    The token must be meant for `clients`, all of whom are the app; `nonce` is
    the claim it must have, "" where it must have none; `now` is Unix time.
    Raises Unauthenticated (ID_TOKEN_INVALID), with the name of the claim that is
    not as it must be.
    """
    if said.get("iss") not in (provider.issuer, *provider.issuer_names):
        raise refused("iss")
    _meant_for(said, clients)
    expire = _in_time(said, now)
    if "events" in said:  # a logout token (OpenID Connect Back-Channel Logout, 2.4)
        raise refused("format")
    had = said.get("nonce", "")
    if not isinstance(had, str) or not hmac.compare_digest(had.encode(), nonce.encode()):
        raise refused("nonce")
    subject = said.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT or not _plain(subject):
        raise refused("sub")
    address = said.get("email", "")
    address = address if isinstance(address, str) and len(address) <= EMAIL and _plain(address) else ""
    verified = said.get("email_verified") in (True, "true")  # Apple and others say it as a string
    spelled = email_key(address) if verified and provider.trust_email else None
    return Claimed(
        issuer=provider.issuer,
        subject=subject,
        email=address if spelled else "",
        email_key=spelled or "",
        said_email=address,
        authoritative=spelled is not None and _authoritative(said, provider, spelled),
        name=_name(said.get("name")),
        token_hash=hashlib.sha256(b"id token " + token.rpartition(".")[0].encode()).digest(),
        expire=expire,
    )


def nonce_claim(nonce: str) -> str:
    """What the `nonce` of a token must be for an app that holds `nonce`: whoever sees the token does not see that."""
    return hashlib.sha256(nonce.encode()).hexdigest() if nonce else ""


def refused(check: str) -> Unauthenticated:
    """The refusal of a token of which `check` is not in order."""
    return Unauthenticated(f"The ID token is not good: {check}.", reason="ID_TOKEN_INVALID", metadata={"check": check})


def _meant_for(said: Mapping[str, Any], clients: Collection[str]) -> None:
    audience, party = said.get("aud"), said.get("azp")
    given = [audience] if isinstance(audience, str) else audience
    # Every one of the audience must be the app: another party there could have got the token, and brought it here.
    if not isinstance(given, list) or not 0 < len(given) <= AUDIENCES or not all(_in(one, clients) for one in given):
        raise refused("aud")
    if party is None and len(given) == 1:
        return
    if not _in(party, clients):
        raise refused("azp")


def _in(one: object, clients: Collection[str]) -> bool:
    return isinstance(one, str) and one in clients


def _in_time(said: Mapping[str, Any], now: float) -> float:
    issued, expires, begins = _time(said, "iat"), _time(said, "exp"), _time(said, "nbf", usual=-math.inf)
    if issued > now + LEEWAY or issued < now - OLDEST - LEEWAY:
        raise refused("iat")
    if begins > now + LEEWAY:
        raise refused("nbf")
    if expires <= now - LEEWAY:
        raise refused("exp")
    return min(expires, issued + OLDEST) + LEEWAY


def _time(said: Mapping[str, Any], claim: str, usual: float | None = None) -> float:
    value = said.get(claim, usual)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise refused(claim)
    return float(value)


def _authoritative(said: Mapping[str, Any], provider: Provider, spelled: str) -> bool:
    domain = spelled.rpartition("@")[2]
    hosted = said.get(provider.hosted_domain_claim) if provider.hosted_domain_claim else None
    gives_out = domain in provider.email_domains or "*" in provider.email_domains
    return gives_out or (isinstance(hosted, str) and len(hosted) < EMAIL and domain_key(hosted) == domain)


def _name(given: object) -> str:
    """A name to show, made fit to be: without what cannot be shown, and no longer than may be."""
    if not isinstance(given, str):
        return ""
    return "".join(c for c in given[: 4 * NAME] if _shown(c)).strip()[:NAME]


def _shown(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _plain(text: str) -> bool:
    return all(unicodedata.category(c) not in ("Cc", "Cs") for c in text)
