"""What issuers are asked, how often, and what is made of what they say: against a real one, with the clock in hand."""

from __future__ import annotations

import asyncio
import datetime
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from identity_ground import asynchronous
from joserfc.jwk import OctKey, RSAKey
from oidc_issuer import Handler, Issuer, new_key, reply, running

from server.errors import Unavailable
from server.providers import Provider
from server.settings import Settings
from server.store import issuers as module
from server.store.issuers import AGAIN, BYTES, FRESH, KEPT, PAUSE, CodeRefused, Issuers
from server.store.key_sets import public_keys

DISCOVERY, KEYS = "/.well-known/openid-configuration", "/keys"


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def there() -> Iterator[Issuer]:
    with running(Issuer({"web": ""})) as issuer:
        yield issuer


async def away(call: Any) -> str:
    """The cause of a refusal, which the log gets; the caller is told nothing of it."""
    with pytest.raises(Unavailable) as refusal:
        await call
    assert refusal.value.reason == "ISSUER_UNAVAILABLE" and refusal.value.retry_after
    assert refusal.value.message == "The issuer cannot be asked for now."
    return str(refusal.value.__cause__)


# ------------------------------------------------------------------------------------------------ how often, how long


@asynchronous
async def test_an_issuer_is_asked_once_however_many_ask(there: Issuer) -> None:
    issuers = Issuers()
    found = await asyncio.gather(*(issuers.issuer(there.url) for _ in range(200)))
    assert len(set(map(id, found))) == 1 and there.asked == [DISCOVERY, KEYS]
    assert found[0].token_endpoint == f"{there.url}/token" and found[0].has(there.keys[0].kid)
    await issuers.aclose()


@asynchronous
async def test_who_goes_away_leaves_the_question_to_the_others(there: Issuer) -> None:
    asked, go = threading.Event(), threading.Event()

    def held(request: Handler) -> None:
        asked.set()
        go.wait(10)
        reply(request, 200, there._discovery())

    there.broken[DISCOVERY] = held
    issuers = Issuers()
    first, second = (asyncio.create_task(issuers.issuer(there.url)) for _ in range(2))
    await asyncio.to_thread(asked.wait, 10)
    first.cancel()
    go.set()
    assert (await second).name == there.url
    assert first.cancelled() and there.asked == [DISCOVERY, KEYS]
    await issuers.aclose()


@asynchronous
async def test_the_life_of_a_key(there: Issuer) -> None:
    clock = Clock()
    issuers = Issuers(clock=clock)
    old = there.keys[0].kid
    assert (await issuers.issuer(there.url, old)).has(old)
    new = there.rotate().kid

    # Invented ids right after an answer do not make us ask again: there is nothing new to hear yet.
    there.asked.clear()
    clock.now += AGAIN - 1
    for kid in ("invented", "guessed", new):
        assert not (await issuers.issuer(there.url, kid)).has(kid)
    assert there.asked == []

    # The new key is known as soon as it is met; the old one is over with that.
    clock.now += 1
    found = await issuers.issuer(there.url, new)
    assert found.has(new) and not found.has(old) and there.asked == [DISCOVERY, KEYS]

    # However many ids are invented, it is asked once in AGAIN seconds.
    there.asked.clear()
    for second in range(20):
        clock.now += 1
        await issuers.issuer(there.url, f"invented{second}")
    assert there.asked.count(KEYS) == 20 // AGAIN

    # A key that was withdrawn, and that nobody misses, is good until the answer is no longer fresh.
    await issuers.issuer(there.url, new)
    there.rotate()
    clock.now += FRESH - AGAIN
    assert (await issuers.issuer(there.url, new)).has(new)
    clock.now += AGAIN + 1
    assert not (await issuers.issuer(there.url, new)).has(new)
    await issuers.aclose()


@asynchronous
async def test_an_issuer_that_is_away(there: Issuer) -> None:
    clock = Clock()
    issuers = Issuers(clock=clock)
    key = there.keys[0].kid
    await issuers.issuer(there.url)
    there.broken[KEYS] = lambda request: reply(request, 503, {"error": "secret of theirs"})

    # What it said holds for a while, but for keys that only it could tell of.
    clock.now += FRESH + 1
    assert (await issuers.issuer(there.url, key)).has(key)
    assert "secret" not in await away(issuers.issuer(there.url, "unknown"))
    clock.now = 1000 + KEPT
    await away(issuers.issuer(there.url, key))

    # It is left alone for a moment, and then asked again.
    there.asked.clear()
    await away(issuers.issuer(there.url))
    assert there.asked == []
    there.broken.clear()
    clock.now += PAUSE
    assert (await issuers.issuer(there.url)).has(key)
    await issuers.aclose()


# ----------------------------------------------------------------------------------------------------- what it says


def says(**fields: Any) -> Callable[[Issuer], None]:
    return lambda issuer: issuer.document.update(fields)


def answers(path: str, status: int, body: Any, **header: str) -> Callable[[Issuer], None]:
    def harm(issuer: Issuer) -> None:
        issuer.broken[path] = lambda request: reply(request, status, body, **header)

    return harm


def no_keys(issuer: Issuer) -> None:
    issuer.keys = []


@dataclass(frozen=True)
class Lie:
    sentence: str
    harm: Callable[[Issuer], None]
    cause: str


LIES = [
    Lie("it calls itself otherwise", says(issuer="https://accounts.google.com"), "names another issuer"),
    Lie("it calls itself almost so", lambda i: i.document.update(issuer=i.url + "/"), "names another issuer"),
    Lie("its keys are nowhere", says(jwks_uri=None), "jwks_uri is no safe URL"),
    Lie("its keys are no text", says(jwks_uri=["x"]), "jwks_uri is no safe URL"),
    Lie("its keys come unprotected", says(jwks_uri="http://issuer.example/keys"), "jwks_uri is no safe URL"),
    Lie("its keys are a file", says(jwks_uri="file:///etc/passwd"), "jwks_uri is no safe URL"),
    Lie("its keys ask for a password", says(jwks_uri="https://a:b@issuer.example/"), "jwks_uri is no safe URL"),
    Lie(
        "its pages are unprotected",
        says(authorization_endpoint="http://x.example"),
        "authorization_endpoint is no safe",
    ),
    Lie("its codes are taken unprotected", says(token_endpoint="http://x.example"), "token_endpoint is no safe URL"),
    Lie("it has no keys", no_keys, "no key that a signature"),
    Lie("its keys are a list", answers(KEYS, 200, []), "no JSON object"),
    Lie("its keys are no list", answers(KEYS, 200, {"keys": "none"}), "no key that a signature"),
    Lie("its document is a page", answers(DISCOVERY, 200, b"<html>", kind="text/html"), "no JSON"),
    Lie("its document is deep", answers(DISCOVERY, 200, b'{"a":' * 30_000), "no JSON"),
    Lie("its document is elsewhere", answers(DISCOVERY, 302, {}, location="http://127.0.0.1:1/"), "answered 302"),
    Lie("its document is endless", answers(DISCOVERY, 200, b" " * (BYTES + 1)), f"more than {BYTES} bytes"),
    Lie("its document is packed", answers(DISCOVERY, 200, b"\x1f\x8b", content_encoding="gzip"), "no JSON"),
]


@pytest.mark.parametrize("lie", LIES, ids=[lie.sentence for lie in LIES])
@asynchronous
async def test_an_issuer_that_lies_is_not_believed(lie: Lie, there: Issuer) -> None:
    lie.harm(there)
    issuers = Issuers()
    cause = await away(issuers.issuer(there.url))
    assert lie.cause in cause
    await issuers.aclose()


@asynchronous
async def test_an_issuer_that_drips_is_not_waited_for(there: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()

    def dripping(request: Handler) -> None:
        request.send_response(200)
        request.send_header("content-length", "1000")
        request.end_headers()
        while not done.wait(0.02):
            request.wfile.write(b" ")

    monkeypatch.setattr(module, "LONGEST", 0.3)
    there.broken[DISCOVERY] = dripping
    issuers = Issuers()
    began = time.monotonic()
    await away(issuers.issuer(there.url))
    assert time.monotonic() - began < 2
    done.set()
    await issuers.aclose()


@asynchronous
async def test_an_issuer_without_pkce_has_no_code_flow(there: Issuer) -> None:
    there.document["code_challenge_methods_supported"] = ["plain"]
    issuers = Issuers()
    found = await issuers.issuer(there.url)
    assert (found.authorization_endpoint, found.token_endpoint) == ("", "")
    await issuers.aclose()


@pytest.mark.filterwarnings("ignore:Key size")
def test_only_public_keys_of_signatures_are_taken() -> None:
    good, private = new_key("ES256"), new_key("ES256")
    weak = RSAKey.generate_key(1024, {"kid": "weak"})
    given: list[Any] = [
        good.as_dict(private=False),
        private.as_dict(private=True),
        OctKey.generate_key(256).as_dict(private=True),
        weak.as_dict(private=False),
        new_key("RS256").as_dict(private=False) | {"use": "enc"},
        new_key("RS256").as_dict(private=False) | {"key_ops": ["encrypt"]},
        new_key("ES256").as_dict(private=False) | {"x": "AAAA"},
        new_key("ES256").as_dict(private=False) | {"crv": "P-0"},
        new_key("ES256").as_dict(private=False) | {"kid": 7},
        new_key("ES256").as_dict(private=False) | {"kid": "k" * 257},
        {"kty": "RSA"},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"},
        "key",
        None,
    ]
    assert [key.kid for key in public_keys({"keys": given})] == [good.kid]
    assert len(public_keys({"keys": [good.as_dict(private=False)] * 51})) == 50


# --------------------------------------------------------------------------------------------------------------- TLS


def certified(folder: Path) -> tuple[Path, Path, Path]:
    """A certificate for localhost, its key, and the authority that signed it, as files."""
    now = datetime.datetime.now(datetime.UTC)

    def made(name: str, key: Any, issuer: Any, signer: Any, *, authority: bool) -> x509.Certificate:
        named = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder(issuer or named, named, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        return builder.sign(signer, hashes.SHA256())

    root, leaf = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = made("a test's authority", root, None, root, authority=True)
    certificate = made("localhost", leaf, authority.subject, root, authority=False)
    files = folder / "localhost.pem", folder / "localhost.key", folder / "authority.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        leaf.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    files[2].write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    return files


@asynchronous
async def test_a_certificate_is_checked(tmp_path: Path) -> None:
    certificate, key, authority = certified(tmp_path)
    with running(Issuer({"web": ""}), certificate=(certificate, key)) as there:
        strict, trusting = Issuers(), Issuers(ca=authority)
        assert "CERTIFICATE_VERIFY_FAILED" in await away(strict.issuer(there.url))
        assert there.asked == []
        assert (await trusting.issuer(there.url)).name == there.url

        # Nor is the name another's: the certificate is localhost's.
        elsewhere = there.url.replace("localhost", "127.0.0.1")
        assert "127.0.0.1" in await away(trusting.issuer(elsewhere))

        # From a protected issuer no way leads back to something unprotected.
        there.document["jwks_uri"] = "http://127.0.0.1:1/keys"
        other = Issuers(ca=authority)
        assert "protection of TLS" in await away(other.issuer(there.url))
        for issuers in (strict, trusting, other):
            await issuers.aclose()


# ------------------------------------------------------------------------------------------------------------- codes


@asynchronous
async def test_a_code_is_asked_about_once_whatever_comes_of_it(there: Issuer) -> None:
    issuers = Issuers()
    issuer = await issuers.issuer(there.url)
    form = {"grant_type": "authorization_code", "code": "invented"}

    async def exchanged() -> str:
        return await issuers.exchange(issuer, form, "web", "")

    with pytest.raises(CodeRefused):
        await exchanged()
    for status, body in ((500, {}), (200, {}), (200, {"id_token": 7}), (200, []), (400, {"error": "invalid_client"})):
        there.asked.clear()
        answers("/token", status, body)(there)
        assert "secret" not in await away(exchanged())
        assert there.asked == ["/token"]
    await issuers.aclose()


# ---------------------------------------------------------------------------------------------------------- settings


GOOD = {"id": "ours", "issuer": "https://issuer.example", "client_ids": ["web"]}

BAD_PROVIDERS: list[tuple[str, dict[str, Any]]] = [
    ("an issuer without protection", {"issuer": "http://issuer.example"}),
    ("an issuer with a query", {"issuer": "https://issuer.example?x"}),
    ("an issuer with a fragment", {"issuer": "https://issuer.example#x"}),
    ("an issuer with a password", {"issuer": "https://a:b@issuer.example"}),
    ("no client", {"client_ids": []}),
    ("one client twice", {"client_ids": ["web", "web"]}),
    ("an id with a capital", {"id": "Ours"}),
    ("a page without protection", {"redirect_uris": ["http://app.example/"]}),
    ("a page that is a script", {"redirect_uris": ["javascript:alert(1)"]}),
    ("a scheme that is nobody's own", {"redirect_uris": ["myapp:/in"]}),
    ("a page with a fragment", {"redirect_uris": ["https://app.example/#x"]}),
    ("a key without its id", {"team_id": "TEAM"}),
    ("scopes without openid", {"scopes": ["email"]}),
    ("a word that means nothing", {"trust_mail": True}),
]


@pytest.mark.parametrize(("sentence", "wrong"), BAD_PROVIDERS, ids=[case[0] for case in BAD_PROVIDERS])
def test_settings_that_cannot_be_meant_are_refused(
    sentence: str, wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSOM_OIDC", json.dumps([GOOD | {"client_secret": "very secret"} | wrong]))
    with pytest.raises(ValueError) as refusal:
        Settings()
    assert "very secret" not in str(refusal.value)


def test_settings_of_known_issuers_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [{"id": "google", "client_ids": ["1"]}, {"id": "apple", "client_ids": ["2"]}]
    monkeypatch.setenv("TRANSOM_OIDC", json.dumps([*known, GOOD | {"redirect_uris": ["com.example.app:/in"]}]))
    google, apple, ours = Settings().oidc
    assert (google.issuer, apple.issuer) == ("https://accounts.google.com", "https://appleid.apple.com")
    assert google.trust_email and apple.trust_email and not ours.trust_email
    assert isinstance(ours, Provider) and ours.require_nonce

    monkeypatch.setenv("TRANSOM_OIDC", json.dumps([GOOD, GOOD | {"id": "again"}]))
    with pytest.raises(ValueError):
        Settings()
