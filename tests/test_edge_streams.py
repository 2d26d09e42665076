"""Streams through the edge, as those who read them meet them: browsers' EventSource and fetch, lines of JSON, gRPC-Web."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from browser_ground import chromium, page_at
from edge_ground import SERVICE, Edge, Protos, eventually, running
from playwright.sync_api import Page


@pytest.fixture(scope="module")
def protos() -> Protos:
    return Protos.compiled()


@pytest.fixture(scope="module")
def edge(protos: Protos, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with running(protos, tmp_path_factory.mktemp("edge"), servers=4) as edge:
        yield edge


@pytest.fixture(scope="module")
def page(edge: Edge) -> Iterator[Page]:
    """A page of the edge's own origin."""
    with chromium() as browser:
        yield page_at(browser, f"http://127.0.0.1:{edge.port}/page")


@contextmanager
def reading(edge: Edge, path: str, **headers: str) -> Iterator[http.client.HTTPResponse]:
    """An answer that is read as it comes."""
    connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=15)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    try:
        yield connection.getresponse()
    finally:
        connection.close()


def lines(answer: http.client.HTTPResponse, count: int) -> list[str]:
    """The next lines."""
    return [answer.readline().decode().rstrip("\n") for _ in range(count)]


def test_each_message_is_an_event_as_it_comes_and_its_token_the_events_id(edge: Edge) -> None:
    with reading(edge, "/v1/things/a:follow?count=9&pause_ms=5000", accept_encoding="gzip") as answer:
        assert answer.getheader("content-type") == "text/event-stream"
        assert answer.getheader("cache-control") == "no-cache, no-transform"
        assert answer.getheader("content-encoding") is None
        assert answer.getheader("x-edge-stream") is None
        retry, _, token, data, end = lines(answer, 5)
    assert (token, end) == ("id: 0", "")
    assert 500 <= int(retry.removeprefix("retry: ")) <= 2000
    assert json.loads(data.removeprefix("data: "))["resumeToken"] == "0"


def test_what_only_looks_like_a_token_is_none_and_large_messages_arrive_whole(edge: Edge) -> None:
    with reading(edge, "/v1/things/tricky:follow?count=2") as answer:
        lines(answer, 2)
        for number in range(2):
            token, data, _ = lines(answer, 3)
            message = json.loads(data.removeprefix("data: "))
            assert token == f"id: {number}"
            assert (message["metadata"]["resumeToken"], len(message["text"])) == ("deeper", 300_030)


def test_a_browser_forgets_its_id_while_a_first_state_is_told(edge: Edge) -> None:
    """Else it would go on after what it has thrown away."""
    with reading(edge, "/v1/things/first:follow?count=1") as answer:
        assert lines(answer, 3)[2] == "id:"


@pytest.mark.parametrize("accept", ["application/x-ndjson", "application/jsonl, */*;q=0.1"])
def test_who_accepts_lines_gets_a_line_for_each_message_as_it_comes(accept: str, edge: Edge) -> None:
    with reading(edge, "/v1/things/a:follow?count=9&pause_ms=5000", accept=accept, accept_encoding="gzip") as answer:
        assert answer.getheader("content-type") == "application/x-ndjson"
        assert answer.getheader("content-encoding") is None
        assert json.loads(answer.readline())["text"] == "0"


def test_what_does_not_stream_is_as_ever_whatever_is_accepted(edge: Edge) -> None:
    for accept in ("application/x-ndjson", "text/event-stream"):
        assert edge.rest("GET", "/v1/things/1", accept=accept).json["name"] == "things/1"
        assert edge.rest("GET", "/v1/things/missing:follow", accept=accept).reason == "NOT_FOUND"


def test_a_browser_is_told_as_an_event_what_it_may_try_again(edge: Edge) -> None:
    told = edge.rest("GET", "/v1/things/away:follow", accept="text/event-stream")
    retry, data = told.body.decode().split("\n")[:2]
    assert (told.status, told.headers["content-type"]) == (200, "text/event-stream")
    assert int(retry.removeprefix("retry: ")) >= 500
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == 14
    assert edge.rest("GET", "/v1/things/away:follow", accept="application/x-ndjson").status == 503


def test_a_stream_whose_server_has_said_nothing_yet_begins_at_another(edge: Edge) -> None:
    with reading(edge, "/v1/things/away-once.follow:follow?count=1") as answer:
        assert answer.status == 200
        assert json.loads(lines(answer, 4)[3].removeprefix("data: "))["text"] == "0"
    assert len(edge.attempts("things/away-once.follow")) == 2


FOLLOW = """path => {
  window.got = [];
  const source = new EventSource(path);
  source.onmessage = event => window.got.push({id: event.lastEventId, ...JSON.parse(event.data)});
  source.addEventListener("open", () => window.opened = (window.opened || 0) + 1);
  window.source = source;
}"""


def test_a_browser_goes_on_where_it_was_when_a_server_dies(edge: Edge, page: Page) -> None:
    page.evaluate(FOLLOW, f"http://127.0.0.1:{edge.port}/v1/things/b:follow?count=30&pause_ms=60")
    page.wait_for_function("window.got.length > 3")
    first = page.evaluate("window.got[0].server")
    edge.kill(first)
    page.wait_for_function("window.got.length >= 30")
    got = page.evaluate("window.source.close(), window.got")
    assert [int(message["id"]) for message in got] == list(range(30)), "no gap, nothing twice"
    assert first not in {message["server"] for message in got[-10:]}
    assert page.evaluate("window.opened") == 2


OVER_GRPC_WEB = """async ([url, frame]) => {
  const answer = await fetch(url, {method: "POST", body: new Uint8Array(frame),
    headers: {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}});
  const reader = answer.body.getReader();
  const first = (await reader.read()).value;
  await reader.cancel();
  return Array.from(first);
}"""


def test_grpc_web_streams_in_a_browser(edge: Edge, page: Page, protos: Protos) -> None:
    request = protos.message("FollowThingRequest", name="things/c", count=9, pause_ms=5000).SerializeToString()
    frame = bytes([0]) + len(request).to_bytes(4, "big") + request
    url = f"http://127.0.0.1:{edge.port}{SERVICE}/FollowThing"
    first = bytes(page.evaluate(OVER_GRPC_WEB, [url, list(frame)]))
    length = int.from_bytes(first[1:5], "big")
    assert type(protos.message("Thing")).FromString(first[5 : 5 + length]).text == "0"
    eventually(lambda: edge.attempts("things/c") != [])
