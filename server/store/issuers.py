"""OpenID Connect issuers, asked over HTTP: what they say of themselves, their keys, and tokens for codes. The one place
that knows httpx.

What an issuer says is kept. It is asked again when that is no longer fresh, and at once for a key that is not known yet,
but not again and again: whoever brings invented key ids cannot make us ask more than once in AGAIN seconds. While an
issuer does not answer, what it said last holds for KEPT seconds: a key that it has withdrawn meanwhile, too.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import orjson

from server.errors import Unauthenticated, Unavailable
from server.providers import safe
from server.store.breaker import Breaker
from server.store.key_sets import PublicKey, public_keys

FRESH = 600.0
"""Seconds an issuer's answers are used without asking again, unless the settings say otherwise: how long a key that it
has withdrawn is still good here."""

KEPT = 3600.0
"""Seconds they are used while it does not answer."""

AGAIN = 5.0
"""Seconds between two questions for a key that is not known."""

PAUSE = 2.0
"""Seconds an issuer that failed is left alone."""

LONGEST = 5.0
"""Seconds one question may take, from the connection to the last byte."""

BYTES = 256 << 10
"""Largest answer."""

CONNECTIONS = 20
"""To all issuers together."""


class CodeRefused(Unauthenticated):
    """The issuer takes no (or no longer) this code."""

    reason = "CODE_REFUSED"


@dataclass(frozen=True, slots=True)
class Issuer:
    """What an issuer says of itself (OpenID Connect Discovery 1.0), and its keys."""

    name: str
    authorization_endpoint: str
    """Where people sign in; empty where it has none."""
    token_endpoint: str
    """Where a code becomes a token; empty where it has none."""
    basic: bool
    """Whether a client's secret goes into the header, rather than into the form."""
    says_itself: bool
    """Whether it names itself where it sends people back to (RFC 9207)."""
    keys: tuple[PublicKey, ...]

    def has(self, kid: str) -> bool:
        """Whether it has a key with this id."""
        return any(key.kid == kid for key in self.keys)


class _Unusable(Exception):
    """An answer that is not what it should be."""


class _Asked:
    """One issuer, and the question to it that is under way."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.said: Issuer | None = None
        self.time = 0.0
        self.breaker = Breaker(PAUSE, clock)
        self.under_way: asyncio.Task[None] | None = None


class Issuers:
    """Asks issuers, and remembers what they said. `ca` is a file of certificates that are trusted beside the well-known
    ones. Which issuers there are, the caller bounds: it asks for those of the settings only."""

    def __init__(
        self, *, ca: Path | None = None, fresh: float = FRESH, clock: Callable[[], float] = time.monotonic
    ) -> None:
        trusted = httpx.create_ssl_context(trust_env=False)
        trusted.minimum_version = ssl.TLSVersion.TLSv1_2
        if ca is not None:
            trusted.load_verify_locations(ca)
        self._http = httpx.AsyncClient(
            verify=trusted,
            trust_env=False,  # the settings alone say what this process does
            follow_redirects=False,
            timeout=LONGEST,
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=4, keepalive_expiry=30),
            headers={"accept": "application/json", "accept-encoding": "identity", "user-agent": "transom"},
        )
        self._fresh = fresh
        self._clock = clock
        self._asked: dict[str, _Asked] = {}

    async def aclose(self) -> None:
        """Ends what is under way, and the connections."""
        under_way = [asked.under_way for asked in self._asked.values() if asked.under_way is not None]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._http.aclose()

    async def issuer(self, name: str, kid: str = "") -> Issuer:
        """The issuer called `name`, as it is now or was at most FRESH seconds ago (KEPT, while it does not answer).

        Where it has no key `kid` as far as is known, it is asked again first, if that was not done just now. Raises
        Unavailable (ISSUER_UNAVAILABLE) where it does not answer as it should: also where it is away and only it could
        say whether it has that key.
        """
        asked = self._asked.setdefault(name, _Asked(self._clock))
        said = asked.said
        age = self._clock() - asked.time
        if said is not None and age < self._fresh and (not kid or said.has(kid) or age < AGAIN):
            return said
        try:
            return await self._renewed(name, asked)
        except Unavailable:
            if said is None or age >= KEPT or (kid and not said.has(kid)):
                raise
            return said

    async def exchange(self, issuer: Issuer, form: Mapping[str, str], client_id: str, client_secret: str) -> str:
        """The ID token that the issuer gives for what `form` holds (RFC 6749, 4.1.3), serialized. It is not checked.

        Asked once: a code is good for one question. Raises CodeRefused where the issuer takes no such code,
        Unavailable where it does not answer as it should.
        """
        said = {**form, "client_id": client_id}
        headers = {}
        if client_secret and issuer.basic:
            del said["client_id"]
            both = f"{quote(client_id, safe='')}:{quote(client_secret, safe='')}"  # encoded first (RFC 6749, 2.3.1)
            headers["authorization"] = f"Basic {base64.b64encode(both.encode()).decode()}"
        elif client_secret:
            said["client_secret"] = client_secret
        with _translated(issuer.name):
            status, answer = await self._question("POST", issuer.token_endpoint, data=said, headers=headers)
            if status in (400, 401) and answer.get("error") == "invalid_grant":
                raise CodeRefused("The issuer takes no such code, or no longer; start anew.")
            token = answer.get("id_token")
            if status != 200 or not isinstance(token, str):
                raise _Unusable(f"the token endpoint answered {status}, {str(answer.get('error', 'no error'))[:50]!r}")
            return token

    async def _renewed(self, name: str, asked: _Asked) -> Issuer:
        """What the issuer says now. However many ask, it is asked once; who goes away leaves the question to the others."""
        if asked.under_way is None or asked.under_way.done():
            if asked.breaker.open:
                raise _away(name)
            asked.under_way = asyncio.create_task(self._renew(name, asked))
            asked.under_way.add_done_callback(
                lambda task: task.cancelled() or task.exception()
            )  # seen, if all went away
        await asyncio.shield(asked.under_way)
        assert asked.said is not None  # else the question raised
        return asked.said

    async def _renew(self, name: str, asked: _Asked) -> None:
        began = self._clock()
        try:
            with _translated(name):
                asked.said, asked.time = await self._look(name), began
        except Unavailable:
            asked.breaker.failed()
            raise

    async def _look(self, name: str) -> Issuer:
        document = await self._document(f"{name.removesuffix('/')}/.well-known/openid-configuration")
        if document.get("issuer") != name:
            raise _Unusable("its discovery document names another issuer")
        keys = public_keys(await self._document(_endpoint(document, "jwks_uri", name)))
        if not keys:
            raise _Unusable("it has no key that a signature can be checked with")
        methods = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        challenges = document.get("code_challenge_methods_supported", ["S256"])  # many know PKCE and do not say so
        codes = isinstance(challenges, list) and "S256" in challenges and "token_endpoint" in document
        return Issuer(
            name,
            _endpoint(document, "authorization_endpoint", name) if codes else "",
            _endpoint(document, "token_endpoint", name) if codes else "",
            not isinstance(methods, list) or "client_secret_post" not in methods,
            document.get("authorization_response_iss_parameter_supported") is True,
            keys,
        )

    async def _document(self, url: str) -> dict[str, Any]:
        status, answer = await self._question("GET", url)
        if status != 200:
            raise _Unusable(f"a document answered {status}")
        return answer

    async def _question(self, method: str, url: str, **more: Any) -> tuple[int, dict[str, Any]]:
        """Status and JSON object of an answer. Redirects are not followed, and no more than BYTES is read."""
        body = bytearray()
        async with asyncio.timeout(LONGEST), self._http.stream(method, url, **more) as answer:
            async for part in answer.aiter_raw():  # as it came: nothing is unpacked, however small it was packed
                body += part
                if len(body) > BYTES:
                    raise _Unusable(f"an answer has more than {BYTES} bytes")
        try:
            said = orjson.loads(body)
        except orjson.JSONDecodeError as fault:
            raise _Unusable(f"an answer ({answer.status_code}) is no JSON") from fault
        if not isinstance(said, dict):
            raise _Unusable(f"an answer ({answer.status_code}) is no JSON object")
        return answer.status_code, said


def _endpoint(document: Mapping[str, Any], field: str, name: str) -> str:
    """A URL of a discovery document: no less protected than the issuer itself, which may be this very machine."""
    url = document.get(field)
    if not isinstance(url, str) or len(url) > 2048 or not safe(url):
        raise _Unusable(f"its {field} is no safe URL")
    if urlsplit(url).scheme != "https" and urlsplit(name).scheme == "https":
        raise _Unusable(f"its {field} leaves the protection of TLS")
    return url


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Speaks our errors in place of httpx's and the answer's."""
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, _Unusable) as fault:
        raise _away(name) from fault


def _away(name: str) -> Unavailable:
    return Unavailable(
        "The issuer cannot be asked for now.",
        reason="ISSUER_UNAVAILABLE",
        metadata={"issuer": name},
        retry_after=PAUSE,
    )
