"""Writes that are safe to repeat (AIP-155), through the real edge: what a request id promises, and what it does not."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from typing import Any, cast

import psycopg
import pytest
from desk_ground import Desk, desk, schema
from edge_ground import eventually
from library_ground import asynchronous, engine
from people_ground import Client, Refused
from psycopg_pool import AsyncConnectionPool

from deploy.native.stack import Stack
from server.caller import Caller, Kind
from server.engine.requests import NOBODYS_REPLY_BYTES_MAX, Requests
from server.engine.resources import Call
from server.errors import Precondition
from server.store import requests
from server.store.pooled import Pool

REUSED = Refused("INVALID_ARGUMENT", "REQUEST_ID_REUSED")
ABSENT = Refused("NOT_FOUND", "NOT_FOUND")


@pytest.fixture(scope="module")
def here(components: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk(components, tmp_path_factory.mktemp("desk")) as made:
        yield made


@pytest.fixture(scope="module")
def who(here: Desk) -> Client:
    return here.people.person()


def new() -> str:
    """An id that nobody had."""
    return f"n{secrets.token_hex(6)}"


def created(here: Desk, who: Client, id: str, request: str, **fields: Any) -> Any:
    return here.rest(who, "POST", f"notes?note_id={id}&request_id={request}", {"title": "t"} | fields)


def kept(here: Desk, request: str) -> int:
    """How many rows there are of a request id."""
    [[count]] = here.at.sql("select count(*) from transom.requests where id = %s", request)
    return int(count)


def test_a_create_that_is_repeated_is_done_once(here: Desk, who: Client) -> None:
    request = str(uuid.uuid4())
    first = here.rest(who, "POST", f"notes?request_id={request}", {"title": "t"})
    again = here.rest(who, "POST", f"notes?request_id={request}", {"title": "t"})
    over_grpc = here.grpc(who, "CreateNote", {"note": {"title": "t"}, "request_id": request})
    assert again == first
    assert (over_grpc.name, over_grpc.etag) == (first["name"], first["etag"])
    assert here.events(first["name"]) == ["created"]


def test_so_are_updates_deletions_and_an_apps_own_methods(here: Desk, who: Client) -> None:
    name = created(here, who, new(), new())["name"]
    update, delete, stamp = new(), new(), new()
    changed = here.rest(who, "PATCH", f"{name}?request_id={update}", {"title": "new"})
    here.rest(who, "PATCH", name, {"title": "newer"})
    assert here.rest(who, "PATCH", f"{name}?request_id={update}", {"title": "new"}) == changed
    assert here.rest(who, "GET", name)["title"] == "newer"
    stamped = here.rest(who, "POST", f"{name}:stamp", {"requestId": stamp})
    assert here.rest(who, "POST", f"{name}:stamp", {"requestId": stamp}) == stamped
    assert here.rest(who, "GET", name)["stamps"] == 1
    assert here.rest(who, "DELETE", f"{name}?request_id={delete}") == {}
    assert here.rest(who, "DELETE", f"{name}?request_id={delete}") == {}
    assert here.rest(who, "DELETE", f"{name}?request_id={new()}") == ABSENT
    assert here.events(name) == ["created", "updated", "updated", "updated", "deleted"]


def test_a_batch_is_done_once_too(here: Desk, who: Client) -> None:
    ids, request = [new(), new()], new()
    batch = {"requests": [{"note": {"title": id}, "noteId": id} for id in ids], "requestId": request}
    rehearsal = {"requests": [one | {"validateOnly": True} for one in batch["requests"]], "requestId": request}
    assert [n["title"] for n in here.rest(who, "POST", "notes:batchCreate", rehearsal)["notes"]] == ids
    first = here.rest(who, "POST", "notes:batchCreate", batch)
    assert here.rest(who, "POST", "notes:batchCreate", batch) == first
    assert [here.events(f"notes/{id}") for id in ids] == [["created"], ["created"]]
    again = {"requests": [{"note": {"title": "x"}, "noteId": new()}, batch["requests"][0]], "requestId": new()}
    assert here.rest(who, "POST", "notes:batchCreate", again).code == "ALREADY_EXISTS"
    assert here.events(f"notes/{again['requests'][0]['noteId']}") == []
    assert kept(here, again["requestId"]) == 0


def test_many_at_once_are_one(here: Desk, who: Client) -> None:
    id, request = new(), new()
    with ThreadPoolExecutor(12) as together:
        answers = list(together.map(lambda _: created(here, who, id, request), range(12)))
    assert answers == answers[:1] * 12
    assert answers[0]["name"] == f"notes/{id}"
    assert here.events(f"notes/{id}") == ["created"]


def test_one_waits_for_another_server_and_answers_what_that_did(here: Desk, who: Client) -> None:
    id, request = new(), new()
    first = created(here, who, id, request)
    [[digest, reply]] = here.at.sql("delete from transom.requests where id = %s returning digest, reply", request)
    with psycopg.connect(here.at.postgres) as other, ThreadPoolExecutor(1) as calling:
        other.execute("select pg_advisory_xact_lock(hashtextextended(%s || chr(10) || %s, 155))", [who.user, request])
        again = calling.submit(created, here, who, id, request)
        blocked = "select count(*) from pg_stat_activity where %s = any(pg_blocking_pids(pid))"
        eventually(lambda: again.done() or here.at.sql(blocked, other.info.backend_pid) == [(1,)])
        assert not again.done()
        other.execute(
            "insert into transom.requests (caller, id, digest, reply) values (%s, %s, %s, %s)",
            [who.user, request, digest, reply],
        )
        other.commit()
        assert again.result() == first
    assert here.events(f"notes/{id}") == ["created"]


def test_an_id_with_another_request_is_refused(here: Desk, who: Client) -> None:
    id, request = new(), new()
    name = created(here, who, id, request)["name"]
    assert created(here, who, id, request, title="other") == REUSED
    assert here.rest(who, "DELETE", f"{name}?request_id={request}") == REUSED
    assert here.rest(who, "PATCH", f"{name}?request_id={request}", {"title": "t"}) == REUSED
    assert here.events(name) == ["created"]


def test_null_and_nothing_are_not_the_same_request(here: Desk, who: Client) -> None:
    name = created(here, who, new(), new(), longText="long", labels={"a": "1"})["name"]
    request = new()
    path = f"{name}?request_id={request}"
    assert here.rest(who, "PATCH", path, {"longText": None, "labels": {"a": None}})["longText"] == ""
    assert here.rest(who, "PATCH", path, {"labels": {"a": None}, "longText": None})["longText"] == ""
    assert here.rest(who, "PATCH", path, {}) == REUSED
    assert here.rest(who, "PATCH", path, {"longText": None}) == REUSED


def test_what_was_refused_may_be_tried_again(here: Desk, who: Client) -> None:
    id, request = new(), new()
    created(here, who, id, new())
    assert created(here, who, id, request) == Refused("ALREADY_EXISTS", "ALREADY_EXISTS")
    assert kept(here, request) == 0
    here.rest(who, "DELETE", f"notes/{id}")
    assert created(here, who, id, request)["name"] == f"notes/{id}"


def test_what_is_only_validated_is_not_kept(here: Desk, who: Client) -> None:
    id, request = new(), new()
    assert here.rest(who, "POST", f"notes?note_id={id}&request_id={request}&validate_only=true", {"title": "t"})
    assert kept(here, request) == 0
    assert created(here, who, id, request, title="another")["title"] == "another"


def test_ids_are_each_callers_own(here: Desk, who: Client) -> None:
    request, other = new(), here.people.person()
    mine, theirs = created(here, who, new(), request), created(here, other, new(), request)
    assert mine["name"] != theirs["name"]
    assert kept(here, request) == 2


def test_who_is_nobody_brings_a_uuid(here: Desk) -> None:
    nobody = here.people.nobody
    assert created(here, nobody, new(), "7") == Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("request_id",))
    assert created(here, nobody, new(), str(uuid.uuid4())) == Refused("UNAUTHENTICATED", "SIGN_IN_REQUIRED")


@pytest.mark.parametrize("request_id", ["two words", "ä", "x" * 129, "tab\t"])
def test_what_is_no_id(request_id: str, here: Desk, who: Client) -> None:
    asked = {"note": {"title": "t"}, "request_id": request_id}
    refused = Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("request_id",))
    assert here.grpc(who, "CreateNote", asked) == refused


def test_an_answer_is_shown_as_rights_are_now(here: Desk, who: Client) -> None:
    id, request = new(), new()
    first = created(here, who, id, request, secret="s", public=True)
    assert first["secret"] == "s"
    here.at.sql("update desk_v1.notes set _owner = 'users/another' where name = %s", f"notes/{id}")
    assert created(here, who, id, request, secret="s", public=True) == first | {"secret": ""}
    assert created(here, who, id, request, secret="other", public=True) == REUSED
    private = new()
    created(here, who, private, private)
    here.at.sql("update desk_v1.notes set _owner = 'users/another' where name = %s", f"notes/{private}")
    assert created(here, who, private, private) == ABSENT


def test_what_is_gone_is_not_answered_as_if_it_was_there(here: Desk, who: Client) -> None:
    id, request = new(), new()
    created(here, who, id, request)
    here.rest(who, "DELETE", f"notes/{id}")
    assert created(here, who, id, request) == ABSENT
    assert here.events(f"notes/{id}") == ["created", "deleted"]


def test_neither_the_write_nor_its_answer_is_there_alone(here: Desk, who: Client) -> None:
    """The answer cannot be kept, as another holds the table: then nothing was written."""
    id, request = new(), new()
    with psycopg.connect(here.at.postgres) as other:
        other.execute("lock table transom.requests in share mode")
        refused = created(here, who, id, request)
        assert (refused.code, refused.reason) == ("ABORTED", "CONTENTION")
        assert here.rest(who, "GET", f"notes/{id}") == ABSENT
    assert here.events(f"notes/{id}") == []
    assert created(here, who, id, request)["name"] == f"notes/{id}"


def test_an_old_request_does_not_count(here: Desk, who: Client) -> None:
    request, id = new(), new()
    created(here, who, new(), request)
    here.at.sql("update transom.requests set create_time = now() - interval '25 hours' where id = %s", request)
    assert created(here, who, id, request)["name"] == f"notes/{id}"
    assert created(here, who, id, request)["name"] == f"notes/{id}"
    assert kept(here, request) == 1


@asynchronous
async def test_of_nobodys_the_newest_are_kept(here: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "NOBODYS_MAX", 3)
    ids = [str(uuid.uuid4()) for _ in range(8)]
    for i, id in enumerate(ids):
        caller, age = ("users/u", 9) if i == 7 else ("", i)
        here.at.sql(
            "insert into transom.requests values (%s, %s, '', '', now() - %s * interval '1 minute')", caller, id, age
        )
    async with AsyncConnectionPool(here.at.postgres, min_size=1, max_size=2, open=False) as pool:
        stored = requests.StoredRequests(cast(Pool, pool), timedelta(hours=1))
        assert await stored.sweep(bite=3) == 4
    assert [kept(here, id) for id in ids] == [1, 1, 1, 0, 0, 0, 0, 1]
    here.at.sql("delete from transom.requests where id = any(%s)", ids)


@asynchronous
async def test_nobodys_answers_are_small(here: Desk, components: Stack) -> None:
    async with engine(here.at, schema=schema()) as on:
        asked = Requests(requests.StoredRequests(cast(Pool, on.pool), timedelta(hours=1)))

        async def large(_: Any) -> bytes:
            return b"x" * (NOBODYS_REPLY_BYTES_MAX + 1)

        async def shown(reply: bytes) -> bytes:
            return reply

        for caller, fits in ((Caller(), False), (Caller(Kind.USER, "users/u"), True)):
            with nullcontext() if fits else pytest.raises(Precondition):
                await asked.answer(on.resources, Call(caller), str(uuid.uuid4()), b"", large, shown)
