"""Watching a real server over gRPC: the schema's methods and the generic one, sign-out, and a server that goes away."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from edge_ground import free_port
from google.protobuf import json_format
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from library_ground import Database, asynchronous, database
from people_ground import Client, People
from transom.accounts.v1 import accounts_pb2
from watch_ground import ADA, APP, newsroom, relayed, schema

from deploy.native.stack import PROJECT, Stack
from server.schema.compilation import compile_app


@dataclass(frozen=True)
class Served:
    """A server and its database."""

    at: Database
    env: dict[str, str]
    process: subprocess.Popen[bytes]
    address: str
    people: People


@pytest.fixture(scope="module")
def served(components: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("watched")
    with database(components, schema()) as at:
        (folder / "descriptor.binpb").write_bytes(compile_app(APP))
        port = free_port()
        env = {
            **components.env,
            "TRANSOM_POSTGRES": at.postgres,
            "TRANSOM_REPLICA": at.replica,
            "TRANSOM_APP": str(APP),
            "TRANSOM_DESCRIPTOR": str(folder / "descriptor.binpb"),
            "TRANSOM_PORT": str(port),
            "TRANSOM_DRAIN_NOTICE": "0",
        }
        with (folder / "server.log").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "server"], env=os.environ | env, cwd=PROJECT, stdout=output, stderr=output
            )
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                ready = health_pb2_grpc.HealthStub(channel).Check
                ready(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=60)
            yield Served(at, env, process, f"127.0.0.1:{port}", People(Place(env, "")))  # type: ignore[arg-type]
        finally:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Place:
    """What people are told of a stack."""

    env: dict[str, str]
    edge: str


@asynccontextmanager
async def watch(at: Served, who: Client, method: str, **request: Any) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """The messages of a stream."""
    found = next(m for m in schema().methods() if m.path.endswith(f"/{method}"))
    message = json_format.ParseDict(request, schema().message_class(found.request)())
    answer = schema().message_class(found.response)
    metadata = [("authorization", f"Bearer {who.token}")] if who.token else []
    async with grpc.aio.insecure_channel(at.address) as channel:
        call = channel.unary_stream(found.path)(message.SerializeToString(), metadata=metadata, timeout=25)

        async def messages() -> AsyncIterator[dict[str, Any]]:
            async for data in call:
                said = json_format.MessageToDict(answer.FromString(data), descriptor_pool=schema().pool)
                yield {key: value for key, value in said.items() if key not in ("changeTime", "resumeToken")} | {
                    "token": said.get("resumeToken", "")
                }

        yield messages()
        call.cancel()


def told(message: dict[str, Any]) -> dict[str, Any]:
    """A message without its token."""
    return {key: value for key, value in message.items() if key != "token"}


async def refusal(messages: AsyncIterator[dict[str, Any]]) -> tuple[str, str, dict[str, str]]:
    """How a stream ends: code, reason and metadata."""
    try:
        async for _ in messages:
            pass
    except grpc.aio.AioRpcError as error:
        status, info = Status(), ErrorInfo()
        status.ParseFromString(dict(error.trailing_metadata() or ())["grpc-status-details-bin"])
        status.details[0].Unpack(info)
        return error.code().name, info.reason, dict(info.metadata)
    raise AssertionError("it just ended")


@asynchronous
async def test_methods_that_watch(served: Served) -> None:
    ann = served.people.person()
    async with relayed(served.at), newsroom(served.at) as here:
        await here.make("Team", "teams/all")
        note = await here.make("Note", "teams/all/notes/a", title="A", public=True, rank=7, source="hidden")
        draft = await here.make("Draft", "teams/all/drafts/a", title="D")
        asked = {"parent": "teams/all"}
        async with (
            watch(served, ann, "WatchNotes", **asked) as notes,
            watch(served, ann, "WatchNotes", **asked, readMask="title") as masked,
            watch(served, ann, "Watch", type="newsroom.example.com/Note", **asked, filter="rank = 7") as generic,
            watch(served, ann, "WatchDraft", name=draft) as drafts,
        ):
            shown = {"name": note, "title": "A", "public": True, "rank": 7}
            assert told(await anext(notes)) == {"change": "CURRENT", "name": note, "note": shown}
            assert told(await anext(masked)) == {"change": "CURRENT", "name": note, "note": {"title": "A"}}
            packed = {"@type": "type.googleapis.com/newsroom.v1.Note", **shown}
            assert told(await anext(generic)) == {"change": "CURRENT", "name": note, "resource": packed}
            assert told(await anext(drafts)) == {
                "change": "CURRENT",
                "name": draft,
                "draft": {"name": draft, "title": "D"},
            }
            for stream in (notes, masked, generic):
                synced = await anext(stream)
                assert synced.pop("token")
                assert synced == {"synced": True}
            assert told(await anext(drafts)) == {}
            await here.change("Note", note, rank=8)
            await here.remove("Draft", draft)
            shown["rank"] = 8
            said = {"change": "UPDATED", "name": note, "verb": "updated"}
            assert told(await anext(notes)) == {**said, "note": shown}
            assert told(await anext(masked)) == {**said, "note": {"title": "A"}}
            assert told(await anext(generic)) == {**said, "change": "REMOVED"}
            assert told(await anext(drafts)) == {
                "change": "DELETED",
                "name": draft,
                "draft": {"name": draft, "title": "D"},
            }


@asynchronous
async def test_who_may_watch(served: Served) -> None:
    ann, nobody = served.people.person(), served.people.nobody
    async with newsroom(served.at) as here:
        await here.make("Team", "teams/may")
        for who, method, request, code in (
            (nobody, "WatchDraft", {"name": "teams/may/drafts/a"}, "UNAUTHENTICATED"),
            (ann, "WatchDraft", {"name": "teams/may/drafts/a"}, "NOT_FOUND"),
            (ann, "WatchNotes", {}, "INVALID_ARGUMENT"),
            (ann, "Watch", {"type": "newsroom.v1.Nothing"}, "INVALID_ARGUMENT"),
            (ann, "Watch", {"type": "newsroom.v1.Note", "parent": "teams/none"}, "NOT_FOUND"),
            (ann, "WatchMembers", {"parent": "teams/may"}, "PERMISSION_DENIED"),
            # The generic one asks the method of the schema; of teams there is none that lists or watches them.
            (ann, "Watch", {"type": "newsroom.v1.Member", "parent": "teams/may"}, "PERMISSION_DENIED"),
            (ann, "Watch", {"type": "newsroom.v1.Team"}, "PERMISSION_DENIED"),
        ):
            async with watch(served, who, method, **request) as messages:
                assert (await refusal(messages))[0] == code, (method, request)


@asynchronous
async def test_who_may_not_call_the_method_any_more_is_told_so(served: Served) -> None:
    """By a role, or by what its rule looks up, though the rule of members lets everybody read them."""
    ann, bea = served.people.person(), served.people.person()
    served.people.sql("update transom.users set roles = '{editor}' where id = %s", ann.id)
    async with newsroom(served.at) as here:
        await here.make("Team", "teams/rule")
        member = await here.make("Member", f"teams/rule/members/{bea.id}")
        request = {"parent": "teams/rule"}
        async with (
            watch(served, ann, "WatchMembers", **request) as by_role,
            watch(served, bea, "WatchMembers", **request) as by_rule,
            watch(served, bea, "Watch", type="newsroom.v1.Member", **request) as generic,
        ):
            for stream in (by_role, by_rule, generic):
                assert (await anext(stream))["name"] == member
                assert (await anext(stream))["synced"]
            served.people.sql("update transom.users set roles = '{}' where id = %s", ann.id)
            assert (await refusal(by_role))[0] == "PERMISSION_DENIED"
            await here.remove("Member", member)
            # It is asked again now and then; and at once where something is heard of the caller.
            served.people.sql("select pg_notify('transom_callers', %s)", f"changed {bea.user}")
            for stream in (by_rule, generic):
                assert (await refusal(stream))[0] == "PERMISSION_DENIED"


@asynchronous
async def test_who_signs_out_is_told_no_more(served: Served) -> None:
    ann = served.people.person()
    again = served.people.session(ann)
    async with newsroom(served.at) as here:
        await here.make("Team", "teams/out")
        request = {"parent": "teams/out"}
        async with (
            watch(served, ann, "WatchNotes", **request) as gone,
            watch(served, again, "WatchNotes", **request) as on,
        ):
            assert (await anext(gone))["synced"]
            assert (await anext(on))["synced"]
            async with grpc.aio.insecure_channel(served.address) as channel:
                sign_out = channel.unary_unary("/transom.accounts.v1.AccountsService/SignOut")
                await sign_out(
                    accounts_pb2.SignOutRequest().SerializeToString(),
                    metadata=[("authorization", f"Bearer {ann.token}")],
                )
            assert (await refusal(gone))[:2] == ("UNAUTHENTICATED", "TOKEN_INVALID")
            async with relayed(served.at):
                await here.make("Note", "teams/out/notes/a", ADA, public=True)
                assert (await anext(on))["change"] == "CREATED"


@asynchronous
async def test_a_server_that_goes_away_says_so(served: Served) -> None:
    """The last: there is no server after it."""
    ann = served.people.person()
    async with newsroom(served.at) as here:
        await here.make("Team", "teams/away")
        async with watch(served, ann, "WatchNotes", parent="teams/away") as messages:
            assert (await anext(messages))["synced"]
            served.process.send_signal(signal.SIGTERM)
            assert (await refusal(messages))[:2] == ("UNAVAILABLE", "SERVER_DRAINING")
        assert await asyncio.to_thread(served.process.wait, 15) == 0
