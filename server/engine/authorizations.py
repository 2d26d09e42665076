"""The authorization-code flow (RFC 6749, RFC 7636, RFC 9700): from the URL to open to who somebody is.

Three things are needed to end a flow: the `state` that travelled through the issuer, the `binding` that never left the
browser or app that began it, and what is kept here of both. Of the code verifier of PKCE and the nonce nothing is kept:
they are made from the binding and a salt that is kept here, so that neither a stolen database nor a stolen browser tab
knows them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode

from joserfc import jwt
from joserfc.jwk import ECKey

from server.engine import oidc
from server.engine.oidc import Claimed
from server.engine.text import EMAIL
from server.engine.words import Purpose, Words
from server.errors import Invalid, Precondition, Unauthenticated
from server.providers import Provider
from server.store.issuers import Issuers
from server.store.words import StoredWord

LIFETIME = timedelta(minutes=10)
"""How long somebody may take to sign in at the issuer."""

CODE = 2048
"""Characters of a code."""

NONCE = 16, 256
"""Characters of a nonce: fewer can be guessed."""

ASSERTION = 300
"""Seconds that a client secret made of a private key is good."""

_BINDING = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Started:
    """A flow that has begun."""

    uri: str
    """To be opened."""
    binding: str
    """For whoever began it, and nobody else."""
    expire_time: datetime


@dataclass(frozen=True, slots=True)
class Brought:
    """An ID token that an app brings from the device, and the nonce that the app made for it."""

    provider: str
    id_token: str
    nonce: str


@dataclass(frozen=True, slots=True)
class Returned:
    """What somebody comes back with from the issuer, and the binding that stayed here."""

    state: str
    code: str
    issuer: str
    binding: str


class Authorizations:
    """Finds out who somebody is, by the word of an issuer. Whether they have an account is not its matter."""

    def __init__(
        self, providers: Sequence[Provider], issuers: Issuers, words: Words, clock: Callable[[], float]
    ) -> None:
        self._providers = {provider.id: provider for provider in providers}
        self._ids = {provider.issuer: provider.id for provider in providers}
        self._issuers = issuers
        self._words = words
        self._clock = clock

    def provider_of(self, issuer: str) -> str:
        """The id of the provider with this issuer; empty where it is not in the settings."""
        return self._ids.get(issuer, "")

    async def start(self, provider_id: str, redirect_uri: str, login_hint: str) -> Started:
        """Begins a flow.

        Raises Invalid where the provider is none of the settings', or the URI none of its; Precondition where the issuer
        knows no such flow; Unavailable where it does not answer.
        """
        provider = self._provider("provider", provider_id)
        if redirect_uri not in provider.redirect_uris:
            raise Invalid.field(
                "redirect_uri", "is none of this provider's in the settings", "REDIRECT_URI_NOT_ALLOWED"
            )
        if len(login_hint) > EMAIL:
            raise Invalid.field("login_hint", f"is longer than {EMAIL} characters", "TOO_LONG")
        issuer = await self._issuers.issuer(provider.issuer)
        if not issuer.authorization_endpoint:
            raise Precondition("This issuer has no code flow with PKCE.", reason="NO_CODE_FLOW")
        binding, salt = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        state, expires = await self._words.make(
            Purpose.OIDC,
            LIFETIME,
            details={"provider": provider.id, "redirect_uri": redirect_uri, "salt": salt, "binding": _hashed(binding)},
        )
        asked = {
            "response_type": "code",
            "client_id": provider.client_ids[0],
            "redirect_uri": redirect_uri,
            "scope": " ".join(provider.scopes),
            "state": state,
            "nonce": _derived(salt, "nonce", binding),
            "code_challenge": _challenge(_derived(salt, "verifier", binding)),
            "code_challenge_method": "S256",
        }
        if login_hint:
            asked["login_hint"] = login_hint
        there = issuer.authorization_endpoint
        return Started(f"{there}{'&' if '?' in there else '?'}{urlencode(asked)}", binding, expires)

    async def claimed(self, given: Brought | Returned) -> Claimed:
        """Who somebody is. That the ID token was not used before, the caller sees to.

        Raises Unauthenticated where flow, code or token are not in order, Invalid where something given has not the form
        it must have, Unavailable where the issuer does not answer.
        """
        return await (self._brought(given) if isinstance(given, Brought) else self._returned(given))

    async def _returned(self, given: Returned) -> Claimed:
        """Who comes back. The flow is over then, whatever comes of it."""
        if not given.code:
            raise Invalid.field("code", "is required", "REQUIRED")
        if len(given.code) > CODE:
            raise Invalid.field("code", f"is longer than {CODE} characters", "TOO_LONG")
        flow = await self._words.live(given.state, Purpose.OIDC)
        # Asked before the flow is used up: somebody else's browser must not be able to end it.
        if flow is None or not _bound(flow, given.binding):
            raise _over()
        provider = self._providers.get(flow.details["provider"])
        if provider is None:  # taken out of the settings meanwhile
            raise _over()
        issuer = await self._issuers.issuer(provider.issuer)
        if given.issuer != provider.issuer and (given.issuer or issuer.says_itself):
            raise _over()  # the answer of another issuer (RFC 9207): its code is none for this one's ears
        if await self._words.use(given.state, Purpose.OIDC) is None:
            raise _over()
        salt = flow.details["salt"]
        form = {
            "grant_type": "authorization_code",
            "code": given.code,
            "redirect_uri": flow.details["redirect_uri"],
            "code_verifier": _derived(salt, "verifier", given.binding),
        }
        client = provider.client_ids[0]
        token = await self._issuers.exchange(issuer, form, client, self._secret(provider, client))
        return await self._checked(provider, token, {client}, _derived(salt, "nonce", given.binding))

    async def _brought(self, given: Brought) -> Claimed:
        provider = self._provider("provider", given.provider)
        if not given.id_token:
            raise Invalid.field("id_token", "is required", "REQUIRED")
        if len(given.id_token) > oidc.TOKEN:
            raise Invalid.field("id_token", f"is longer than {oidc.TOKEN} characters", "TOO_LONG")
        if not given.nonce and provider.require_nonce:
            raise Invalid.field("nonce", "is required", "REQUIRED")
        if given.nonce and not NONCE[0] <= len(given.nonce) <= NONCE[1]:
            raise Invalid.field("nonce", f"has not {NONCE[0]} to {NONCE[1]} characters", "LENGTH")
        return await self._checked(provider, given.id_token, set(provider.client_ids), oidc.nonce_claim(given.nonce))

    async def _checked(self, provider: Provider, token: str, clients: set[str], nonce: str) -> Claimed:
        header = oidc.header(token)
        issuer = await self._issuers.issuer(provider.issuer, header.kid)
        said = oidc.claims(token, oidc.key(issuer.keys, header), header)
        return oidc.claimed(token, said, provider, clients=clients, nonce=nonce, now=self._clock())

    def _provider(self, field: str, id: str) -> Provider:
        provider = self._providers.get(id)
        if provider is None:
            raise Invalid.field(field, "is none of the settings'" if id else "is required", "PROVIDER_UNKNOWN")
        return provider

    def _secret(self, provider: Provider, client: str) -> str:
        """The client's secret; where the provider has a private key instead, as Apple wants it, a word signed with it."""
        if provider.private_key is None:
            return provider.client_secret.get_secret_value() if provider.client_secret else ""
        now = int(self._clock())
        said = {
            "iss": provider.team_id,
            "sub": client,
            "aud": provider.issuer,
            "iat": now,
            "exp": now + ASSERTION,
        }
        key = ECKey.import_key(provider.private_key.get_secret_value())
        return jwt.encode({"alg": "ES256", "kid": provider.key_id}, said, key, ["ES256"])


def _hashed(binding: str) -> str:
    return hashlib.sha256(binding.encode()).hexdigest()


def _bound(flow: StoredWord, binding: str) -> bool:
    """Whether who brings `binding` began the flow."""
    kept: Mapping[str, str] = flow.details
    return _BINDING.fullmatch(binding) is not None and hmac.compare_digest(kept["binding"], _hashed(binding))


def _derived(salt: str, purpose: str, binding: str) -> str:
    """43 characters that who knows both `salt` and `binding` can make, and nobody else."""
    return _base64(hmac.digest(salt.encode(), f"{purpose} {binding}".encode(), "sha256"))


def _challenge(verifier: str) -> str:
    return _base64(hashlib.sha256(verifier.encode()).digest())


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _over() -> Unauthenticated:
    return Unauthenticated("This sign-in is over, or was not begun here; begin again.", reason="AUTHORIZATION_INVALID")
