"""Connections for statements of any cost: who waits for whom, who is refused, and what becomes of those who go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from library_ground import Database, asynchronous, database

from deploy.native.stack import Stack
from server.errors import Exhausted, Internal, Unavailable
from server.store import query_lane
from server.store.pipeline import Step
from server.store.query_lane import CONNECTIONS, QueryLane

ONE = Step(b"select $1::int + 1, pg_backend_pid()", [b"1"], once=True)
LOCKED = 41


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Database]:
    with database(components, None) as made:
        yield made


@asynccontextmanager
async def lane(at: Database, plans: str = "") -> AsyncIterator[QueryLane]:
    opened = QueryLane(at.postgres, "queries", plans)
    try:
        yield opened
    finally:
        await opened.close()


@asynccontextmanager
async def held(
    at: Database, on: QueryLane, many: int, reader: str | None = None
) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """So many statements that wait for a lock until the block ends: each is under way when it begins."""
    holder = QueryLane(at.postgres, "holder", "-c idle_in_transaction_session_timeout=0")
    try:
        await holder.read([Step(b"select pg_advisory_lock($1::int)::text", [str(LOCKED).encode()], once=True)])
        wait = Step(b"select pg_advisory_lock_shared($1::int)::text", [str(LOCKED).encode()], once=True)
        tasks = [asyncio.create_task(on.read([wait], reader=reader)) for _ in range(many)]
        while at.sql("select count(*) from pg_locks where locktype = 'advisory' and not granted") != [(many,)]:
            await asyncio.sleep(0.01)
        yield tasks
    finally:
        await holder.close()


@asynchronous
async def test_what_is_slow_keeps_nobody_waiting_while_a_connection_is_idle(at: Database) -> None:
    async with lane(at) as on:
        async with held(at, on, CONNECTIONS - 1) as slow:
            [result] = await on.read([ONE])
            assert result.get_value(0, 0) == (2).to_bytes(4, "big")
            assert not any(task.done() for task in slow)
        await asyncio.gather(*slow)


@asynchronous
async def test_who_comes_when_all_are_busy_waits_for_their_turn(at: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_lane, "WAITING", 2)
    async with lane(at) as on:
        async with held(at, on, CONNECTIONS) as slow:
            waiting = [asyncio.create_task(on.read([ONE])) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(Exhausted):
                await on.read([ONE])
            assert not any(task.done() for task in waiting)
        assert len(await asyncio.gather(*slow, *waiting)) == CONNECTIONS + 2
        assert len(await asyncio.gather(*(on.read([ONE]) for _ in range(CONNECTIONS)))) == CONNECTIONS


@asynchronous
async def test_who_asks_for_much_keeps_the_rest_for_others(at: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_lane, "QUEUED", 2)
    async with lane(at) as on:
        async with held(at, on, query_lane.HELD, "users/ada") as slow:
            mine = [asyncio.create_task(on.read([ONE], reader="users/ada")) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(Exhausted):
                await on.read([ONE], reader="users/ada")
            assert len(await on.read([ONE], reader="users/bob")) == 1
            assert not any(task.done() for task in (*slow, *mine))
        assert len(await asyncio.gather(*slow, *mine)) == query_lane.HELD + 2
        assert not on._held
        assert not on._queued


@asynchronous
async def test_nobody_waits_for_ever(at: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_lane, "PATIENCE", 0.05)
    async with lane(at) as on:
        async with held(at, on, CONNECTIONS):
            with pytest.raises(Exhausted):
                await on.read([ONE])
        assert len(await asyncio.gather(*(on.read([ONE]) for _ in range(CONNECTIONS)))) == CONNECTIONS


@asynchronous
async def test_a_connection_is_busy_until_its_statement_has_ended_whoever_has_gone(at: Database) -> None:
    async with lane(at) as on:
        async with held(at, on, CONNECTIONS) as slow:
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)
            waiting = [asyncio.create_task(on.read([ONE])) for _ in range(3)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            await asyncio.sleep(0)
            assert [task.done() for task in waiting] == [True, False, False]
        assert len(await asyncio.gather(*waiting[1:])) == 2
        while len(on._idle) < CONNECTIONS:  # the last of those that were given up end
            await asyncio.sleep(0.01)
        assert not on._waiting


@asynchronous
async def test_a_turn_that_comes_to_who_has_just_gone_is_the_next_ones(at: Database) -> None:
    async with lane(at) as on:
        async with held(at, on, CONNECTIONS) as slow:
            first, second = (asyncio.create_task(on.read([ONE])) for _ in range(2))
            await asyncio.sleep(0)
            on._free(on._connections[0], "")  # the first one's turn, before it can take it
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
        await asyncio.gather(*slow, second)


@asynchronous
async def test_a_lost_connection_is_made_anew_and_asked_again(at: Database) -> None:
    async with lane(at) as on:
        await on.read([ONE])
        at.sql("select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'queries'")
        [result] = await on.read([ONE])
        assert result.get_value(0, 0) == (2).to_bytes(4, "big")


@asynchronous
async def test_a_statement_that_fails_or_takes_too_long_leaves_the_connection_good(at: Database) -> None:
    async with lane(at, "-c statement_timeout=0.1s") as on:
        with pytest.raises(Internal):
            await on.read([Step(b"select 1 / $1::int", [b"0"], once=True)])
        with pytest.raises(Unavailable) as slow:
            await on.read([Step(b"select pg_sleep($1::int)::text", [b"20"], once=True)])
        assert slow.value.reason == "DATABASE_SLOW"
        assert len(await asyncio.gather(*(on.read([ONE]) for _ in range(2 * CONNECTIONS)))) == 2 * CONNECTIONS


@asynchronous
async def test_where_there_is_no_server_it_says_so(at: Database) -> None:
    async with lane(Database("host=127.0.0.1 port=1 dbname=none user=none", "", "")) as on:
        for _ in range(2 * CONNECTIONS):
            with pytest.raises(Unavailable):
                await on.read([ONE])
