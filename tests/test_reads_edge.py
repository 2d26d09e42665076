"""Consistency tokens as clients see them: through real edges, over every road, on two servers, of a replica held back."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import httpx
import pytest
from desk_ground import APP, SERVICE, Desk, desk, schema
from door_ground import door
from edge_ground import free_port
from identity_ground import Place
from people_ground import Client
from replica_ground import paused

from deploy.native.reads import reads
from deploy.native.stack import Stack

HEADER = "x-transom-consistency"
SLOW = "3600"
"""Seconds that the replica may be behind: it is read however far it is."""


@dataclass(frozen=True)
class Two:
    """Two servers of one installation, each behind an edge of its own."""

    desk: Desk
    other: str
    who: Client
    metrics: int
    """Port of the first one's metrics."""

    def rest(self, edge: str, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.who.token}"} | headers
        headers = {name: value for name, value in headers.items() if value}
        return httpx.request(method, f"{edge}/v1/{path}", json=body, headers=headers, timeout=20, trust_env=False)

    def called(self, edge: str, method: str, **fields: object) -> dict[str, str]:
        """The trailing metadata of a call over gRPC."""
        found = next(m for m in schema().methods() if m.path == f"{SERVICE}/{method}")
        request = schema().message_class(found.request)(**fields)
        with grpc.insecure_channel(edge.removeprefix("http://")) as channel:
            _, call = channel.unary_unary(found.path).with_call(
                request.SerializeToString(), metadata=[("authorization", f"Bearer {self.who.token}")], timeout=20
            )
            return dict(call.trailing_metadata())


@pytest.fixture(scope="module")
def two(components: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    metrics = free_port()
    settings = {"TRANSOM_REPLICA_LAG_MAX": SLOW, "TRANSOM_METRICS_PORT": str(metrics)}
    with desk(components, tmp_path_factory.mktemp("one"), **settings) as made:
        at = made.at
        place = Place(at.postgres, at.replica, at.redis, components.env["TRANSOM_S3_ENDPOINT"], components.env)
        with door(place, tmp_path_factory.mktemp("two"), {"TRANSOM_REPLICA_LAG_MAX": SLOW}, app=APP) as other:
            yield Two(made, other.edge, made.people.person(), metrics)


def test_what_wrote_answers_a_token_that_every_server_heeds(two: Two, components: Stack) -> None:
    edge, id = two.desk.door.edge, f"n{secrets.token_hex(6)}"
    made = two.rest(edge, "POST", f"notes?note_id={id}", {"title": "before", "public": True})
    assert made.status_code == 200, made.text
    first = made.headers[HEADER]
    trailers = two.called(two.other, "CreateNote", note_id=f"{id}b", note={"title": "t"})
    assert len(first) == len(trailers[HEADER]) == 23 and first != trailers[HEADER]
    assert HEADER not in two.rest(edge, "GET", f"notes/{id}").headers, "reads write nothing"
    assert HEADER not in two.called(two.other, "GetNote", name=f"notes/{id}")
    two.desk.at.wait_replica()

    async def held_back() -> None:
        async with paused(components):
            changed = await asyncio.to_thread(two.rest, edge, "PATCH", f"notes/{id}", {"title": "after"})
            token = changed.headers[HEADER]
            nobody = {"authorization": ""}
            for where in (edge, two.other):
                assert await title(where, **nobody) == "before"
                assert await title(where, **nobody, **{HEADER: first}) == "before", "that one asks for less"
                assert await title(where, **nobody, **{HEADER: token}) == "after"
                assert await title(where, **nobody, **{HEADER: f"{first}, {token}"}) == "after"
                assert await title(where) == "after", "who wrote needs none"
                found = await asyncio.to_thread(over_grpc, where, token)
                assert found.title == "after"

    async def title(where: str, **headers: str) -> str:
        answer = await asyncio.to_thread(two.rest, where, "GET", f"notes/{id}", **headers)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["title"])

    def over_grpc(where: str, token: str) -> object:
        get = schema().message_class("desk.v1.GetNoteRequest")(name=f"notes/{id}")
        with grpc.insecure_channel(where.removeprefix("http://")) as channel:
            data = channel.unary_unary(f"{SERVICE}/GetNote")(
                get.SerializeToString(), metadata=[(HEADER, first), (HEADER, token)], timeout=20
            )
        return schema().message_class("desk.v1.Note").FromString(data)

    asyncio.run(held_back())


def test_custom_methods_and_batches_answer_one(two: Two) -> None:
    edge, id = two.desk.door.edge, f"n{secrets.token_hex(6)}"
    batch = {"requests": [{"noteId": f"{id}{i}", "note": {"title": "t"}} for i in range(2)]}
    made = two.rest(edge, "POST", "notes:batchCreate", batch)
    assert made.status_code == 200 and len(made.headers[HEADER]) == 23, made.text
    gone = two.rest(edge, "DELETE", f"notes/{id}0")
    assert gone.status_code == 200 and len(gone.headers[HEADER]) == 23
    refused = two.rest(edge, "DELETE", f"notes/{id}0")
    assert refused.status_code == 404 and HEADER not in refused.headers


def test_what_is_no_token_is_refused_over_every_road(two: Two) -> None:
    edge = two.desk.door.edge
    for text in ("nonsense", ",", "A" * 65):
        answer = two.rest(edge, "GET", "notes/any", **{HEADER: text})
        assert (answer.status_code, answer.json()["error"]["details"][0]["reason"]) == (
            400,
            "INVALID_CONSISTENCY_TOKEN",
        )
    with grpc.insecure_channel(edge.removeprefix("http://")) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"{SERVICE}/GetNote")(b"\n\tnotes/any", metadata=[(HEADER, "nonsense")], timeout=20)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_web_page_may_send_and_read_them(two: Two) -> None:
    page = {
        "origin": "https://app.example",
        "access-control-request-method": "GET",
        "access-control-request-headers": HEADER,
    }
    asked = httpx.options(f"{two.desk.door.edge}/v1/notes/any", headers=page, timeout=20, trust_env=False)
    assert HEADER in asked.headers["access-control-allow-headers"].split(",")
    got = two.rest(two.desk.door.edge, "GET", "notes/any", origin="https://app.example")
    assert HEADER in got.headers["access-control-expose-headers"].split(",")


def test_where_reads_were_answered_is_counted(two: Two) -> None:
    """As `transom status` tells it."""
    edge, ports = two.desk.door.edge, {"api-1-metrics": two.metrics, "api-2-metrics": free_port()}
    two.desk.at.wait_replica()
    before = reads(ports, ["api-1", "api-2"])
    assert before is not None
    for _ in range(3):
        two.rest(edge, "GET", "notes/any", authorization="")
    after = reads(ports, ["api-1", "api-2"])
    assert after is not None and after.replica == before.replica + 3 and after.primary == before.primary
    assert (after.redis, after.misses, after.hit_rate) == (0, 0, None), "nothing here is hot"
    assert reads(ports, ["api-2"]) is None
