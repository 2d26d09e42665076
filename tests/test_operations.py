"""Methods that answer operations, and google.longrunning.Operations, through the real edge and Google's own client."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from desk_ground import Desk, desk, schema
from google.api_core import operation
from google.api_core.operations_v1 import OperationsClient
from google.longrunning import operations_proto_pb2
from google.protobuf import json_format, struct_pb2
from grpc_reflection.v1alpha import reflection_pb2
from library_ground import engine
from people_ground import Client, Refused

from deploy.native.stack import Stack
from server.caller import Caller, Kind
from server.engine.operations import Operations
from server.engine.resources import Call
from server.errors import NotFound
from server.store.operations import StoredOperations

OPERATIONS = "/google.longrunning.Operations"
ABSENT = Refused("NOT_FOUND", "NOT_FOUND")


@pytest.fixture(scope="module")
def here(components: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk(components, tmp_path_factory.mktemp("desk")) as made:
        yield made


@pytest.fixture
def who(here: Desk) -> Client:
    return here.people.person()


class Counted:
    """Records whose reads are counted."""

    def __init__(self, records: Any) -> None:
        self._records = records
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        self.reads += name in ("get", "find", "latest")
        return getattr(self._records, name)


def new() -> str:
    return f"f{secrets.token_hex(6)}"


def made(here: Desk, who: Client, id: str, query: str = "", **fields: Any) -> Any:
    return here.rest(who, "POST", f"rooms/a/folders?folder_id={id}{query}", {"title": "t"} | fields)


def test_what_is_made_is_the_response_of_an_operation(here: Desk, who: Client) -> None:
    id = new()
    answer = made(here, who, id, color="red")
    name = f"rooms/a/folders/{id}"
    assert answer["done"] is True
    assert answer["response"]["@type"] == "type.googleapis.com/desk.v1.Folder"
    assert {k: answer["response"][k] for k in ("name", "title", "color")} == {
        "name": name,
        "title": "t",
        "color": "red",
    }
    metadata = answer["metadata"]
    assert metadata["@type"] == "type.googleapis.com/desk.v1.OperationMetadata"
    assert (metadata["target"], metadata["verb"], metadata["apiVersion"]) == (name, "create", "v1")
    assert (metadata["progressPercent"], metadata["requestedCancellation"]) == (100, False)
    assert metadata["createTime"] <= metadata["endTime"]
    assert here.rest(who, "GET", name)["color"] == "red"
    assert here.events(name) == ["created"]


def test_updates_and_deletions_answer_operations_too(here: Desk, who: Client) -> None:
    id = new()
    name = made(here, who, id, color="red")["response"]["name"]
    changed = here.rest(who, "PATCH", name, {"folder": {"color": None, "title": "new"}})
    assert (changed["response"]["title"], changed["response"]["color"]) == ("new", "")
    assert changed["metadata"]["verb"] == "update"
    gone = here.rest(who, "DELETE", name)
    assert (gone["response"]["name"], gone["response"]["title"]) == (name, "new")
    assert (gone["metadata"]["target"], gone["metadata"]["verb"]) == (name, "delete")
    assert here.rest(who, "GET", name) == ABSENT


def test_who_deleted_something_is_told_so_by_the_operation_and_nobody_else_is(here: Desk, who: Client) -> None:
    name = made(here, who, new(), color="red")["response"]["name"]
    told = here.rest(who, "GET", "operations")["operations"]
    gone = here.rest(who, "DELETE", name)
    assert here.rest(who, "GET", gone["name"]) == gone
    assert [one["name"] for one in here.rest(who, "GET", "operations")["operations"]] == [gone["name"]]
    assert here.rest(who, "GET", told[0]["name"]) == ABSENT  # that of who made it: what it answered is gone
    assert here.rest(here.people.person(), "GET", gone["name"]) == ABSENT


def test_a_batch_answers_an_operation(here: Desk, who: Client) -> None:
    ids = [new(), new()]
    batch = {"requests": [{"parent": "rooms/a", "folder": {"title": id}, "folderId": id} for id in ids]}
    answer = here.rest(who, "POST", "rooms/a/folders:batchCreate", batch)
    assert [folder["title"] for folder in answer["response"]["folders"]] == ids
    assert answer["metadata"]["target"] == "rooms/a"
    assert here.rest(who, "GET", answer["name"]) == answer


def test_a_refusal_is_no_operation(here: Desk, who: Client) -> None:
    id = new()
    made(here, who, id)
    assert made(here, who, id) == Refused("ALREADY_EXISTS", "ALREADY_EXISTS")
    assert made(here, here.people.nobody, new()) == Refused("UNAUTHENTICATED", "SIGN_IN_REQUIRED")
    assert len(here.rest(who, "GET", "operations")["operations"]) == 1


def test_an_operation_that_is_repeated_is_the_same(here: Desk, who: Client) -> None:
    id, request = new(), new()
    first = made(here, who, id, f"&request_id={request}")
    assert made(here, who, id, f"&request_id={request}") == first
    assert made(here, who, id, f"&request_id={request}", color="red") == Refused(
        "INVALID_ARGUMENT", "REQUEST_ID_REUSED"
    )
    assert here.events(f"rooms/a/folders/{id}") == ["created"]
    assert here.at.sql("select count(*) from transom.operations where caller = %s", who.user) == [(1,)]


def test_an_operation_can_be_asked_for_by_its_caller(here: Desk, who: Client) -> None:
    answer = made(here, who, new())
    name, other = answer["name"], here.people.person()
    assert here.rest(who, "GET", name) == answer
    over_grpc = here.grpc(who, f"{OPERATIONS}/GetOperation", {"name": name})
    assert json_format.MessageToDict(over_grpc, descriptor_pool=schema().pool)["name"] == name
    assert here.grpc(who, f"{OPERATIONS}/WaitOperation", {"name": name}).done
    for verb, path in (("GET", name), ("DELETE", name), ("POST", f"{name}:cancel")):
        assert here.rest(other, verb, path, {} if verb == "POST" else None) == ABSENT
        assert here.rest(here.people.nobody, verb, path, {} if verb == "POST" else None).code == "UNAUTHENTICATED"
    assert here.rest(who, "GET", "operations/none") == Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("name",))
    assert here.rest(who, "GET", f"operations/{'a' * 20}") == ABSENT


def test_admins_see_those_of_all(here: Desk, who: Client) -> None:
    name, admin = made(here, who, new())["name"], here.people.person()
    here.people.sql("update transom.users set roles = '{admin}' where id = %s", admin.id)
    admin = here.people.session(admin)
    assert here.rest(admin, "GET", name)["name"] == name
    assert name in [one["name"] for one in here.rest(admin, "GET", "operations?page_size=1000")["operations"]]


def test_what_is_hidden_by_now_is_hidden_in_operations_too(here: Desk, who: Client) -> None:
    id = new()
    name = made(here, who, id)["name"]
    here.at.sql("update desk_v1.folders set _owner = 'users/another' where name = %s", f"rooms/a/folders/{id}")
    assert here.rest(who, "GET", name) == ABSENT
    assert here.rest(who, "GET", "operations")["operations"] == []


def test_operations_are_listed_newest_first_in_pages(here: Desk, who: Client) -> None:
    names = [made(here, who, new())["name"] for _ in range(5)]
    seen, token = [], ""
    while True:
        page = here.rest(who, "GET", f"operations?page_size=2&page_token={token}&filter=done%3Dtrue")
        seen += [one["name"] for one in page["operations"]]
        token = page["nextPageToken"]
        if not token:
            break
    assert sorted(seen) == sorted(names)
    assert here.rest(who, "GET", "operations?filter=done%3Dfalse")["operations"] == []
    refused = Refused("INVALID_ARGUMENT", "INVALID_REQUEST", ("filter",))
    assert here.rest(who, "GET", "operations?filter=name%3Dx") == refused


def test_a_page_is_bounded_by_what_it_weighs(here: Desk, who: Client) -> None:
    ids = [f"a{i:019}" for i in range(5)]
    for id, size in zip(ids, (1 << 20, 1 << 20, 3_500_000, 10, 10), strict=True):
        heavy = operations_proto_pb2.Operation(name=f"operations/{id}", done=True)
        heavy.error.message = "x" * size
        here.at.sql(
            "insert into transom.operations (id, caller, done, payload) values (%s, %s, true, %s)",
            id,
            who.user,
            heavy.SerializeToString(),
        )
    pages, token = [], ""
    while not pages or token:
        page = here.rest(who, "GET", f"operations?page_size=1000&page_token={token}")
        pages.append([one["name"].partition("/")[2] for one in page["operations"]])
        token = page["nextPageToken"]
    assert pages == [[ids[4], ids[3]], [ids[2]], [ids[1], ids[0]]]


def test_a_page_has_a_hundred_at_most(here: Desk, who: Client) -> None:
    here.at.sql(
        "insert into transom.operations (id, caller, done, payload)"
        " select 'b' || lpad(i::text, 19, '0'), %s, true, '\\x1801' from generate_series(1, 201) as i",
        who.user,
    )
    sizes, token = [], ""
    while not sizes or token:
        page = here.rest(who, "GET", f"operations?page_size=1000&page_token={token}")
        sizes.append(len(page["operations"]))
        token = page["nextPageToken"]
    assert sizes == [100, 100, 1]


def test_a_key_is_shown_what_its_scopes_have(here: Desk, who: Client) -> None:
    """That it may get operations does not let it get what they made."""
    name = made(here, who, new())["name"]

    async def seen(*scopes: str) -> tuple[bool, bool]:
        async with engine(here.at, schema=schema(), ruled=True) as on:
            stored = StoredOperations(on.pool, timedelta(days=1))
            operations = Operations(on.resources, stored, lambda: 0, 50, 1000)
            key = Call(Caller(kind=Kind.KEY, name="keys/k", scopes=frozenset(scopes)))
            listed, _ = await operations.list(key, "", "", 0, "")
            try:
                return (await operations.get(key, name)).name == name, name in [one.name for one in listed]
            except NotFound:
                return False, name in [one.name for one in listed]

    own = [f"google.longrunning.Operation:{action}" for action in ("get", "list")]
    assert asyncio.run(seen(*own)) == (False, False)
    assert asyncio.run(seen(*own, "desk.v1.Note:get")) == (False, False)
    assert asyncio.run(seen(*own, "desk.v1.Folder:get")) == (True, True)


def test_many_resources_are_told_by_a_few_reads(here: Desk, who: Client) -> None:
    for _ in range(2):
        batch = [{"parent": "rooms/a", "folder": {"title": "t"}, "folderId": new()} for _ in range(120)]
        here.rest(who, "POST", "rooms/a/folders:batchCreate", {"requests": batch})

    async def reads() -> int:
        async with engine(here.at, schema=schema(), ruled=True) as on:
            counted = Counted(on.records)
            stored = StoredOperations(on.pool, timedelta(days=1))
            operations = Operations(on.resources.over(counted), stored, lambda: 0, 50, 1000)
            me = Call(Caller(kind=Kind.USER, name=who.user))
            listed, _ = await operations.list(me, "", "", 0, "")
            assert [len(one.response.value) > 1000 for one in listed] == [True, True]
            return counted.reads

    assert asyncio.run(reads()) == 3


def test_one_that_is_done_is_not_cancelled_but_can_be_forgotten(here: Desk, who: Client) -> None:
    answer = made(here, who, new())
    name = answer["name"]
    assert here.rest(who, "POST", f"{name}:cancel", {}) == {}
    assert here.rest(who, "GET", name) == answer
    assert here.rest(who, "DELETE", name) == {}
    assert here.rest(who, "GET", name) == ABSENT
    assert here.rest(who, "GET", answer["response"]["name"])["title"] == "t"


def test_one_that_is_under_way_stays_until_it_is_done(here: Desk, who: Client) -> None:
    name = made(here, who, new())["name"]
    here.at.sql("update transom.operations set done = false where id = %s", name.partition("/")[2])
    assert here.rest(who, "DELETE", name) == Refused("FAILED_PRECONDITION", "OPERATION_NOT_DONE")


def test_old_operations_are_gone(here: Desk, who: Client) -> None:
    name = made(here, who, new())["name"]
    here.at.sql("update transom.operations set create_time = now() - interval '31 days' where caller = %s", who.user)
    assert here.rest(who, "GET", name) == ABSENT
    assert here.rest(who, "GET", "operations")["operations"] == []


def test_googles_operations_client_is_at_home(here: Desk, who: Client) -> None:
    folder = schema().message_class("desk.v1.Folder")
    metadata = [("authorization", f"Bearer {who.token}")]
    with grpc.insecure_channel(here.door.edge.removeprefix("http://")) as channel:
        request = schema().message_class("desk.v1.CreateFolderRequest")(parent="rooms/b", folder_id=new())
        data = channel.unary_unary("/desk.v1.DeskService/CreateFolder")(request.SerializeToString(), metadata=metadata)
        begun = operations_proto_pb2.Operation.FromString(data)
        client = OperationsClient(channel)
        future = operation.from_gapic(begun, client, folder, metadata=metadata)
        assert future.result(timeout=5).name == f"rooms/b/folders/{request.folder_id}"
        assert client.get_operation(begun.name, metadata=metadata) == begun
        assert begun.name in [one.name for one in client.list_operations("operations", "", metadata=metadata)]
        client.cancel_operation(begun.name, metadata=metadata)
        client.delete_operation(begun.name, metadata=metadata)
        reflect = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        [answer] = reflect(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5)
        assert OPERATIONS[1:] in [service.name for service in answer.list_services_response.service]


def test_a_task_is_an_operation_too(here: Desk, who: Client) -> None:
    tasks = "/transom.tasks.v1.TasksService"

    here.at.sql(
        "insert into transom.task_handlers (name, callable_by) values ('asked', 'users') on conflict do nothing"
    )
    made = here.grpc(who, f"{tasks}/EnqueueTask", {"handler": "asked"})
    name = f"operations/{made.name}"
    told = here.grpc(who, f"{OPERATIONS}/GetOperation", {"name": name})
    assert (told.name, told.done) == (name, False)
    waited = operations_proto_pb2.WaitOperationRequest(name=name)
    waited.timeout.FromMilliseconds(10)
    assert not here.grpc(who, f"{OPERATIONS}/WaitOperation", waited).done
    assert here.grpc(here.people.person(), f"{OPERATIONS}/GetOperation", {"name": name}) == ABSENT
    here.at.sql(
        "update transom.tasks set state = 'SUCCEEDED', result = '{\"a\": 1}', end_time = now() where id = %s",
        made.name.removeprefix("tasks/"),
    )
    ended = here.grpc(who, f"{OPERATIONS}/WaitOperation", {"name": name})
    result = struct_pb2.Value()
    assert ended.done and ended.response.Unpack(result) and json_format.MessageToDict(result) == {"a": 1}
    assert ended.metadata.type_url.endswith("transom.tasks.v1.Task")
    here.grpc(who, f"{OPERATIONS}/CancelOperation", {"name": name})  # it has ended, which is no error
    lost = here.grpc(who, f"{tasks}/EnqueueTask", {"handler": "asked"}).name
    here.grpc(who, f"{OPERATIONS}/CancelOperation", {"name": f"operations/{lost}"})
    failed = here.grpc(who, f"{OPERATIONS}/GetOperation", {"name": f"operations/{lost}"})
    assert failed.done and failed.error.code == grpc.StatusCode.CANCELLED.value[0]
