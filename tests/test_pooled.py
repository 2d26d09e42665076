"""The pool for what is not on the hot path: who waits for it, and that an outage is over when Postgres is back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from consumers_ground import Line
from library_ground import Database, asynchronous, database, library
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from deploy.native.stack import Stack
from server.errors import Exhausted, Unavailable
from server.store.pooled import WAITING, Pool, pool_to, transaction

CONNECTIONS = 4


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Database]:
    with database(components, library()) as made:
        yield made


@asynccontextmanager
async def grown(dsn: str) -> AsyncIterator[Pool]:
    """A pool that has as many connections as it may."""
    async with pool_to(dsn, "pooled", CONNECTIONS) as pool:
        all_there = asyncio.Barrier(CONNECTIONS)

        async def hold() -> None:
            async with transaction(pool, TupleRow):
                await all_there.wait()

        await asyncio.gather(*(hold() for _ in range(CONNECTIONS)))
        yield pool


async def asked(pool: Pool) -> None:
    async with transaction(pool, TupleRow) as cursor:
        await cursor.execute("select")


@asynchronous
async def test_the_first_who_asks_after_a_restart_is_answered(at: Database) -> None:
    async with grown(at.postgres) as pool:
        for _ in range(3):
            ended = at.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pooled'")
            assert ended == [(True,)] * CONNECTIONS
            await asked(pool)
            await asyncio.gather(*(asked(pool) for _ in range(3 * CONNECTIONS)))


@asynchronous
async def test_a_long_outage_is_over_when_it_is_over(at: Database) -> None:
    [(port,)] = at.sql("select inet_server_port()")
    line = Line("127.0.0.1", port)
    await line.start()
    try:
        async with grown(make_conninfo(at.postgres, host="127.0.0.1", port=line.port)) as pool:
            await line.cut()
            for _ in range(3):  # of PATIENCE each: by itself, psycopg's pool would now wait for longer than that
                with pytest.raises(Unavailable) as away:
                    await asked(pool)
                assert away.value.reason == "DATABASE_AWAY"
            await line.mend()
            await asked(pool)
            await asyncio.gather(*(asked(pool) for _ in range(3 * CONNECTIONS)))
    finally:
        await line.stop()


@asynchronous
async def test_only_so_many_wait_for_a_connection(at: Database) -> None:
    async with pool_to(at.postgres, "pooled", 1) as pool:

        async def one() -> str:
            try:
                await asked(pool)
            except Exhausted as refusal:
                return refusal.reason
            return "done"

        async with transaction(pool, TupleRow):
            waiting = [asyncio.create_task(one()) for _ in range(WAITING + 5)]
            await asyncio.sleep(0.5)
        said = await asyncio.gather(*waiting)
        assert (said.count("done"), said.count("DATABASE_BUSY")) == (WAITING, 5)


@asynchronous
async def test_what_is_not_psycopgs_business_is_not_translated(at: Database) -> None:
    async with pool_to(at.postgres, "pooled", 1) as pool:
        with pytest.raises(ZeroDivisionError):
            async with transaction(pool, TupleRow):
                raise ZeroDivisionError
