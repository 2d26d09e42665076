"""Signing in with accounts elsewhere, through the edge, against real issuers, and every attack on it we know of."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import psycopg
import pytest
from browser_ground import chromium
from cryptography.hazmat.primitives import serialization
from door_ground import Door, door
from edge_ground import eventually, free_port
from identity_ground import Place, place
from joserfc.jwk import ECKey
from oidc_issuer import Issuer, Person, encoded, new_key, reply, running
from people_ground import PASSWORD, Client, People, Refused
from playwright.sync_api import Page
from transom.accounts.v1 import identities_pb2 as pb
from transom.accounts.v1 import identities_pb2_grpc
from web_site import Site, serving

from deploy.native.stack import PROJECT, Stack
from server.engine.tokens import KEY, WORD, digest, new_id, new_token

PAGE, APP = "https://app.example/signed-in", "com.example.app:/signed-in"
ORIGIN = "https://app.example"
ENDED = "location.pathname == '/signed-in' && !['', 'page'].includes(document.title)"
SECRET = "a client's secret"
P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""The order of the group of P-256."""


@dataclass
class World:
    """An app, the issuers it trusts, and those who use it."""

    at: Place
    door: Door
    home: Issuer
    """Trusted for addresses; gives out those of home.example; one client has a secret."""
    other: Issuer
    """Trusted for nothing but its own `sub`s; its client is public, and nonces are not asked for."""
    keyed: Issuer
    """Wants secrets that are signed, as Apple does."""
    turning: Issuer
    """Changes its keys."""
    liar: Issuer
    """Calls itself as home is called."""
    site: Site
    """The app's pages."""
    people: People

    @property
    def nobody(self) -> Client:
        return Client(self.door)  # type: ignore[arg-type]

    def count(self) -> tuple[int, int, int]:
        """How many accounts, identities and sessions there are."""
        [row] = self.at.sql(
            "select (select count(*) from transom.users), (select count(*) from transom.identities),"
            " (select count(*) from transom.sessions)"
        )
        return row  # type: ignore[return-value]

    def whose(self, issuer: Issuer, person: Person) -> str:
        """The account that an identity signs in to; empty for none."""
        found = self.at.sql(
            "select 'users/' || user_id from transom.identities where issuer = %s and subject = %s",
            issuer.url,
            person.sub,
        )
        return found[0][0] if found else ""

    def account(self, name: str) -> tuple[Any, ...]:
        """Address, whether it is verified, whether there is a password."""
        [row] = self.at.sql(
            "select email, verified, password_hash is not null from transom.users where 'users/' || id = %s", name
        )
        return row


@pytest.fixture(scope="module")
def world(components: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    key = ECKey.generate_key("P-256")
    private = key.as_pem(private=True).decode()
    public = key.public_key.public_bytes(  # type: ignore[union-attr]
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()
    with ExitStack() as stack:
        at = stack.enter_context(place(components))
        site = stack.enter_context(serving())
        local = f"{site.origin}/signed-in"
        home = stack.enter_context(running(Issuer({"web": SECRET, "ios": "", "android": ""}, [PAGE, APP, local])))
        other = stack.enter_context(running(Issuer({"web": ""}, [PAGE])))
        keyed = stack.enter_context(running(Issuer({"web": public}, [PAGE])))
        turning, liar = (stack.enter_context(running(Issuer({"web": ""}, [PAGE]))) for _ in range(2))
        home.keys += [new_key(kind) for kind in ("ES384", "RS256", "PS256", "EdDSA", "ES256")]
        keyed.document = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
        keyed.says_itself = False
        liar.document = {"issuer": home.url}
        providers = [
            {
                "id": "home",
                "issuer": home.url,
                "client_ids": ["web", "ios", "android"],
                "client_secret": SECRET,
                "redirect_uris": [PAGE, APP, local],
                "trust_email": True,
                "email_domains": ["home.example"],
                "hosted_domain_claim": "hd",
            },
            {
                "id": "other",
                "issuer": other.url,
                "client_ids": ["web"],
                "redirect_uris": [PAGE],
                "require_nonce": False,
            },
            {
                "id": "keyed",
                "issuer": keyed.url,
                "client_ids": ["web"],
                "redirect_uris": [PAGE],
                "team_id": "TEAM",
                "key_id": "KEY",
                "private_key": private,
            },
            {"id": "turning", "issuer": turning.url, "client_ids": ["web"], "require_nonce": False},
            {"id": "liar", "issuer": liar.url, "client_ids": ["web"], "redirect_uris": [PAGE]},
            {"id": "gone", "issuer": f"http://127.0.0.1:{free_port()}", "client_ids": ["web"], "redirect_uris": [PAGE]},
        ]
        settings = {
            "TRANSOM_OIDC": json.dumps(providers),
            "TRANSOM_LIMIT_ADDRESS": "",
            "TRANSOM_LIMIT_METHODS": "",
            "TRANSOM_ALLOWED_ORIGINS": ORIGIN,
            "TRANSOM_COOKIE_SECURE": "true",
        }
        made = stack.enter_context(door(at, tmp_path_factory.mktemp("door"), settings))
        site.edge = made.edge
        world = World(at, made, home, other, keyed, turning, liar, site, People(made))  # type: ignore[arg-type]
        # It is asked now, so that the last test of this file finds that a while ago.
        assert signed_in_bare(world, "turning", turning.id_token(person(), "web"))["token"]
        yield world
        # Whatever happened above: no log has anything in it that signs in.
        said = made.log.read_text()
        for secret in (SECRET, private.splitlines()[1], "eyJ", "tss_", "tsw_"):
            assert secret not in said, secret


def person(email: str = "", verified: Any = True, **claims: Any) -> Person:
    """Somebody new."""
    said = {"email": email, "email_verified": verified} if email else {}
    return Person(secrets.token_hex(8), said | claims)


def new_address(domain: str = "home.example") -> str:
    return f"{secrets.token_hex(6)}@{domain}"


def new_nonce() -> tuple[str, str]:
    """A nonce, and what the issuer is told of it."""
    nonce = secrets.token_urlsafe(24)
    return nonce, hashlib.sha256(nonce.encode()).hexdigest()


def brought(world: World, who: Person, *, client: str = "ios", **more: Any) -> dict[str, Any]:
    """What an app brings that somebody has signed in to at home."""
    nonce, told = new_nonce()
    return {"provider": "home", "id_token": world.home.id_token(who, client, told, **more), "nonce": nonce}


def signed_in_bare(world: World, provider: str, token: str) -> Any:
    """With a token for which no nonce was asked."""
    return world.nobody.post("identities:signInWithIdToken", provider=provider, id_token=token)


def signed_in(world: World, who: Person, **more: Any) -> Any:
    return world.nobody.post("identities:signInWithIdToken", **brought(world, who), **more)


# ------------------------------------------------------------------------------------------------------- good tokens


GOOD: list[tuple[str, str, dict[str, Any]]] = [
    ("signed with ES256", "ES256", {}),
    ("signed with ES384", "ES384", {}),
    ("signed with RS256", "RS256", {}),
    ("signed with PS256", "PS256", {}),
    ("signed with Ed25519", "EdDSA", {}),
    ("for another client of the app", "", {"aud": "android"}),
    ("for one client, got by another", "", {"aud": "web", "azp": "android"}),
    ("for two clients of the app", "", {"aud": ["web", "ios"], "azp": "ios"}),
    ("of a clock that is half a minute ahead", "", {"iat": 30, "nbf": 30}),
    ("that ended half a minute ago", "", {"iat": -3600, "exp": -30}),
    ("with odd claims beside", "", {"name": "a\u202eb\x00" + "c" * 200, "email": ["x"], "email_verified": 1}),
]


@pytest.mark.parametrize(("sentence", "kind", "claims"), GOOD, ids=[case[0] for case in GOOD])
def test_a_token_that_signs_in(sentence: str, kind: str, claims: dict[str, Any], world: World) -> None:
    now = int(time.time())
    claims = {c: now + v if c in ("iat", "nbf", "exp") else v for c, v in claims.items()}
    who = person(new_address())
    nonce, told = new_nonce()
    said = world.home.claims(who, "ios", told, **claims)
    key = next(key for key in world.home.keys if key.get("alg") == (kind or "ES256"))
    made = world.nobody.post(
        "identities:signInWithIdToken",
        provider="home",
        id_token=world.home.token(said, key),
        nonce=nonce,
        device="Pixel",
    )
    assert not isinstance(made, Refused), made
    me = world.nobody.signed_in(made["token"]).get("accounts/me")
    assert me == made["account"] and made["session"]["device"] == "Pixel"
    assert len(me["displayName"]) <= 100 and "\u202e" not in me["displayName"]
    assert world.whose(world.home, who) == me["name"]


# -------------------------------------------------------------------------------------------------------- bad tokens


def respelled(token: str) -> str:
    """The same token, its signature (r, s) written as (r, n - s), which is as good."""
    signed, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    other = P256 - int.from_bytes(raw[32:], "big")
    return f"{signed}.{base64.urlsafe_b64encode(raw[:32] + other.to_bytes(32, 'big')).decode().rstrip('=')}"


def with_claims(**claims: Any) -> Callable[[World, dict[str, Any]], str]:
    return lambda world, said: world.home.token(
        {
            c: v
            for c, v in (said | {c: v(said) if callable(v) else v for c, v in claims.items()}).items()
            if v is not None
        }
    )


def with_header(**header: Any) -> Callable[[World, dict[str, Any]], str]:
    return lambda world, said: world.home.token(said, **header)


def unsigned(world: World, said: dict[str, Any]) -> str:
    return f"{encoded({'alg': 'none', 'kid': world.home.keys[0].kid})}.{encoded(said)}."


def without_algorithm(world: World, said: dict[str, Any]) -> str:
    return f"{encoded({'kid': world.home.keys[0].kid})}.{encoded(said)}.AAAA"


def signed_with_public_key(world: World, said: dict[str, Any]) -> str:
    """HS256, where the secret is what everybody knows: the issuer's public key, as a file has it."""
    public = world.home.keys[0].public_key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signed = f"{encoded({'alg': 'HS256', 'kid': world.home.keys[0].kid})}.{encoded(said)}"
    return f"{signed}.{encoded(hmac.digest(public, signed.encode(), 'sha256'))}"


def signed_by_stranger(world: World, said: dict[str, Any]) -> str:
    return world.home.token(said, new_key(), kid=world.home.keys[0].kid)


def brings_its_key(name: str) -> Callable[[World, dict[str, Any]], str]:
    """The stranger's own key, told in the header: where to find it, or the key itself."""

    def made(world: World, said: dict[str, Any]) -> str:
        key = new_key(kid=world.home.keys[0].kid)
        world.liar.keys = [key]
        told = {"jwk": key.as_dict(private=False), "jku": f"{world.liar.url}/keys", "x5u": f"{world.liar.url}/keys"}
        return world.home.token(said, key, **{name: told[name]})

    return made


def changed(world: World, said: dict[str, Any]) -> str:
    head, _, signature = world.home.token(said).split(".")
    return f"{head}.{encoded(said | {'sub': 'somebody else'})}.{signature}"


def cut(world: World, said: dict[str, Any]) -> str:
    return world.home.token(said).rpartition(".")[0] + "."


def of_other_issuer(world: World, said: dict[str, Any]) -> str:
    """Another issuer that the app trusts says it is home."""
    return world.other.token(said, kid=world.home.keys[0].kid)


BAD: list[tuple[str, str, Callable[[World, dict[str, Any]], str]]] = [
    ("it is not signed", "algorithm", unsigned),
    ("it is signed with the public key", "algorithm", signed_with_public_key),
    ("it says not how it is signed", "algorithm", without_algorithm),
    ("it says none in capitals", "algorithm", lambda world, said: f"{encoded({'alg': 'NONE'})}.{encoded(said)}."),
    ("its key is unknown", "key", with_header(kid="invented")),
    ("its key has a path for an id", "key", with_header(kid="../../dev/null")),
    ("its key is none, of several", "key", with_header(kid=None)),
    ("its id of the key is a number", "format", with_header(kid=7)),
    ("its signature is a stranger's", "signature", signed_by_stranger),
    ("it brings its key", "signature", brings_its_key("jwk")),
    ("it says where its key is", "signature", brings_its_key("jku")),
    ("it says where its certificate is", "signature", brings_its_key("x5u")),
    ("it was changed", "signature", changed),
    ("its signature was cut off", "signature", cut),
    ("another issuer signed it", "signature", of_other_issuer),
    ("it gives access, and no more", "format", with_header(typ="at+jwt")),
    ("it ends sessions", "format", with_header(typ="logout+jwt")),
    ("it wants something understood", "format", with_header(crit=["exp"], exp=1)),
    ("it is a logout token", "format", with_claims(events={})),
    ("it has two parts", "format", lambda world, said: "a.b"),
    ("it is text", "format", lambda world, said: "hello"),
    ("its header is no JSON", "format", lambda world, said: f"{encoded(b'{')}.{encoded(said)}.AAAA"),
    ("its header is a list", "format", lambda world, said: f"{encoded([])}.{encoded(said)}.AAAA"),
    ("its header is deep", "format", lambda world, said: f"{encoded(b'[' * 3000)}.{encoded(said)}.AAAA"),
    ("its header is large", "format", with_header(x="x" * 3000)),
    ("it has letters of no token", "format", lambda world, said: world.home.token(said).replace("e", "é", 1)),
    ("its issuer is another", "iss", with_claims(iss="https://accounts.google.com")),
    ("its issuer has a slash more", "iss", with_claims(iss=lambda said: said["iss"] + "/")),
    ("it has no issuer", "iss", with_claims(iss=None)),
    ("its issuers are a list", "iss", with_claims(iss=lambda said: [said["iss"]])),
    ("it is for another app", "aud", with_claims(aud="another app's")),
    ("it is for another app, too", "aud", with_claims(aud=["ios", "another app's"], azp="ios")),
    ("it is for nobody", "aud", with_claims(aud=[])),
    ("it says not for whom", "aud", with_claims(aud=None)),
    ("it is for an object", "aud", with_claims(aud={"ios": True})),
    ("another app got it", "azp", with_claims(azp="another app's")),
    ("it is for two and says not who got it", "azp", with_claims(aud=["ios", "web"])),
    ("it has expired", "exp", with_claims(exp=lambda said: said["iat"] - 61)),
    ("it never expires", "exp", with_claims(exp=None)),
    ("it expires in words", "exp", with_claims(exp="tomorrow")),
    ("it expires truly", "exp", with_claims(exp=True)),
    ("it is of the future", "iat", with_claims(iat=lambda said: said["iat"] + 120, exp=lambda said: said["exp"] + 120)),
    ("it is older than a day", "iat", with_claims(iat=lambda said: said["iat"] - 86_500)),
    ("it is of no time", "iat", with_claims(iat=None)),
    ("it begins later", "nbf", with_claims(nbf=lambda said: said["iat"] + 120)),
    ("its nonce is another", "nonce", with_claims(nonce=hashlib.sha256(b"another").hexdigest())),
    ("it has no nonce", "nonce", with_claims(nonce=None)),
    ("its nonce is a list", "nonce", with_claims(nonce=lambda said: [said["nonce"]])),
    ("it is about nobody", "sub", with_claims(sub=None)),
    ("it is about nothing", "sub", with_claims(sub="")),
    ("it is about a number", "sub", with_claims(sub=7)),
    ("it is about too much", "sub", with_claims(sub="s" * 256)),
    ("it is about a line break", "sub", with_claims(sub="a\nb")),
]


@pytest.mark.parametrize(("sentence", "check", "made"), BAD, ids=[case[0] for case in BAD])
def test_a_token_that_is_not_in_order_signs_nobody_in(
    sentence: str, check: str, made: Callable[[World, dict[str, Any]], str], world: World
) -> None:
    before = world.count()
    nonce, told = new_nonce()
    token = made(world, world.home.claims(person(new_address()), "ios", told))
    wanted = Refused("UNAUTHENTICATED", "ID_TOKEN_INVALID", (), (("check", check),))
    asked = {"provider": "home", "id_token": token, "nonce": nonce}
    answer = world.nobody.post("identities:signInWithIdToken", **asked)
    assert answer == wanted, (sentence, answer)
    request = pb.SignInWithIdTokenRequest(**asked)
    assert world.nobody.grpc(identities_pb2_grpc.IdentitiesServiceStub, "SignInWithIdToken", request) == wanted
    assert world.count() == before, "it left something behind"
    assert f"{world.liar.url}/keys" not in world.liar.asked


SHAPELESS: list[tuple[str, dict[str, Any], str, str]] = [
    ("no provider", {"provider": ""}, "provider", "INVALID_REQUEST"),
    ("an unknown provider", {"provider": "google"}, "provider", "INVALID_REQUEST"),
    ("no token", {"id_token": ""}, "id_token", "INVALID_REQUEST"),
    ("a token of 17 kB", {"id_token": "a" * 16_385}, "id_token", "INVALID_REQUEST"),
    ("no nonce where it is wanted", {"nonce": ""}, "nonce", "INVALID_REQUEST"),
    ("a nonce that can be guessed", {"nonce": "123"}, "nonce", "INVALID_REQUEST"),
    ("a nonce without end", {"nonce": "n" * 257}, "nonce", "INVALID_REQUEST"),
    ("a name without end", {"display_name": "n" * 101}, "display_name", "INVALID_REQUEST"),
    ("a device with a line break", {"device": "a\nb"}, "device", "INVALID_REQUEST"),
    ("an invitation that is none", {"invitation": "please"}, "invitation", "INVALID_REQUEST"),
]


@pytest.mark.parametrize(("sentence", "wrong", "field", "reason"), SHAPELESS, ids=[case[0] for case in SHAPELESS])
def test_a_request_without_its_form_is_refused(
    sentence: str, wrong: dict[str, Any], field: str, reason: str, world: World
) -> None:
    before = world.count()
    asked = brought(world, person(new_address())) | wrong
    assert world.nobody.post("identities:signInWithIdToken", **asked) == Refused("INVALID_ARGUMENT", reason, (field,))
    assert world.count() == before


def test_a_nonce_that_leaks_with_its_token_is_of_no_use(world: World) -> None:
    """Who sees the token sees the hash of the nonce, and cannot give the nonce itself."""
    nonce, told = new_nonce()
    token = world.home.id_token(person(), "ios", told)
    for guess in (told, told.upper()):
        answer = world.nobody.post("identities:signInWithIdToken", provider="home", id_token=token, nonce=guess)
        assert answer == Refused("UNAUTHENTICATED", "ID_TOKEN_INVALID", (), (("check", "nonce"),))
    answer = world.nobody.post("identities:signInWithIdToken", provider="home", id_token=token, nonce=nonce)
    assert not isinstance(answer, Refused), answer


def test_a_provider_without_nonces_takes_none_that_was_made_for_another(world: World) -> None:
    who = person()
    bare = {"provider": "other", "id_token": world.other.id_token(who, "web")}
    assert world.nobody.post("identities:signInWithIdToken", **bare)["token"]
    stolen = {"provider": "other", "id_token": world.other.id_token(who, "web", "another's")}
    wanted = Refused("UNAUTHENTICATED", "ID_TOKEN_INVALID", (), (("check", "nonce"),))
    assert world.nobody.post("identities:signInWithIdToken", **stolen) == wanted


def test_a_token_is_good_once(world: World) -> None:
    asked = brought(world, person(new_address()))
    used = Refused("UNAUTHENTICATED", "ID_TOKEN_USED")
    with ThreadPoolExecutor(8) as threads:
        tries = [threads.submit(world.nobody.post, "identities:signInWithIdToken", **asked) for _ in range(8)]
        answers = [attempt.result() for attempt in tries]
    assert sum(not isinstance(answer, Refused) for answer in answers) == 1, answers
    assert all(answer == used for answer in answers if isinstance(answer, Refused)), answers
    respelling = asked | {"id_token": respelled(asked["id_token"])}
    assert respelling["id_token"] != asked["id_token"]
    assert world.nobody.post("identities:signInWithIdToken", **respelling) == used


def test_a_token_of_another_issuer_is_no_token_of_this_one(world: World) -> None:
    """Mix-up: both issuers know the app as `web`, and one of them is not honest."""
    nonce, told = new_nonce()
    victim = person(new_address())
    assert signed_in(world, victim)["token"]
    forged = world.other.token(world.other.claims(victim, "web", told))
    for provider, check in (("home", "key"), ("other", "")):
        answer = world.nobody.post("identities:signInWithIdToken", provider=provider, id_token=forged, nonce=nonce)
        if check:
            assert answer == Refused("UNAUTHENTICATED", "ID_TOKEN_INVALID", (), (("check", check),))
        else:  # the same `sub`, elsewhere, is somebody else
            assert answer["account"]["name"] != world.whose(world.home, victim)
            assert answer["account"]["email"] == "", "it believed an issuer that it does not trust"


def test_an_issuer_that_is_away_or_lies_lets_nobody_in_and_nothing_leaks(world: World) -> None:
    for provider, issuer in (("gone", None), ("liar", world.liar)):
        nonce, told = new_nonce()
        token = (issuer or world.other).id_token(person(), "web", told)
        asked = {"provider": provider, "id_token": token, "nonce": nonce}
        for path, body in (
            ("identities:signInWithIdToken", asked),
            ("authorizations:start", {"provider": provider, "redirect_uri": PAGE}),
        ):
            answer = world.nobody.post(path, **body)
            assert answer == Refused("UNAVAILABLE", "ISSUER_UNAVAILABLE"), answer
            assert [key for key, _ in answer.metadata] == ["issuer"]


# ----------------------------------------------------------------------------------------------------- the code flow


@dataclass
class Flow:
    """A sign-in that has begun at a page."""

    world: World
    issuer: Issuer
    uri: str
    binding: str

    @property
    def asked(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.uri).query).items()}

    def back(self, who: Person) -> dict[str, str]:
        """What the page finds in its URL once somebody has signed in."""
        self.issuer.people["them"] = who
        found = self.issuer.sign_in(self.uri, "them")
        return {"state": found["state"], "code": found["code"]} | ({"issuer": found["iss"]} if "iss" in found else {})

    def complete(self, found: dict[str, str], **more: Any) -> Any:
        return self.world.nobody.post("authorizations:complete", **{"binding": self.binding, **found, **more})


def begun(world: World, provider: str = "home", redirect_uri: str = PAGE) -> Flow:
    answer = world.nobody.post("authorizations:start", provider=provider, redirect_uri=redirect_uri)
    assert not isinstance(answer, Refused), answer
    issuer = {"home": world.home, "other": world.other, "keyed": world.keyed}[provider]
    return Flow(world, issuer, answer["authorizationUri"], answer["binding"])


FLOWS = [
    ("a client with a secret, in a header", "home", PAGE),
    ("the same, to the app's own URL", "home", APP),
    ("a client without a secret", "other", PAGE),
    ("a client whose secrets are signed, in the form", "keyed", PAGE),
]


@pytest.mark.parametrize(("sentence", "provider", "page"), FLOWS, ids=[case[0] for case in FLOWS])
def test_the_code_flow(sentence: str, provider: str, page: str, world: World) -> None:
    who = person(name="Ann")
    flow = begun(world, provider, page)
    assert flow.uri.startswith(f"{flow.issuer.url}/authorize?")
    assert set(flow.asked) >= {"state", "nonce", "code_challenge"} and flow.asked["redirect_uri"] == page
    assert flow.binding not in flow.uri

    # What is kept does not end the flow: neither the binding is there, nor what PKCE needs.
    kept = str(world.at.sql("select * from transom.words where purpose = 'oidc'"))
    for secret in (flow.binding, flow.asked["state"], flow.asked["nonce"], flow.asked["code_challenge"]):
        assert secret not in kept

    made = flow.complete(flow.back(who), device="Firefox", remember=True)
    assert not isinstance(made, Refused), made
    assert made["account"]["displayName"] == "Ann" and made["session"]["device"] == "Firefox"
    assert world.nobody.signed_in(made["token"]).get("accounts/me") == made["account"]

    again = begun(world, provider, page)
    assert again.complete(again.back(who))["account"]["name"] == made["account"]["name"]


def test_the_code_flow_over_grpc(world: World) -> None:
    stub = identities_pb2_grpc.IdentitiesServiceStub
    begin = pb.StartAuthorizationRequest(provider="home", redirect_uri=PAGE, login_hint="ann@home.example")
    started = world.nobody.grpc(stub, "StartAuthorization", begin)
    flow = Flow(world, world.home, started.authorization_uri, started.binding)
    assert flow.asked["login_hint"] == "ann@home.example"
    assert 0 < started.expire_time.seconds - time.time() <= 600
    found = flow.back(person(new_address()))
    end = pb.CompleteAuthorizationRequest(binding=flow.binding, **found)
    assert world.nobody.grpc(stub, "CompleteAuthorization", end).token.startswith("tss_")
    assert world.nobody.grpc(stub, "CompleteAuthorization", end) == Refused("UNAUTHENTICATED", "AUTHORIZATION_INVALID")


PAGES = [
    ("a stranger's page", "https://evil.example/signed-in"),
    ("a page below", f"{PAGE}/"),
    ("a page with a query", f"{PAGE}?x"),
    ("a page with a fragment", f"{PAGE}#x"),
    ("the page without protection", PAGE.replace("https", "http")),
    ("the page in capitals", PAGE.upper()),
    ("the page of a stranger's site with its name", "https://app.example.evil.example/signed-in"),
    ("the page with a user", "https://app.example@evil.example/signed-in"),
    ("a script", "javascript:alert(1)"),
    ("nothing", ""),
]


@pytest.mark.parametrize(("sentence", "page"), PAGES, ids=[case[0] for case in PAGES])
def test_nobody_is_sent_back_to_another_page(sentence: str, page: str, world: World) -> None:
    answer = world.nobody.post("authorizations:start", provider="home", redirect_uri=page)
    assert answer == Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("redirect_uri",))


OVER = Refused("UNAUTHENTICATED", "AUTHORIZATION_INVALID")


def another_browser(flow: Flow, found: dict[str, str]) -> dict[str, str]:
    """Login CSRF: the attacker's answer is put before the victim's browser, which began a flow of its own."""
    return found | {"binding": begun(flow.world).binding}


FOREIGN: list[tuple[str, Callable[[Flow, dict[str, str]], dict[str, str]]]] = [
    ("another browser began it", another_browser),
    ("no browser began it", lambda flow, found: found | {"binding": ""}),
    ("its binding was cut", lambda flow, found: found | {"binding": flow.binding[:-1]}),
    ("its binding is what is kept of it", lambda flow, found: found | {"binding": digest(flow.binding).hex()}),
    ("its state is invented", lambda flow, found: found | {"state": new_token(WORD)}),
    ("its state is no word", lambda flow, found: found | {"state": "x" * 5000}),
    ("its state is another flow's", lambda flow, found: found | {"state": begun(flow.world).asked["state"]}),
    ("another issuer answers", lambda flow, found: found | {"issuer": flow.world.other.url}),
    ("the issuer says not who it is, and always does", lambda flow, found: found | {"issuer": ""}),
]


@pytest.mark.parametrize(("sentence", "harm"), FOREIGN, ids=[case[0] for case in FOREIGN])
def test_a_flow_is_ended_only_by_who_began_it(
    sentence: str, harm: Callable[[Flow, dict[str, str]], dict[str, str]], world: World
) -> None:
    flow = begun(world)
    found = flow.back(person(new_address()))
    before = world.count()
    world.home.asked.clear()
    assert flow.complete(harm(flow, found)) == OVER
    assert world.count() == before
    assert "/token" not in world.home.asked, "the code was given away"
    # Nor could the attempt end it for its owner.
    assert flow.complete(found)["token"]


def test_a_flow_is_good_once(world: World) -> None:
    flow = begun(world)
    found = flow.back(person(new_address()))
    world.home.asked.clear()
    with ThreadPoolExecutor(8) as threads:
        tries = [threads.submit(flow.complete, found) for _ in range(8)]
        answers = [attempt.result() for attempt in tries]
    assert sum(not isinstance(answer, Refused) for answer in answers) == 1, answers
    assert all(answer == OVER for answer in answers if isinstance(answer, Refused)), answers
    assert world.home.asked.count("/token") == 1

    # Also where nothing came of it.
    flow = begun(world)
    found = flow.back(person(new_address()))
    wrong = found | {"code": "invented"}
    assert flow.complete(wrong) == Refused("UNAUTHENTICATED", "CODE_REFUSED")
    assert flow.complete(found) == OVER


def test_a_flow_ends_by_itself(world: World) -> None:
    flow = begun(world)
    found = flow.back(person(new_address()))
    world.at.sql("update transom.words set expire_time = now() where token_hash = %s", digest(flow.asked["state"]))
    assert flow.complete(found) == OVER


def test_a_stolen_code_is_of_no_use(world: World) -> None:
    victim = begun(world)
    found = victim.back(person(new_address()))

    # Not at the issuer, without what only the victim's flow can make.
    form = {"grant_type": "authorization_code", "code": found["code"], "redirect_uri": PAGE, "client_id": "web"}
    taken = dict(world.home._codes)
    assert world.home.exchange(form | {"client_secret": SECRET}, "")[0] == 400
    world.home._codes.update(taken)

    # Nor in a flow of the thief's own: the code is bound to the victim's verifier.
    thief = begun(world)
    before = world.count()
    stolen = thief.back(person()) | {"code": found["code"]}
    assert thief.complete(stolen) == Refused("UNAUTHENTICATED", "CODE_REFUSED")
    assert world.count() == before


LYING_TOKENS: list[tuple[str, str, dict[str, Any]]] = [
    ("of another flow", "nonce", {"nonce": "another"}),
    ("of no flow", "nonce", {"nonce": None}),
    ("of another client of the app", "aud", {"aud": "ios"}),
    ("of another issuer", "iss", {"iss": "https://accounts.google.com"}),
    ("that has expired", "exp", {"exp": 1}),
]


@pytest.mark.parametrize(("sentence", "check", "said"), LYING_TOKENS, ids=[case[0] for case in LYING_TOKENS])
def test_a_code_that_brings_a_token(sentence: str, check: str, said: dict[str, Any], world: World) -> None:
    flow = begun(world)
    found = flow.back(person(new_address()))
    before = world.count()
    world.home.said = said
    try:
        answer = flow.complete(found)
    finally:
        world.home.said = {}
    assert answer == Refused("UNAUTHENTICATED", "ID_TOKEN_INVALID", (), (("check", check),))
    assert world.count() == before


def test_an_issuer_that_fails_at_the_end_says_nothing_of_it(world: World) -> None:
    flow = begun(world)
    found = flow.back(person(new_address()))
    world.home.broken["/token"] = lambda request: reply(request, 500, {"error": "their secret"})
    try:
        answer = flow.complete(found)
    finally:
        world.home.broken.clear()
    assert answer == Refused("UNAVAILABLE", "ISSUER_UNAVAILABLE")


def test_a_page_gets_its_session_as_a_cookie(world: World) -> None:
    def completed(flow: Flow, found: dict[str, str], **headers: str) -> httpx.Response:
        return httpx.post(
            f"{world.door.edge}/transom/v1/authorizations:complete",
            json={"binding": flow.binding, "web": True, **found},
            headers=headers,
            trust_env=False,
            timeout=20,
        )

    flow = begun(world)
    found = flow.back(person(new_address()))
    for headers in ({}, {"origin": "https://evil.example", "x-transom-csrf": "1"}, {"origin": ORIGIN}):
        answer = completed(flow, found, **headers)
        assert answer.status_code == 403 and "set-cookie" not in answer.headers, headers
    # None of them has ended the flow.
    answer = completed(flow, found, **{"origin": ORIGIN, "x-transom-csrf": "1"})
    assert answer.status_code == 200 and answer.json()["token"] == ""
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "Secure", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    me = httpx.get(
        f"{world.door.edge}/transom/v1/accounts/me", headers={"cookie": cookie.partition(";")[0]}, trust_env=False
    )
    assert me.json() == answer.json()["account"]


def test_a_page_signs_somebody_in_in_a_real_browser(world: World) -> None:
    """The page of the manual, as it stands there."""
    manual = (PROJECT / "docs" / "identity.md").read_text()
    [script] = re.findall(r"### On a web page\n.*?```js\n(.*?)```", manual, re.DOTALL)
    helper, button, back = re.split(r"// The button:\n|// The page /signed-in:\n", script)
    origin = world.site.origin
    button = button.replace('"google"', '"home"')
    title = "<!doctype html><title>page</title>"
    world.site.pages = {
        "/": f"{title}<button>Sign in</button><script type=module>{helper}"
        f"document.querySelector('button').onclick = async () => {{{button}}}</script>",
        "/signed-in": f"{title}<script type=module>{helper}{back}"
        "document.title = answer.account?.name ?? answer.error.details[0].reason</script>",
    }
    who = world.home.people["ann"] = person(new_address())
    with chromium() as browser:

        def opened() -> Page:
            page = browser.new_context().new_page()
            page.goto(origin)
            return page

        page = opened()
        page.get_by_role("button").click()
        page.get_by_label("Who are you?").fill("ann")
        page.get_by_role("button").click()
        page.wait_for_function(ENDED)
        assert page.title() == world.whose(world.home, who) != ""
        assert page.url == f"{origin}/signed-in", "the code stayed in the history"
        me = page.evaluate("fetch('/transom/v1/accounts/me').then(answer => answer.json())")
        assert me["name"] == page.title()
        assert page.evaluate("document.cookie") == "", "a script can read the session"

        # Login CSRF: the victim's browser opens what an attacker's came back with, while a flow of its own is under way.
        found = begun(world, "home", f"{origin}/signed-in").back(person(new_address()))
        victim = opened()
        victim.get_by_role("button").click()
        victim.get_by_label("Who are you?").wait_for()
        victim.goto(
            f"{origin}/signed-in?{urlencode({'code': found['code'], 'state': found['state'], 'iss': world.home.url})}"
        )
        victim.wait_for_function(ENDED)
        assert victim.title() == "AUTHORIZATION_INVALID"
        assert victim.context.cookies() == []


# ------------------------------------------------------------------------------------------------------ whose account


@dataclass(frozen=True)
class Meeting:
    """Somebody comes for the first time; an account may have the address already."""

    sentence: str
    there: str = ""
    """The account that has it: verified, unverified, disabled."""
    domain: str = "home.example"
    email_verified: Any = True
    claims: tuple[tuple[str, Any], ...] = ()
    outcome: str = "new"
    """new, new without address, same, or the reason of the refusal."""


MEETINGS = [
    Meeting("verified by an issuer that is trusted"),
    Meeting("verified, said as text", email_verified="true"),
    Meeting("not verified", email_verified=False, outcome="new without address"),
    Meeting("not verified, said as text", email_verified="false", outcome="new without address"),
    Meeting("not said to be verified", email_verified=None, outcome="new without address"),
    Meeting("the issuer's own, and proved here", there="verified", outcome="same"),
    Meeting(
        "of a domain it hosts, and proved here",
        "verified",
        "firm.example",
        claims=(("hd", "firm.example"),),
        outcome="same",
    ),
    Meeting(
        "of another domain than it hosts",
        "verified",
        "elsewhere.example",
        claims=(("hd", "firm.example"),),
        outcome="ACCOUNT_EXISTS",
    ),
    Meeting("the issuer's own, and never proved here", there="unverified", outcome="ACCOUNT_EXISTS"),
    Meeting("somebody else's domain, and proved here", "verified", "elsewhere.example", outcome="ACCOUNT_EXISTS"),
    Meeting("somebody else's domain, never proved here", "unverified", "elsewhere.example", outcome="ACCOUNT_EXISTS"),
    Meeting("of a domain that ends alike", "verified", "not-home.example", outcome="ACCOUNT_EXISTS"),
    Meeting("of a domain below", "verified", "a.home.example", outcome="ACCOUNT_EXISTS"),
    Meeting("an account's, but not verified", "verified", email_verified=False, outcome="new without address"),
    Meeting("that of an account that is disabled", there="disabled", outcome="WRONG_CREDENTIALS"),
]


@pytest.mark.parametrize("meeting", MEETINGS, ids=[meeting.sentence for meeting in MEETINGS])
def test_whose_account_an_address_leads_to(meeting: Meeting, world: World) -> None:
    email = new_address(meeting.domain)
    there = ""
    if meeting.there:
        owner = world.people.person(verified=meeting.there != "unverified")
        world.at.sql("update transom.users set email = %s, email_key = %s where id = %s", email, email, owner.id)
        if meeting.there == "disabled":
            world.at.sql("update transom.users set disabled_time = now() where id = %s", owner.id)
        there = owner.user
    who = person(email.upper() if meeting.outcome == "same" else email, meeting.email_verified, **dict(meeting.claims))
    before = world.count()
    answer = signed_in(world, who)
    if isinstance(answer, Refused):
        assert answer.reason == meeting.outcome, answer
        assert world.count() == before and world.whose(world.home, who) == ""
        return
    name = answer["account"]["name"]
    assert world.whose(world.home, who) == name
    if meeting.outcome == "same":
        assert name == there and world.account(name) == (email, True, True)
    else:
        assert name != there
        wanted = (email, True, False) if meeting.outcome == "new" else (None, False, False)
        assert world.account(name) == wanted
    # From now on the address says nothing: it is the account of this `sub`, whatever becomes of its address.
    who.claims |= {"email": new_address(), "email_verified": True}
    assert signed_in(world, who)["account"]["name"] == name
    assert world.account(name)[0] in (email, None)


def test_an_issuer_that_is_not_trusted_cannot_ask_who_has_an_account(world: World) -> None:
    victim = world.people.person(verified=True)
    for email in (victim.email, new_address()):
        token = world.other.id_token(person(email), "web")
        answer = signed_in_bare(world, "other", token)
        assert answer["account"]["email"] == "" and answer["account"]["name"] != victim.user


def test_who_took_an_address_before_its_owner_came_does_not_get_the_owners_account(world: World) -> None:
    """Pre-hijacking: the attacker makes an account with the victim's address and as many ways into it as there are, and
    waits for the victim to sign in with the issuer."""
    email = new_address()
    attacker = world.people.person()
    world.at.sql("update transom.users set email = %s, email_key = %s where id = %s", email, email, attacker.id)
    trojan = person()
    assert "identity" in attacker.post("identities:link", idToken=brought(world, trojan))

    victim = person(email)
    assert signed_in(world, victim) == Refused("FAILED_PRECONDITION", "ACCOUNT_EXISTS")
    assert world.whose(world.home, victim) == ""
    # Nor can the attacker have the account verified by linking an identity of their own.
    world.at.sql("delete from transom.words where purpose = 'id_token'")
    other = person(new_address())
    assert "identity" in attacker.post("identities:link", idToken=brought(world, other))
    assert world.account(attacker.user) == (email, False, True)

    # The way on that the refusal names: the owner resets the password, by a mail that only they read.
    word = new_token(WORD)
    world.at.sql(
        "insert into transom.words (token_hash, purpose, user_id, email, email_key, expire_time)"
        " values (%s, 'reset', %s, %s, %s, now() + interval '1 hour')",
        *(digest(word), attacker.id, email, email),
    )
    assert "token" in world.nobody.post("accounts:resetPassword", word=word, password="nothing like the other one")
    assert attacker.get("accounts/me") == Refused("UNAUTHENTICATED", "TOKEN_INVALID")
    wrong = Refused("UNAUTHENTICATED", "WRONG_CREDENTIALS")
    assert world.nobody.post("accounts:signIn", email=email, password=PASSWORD) == wrong
    for theirs in (trojan, other):
        assert world.whose(world.home, theirs) == ""
    # And now the issuer's word is enough.
    assert signed_in(world, victim)["account"]["name"] == attacker.user


def test_two_who_are_one_and_come_at_once_get_one_account(world: World) -> None:
    who = person(new_address())
    with ThreadPoolExecutor(8) as threads:
        tries = [threads.submit(signed_in, world, who) for _ in range(8)]
        answers = [attempt.result() for attempt in tries]
    assert not any(isinstance(answer, Refused) for answer in answers), answers
    assert len({answer["account"]["name"] for answer in answers}) == 1


def test_two_identities_with_one_address_that_come_at_once_make_one_account(world: World) -> None:
    email = new_address()
    with ThreadPoolExecutor(8) as threads:
        tries = [threads.submit(signed_in, world, person(email)) for _ in range(8)]
        answers = [attempt.result() for attempt in tries]
    assert not any(isinstance(answer, Refused) for answer in answers), answers
    assert len({answer["account"]["name"] for answer in answers}) == 1
    assert world.at.sql("select count(*) from transom.users where email_key = %s", email) == [(1,)]


def test_a_sign_in_that_is_under_way_does_not_outlive_its_identity(world: World) -> None:
    who = person(new_address())
    signed_in(world, who)
    user = world.whose(world.home, who).removeprefix("users/")
    before = world.count()
    with psycopg.connect(world.at.postgres) as other, ThreadPoolExecutor(1) as threads:
        other.execute("select id from transom.users where id = %s for no key update", [user])
        attempt = threads.submit(signed_in, world, who)
        waits = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        eventually(lambda: bool(world.at.sql(waits)))
        other.execute("delete from transom.identities where user_id = %s", [user])
        other.commit()
        assert attempt.result() == Refused("UNAUTHENTICATED", "WRONG_CREDENTIALS")
    assert world.count() == (before[0], before[1] - 1, before[2])


def test_a_second_factor_is_asked_for_all_the_same(world: World) -> None:
    ann = world.people.person()
    who = person()
    ann.post("identities:link", idToken=brought(world, who))
    world.at.sql(
        "insert into transom.authenticators (user_id, secret, confirm_time) values (%s, 'sealed', now())", ann.id
    )
    answer = signed_in(world, who)
    assert answer["token"] == "" and "session" not in answer and "totp" in answer["challenge"]["methods"]


def test_a_disabled_account_stays_so(world: World) -> None:
    who = person(new_address())
    signed_in(world, who)
    name = world.whose(world.home, who)
    world.at.sql("update transom.users set disabled_time = now() where 'users/' || id = %s", name)
    before = world.count()
    assert signed_in(world, who) == Refused("UNAUTHENTICATED", "WRONG_CREDENTIALS")
    assert world.count() == before


@pytest.fixture(scope="module")
def by_invitation(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Nobody, before a server of the same app that takes whom it has invited."""
    settings = {**world.door.env, "TRANSOM_SIGN_UP": "invite"}
    with door(world.at, tmp_path_factory.mktemp("invited"), settings) as made:
        yield Client(made)  # type: ignore[arg-type]


def test_the_sign_up_policy_holds_for_those_from_elsewhere(world: World, by_invitation: Client) -> None:
    def tried(who: Person, **more: Any) -> Any:
        return by_invitation.post("identities:signInWithIdToken", **brought(world, who), **more)

    def invited(email: str, by: str = "operator") -> str:
        word = new_token(WORD)
        world.at.sql(
            "insert into transom.words (token_hash, purpose, email, email_key, details, expire_time)"
            " values (%s, 'invite', %s, %s, %s, now() + interval '1 day')",
            *(digest(word), email, email, json.dumps({"roles": ["editor"], "by": by})),
        )
        return word

    who = person(new_address())
    word, others = invited(who.claims["email"]), invited(new_address())
    before = world.count()
    assert tried(who) == Refused("PERMISSION_DENIED", "INVITATION_REQUIRED")
    wrong = Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("invitation",))
    assert tried(who, invitation=others) == wrong
    assert tried(who, invitation=new_token(WORD)) == wrong
    anonymous = Client(by_invitation.stack, world.people.person(anonymous=True).token)
    linked = anonymous.post("identities:link", idToken=brought(world, who))
    assert linked == Refused("PERMISSION_DENIED", "INVITATION_REQUIRED")
    assert world.count() == (before[0] + 1, before[1], before[2] + 1), "the anonymous one aside, nobody came"

    made = tried(who, invitation=word)
    assert made["account"]["roles"] == ["editor"] and made["account"]["email"] == who.claims["email"]
    assert tried(who)["account"]["name"] == made["account"]["name"], "who is in needs no invitation"
    assert tried(person(who.claims["email"]), invitation=word)["account"]["name"] == made["account"]["name"]
    assert tried(person(new_address()), invitation=word) == wrong, "it was used"

    # An issuer that vouches for no address: then the invitation does, which came by mail to it.
    email = new_address()
    shy = tried(person(email, verified=False), invitation=invited(email))
    assert shy["account"]["email"] == email and shy["account"]["verified"] is True
    answer = anonymous.post("identities:link", idToken=brought(world, person(new_address())), invitation="no")
    assert answer == wrong
    fresh = person(new_address())
    asked = {"idToken": brought(world, fresh), "invitation": invited(fresh.claims["email"])}
    token = anonymous.post("identities:link", **asked)["token"]
    assert anonymous.signed_in(token).get("accounts/me")["roles"] == ["editor"]

    # Who sent it could not give the role any more.
    ann, fresh = world.people.person(), person(new_address())
    made = tried(fresh, invitation=invited(fresh.claims["email"], ann.user))
    assert made["account"].get("roles", []) == []
    guest, fresh = Client(by_invitation.stack, world.people.person(anonymous=True).token), person(new_address())
    asked = {"idToken": brought(world, fresh), "invitation": invited(fresh.claims["email"], ann.user)}
    token = guest.post("identities:link", **asked)["token"]
    assert guest.signed_in(token).get("accounts/me").get("roles", []) == []


def test_what_is_noted_of_it(world: World) -> None:
    who = person(new_address())
    signed_in(world, who)
    name = world.whose(world.home, who)
    rows = world.at.sql(
        "select action, outcome, details->>'proof', details->>'issuer' from transom.audit where target = %s order by id",
        name,
    )
    assert rows == [("sign_up", "ok", "oidc", world.home.url), ("sign_in", "ok", "oidc", None)]

    # Who proves to be nobody tried nobody: else strangers fill the log with tokens that they make up.
    device, ann = secrets.token_hex(8), world.people.person()
    made_up = brought(world, who) | {"id_token": f"a.{secrets.token_hex(8)}.b"}
    assert world.nobody.post("identities:signInWithIdToken", **made_up, device=device).code == "UNAUTHENTICATED"
    other = person(new_address())
    spent = brought(world, other)
    for outcome in (dict, Refused):
        answer = world.nobody.post("identities:signInWithIdToken", **spent, device=device)
        assert isinstance(answer, outcome)
    assert world.nobody.post("accounts:signIn", email=ann.email, password="wrong horse", device=device)
    world.people.refusal_noted(ann, "sign_in")
    rows = world.at.sql("select outcome from transom.audit where device = %s and outcome <> 'ok'", device)
    assert rows == [("ID_TOKEN_USED",), ("WRONG_CREDENTIALS",)]


# ---------------------------------------------------------------------------------------------------- link and unlink


def test_identities_are_linked_and_parted(world: World) -> None:
    ann = world.people.person()
    who = person(new_address())
    assert ann.get("identities") == {"identities": []}
    linked = ann.post("identities:link", idToken=brought(world, who))["identity"]
    assert linked["provider"] == "home" and linked["issuer"] == world.home.url
    assert linked["email"] == who.claims["email"]
    assert signed_in(world, who)["account"]["name"] == ann.user
    [shown] = ann.get("identities")["identities"]
    assert shown["name"] == linked["name"] and shown["seenTime"] > linked["seenTime"]

    # Linked again it is the same; it is nobody else's to link.
    assert ann.post("identities:link", idToken=brought(world, who))["identity"]["name"] == linked["name"]
    bob = world.people.person()
    taken = Refused("ALREADY_EXISTS", "IDENTITY_TAKEN")
    assert bob.post("identities:link", idToken=brought(world, who)) == taken
    assert bob.post(f"{linked['name']}:unlink") == Refused("NOT_FOUND", "NOT_FOUND")
    assert bob.post("identities/x:unlink") == Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("name",))

    assert ann.post(f"{linked['name']}:unlink") == {}
    assert ann.get("identities") == {"identities": []}
    assert signed_in(world, who)["account"]["name"] != ann.user
    assert [outcome for outcome, _ in world.people.noted(ann, "identity_linked")] == ["ok"]
    assert [outcome for outcome, _ in world.people.noted(ann, "identity_unlinked")] == ["ok"]


def test_an_identity_is_linked_by_the_code_flow(world: World) -> None:
    ann = world.people.person()
    who = person(new_address())
    flow = begun(world)
    found = flow.back(who) | {"binding": flow.binding}
    stolen = found | {"binding": begun(world).binding}
    # An attacker who gets the victim's browser to link the attacker's identity would be in the victim's account.
    assert ann.post("identities:link", authorization=stolen) == OVER
    assert ann.post("identities:link", authorization=found)["identity"]["provider"] == "home"
    assert ann.post("identities:link", authorization=found) == OVER
    assert world.whose(world.home, who) == ann.user


@pytest.mark.parametrize(("domain", "proved"), [("home.example", True), ("elsewhere.example", False)])
def test_linking_proves_an_address_that_the_issuer_gives_out(world: World, domain: str, proved: bool) -> None:
    """Of another domain it has looked at the address once, and it may be somebody else's by now."""
    ann = world.people.person()
    email = f"{new_id()}@{domain}"
    world.at.sql("update transom.users set email = %s, email_key = %s where id = %s", email, email, ann.id)
    assert ann.get("accounts/me")["verified"] is False
    ann.post("identities:link", idToken=brought(world, person(email)))
    assert ann.get("accounts/me")["verified"] is proved


@pytest.mark.parametrize(("domain", "proved"), [("home.example", True), ("elsewhere.example", False)])
def test_a_new_account_has_a_proved_address_where_the_issuer_gives_it_out(
    world: World, domain: str, proved: bool
) -> None:
    email = f"{new_id()}@{domain}"
    name = signed_in(world, person(email))["account"]["name"].removeprefix("users/")
    assert world.at.sql("select email, verified from transom.users where id = %s", name) == [(email, proved)]


def test_who_may_link_and_unlink(world: World) -> None:
    linked = world.people.person()
    who = person(new_address())
    name = linked.post("identities:link", idToken=brought(world, who))["identity"]["name"]
    token = new_token(KEY)
    world.at.sql(
        "insert into transom.keys (id, token_hash, title, role) values (%s, %s, 'test', 'admin')",
        new_id(),
        digest(token),
    )
    boss, admin = world.people.person(), world.people.session(linked)
    world.at.sql("update transom.users set roles = '{admin}' where id = %s", boss.id)
    world.at.sql("update transom.sessions set impersonator = %s where token_hash = %s", boss.user, digest(admin.token))
    ended = world.people.session(linked)
    world.at.sql("delete from transom.sessions where token_hash = %s", digest(ended.token))
    refusals = [
        (world.nobody, Refused("UNAUTHENTICATED", "SIGN_IN_REQUIRED")),
        (ended, Refused("UNAUTHENTICATED", "TOKEN_INVALID")),
        (world.nobody.signed_in(token), Refused("FAILED_PRECONDITION", "NOT_AN_ACCOUNT")),
        (admin, Refused("PERMISSION_DENIED", "IMPERSONATED")),
        (world.people.session(linked, proved="1 hour"), Refused("FAILED_PRECONDITION", "SIGN_IN_AGAIN")),
    ]
    for caller, wanted in refusals:
        before = world.count()
        assert caller.post("identities:link", idToken=brought(world, person())) == wanted
        assert caller.post(f"{name}:unlink") == wanted
        assert world.count() == before
    assert linked.post("identities:link") == Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("proof",))


def test_the_last_way_to_sign_in_stays(world: World) -> None:
    who, second = person(), person()
    made = signed_in(world, who)
    ann = Client(world.door, made["token"], made["account"]["name"])  # type: ignore[arg-type]
    [first] = ann.get("identities")["identities"]
    last = Refused("FAILED_PRECONDITION", "LAST_WAY_TO_SIGN_IN")
    assert ann.post(f"{first['name']}:unlink") == last
    other = ann.post("identities:link", idToken=brought(world, second))["identity"]
    with ThreadPoolExecutor(2) as threads:
        tries = [threads.submit(ann.post, f"{name}:unlink") for name in (first["name"], other["name"])]
        answers = [attempt.result() for attempt in tries]
    assert sorted(map(str, answers)) == sorted(map(str, [{}, last])), answers
    assert len(ann.get("identities")["identities"]) == 1


def test_an_account_has_at_most_20_identities(world: World) -> None:
    ann = world.people.person()
    world.at.sql(
        "insert into transom.identities (issuer, subject, user_id) select 'https://i.example', n::text, %s"
        " from generate_series(1, 20) n",
        ann.id,
    )
    full = Refused("FAILED_PRECONDITION", "TOO_MANY_IDENTITIES")
    assert ann.post("identities:link", idToken=brought(world, person())) == full
    assert len(ann.get("identities")["identities"]) == 20
    assert all(one["provider"] == "" for one in ann.get("identities")["identities"])


def test_an_anonymous_account_becomes_one_that_can_sign_in(world: World) -> None:
    before = world.people.person(anonymous=True)
    who = person(new_address())
    answer = before.post("identities:link", idToken=brought(world, who))
    after = before.signed_in(answer["token"])
    me = after.get("accounts/me")
    assert me["name"] == before.user and me["email"] == who.claims["email"]
    assert me["verified"] is True and me["anonymous"] is False
    assert before.get("accounts/me") == Refused("UNAUTHENTICATED", "TOKEN_INVALID")
    assert signed_in(world, who)["account"]["name"] == before.user

    # Where the address is another account's, it stays that one's.
    taken = world.people.person(verified=True)
    anonymous = world.people.person(anonymous=True)
    answer = anonymous.post("identities:link", idToken=brought(world, person(taken.email)))
    assert anonymous.signed_in(answer["token"]).get("accounts/me")["email"] == ""

    # An identity that is another account's is no way to upgrade: the app signs in with it instead.
    third = world.people.person(anonymous=True)
    assert third.post("identities:link", idToken=brought(world, who)) == Refused("ALREADY_EXISTS", "IDENTITY_TAKEN")


# ------------------------------------------------------------------------------------------------------ keys that turn


def test_a_new_key_is_believed_and_the_old_one_no_longer(world: World) -> None:
    who = person()

    def tried(token: str) -> Any:
        return signed_in_bare(world, "turning", token)

    old = world.turning.keys[0]
    assert not isinstance(tried(world.turning.id_token(who, "web")), Refused)
    world.turning.rotate("RS256")
    fresh = world.turning.id_token(who, "web")
    # At once; but where it was asked a moment ago it is not asked again for 5 seconds, whatever keys are invented.
    eventually(lambda: not isinstance(tried(fresh), Refused))
    late = world.turning.token(world.turning.claims(who, "web"), old)
    assert tried(late) == Refused("UNAUTHENTICATED", "ID_TOKEN_INVALID", (), (("check", "key"),))
