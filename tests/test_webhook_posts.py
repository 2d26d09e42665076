"""Where webhooks may be posted to, and how long they may take: what strangers' names and answers do."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from consumers_ground import asynchronous
from webhooks_ground import LOOPBACK, Receiver

from server.store.webhook_posts import READ_MAX, SNIPPET, WebhookPosts, may_reach, retry_after


@pytest.mark.parametrize(
    ("address", "may"),
    [
        ("93.184.216.34", True), ("2606:4700::1111", True),
        ("127.0.0.1", False), ("10.0.0.1", False), ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False),
        ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("255.255.255.255", False), ("198.18.0.1", False),
        ("::1", False), ("::", False), ("fe80::1%eth0", False), ("fd00:ec2::254", False), ("ff02::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:169.254.169.254", False), ("64:ff9b::7f00:1", False), ("64:ff9b::808:808", True),
        ("64:ff9b:1::808:808", False), ("fec0::1", False), ("2002:7f00:1::", False),
        ("::127.0.0.1", False), ("nonsense", False), ("192.0.0.170", False), ("192.0.2.1", False), ("240.0.0.1", False),
        ("::ffff:0:7f00:1", False), ("64:ff9b::a9fe:a9fe", False), ("2001::f5ff:fffe", False), ("2001:db8::1", False),
        ("fe80::5efe:7f00:1", False), ("2002:a9fe:a9fe::1", False), ("::ffff:8.8.8.8", False),
    ],
)  # fmt: skip
def test_only_public_addresses_are_posted_to(address: str, may: bool) -> None:
    assert may_reach(address, ()) is may


@asynchronous
async def test_nothing_inside_is_reached_by_whatever_name() -> None:
    posts = WebhookPosts(())
    async with Receiver.open() as receiver:
        port = receiver.url.split(":")[2].split("/")[0]
        for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"):
            for scheme in ("http", "https"):
                answer = await posts.post(f"{scheme}://{host}:{port}/", {}, b"{}")
                assert answer.error in ("ADDRESS_NOT_ALLOWED", "NAME_UNKNOWN", "PROTOCOL_ERROR"), (host, answer)
        assert receiver.posts == [] and (await posts.post("https://nowhere.invalid/", {}, b"")).error == "NAME_UNKNOWN"
        allowed = WebhookPosts(LOOPBACK)
        assert (await allowed.post(receiver.url.replace("http", "https"), {}, b"{}")).error in (
            "TLS_FAILED",
            "CONNECTION_FAILED",
        )
        await allowed.aclose()
    await posts.aclose()


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("certificate")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    made += [
        "-subj",
        "/CN=good.test",
        "-addext",
        "subjectAltName=DNS:good.test",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(made, check=True, capture_output=True)
    return key, certificate


@asynchronous
async def test_the_name_is_proved_by_its_certificate_and_its_address_is_the_one_that_was_checked(
    certified: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = certified
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(certificate, key)
    asked: list[str | None] = []
    theirs.sni_callback = lambda _, name, __: asked.append(name)

    async def hear_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        writer.write(b"HTTP/1.1 204 X\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hear_one, "127.0.0.1", 0, ssl=theirs)
    port = server.sockets[0].getsockname()[1]
    looked_up: list[str] = []
    leads: dict[str, list[str]] = {
        "good.test": ["127.0.0.1"],
        "other.test": ["127.0.0.1"],
        "mixed.test": ["127.0.0.1", "10.0.0.1"],
    }
    real = socket.getaddrinfo

    def names(host: Any, *given: Any, **more: Any) -> Any:
        if host not in leads:
            return real(host, *given, **more)
        looked_up.append(host)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in leads[host]]
        leads[host] = ["10.0.0.1"]  # from now on it leads elsewhere
        return found

    monkeypatch.setattr(socket, "getaddrinfo", names)
    trusting = WebhookPosts(LOOPBACK, seconds=5, tls=ssl.create_default_context(cafile=str(certificate)))
    strict = WebhookPosts(LOOPBACK, seconds=5)
    try:
        assert (await trusting.post(f"https://good.test:{port}/", {}, b"{}")).code == 204
        assert (
            looked_up == ["good.test"] and asked[0] == "good.test" and f"host: good.test:{port}\r\n" in (asked[1] or "")
        )
        assert (await trusting.post(f"https://good.test:{port}/", {}, b"{}")).error == "ADDRESS_NOT_ALLOWED"
        assert (await trusting.post(f"https://other.test:{port}/", {}, b"{}")).error == "TLS_FAILED"
        assert (await trusting.post(f"https://mixed.test:{port}/", {}, b"{}")).error == "ADDRESS_NOT_ALLOWED"
        leads["good.test"] = ["127.0.0.1"]
        assert (await strict.post(f"https://good.test:{port}/", {}, b"{}")).error == "TLS_FAILED"
    finally:
        await trusting.aclose()
        await strict.aclose()
        server.close()


@asynccontextmanager
async def hostile(told: bytes, drip: bytes = b"") -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers a post with this, and then with the drip, until nobody listens; its URL, and what it was sent."""
    sent: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            sent.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(told)
            while drip:
                writer.write(drip)
                await writer.drain()
                await asyncio.sleep(0.01)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook", sent
    finally:
        server.close()


OK = b"HTTP/1.1 200 OK\r\n"
HOSTILE = {
    "a head that never ends, byte by byte": (b"HTTP/1.1 200 OK\r\nx-slow: ", b"a", (0, "TIMEOUT")),
    "a head without bounds": (OK + b"x-long: ", b"a" * 300_000, (0, "PROTOCOL_ERROR")),
    "nothing but that something comes": (b"", b"HTTP/1.1 102 Processing\r\n\r\n", (0, "TIMEOUT")),
    "a body that never ends, byte by byte": (OK + b"transfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n", (200, "")),
    "a body without bounds": (OK + b"content-length: 99999999999\r\n\r\n", b"a" * 300_000, (200, "")),
    "a body shorter than it says": (OK + b"content-length: 10\r\n\r\nab", b"", (200, "")),
    "what is not HTTP": (b"220 mail.example.com ESMTP\r\n", b"", (0, "PROTOCOL_ERROR")),
    "nothing": (b"", b"", (0, "PROTOCOL_ERROR")),
    "somewhere else": (b"HTTP/1.1 307 X\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n", b"", (307, "")),
}


@pytest.mark.parametrize("told", HOSTILE)
@asynchronous
async def test_whatever_is_answered_is_read_within_bounds(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A proxy of the environment would look names up by itself, unchecked: there is none for webhooks.
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    first, drip, expected = HOSTILE[told]
    posts = WebhookPosts(LOOPBACK, seconds=0.4)
    async with hostile(first, drip) as (url, sent):
        answer = await posts.post(url, {"webhook-id": "evt_1"}, b"{}")
        assert (answer.code, answer.error) == expected
        assert len(sent) == 1 and len(answer.said.encode()) <= SNIPPET < READ_MAX
    await posts.aclose()


def test_retry_after_is_read_as_a_number_or_a_date_and_nothing_else() -> None:
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    assert 0 < (retry_after(later) or 0) <= 100
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert [retry_after(one) for one in ("7", "0", "-7", "1e9", "soon", "", "9" * 30, "\u0663")] == [7, 0, *[None] * 6]
