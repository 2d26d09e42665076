"""Who may say who somebody is: the OpenID Connect issuers that the app trusts, as the settings name them."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

PRESETS: dict[str, dict[str, Any]] = {
    "google": {
        "issuer": "https://accounts.google.com",
        "issuer_names": ("accounts.google.com",),  # what some of Google's tokens call it
        "trust_email": True,
        "email_domains": ("gmail.com", "googlemail.com"),
        "hosted_domain_claim": "hd",  # there where Google hosts the address's whole domain
    },
    "apple": {
        "issuer": "https://appleid.apple.com",
        # Apple answers a request for more (name, email) with a form that is POSTed to the page, which pages cannot take.
        "scopes": ("openid",),
        "trust_email": True,
        "email_domains": ("privaterelay.appleid.com", "icloud.com", "me.com", "mac.com"),
    },
}
"""What is known of a provider with this id: what the settings leave out is taken from here."""

_SCHEME = re.compile(r"[a-z][a-z0-9+-]*(?:\.[a-z0-9+-]+)+")
"""Of an app's own URLs (RFC 8252, 7.1): a domain name in reverse, which has a dot."""


class Provider(BaseModel):
    """One issuer, and what is believed of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    id: str = Field(
        pattern=r"^[a-z][a-z0-9-]{0,30}$", description="What clients call it. google and apple are known by their ids."
    )
    issuer: str = Field(max_length=255, description="The `iss` of its tokens, and where its discovery document lies.")
    issuer_names: tuple[str, ...] = Field((), max_length=5, description="What its tokens may say as `iss` instead.")
    client_ids: tuple[str, ...] = Field(
        min_length=1, max_length=20, description="The app's ids there: the web's first, then those of iOS, Android, ..."
    )
    client_secret: SecretStr | None = Field(None, description="Of the first client id, where the issuer gave one.")
    team_id: str = Field("", description="Apple: with key_id and private_key in place of a client secret.")
    key_id: str = Field("", description="Apple: the id of the private key.")
    private_key: SecretStr | None = Field(None, description="Apple: the private key (PEM, P-256).")
    scopes: tuple[str, ...] = Field(("openid", "email", "profile"), max_length=20)
    redirect_uris: tuple[str, ...] = Field(
        (), max_length=20, description="Where people may come back to from it; compared letter by letter."
    )
    trust_email: bool = Field(False, description="Whether its word that an address was verified is taken.")
    email_domains: tuple[str, ...] = Field(
        (),
        max_length=100,
        description="Domains whose addresses it gives out itself: these it may sign in to accounts that are there "
        "already. `*` is any, for an issuer of the app team's own.",
    )
    hosted_domain_claim: str = Field("", description="A claim that names such a domain, in a token.")
    require_nonce: bool = Field(True, description="Whether apps that bring an ID token must have asked for a nonce.")

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, given: Any) -> Any:
        return PRESETS.get(str(given.get("id")), {}) | given if isinstance(given, dict) else given

    @field_validator("client_ids")
    @classmethod
    def _bounded(cls, ids: tuple[str, ...]) -> tuple[str, ...]:
        if not all(0 < len(id) <= 255 for id in ids) or len(set(ids)) < len(ids):
            raise ValueError("each client id has 1 to 255 characters and is given once")
        return ids

    @field_validator("issuer")
    @classmethod
    def _reachable(cls, issuer: str) -> str:
        if not safe(issuer) or "?" in issuer:
            raise ValueError("an issuer is an https URL without query and fragment (http only on this very machine)")
        return issuer

    @field_validator("redirect_uris")
    @classmethod
    def _pages(cls, uris: tuple[str, ...]) -> tuple[str, ...]:
        for uri in uris:
            if not (safe(uri) or _SCHEME.fullmatch(urlsplit(uri).scheme)) or "#" in uri or len(uri) > 512:
                raise ValueError(
                    "a redirect URI is https, http on this very machine, or of a scheme with a dot that is the app's own"
                )
        return uris

    @field_validator("email_domains")
    @classmethod
    def _domains(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(d if d == "*" else d.encode("idna").decode().lower() for d in domains)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len({bool(self.team_id), bool(self.key_id), self.private_key is not None}) > 1:
            raise ValueError("team_id, key_id and private_key come together")
        if self.client_secret is not None and self.private_key is not None:
            raise ValueError("a client secret or a private key, not both")
        if "openid" not in self.scopes:
            raise ValueError("openid is one of the scopes")
        return self


def safe(url: str) -> bool:
    """Whether `url` is https, or http to this very machine: nobody in between reads or changes what is said there."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or parts.password is not None or "#" in url or not url.isprintable():
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and loopback(host))


def loopback(host: str) -> bool:
    """Whether `host` is this very machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
