"""Whatever a token holds, it is refused as a token or says who somebody is: checks that never fail otherwise."""

from __future__ import annotations

import time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from oidc_issuer import Issuer, Person, encoded

from server.engine import oidc
from server.errors import Unauthenticated
from server.providers import Provider
from server.store.key_sets import public_keys

ISSUER = Issuer({"web": ""})
ISSUER.url = "https://issuer.example"
KEYS = public_keys({"keys": [key.as_dict(private=False) for key in ISSUER.keys]})
PROVIDER = Provider(
    id="ours", issuer=ISSUER.url, client_ids=("web",), trust_email=True, email_domains=("*",), hosted_domain_claim="hd"
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
CLAIMS = ("iss", "aud", "azp", "exp", "iat", "nbf", "nonce", "sub", "email", "email_verified", "name", "hd", "events")


def checked(token: str) -> oidc.Claimed | str:
    """Who it says somebody is, or what is not in order."""
    try:
        header = oidc.header(token)
        said = oidc.claims(token, oidc.key(KEYS, header), header)
        return oidc.claimed(token, said, PROVIDER, clients={"web"}, nonce="", now=time.time())
    except Unauthenticated as refusal:
        return refusal.metadata["check"]  # which only this refusal has


@given(st.text(max_size=200) | st.binary(max_size=200).map(encoded))
@settings(max_examples=100, deadline=None)
def test_what_is_no_token_is_refused(text: str) -> None:
    for token in (text, f"{text}.{text}.{text}", f"{encoded({'alg': 'ES256'})}.{text}.{text}"):
        assert isinstance(checked(token), str)


@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "jku", "zip", "enc"]), JSON))
@settings(max_examples=100, deadline=None)
def test_a_header_of_anything_is_borne(header: dict[str, Any]) -> None:
    head = encoded({"alg": "ES256", "kid": ISSUER.keys[0].kid} | header)
    body = encoded(ISSUER.claims(Person("ann"), "web"))
    signature = encoded(oidc._REGISTRY.get_alg("ES256").sign(f"{head}.{body}".encode(), ISSUER.keys[0]))
    found = checked(f"{head}.{body}.{signature}")
    assert isinstance(found, str) or found.subject == "ann"


@given(st.dictionaries(st.sampled_from(CLAIMS), JSON))
@settings(max_examples=200, deadline=None)
def test_claims_of_anything_are_borne(claims: dict[str, Any]) -> None:
    found = checked(ISSUER.token(ISSUER.claims(Person("ann"), "web") | claims))
    if isinstance(found, str):
        return
    assert 0 < len(found.subject) <= oidc.SUBJECT and len(found.name) <= oidc.NAME and len(found.said_email) <= 254
    assert bool(found.email) == bool(found.email_key) and found.expire <= time.time() + oidc.OLDEST + 2 * oidc.LEEWAY
    found.subject.encode(), found.name.encode(), found.said_email.encode()
    assert "\0" not in found.subject + found.name + found.said_email
