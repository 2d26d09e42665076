"""Request ids where servers meet: what a call holds while it is decided, and who is first where two do the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from library_ground import ADA, Database, Engine, database, engine, library

from deploy.native.stack import Stack
from server.engine.requests import Requests
from server.engine.resources import Resources
from server.errors import Invalid, Refusal, Stale
from server.schema.model import Resource
from server.store.changes import Outcome
from server.store.operations import StoredOperations
from server.store.requests import StoredRequests

Do = Callable[[Resources], Awaitable[bytes]]
SHELF = "library.v1.Shelf"


@pytest.fixture(scope="module")
def at(components: Stack) -> Any:
    with database(components, library()) as made:
        yield made


class Server:
    """One of several servers."""

    def __init__(self, on: Engine) -> None:
        self.on = on
        self._requests = Requests(StoredRequests(on.pool, timedelta(hours=24)))

    @property
    def shelf(self) -> Resource:
        return self.on.schema.resources[SHELF]

    async def ask(self, id: str, do: Do, asked: bytes = b"this") -> bytes:
        async def shown(reply: bytes) -> bytes:
            return reply

        return await self._requests.answer(self.on.resources, ADA, id, asked, do, shown)

    async def create(self, resources: Resources, id: str, title: str) -> bytes:
        message = self.on.schema.message_class(SHELF)(title=title)
        return await resources.create(ADA, self.shelf, "", id, message)

    async def update(self, resources: Resources, name: str, title: str, etag: str = "") -> bytes:
        message = self.on.schema.message_class(SHELF)(name=name, title=title)
        return await resources.update(ADA, self.shelf, message, ["title"], etag=etag)


@asynccontextmanager
async def servers(at: Database) -> AsyncIterator[tuple[Server, Server]]:
    async with engine(at) as one, engine(at) as two:
        yield Server(one), Server(two)


def run(test: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))  # type: ignore[arg-type]


def test_who_thinks_holds_no_connection(at: Database) -> None:
    async def test() -> None:
        async with engine(at) as on:
            server = Server(on)

            async def do(resources: Resources) -> bytes:
                async with AsyncExitStack() as all_of_them:
                    for _ in range(on.pool.max_size):
                        await all_of_them.enter_async_context(on.records.transaction())
                return await server.create(resources, "thought", "x")

            first = await server.ask("thinks", do)
            assert await server.ask("thinks", do) == first
            assert at.events("shelves/thought") == ["created"]

    run(test())


def test_who_decides_again_holds_none_either(at: Database) -> None:
    async def test() -> None:
        async with engine(at) as on:
            server = Server(on)
            await server.create(on.resources, "again", "x")

            async def do(resources: Resources) -> bytes:
                row = await on.records.latest(server.shelf, "shelves/again")
                assert row is not None
                change = on.decisions.deleted(server.shelf, row, force=False, origin=ADA.origin)
                await server.update(on.resources, row.name, "changed meanwhile")
                [outcome] = await resources.records.commit([change])
                assert outcome is Outcome.CHANGED
                async with AsyncExitStack() as all_of_them:
                    for _ in range(on.pool.max_size):
                        await all_of_them.enter_async_context(on.records.transaction())
                return await server.update(resources, row.name, "decided")

            await server.ask("again", do)
            assert at.events("shelves/again") == ["created", "updated", "updated"]

    run(test())


@pytest.mark.parametrize("case", ["write", "etag", "nothing", "other"])
def test_two_servers_may_decide_but_one_does_it(at: Database, case: str) -> None:
    """The second has looked already, and finds the id taken when it writes, or is refused for what the first has done."""

    async def test() -> None:
        async with servers(at) as (one, two):
            name, looked, go = f"shelves/race-{case}", asyncio.Event(), asyncio.Event()
            made = one.on.decisions.parse(one.shelf, await one.create(one.on.resources, f"race-{case}", "x"))
            etag = made.etag if case == "etag" else ""

            async def work(resources: Resources) -> bytes:
                if case == "nothing":
                    return await resources.delete(ADA, one.shelf, name, allow_missing=True) or b"gone"
                return await one.update(resources, name, "new", etag)

            async def late(resources: Resources) -> bytes:
                looked.set()
                await go.wait()
                return await work(resources)

            second = asyncio.create_task(two.ask(f"race-{case}", late, b"that" if case == "other" else b"this"))
            await looked.wait()
            first = await one.ask(f"race-{case}", work)
            go.set()
            if case == "other":
                with pytest.raises(Invalid) as refused:
                    await second
                assert refused.value.reason == "REQUEST_ID_REUSED"
            else:
                assert await second == first
            assert at.events(name) == ["created", "deleted" if case == "nothing" else "updated"]
            [[kept]] = at.sql("select count(*) from transom.requests where id = %s", f"race-{case}")
            assert kept == 1

    run(test())


def test_a_refusal_of_ones_own_stays_what_it_is(at: Database) -> None:
    async def test() -> None:
        async with servers(at) as (one, two):
            await one.create(one.on.resources, "own", "x")

            async def stale(resources: Resources) -> bytes:
                return await two.update(resources, "shelves/own", "y", etag="0")

            with pytest.raises(Stale):
                await two.ask("own", stale)

            async def then(resources: Resources) -> bytes:
                return await one.update(resources, "shelves/own", "z")

            await one.ask("own", then)
            assert at.events("shelves/own") == ["created", "updated"]

    run(test())


def test_what_fails_after_the_write_takes_it_back(at: Database) -> None:
    async def test() -> None:
        async with engine(at) as on:
            server = Server(on)

            async def large(resources: Resources) -> bytes:
                await server.create(resources, "large", "x")
                return b"x" * (5 << 20)

            with pytest.raises(Refusal) as refused:
                await server.ask("large", large)
            assert refused.value.reason == "ANSWER_TOO_LARGE"
            assert at.events("shelves/large") == []
            assert await on.records.latest(server.shelf, "shelves/large") is None

    run(test())


def test_a_sweep_goes_on_until_all_is_gone_that_is_old(at: Database) -> None:
    """Whatever comes a minute, as much goes."""
    at.sql(
        "insert into transom.requests (caller, id, digest, reply, create_time)"
        " select 'users/old', i::text, '', '', now() - interval '25 hours' from generate_series(1, 25) as i"
    )
    at.sql(
        "insert into transom.operations (id, caller, done, payload, create_time)"
        " select lpad(i::text, 20, 'o'), 'users/old', i > 1, '', now() - interval '25 hours' from generate_series(1, 25) as i"
    )
    at.sql("insert into transom.requests (caller, id, digest, reply) values ('users/old', 'new', '', '')")

    async def test() -> None:
        async with engine(at) as on:
            day = timedelta(hours=24)
            assert await StoredRequests(on.pool, day).sweep(10) == 25
            assert await StoredOperations(on.pool, day).sweep(10) == 24

    run(test())
    assert at.sql("select id from transom.requests where caller = 'users/old'") == [("new",)]
    assert at.sql("select done from transom.operations where caller = 'users/old'") == [(False,)]
