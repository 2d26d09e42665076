"""A real OpenID Connect issuer of this machine, for tests and development: discovery, keys that rotate, the code flow.

It signs with joserfc and checks what an issuer must: the client and its secret, the redirect URI, that a code is used
once, and PKCE. And it can be made to do harm: be away, answer slowly, lie, sign what no issuer should.

`python tests/oidc_issuer.py [port]` runs one by itself and prints what to put into TRANSOM_OIDC; its page signs in whoever
is named in the field.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import secrets
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from joserfc import jws, jwt
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

ANY = jws.JWSRegistry(
    algorithms=["RS256", "PS256", "ES256", "ES384", "EdDSA", "HS256", "RS512", "none"], strict_check_header=False
)
PAGE = """<!doctype html><title>Sign in</title><form method="get" action="/authorize">{fields}
<label>Who are you? <input name="login" value="{hint}" autofocus></label><button>Sign in</button></form>"""


def new_key(kind: str = "ES256", kid: str = "") -> Key:
    """A new key pair for signatures of this kind."""
    parameters = {"use": "sig", "kid": kid or secrets.token_hex(4), "alg": kind}
    if kind.startswith(("RS", "PS")):
        return RSAKey.generate_key(2048, parameters)
    if kind == "EdDSA":
        return OKPKey.generate_key("Ed25519", parameters)
    return ECKey.generate_key({"ES256": "P-256", "ES384": "P-384"}[kind], parameters)


def encoded(said: Any) -> str:
    """As a part of a token."""
    raw = said if isinstance(said, bytes) else json.dumps(said).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@dataclass
class Person:
    """Somebody who has an account at the issuer."""

    sub: str
    claims: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Code:
    person: Person
    client: str
    redirect_uri: str
    nonce: str
    challenge: str


class Issuer:
    """One issuer. `url` is its name; `people` are who has an account there, by what they type at its page."""

    def __init__(self, clients: dict[str, str], redirect_uris: Sequence[str] = ()) -> None:
        self.clients = clients
        """Ids of clients and their secrets; an empty one is a public client's."""
        self.redirect_uris = set(redirect_uris)
        self.people: dict[str, Person] = {}
        self.keys: list[Key] = [new_key()]
        """Those that are published; the first signs."""
        self.url = ""
        self.asked: list[str] = []
        """Paths that were asked for."""
        self.document: dict[str, Any] = {}
        """What the discovery document says otherwise than it should; None leaves a field out."""
        self.more_keys: list[Any] = []
        """What the key set holds beside the keys."""
        self.broken: dict[str, Callable[[Handler], None]] = {}
        """What answers a path instead of the issuer."""
        self.said: dict[str, Any] = {}
        """Claims that the tokens of the code flow have beside, or instead of, theirs; None leaves one out."""
        self.says_itself = True
        self._codes: dict[str, _Code] = {}

    @property
    def secret_form(self) -> dict[str, Any]:
        return {"token_endpoint_auth_methods_supported": ["client_secret_post"]}

    def rotate(self, kind: str = "ES256", *, keep_old: bool = False) -> Key:
        """A new key signs from now on; the old one is published no longer, or still."""
        old = self.keys[:1] if keep_old else []
        self.keys = [new_key(kind), *old]
        return self.keys[0]

    def claims(self, person: Person, client: str, nonce: str = "", **more: Any) -> dict[str, Any]:
        """What an ID token says; None in `more` leaves a claim out."""
        now = int(time.time())
        said = {"iss": self.url, "sub": person.sub, "aud": client, "iat": now, "exp": now + 600, **person.claims}
        if nonce:
            said["nonce"] = nonce
        return {claim: value for claim, value in (said | more).items() if value is not None}

    def token(self, claims: dict[str, Any], key: Key | None = None, **header: Any) -> str:
        """An ID token of these claims, signed as the issuer does, or as nobody should; None in `header` leaves out."""
        used = key or self.keys[0]
        said = {"alg": used.get("alg"), "kid": used.kid, "typ": "JWT"} | header
        said = {name: value for name, value in said.items() if value is not None}
        signed = f"{encoded(said)}.{encoded(claims)}"
        algorithm = ANY.get_alg(header.get("alg") or used.get("alg"))
        return f"{signed}.{encoded(algorithm.sign(signed.encode(), used))}"

    def id_token(self, person: Person, client: str, nonce: str = "", **more: Any) -> str:
        """A good ID token, as a kit on a device gets it."""
        return self.token(self.claims(person, client, nonce, **more))

    def sign_in(self, uri: str, who: str) -> dict[str, str]:
        """What the browser comes back with, once somebody has signed in at the page behind `uri`: the query."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(uri).query).items()}
        return self._authorized(asked, who)

    # ── What it answers ────────────────────────────────────────────────────────────────────────────────────────────

    def _discovery(self) -> dict[str, Any]:
        said = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256", "RS256", "EdDSA"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": self.says_itself,
            **self.document,
        }
        return {name: value for name, value in said.items() if value is not None}

    def _authorized(self, asked: dict[str, str], who: str) -> dict[str, str]:
        assert asked["response_type"] == "code" and "openid" in asked["scope"].split(), asked
        assert asked["client_id"] in self.clients and asked["redirect_uri"] in self.redirect_uris, asked
        assert asked["code_challenge_method"] == "S256" and len(asked["code_challenge"]) == 43, asked
        code = secrets.token_urlsafe(24)
        self._codes[code] = _Code(
            self.people[who], asked["client_id"], asked["redirect_uri"], asked["nonce"], asked["code_challenge"]
        )
        return {"code": code, "state": asked["state"]} | ({"iss": self.url} if self.says_itself else {})

    def exchange(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """What the token endpoint answers."""
        client, secret = form.get("client_id", ""), form.get("client_secret", "")
        if authorization.startswith("Basic "):
            client, secret = map(unquote, base64.b64decode(authorization[6:]).decode().split(":"))
        if self.clients.get(client) != secret and not self._signed(client, secret):
            return 401, {"error": "invalid_client"}
        code = self._codes.pop(form.get("code", ""), None)
        verifier = form.get("code_verifier", "")
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        if (
            code is None
            or form.get("grant_type") != "authorization_code"
            or code.client != client
            or code.redirect_uri != form.get("redirect_uri")
            or challenge != code.challenge
        ):
            return 400, {"error": "invalid_grant"}
        said = self.claims(code.person, client, code.nonce) | self.said
        token = self.token({claim: value for claim, value in said.items() if value is not None})
        return 200, {"access_token": secrets.token_hex(8), "token_type": "Bearer", "expires_in": 600, "id_token": token}

    def _signed(self, client: str, secret: str) -> bool:
        """Whether `secret` is what Apple wants: a word that the client has signed with its key."""
        key = self.clients.get(client, "")
        if not key.startswith("-----BEGIN PUBLIC KEY"):
            return False
        token = jwt.decode(secret, ECKey.import_key(key), ["ES256"])
        now = time.time()
        good = {"aud": self.url, "sub": client, "iss": "TEAM"}
        assert token.header["kid"] == "KEY" and {c: token.claims[c] for c in good} == good, token.claims
        return bool(now - 60 < token.claims["iat"] <= token.claims["exp"] < now + 15_777_000)

    def answer(self, request: Handler) -> None:
        """Answers one request."""
        url = urlsplit(request.path)
        self.asked.append(url.path)
        if url.path in self.broken:
            return self.broken[url.path](request)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/.well-known/openid-configuration":
            return reply(request, 200, self._discovery())
        if url.path == "/keys":
            public = [key.as_dict(private=False) for key in self.keys]
            return reply(request, 200, {"keys": [*public, *self.more_keys]})
        if url.path == "/token" and request.command == "POST":
            form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
            return reply(request, *self.exchange(form, request.headers.get("authorization", "")))
        if url.path == "/authorize" and "login" not in asked:
            fields = "".join(
                f'<input type="hidden" name="{html.escape(n)}" value="{html.escape(v)}">' for n, v in asked.items()
            )
            page = PAGE.format(fields=fields, hint=html.escape(asked.get("login_hint", "")))
            return reply(request, 200, page.encode(), "text/html; charset=utf-8")
        if url.path == "/authorize":
            back = asked["redirect_uri"]
            query = urlencode(self._authorized(asked, asked["login"]))
            request.send_response(302)
            request.send_header("location", f"{back}{'&' if '?' in back else '?'}{query}")
            request.end_headers()
            return None
        return reply(request, 404, {"error": "not_found"})


def reply(
    request: BaseHTTPRequestHandler, status: int, body: Any, kind: str = "application/json", **header: str
) -> None:
    """Answers a request."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request.send_response(status)
    request.send_header("content-type", kind)
    request.send_header("content-length", str(len(data)))
    for name, value in header.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    issuer: Issuer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    body = b""

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.issuer.answer(self)

    do_POST = do_GET  # noqa: N815 - http.server names it

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nobody reads it."""


@contextmanager
def running(issuer: Issuer, *, port: int = 0, certificate: tuple[Path, Path] | None = None) -> Iterator[Issuer]:
    """Serves until the block ends; with a certificate and its key, over TLS."""
    server = _Server(("127.0.0.1", port), Handler)
    server.issuer = issuer
    issuer.url = f"http://127.0.0.1:{server.server_address[1]}"
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        issuer.url = f"https://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Everybody(dict[str, Person]):
    """Whoever is named has an account, with an address that is verified."""

    def __missing__(self, who: str) -> Person:
        email = who if "@" in who else f"{who}@example.com"
        self[who] = Person(who, {"email": email, "email_verified": True, "name": who})
        return self[who]


def main() -> None:
    """One issuer, until Ctrl-C."""
    back = "http://localhost:5173/signed-in"
    issuer = Issuer({"web": ""}, [back])
    issuer.people = _Everybody()
    with running(issuer, port=int(sys.argv[1]) if len(sys.argv) > 1 else 0):
        told = {
            "id": "local",
            "issuer": issuer.url,
            "client_ids": ["web"],
            "redirect_uris": [back],
            "trust_email": True,
        }
        print(f"TRANSOM_OIDC='{json.dumps([told])}'", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
