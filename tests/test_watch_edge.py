"""Watch over REST, through the real edge, on the whole system: what a web page meets."""

from __future__ import annotations

import json
import os
import secrets
import signal
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest
from edge_ground import eventually
from people import Person, signed_in
from transom.data.v1 import data_pb2
from transom.events.v1 import change_pb2

from deploy.native.stack import Stack

WATCH = "/transom/v1/data:watch"
INSPECTION = "inspect.v1.Inspection"


def person(stack: Stack) -> Person:
    """One of the example, in a session of her own."""
    return signed_in(stack, "ines@example.com", "inspect-ines")


@pytest.fixture(scope="module")
def ines(stack: Stack) -> Person:
    return person(stack)


@pytest.fixture(scope="module")
def site(stack: Stack, ines: Person) -> str:
    """A site without inspections."""
    id = f"watched-{secrets.token_hex(4)}"
    body = {"displayName": "Watched", "timeZone": "Europe/Vienna"}
    made = httpx.post(f"{stack.edge}/v1/sites?site_id={id}", json=body, headers=bearer(ines), timeout=20)
    assert made.status_code == 200, made.text
    return f"sites/{id}"


def bearer(who: Person) -> dict[str, str]:
    return {"authorization": f"Bearer {who.token}"}


def inspect(stack: Stack, who: Person, site: str, id: str) -> None:
    """Makes an inspection, however often a server dies over it."""
    while True:
        url = f"{stack.edge}/v1/{site}/inspections?inspection_id={id}"
        answer = httpx.post(url, json={"inspector": who.name, "title": id}, headers=bearer(who), timeout=20)
        if answer.status_code in (200, 409):
            return
        assert answer.status_code == 503, answer.text


@contextmanager
def watching(stack: Stack, who: Person, site: str, last: str = "", **params: str) -> Iterator[Iterator[dict[str, Any]]]:
    """Events as an EventSource reads them: each message, with the id of its event."""
    headers = {**bearer(who), "accept": "text/event-stream", **({"last-event-id": last} if last else {})}
    asked = {"type": INSPECTION, "parent": site, **params}
    with httpx.stream("GET", stack.edge + WATCH, params=asked, headers=headers, timeout=30) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")

        def events() -> Iterator[dict[str, Any]]:
            id = last
            for line in answer.iter_lines():
                if line.startswith("id:"):
                    id = line.removeprefix("id:").lstrip()
                elif line.startswith("data: "):
                    yield {"id": id, **json.loads(line.removeprefix("data: "))}

        yield events()


def carrying(stack: Stack) -> list[str]:
    """The servers that have a watch of inspections under way."""
    found = []
    for server in stack.api_servers:
        url = f"http://127.0.0.1:{stack.ports[f'{server}-metrics']}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        if any(
            line.startswith("transom_watches{") and INSPECTION in line and not line.endswith(" 0.0") for line in lines
        ):
            found.append(server)
    return found


def test_a_stream_goes_on_at_another_server_without_gap_or_double_when_its_own_is_killed(
    stack: Stack, ines: Person, site: str
) -> None:
    told: list[str] = []
    opened, killed = 0, threading.Event()
    ids = [f"i{number:02}" for number in range(20)]

    def write() -> None:
        for number, id in enumerate(ids):
            inspect(stack, ines, site, id)
            if number == 8:
                killed.wait(30)

    pool = ThreadPoolExecutor(1)
    writing: Future[None] | None = None
    last = ""
    while len(told) < len(ids):
        opened += 1
        try:
            with watching(stack, ines, site, last) as events:
                for event in events:
                    last = event["id"]
                    if event.get("synced") and opened == 1:
                        writing = pool.submit(write)
                    assert writing is None or not writing.done() or writing.exception() is None
                    if event["change"] != "CHANGE_UNSPECIFIED":
                        told.append(f"{event['change']} {event['name'].rpartition('/')[2]}")
                    if len(told) == 5 and opened == 1:
                        [server] = carrying(stack)
                        [pid] = [p["pid"] for p in stack.status()["processes"] if p["name"] == server]
                        os.kill(pid, signal.SIGKILL)
                        killed.set()
                    if len(told) == len(ids):
                        break
        except httpx.TransportError:
            continue  # as an EventSource does
    pool.shutdown()
    assert told == [f"CREATED {id}" for id in ids]
    assert opened == 2


def test_what_is_kept_no_more_begins_anew_for_a_browser_and_is_refused_to_who_asks_for_it(
    stack: Stack, ines: Person, site: str
) -> None:
    inspect(stack, ines, site, "kept")
    with watching(stack, ines, site) as events:
        token = next(event["id"] for event in events if event.get("synced"))
    inspect(stack, ines, site, "next")
    with watching(stack, ines, site, token) as events:
        assert next(events)["name"] == f"{site}/inspections/next"
    with psycopg.connect(stack.env["TRANSOM_POSTGRES"], autocommit=True) as database:
        eventually(
            lambda: database.execute("select numbered from transom.relay where numbered > trimmed").rowcount == 1
        )
        [before] = database.execute("select trimmed from transom.relay").fetchone() or [0]
        database.execute("update transom.relay set trimmed = numbered")
        try:
            with watching(stack, ines, site, token) as events:
                assert [next(events)["change"] for _ in range(2)] == ["RESET", "CURRENT"]
            asked = {"type": INSPECTION, "parent": site, "resume_token": token}
            refused = httpx.get(stack.edge + WATCH, params=asked, headers=bearer(ines), timeout=20)
        finally:
            database.execute("update transom.relay set trimmed = %s", [before])
    assert (refused.status_code, refused.json()["error"]["status"]) == (400, "OUT_OF_RANGE")
    assert refused.json()["error"]["details"][0]["reason"] == "RESUME_TOKEN_EXPIRED"


def frames(answer: httpx.Response) -> Iterator[tuple[int, bytes]]:
    """The frames of a gRPC-Web answer as they come: flag and data."""
    rest = b""
    for part in answer.iter_raw():
        rest += part
        while len(rest) >= 5 and len(rest) >= 5 + (length := int.from_bytes(rest[1:5], "big")):
            yield rest[0], rest[5 : 5 + length]
            rest = rest[5 + length :]


def test_grpc_web_is_told_as_it_happens_and_why_it_ends(stack: Stack, site: str) -> None:
    own = person(stack)
    request = data_pb2.WatchRequest(type=INSPECTION, parent=site).SerializeToString()
    kind = "application/grpc-web+proto"
    headers = {**bearer(own), "content-type": kind, "accept": kind, "x-grpc-web": "1"}
    body = b"\0" + len(request).to_bytes(4, "big") + request
    url = f"{stack.edge}/transom.data.v1.DataService/Watch"
    with httpx.stream("POST", url, content=body, headers=headers, timeout=30) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        told = frames(answer)
        messages = (data_pb2.WatchResponse.FromString(data) for flag, data in told)
        token = next(message.resume_token for message in messages if message.synced)
        inspect(stack, own, site, "on-the-web")
        message = next(message for message in messages if message.change)
        assert (message.name, message.change) == (f"{site}/inspections/on-the-web", change_pb2.CREATED)
        assert message.resume_token not in ("", token)
        out = httpx.post(f"{stack.edge}/transom/v1/accounts:signOut", json={}, headers=bearer(own), timeout=20)
        assert out.status_code == 200, out.text
        flag, trailers = next(told)
    assert flag & 0x80
    assert b"grpc-status:16" in trailers.replace(b" ", b"")


def test_why_a_stream_ends_is_its_last_message(stack: Stack, site: str) -> None:
    own = person(stack)
    headers = {**bearer(own), "accept": "application/x-ndjson"}
    asked = {"type": INSPECTION, "parent": site}
    with httpx.stream("GET", stack.edge + WATCH, params=asked, headers=headers, timeout=30) as answer:
        lines = answer.iter_lines()
        while not json.loads(next(lines)).get("synced"):
            pass
        out = httpx.post(f"{stack.edge}/transom/v1/accounts:signOut", json={}, headers=bearer(own), timeout=20)
        assert out.status_code == 200, out.text
        *_, message = [json.loads(line) for line in lines]
    assert message["error"]["code"] == 16
    assert message["error"]["details"][0]["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
