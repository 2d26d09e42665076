"""The edge, as clients meet it: real Envoy, real servers behind it. What it promises is in docs/edge.md."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from edge_ground import SERVICE, Answer, Edge, Protos, eventually, running
from edge_server import WORDY
from google.rpc.code_pb2 import Code
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

INFO = "type.googleapis.com/google.rpc.ErrorInfo"


@pytest.fixture(scope="module")
def protos() -> Protos:
    return Protos.compiled()


@pytest.fixture(scope="module")
def edge(protos: Protos, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """For tests that do no harm. A call that does not stream has a second."""
    with running(protos, tmp_path_factory.mktemp("edge"), deadline=1) as edge:
        yield edge


@pytest.fixture(scope="module")
def deserted(protos: Protos, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """An edge without any server."""
    with running(protos, tmp_path_factory.mktemp("deserted"), servers=0) as edge:
        yield edge


@pytest.fixture(scope="module")
def frail(protos: Protos, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """For tests that end servers; each test ends one of many, so that all can share it."""
    with running(protos, tmp_path_factory.mktemp("frail"), servers=6, deadline=10) as edge:
        yield edge


# ── Refusals: one shape, whoever refuses and by whichever road ──────────────────────────────────────────────────────
@dataclass(frozen=True)
class Refusal:
    """A row of the table: a get of `thing`, or a create with so much text; what is said of it."""

    title: str
    http: int
    code: grpc.StatusCode
    reason: str | None
    thing: str = "1"
    text: int = 0
    deserted: bool = False


REFUSALS = [
    Refusal("a server's refusal, with its details", 404, grpc.StatusCode.NOT_FOUND, "NOT_FOUND", thing="missing"),
    Refusal("every server is unable", 503, grpc.StatusCode.UNAVAILABLE, None, thing="away"),
    Refusal("no answer in time", 504, grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", thing="never"),
    Refusal("too large", 413, grpc.StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE", text=1_100_000),
    Refusal("nobody there", 503, grpc.StatusCode.UNAVAILABLE, "NO_SERVER", deserted=True),
]


@pytest.mark.parametrize("row", REFUSALS, ids=lambda r: r.title)
def test_a_refusal_reads_alike_over_every_road(row: Refusal, edge: Edge, deserted: Edge, protos: Protos) -> None:
    asked = deserted if row.deserted else edge
    if row.text:
        thing = {"text": "x" * row.text}
        request = protos.message("CreateThingRequest", thing=thing, thing_id="a")
        status, roads = asked.refusals("POST", "/v1/things?thing_id=a", thing, "CreateThing", request)
    else:
        name = f"things/{row.thing}"
        request = protos.message("GetThingRequest", name=name)
        status, roads = asked.refusals("GET", f"/v1/{name}", None, "GetThing", request)
    assert status == row.http
    assert set(roads) == {"REST", "gRPC", "gRPC-Web"}
    said = roads["REST"]
    assert roads["gRPC"] == said
    assert roads["gRPC-Web"] == said
    assert said.status == row.code.name
    if row.reason:
        info = json.loads(said.details[0])
        assert (info["@type"], info["reason"], info["domain"]) == (INFO, row.reason, "transom.dev")


@dataclass(frozen=True)
class Bad:
    """A row of the table: a request that the edge itself refuses, over REST alone."""

    title: str
    method: str
    path: str
    status: int
    reason: str
    body: Any = None
    kind: str | None = None
    says: str = ""


BAD = [
    Bad("an unknown path", "GET", "/v1/nothings", 404, "UNKNOWN_PATH"),
    Bad("a known path, another method", "PUT", "/v1/things/a", 404, "UNKNOWN_PATH"),
    Bad("a path of gRPC, as JSON", "POST", f"{SERVICE}/GetThing", 404, "UNKNOWN_PATH", {"name": "things/1"}),
    Bad("an unknown query parameter", "GET", "/v1/things?colour=red", 400, "MALFORMED_REQUEST", says='"colour"'),
    Bad("a number that is none", "GET", "/v1/things?page_size=many", 400, "MALFORMED_REQUEST", says="page_size"),
    Bad("half a body", "POST", "/v1/things?thing_id=a", 400, "MALFORMED_REQUEST", b'{"text":', "application/json"),
    Bad("a body that is no JSON", "POST", "/v1/things?thing_id=a", 415, "UNSUPPORTED_CONTENT_TYPE", b"a=1", "text/css"),
    Bad("a name in the body, another in the path", "PATCH", "/v1/things/a", 400, "MALFORMED_REQUEST", {"name": "b"}),
    Bad("headers without end", "GET", "/v1/things?page_token=" + "x" * 20_000, 431, "HEADERS_TOO_LARGE"),
]  # fmt: skip


@pytest.mark.parametrize("row", BAD, ids=lambda r: r.title)
def test_a_bad_request_is_explained_as_json(row: Bad, edge: Edge) -> None:
    answer = edge.rest(row.method, row.path, row.body, **({"content-type": row.kind} if row.kind else {}))
    assert (answer.status, answer.reason) == (row.status, row.reason)
    assert answer.error["details"][0]["domain"] == "transom.dev"
    assert row.says in answer.error["message"]


def test_whoever_may_try_again_is_told_when(deserted: Edge) -> None:
    answer = deserted.rest("GET", "/v1/things/1")
    assert answer.headers["retry-after"] == "1"
    assert {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"} in answer.error["details"]


@pytest.mark.parametrize("code", [*range(1, 17), 99])
def test_every_code_has_its_name(code: int, edge: Edge) -> None:
    error = edge.rest("POST", f"/v1/things?thing_id=refused.{code}", {}).error
    assert error["status"] == (Code.Name(code) if code in Code.values() else "UNKNOWN")
    assert (error["message"], error["details"]) == (f"No. {code}", [])


def test_what_a_server_says_is_not_altered(edge: Edge) -> None:
    answer = edge.rest("GET", "/v1/things/wordy")
    assert answer.error["message"] == WORDY
    [info] = answer.error["details"]
    assert info == {"@type": INFO, "reason": "WORDY", "domain": "", "metadata": {"words": WORDY + "\1" * 15_000}}
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert len(answer.body) > 65_536
    packed = edge.rest("GET", "/v1/things/wordy", accept_encoding="gzip")
    assert (packed.status, packed.headers["content-encoding"]) == (answer.status, "gzip")
    assert gzip.decompress(packed.body) == answer.body


def test_what_succeeds_is_not_altered_even_if_it_looks_like_a_refusal(edge: Edge) -> None:
    looks = '{"code":5,"message":"no","details":[]}'
    assert edge.rest("POST", "/v1/things?thing_id=a", {"text": looks}).json["text"] == looks


def test_a_method_nobody_knows_is_unimplemented(edge: Edge) -> None:
    with edge.channel() as channel, pytest.raises(grpc.RpcError) as refusal:
        channel.unary_unary("/edge.v1.Nothing/Do")(b"", timeout=5)
    assert refusal.value.code() == grpc.StatusCode.UNIMPLEMENTED


# ── Translation ─────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("kind", ["1", "ROUND", "round"])
def test_an_enum_in_a_query_is_a_number_or_a_name(kind: str, edge: Edge) -> None:
    assert edge.rest("GET", f"/v1/things?kind={kind}&page_size=1").json["things"][0]["kind"] == "ROUND"


@pytest.mark.parametrize("query", ["page_size=2", "pageSize=2"])
def test_query_parameters_have_both_spellings(query: str, edge: Edge) -> None:
    assert len(edge.rest("GET", f"/v1/things?{query}").json["things"]) == 2


@pytest.mark.parametrize(
    "query", ["$alt=json;enum-encoding=int", "%24alt=json%3Benum-encoding%3Dint", "$.xgafv=1", "prettyPrint=false"]
)
def test_system_parameters_of_googles_clients_are_no_error(query: str, edge: Edge) -> None:
    assert edge.rest("GET", f"/v1/things?page_size=1&{query}").status == 200


def test_a_request_field_goes_before_a_system_parameter(edge: Edge) -> None:
    assert edge.rest("GET", "/v1/things?key=of+the+app").json["key"] == "of the app"


def test_fields_of_default_value_are_written(edge: Edge) -> None:
    thing = edge.rest("GET", "/v1/things/1").json
    assert (thing["text"], thing["kind"]) == ("", "KIND_UNSPECIFIED")


def test_a_delete_answers_an_empty_object(edge: Edge) -> None:
    assert edge.rest("DELETE", "/v1/things/1").json == {}


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
def test_grpc_web_is_served(text: bool, edge: Edge, protos: Protos) -> None:
    trailers, [message] = edge.web("GetThing", protos.message("GetThingRequest", name="things/1"), text=text)
    assert trailers["grpc-status"] == "0"
    assert type(protos.message("Thing")).FromString(message).name == "things/1"


def test_reflection_and_health_pass_through(edge: Edge) -> None:
    with edge.channel() as channel:
        reflect = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        [answer] = reflect(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5)
        assert SERVICE[1:] in [s.name for s in answer.list_services_response.service]
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        health = health_pb2.HealthCheckResponse.FromString(check(b"", timeout=5))
        assert health.status == health_pb2.HealthCheckResponse.SERVING


# ── Sizes and time ──────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_large_request_within_the_limit_arrives(edge: Edge, protos: Protos) -> None:
    thing = {"text": "x" * 1_000_000}
    request = protos.message("CreateThingRequest", thing=thing, thing_id="a")
    assert len(edge.rest("POST", "/v1/things?thing_id=a", thing).json["text"]) == 1_000_000
    assert len(edge.grpc("CreateThing", request).text) == 1_000_000
    assert len(edge.web("CreateThing", request)[1][0]) > 1_000_000


def test_a_large_answer_arrives(edge: Edge) -> None:
    answer = edge.rest("GET", "/v1/things?page_size=50000")
    assert len(answer.json["things"]) == 50_000
    assert len(answer.body) > 3_000_000


def test_no_answer_is_waited_for_beyond_the_deadline(edge: Edge) -> None:
    mark = f"late-{uuid.uuid4()}"
    assert edge.rest("GET", "/v1/things/never", x_request_id=mark).reason == "DEADLINE_EXCEEDED"
    eventually(lambda: any(line["request_id"] == mark for line in edge.logged()))
    [line] = [line for line in edge.logged() if line["request_id"] == mark]
    assert line["details"] == "response_timeout", "else it is the longer time for a call to arrive that has ended"


def test_a_request_must_arrive_in_time(edge: Edge) -> None:
    with socket.create_connection(("127.0.0.1", edge.port), timeout=15) as connection:
        connection.sendall(b"POST /v1/things?thing_id=a HTTP/1.1\r\nhost: edge\r\ncontent-length: 9\r\n")
        connection.sendall(b"content-type: application/json\r\n\r\n{")
        with http.client.HTTPResponse(connection) as response:
            response.begin()
            answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    assert (answer.status, answer.reason) == (408, "REQUEST_TOO_SLOW")


def test_a_stream_outlives_the_deadline_of_other_calls(edge: Edge, protos: Protos) -> None:
    request = protos.message("FollowThingRequest", name="things/1", count=3, pause_ms=1200)
    with edge.channel() as channel:
        follow = channel.unary_stream(f"{SERVICE}/FollowThing")
        over_grpc = follow(request.SerializeToString(), timeout=10)
        over_rest = edge.rest("GET", "/v1/things/1:follow?count=3&pause_ms=1200")
        assert len(list(over_grpc)) == 3
    assert over_rest.headers["content-type"] == "text/event-stream"
    assert [line.count('"text":"') for line in over_rest.body.decode().split("\n") if line.startswith("data: ")] == [
        1
    ] * 3


def test_what_a_client_streams_has_no_limit_as_a_whole(edge: Edge, protos: Protos) -> None:
    def things() -> Iterator[bytes]:
        for _ in range(4):
            yield protos.message("Thing", text="x" * 500_000).SerializeToString()
            time.sleep(0.6)  # longer in all than a call that does not stream may take

    with edge.channel() as channel:
        answer = channel.stream_unary(f"{SERVICE}/CollectThings")(things(), timeout=10)
    assert type(protos.message("CollectThingsResponse")).FromString(answer).count == 4


# ── Headers ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_every_call_has_a_request_id(edge: Edge) -> None:
    answer = edge.rest("GET", "/v1/things/1")
    given = answer.headers["x-request-id"]
    assert uuid.UUID(given)
    assert answer.json["metadata"]["x-request-id"] == given
    assert edge.rest("GET", "/nowhere").headers["x-request-id"] != given


@pytest.mark.parametrize("own", ["7", "b2c4-Order_17.retry", "x" * 64])
def test_a_reasonable_request_id_of_the_client_is_kept(own: str, edge: Edge) -> None:
    answer = edge.rest("GET", "/v1/things/1", x_request_id=own)
    assert (answer.headers["x-request-id"], answer.json["metadata"]["x-request-id"]) == (own, own)


@pytest.mark.parametrize("own", ["", "x" * 65, "two words", 'quote"', "semi;colon", "%24", "a,b"])
def test_an_unreasonable_one_is_replaced(own: str, edge: Edge) -> None:
    answer = edge.rest("GET", "/v1/things/1", x_request_id=own)
    assert uuid.UUID(answer.headers["x-request-id"])
    assert answer.json["metadata"]["x-request-id"] == answer.headers["x-request-id"]


def test_credentials_and_trace_context_reach_the_server(edge: Edge) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    got = edge.rest("GET", "/v1/things/1", authorization="Bearer secret", traceparent=trace).json["metadata"]
    assert (got["authorization"], got["traceparent"]) == ("Bearer secret", trace)


def test_a_client_cannot_steer_the_edge(edge: Edge, protos: Protos) -> None:
    steering = {"x-envoy-upstream-rq-timeout-ms": "1", "x-envoy-max-retries": "0", "x-envoy-original-path": "/forged"}
    thing = edge.grpc("GetThing", protos.message("GetThingRequest", name="things/1"), **steering)
    assert not set(steering) & set(thing.metadata)
    assert edge.rest("GET", "/v1/things/1", **steering).json["metadata"]["x-envoy-original-path"] == "/v1/things/1"


def test_a_page_of_any_origin_may_call(edge: Edge) -> None:
    asked = {"access-control-request-method": "PATCH", "access-control-request-headers": "authorization,content-type"}
    preflight = edge.rest("OPTIONS", "/v1/things/1", origin="https://app.example", **asked)
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    assert "PATCH" in preflight.headers["access-control-allow-methods"].split(",")
    allowed = set(preflight.headers["access-control-allow-headers"].split(","))
    wanted = "authorization content-type x-grpc-web grpc-timeout x-user-agent x-request-id traceparent"
    assert set(wanted.split()) <= allowed
    assert "access-control-allow-credentials" not in preflight.headers
    for path, status in (("/v1/things/1", 200), ("/v1/things/missing", 404), ("/nowhere", 404)):
        answer = edge.rest("GET", path, origin="https://app.example")
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, "https://app.example")
        exposed = set(answer.headers["access-control-expose-headers"].split(","))
        assert {"grpc-status", "grpc-message", "grpc-status-details-bin", "x-request-id"} <= exposed


def test_large_json_is_compressed_for_who_accepts_it(edge: Edge) -> None:
    plain = edge.rest("GET", "/v1/things/long")
    small = edge.rest("GET", "/v1/things/1", accept_encoding="gzip")
    packed = edge.rest("GET", "/v1/things/long", accept_encoding="gzip")
    assert "content-encoding" not in plain.headers
    assert "content-encoding" not in small.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert len(packed.body) < len(plain.body) / 20
    assert json.loads(gzip.decompress(packed.body))["text"] == plain.json["text"]


# ── The edge of itself ──────────────────────────────────────────────────────────────────────────────────────────────
def test_the_bare_address_says_what_is_here(edge: Edge) -> None:
    answer = edge.rest("GET", "/").json
    assert SERVICE[1:] in answer["services"]
    assert answer["health"] == "/healthz"


def test_health_is_that_of_the_servers(edge: Edge, deserted: Edge) -> None:
    well, ill = edge.rest("GET", "/healthz"), deserted.rest("GET", "/healthz")
    assert (well.status, well.json) == (200, {"status": "SERVING"})
    assert (ill.status, ill.error["status"]) == (503, "UNAVAILABLE")


def test_the_access_log_is_complete_and_keeps_secrets(edge: Edge) -> None:
    mark = f"log-{uuid.uuid4()}"
    edge.rest("GET", "/v1/things?page_token=tell-nobody", authorization="Bearer tell-nobody", x_request_id=mark)
    edge.rest("GET", "/" + "long" * 1000, x_request_id=mark)
    eventually(lambda: len([line for line in edge.logged() if line["request_id"] == mark]) == 2)
    listed, long = (line for line in edge.logged() if line["request_id"] == mark)
    assert (listed["path"], listed["rpc"], listed["grpc"]) == ("/v1/things", f"{SERVICE}/ListThings", "OK")
    assert len(json.dumps(long)) < 1500
    assert "tell-nobody" not in edge.log.read_text()


# ── Servers come and go ─────────────────────────────────────────────────────────────────────────────────────────────
def test_a_safe_call_whose_server_dies_is_answered_by_another(frail: Edge) -> None:
    answer = frail.rest("GET", "/v1/things/killed-once.get")
    assert answer.status == 200
    first, second = frail.attempts("things/killed-once.get")
    assert (first != second, answer.json["server"]) == (True, second)


def test_an_unsafe_call_that_reached_a_server_is_never_repeated(frail: Edge, protos: Protos) -> None:
    answer = frail.rest("POST", "/v1/things?thing_id=killed-once.create", {"text": "once"})
    assert (answer.status, answer.reason) == (503, "SERVER_LOST")
    assert len(frail.attempts("things/killed-once.create")) == 1


def test_unavailable_is_tried_elsewhere_only_for_safe_calls(edge: Edge) -> None:
    assert edge.rest("GET", "/v1/things/away-once.get").status == 200
    assert len(edge.attempts("things/away-once.get")) == 2
    assert edge.rest("POST", "/v1/things?thing_id=away-once.create", {}).status == 503
    assert len(edge.attempts("things/away-once.create")) == 1


def test_servers_that_refuse_stay_in_use(edge: Edge) -> None:
    """All servers answer UNAVAILABLE to writes while the primary is away: reads must go on."""
    for number in range(15):
        assert edge.rest("POST", f"/v1/things?thing_id=away.{number}", {}).status == 503
    assert edge.in_use() == set(edge.servers)
    assert edge.rest("GET", "/v1/things/1").status == 200


def test_no_read_fails_while_a_server_dies_under_load(frail: Edge, protos: Protos) -> None:
    request = protos.message("GetThingRequest", name="things/1").SerializeToString()
    failures: list[str] = []
    answered = [0] * 4
    stop = threading.Event()

    def read(number: int) -> None:
        with frail.channel() as channel:
            get = channel.unary_unary(f"{SERVICE}/GetThing")
            while not stop.is_set():
                try:
                    get(request, timeout=10)
                    answered[number] += 1
                except grpc.RpcError as failure:
                    failures.append(f"{failure.code()} {failure.details()}")

    readers = [threading.Thread(target=read, args=(n,)) for n in range(4)]
    for reader in readers:
        reader.start()
    eventually(lambda: min(answered) > 50)
    victim = min(frail.in_use())
    frail.kill(victim)
    seen = sum(answered)
    eventually(lambda: sum(answered) > seen + 400)
    eventually(lambda: victim not in frail.in_use())
    stop.set()
    for reader in readers:
        reader.join(10)
    assert failures == []


def test_a_draining_server_gets_no_new_calls_and_ends_its_own(frail: Edge, protos: Protos) -> None:
    request = protos.message("FollowThingRequest", name="things/long-lived", count=3, pause_ms=1000)
    with frail.channel() as channel:
        stream = channel.unary_stream(f"{SERVICE}/FollowThing")(request.SerializeToString(), timeout=10)
        things = [type(protos.message("Thing")).FromString(next(stream))]
        leaving = things[0].server
        frail.drain(leaving)
        eventually(lambda: leaving not in frail.in_use(), within=1.4)  # servers wait 1.5 s before they close
        for _ in range(20):
            assert frail.rest("GET", "/v1/things/after-drain").json["server"] != leaving
        things += [type(protos.message("Thing")).FromString(thing) for thing in stream]
    assert [t.server for t in things] == [leaving] * 3
