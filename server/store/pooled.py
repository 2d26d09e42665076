"""A statement on a pooled connection: for what is not on the hot path."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar, cast

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import class_row, dict_row
from psycopg_pool import AsyncConnectionPool, TooManyRequests

from server.errors import Exhausted, Unavailable
from server.store.translation import refusal_of

Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[Any]]
Statement: TypeAlias = tuple[str, Sequence[object]]
"""A statement and its parameters, to be run in a transaction of somebody else's."""
Row = TypeVar("Row")

PATIENCE = 3.0
"""Seconds to wait for a connection of the pool."""

WAITING = 200
"""Requests that may wait for a connection of one pool; more are refused."""

SWEEP_SECONDS = 30.0
"""How long one sweep goes on: whoever sweeps has more to do."""


def pool_to(dsn: str, name: str, connections: int) -> Pool:
    """A pool, still to be opened, of up to so many connections that Postgres knows by the name.

    A connection is tried before it is given. The outage that broke one broke the
    others: all are looked at then, since psycopg's pool waits a second, then two,
    before it tries the next. And it tries to connect at least every two seconds,
    however long the outage: by itself it would wait as long again.
    """

    async def tried(connection: AsyncConnection[Any]) -> None:
        try:
            await pool.check_connection(connection)
        except psycopg.OperationalError:
            await pool.check()
            raise

    pool: Pool = AsyncConnectionPool(
        dsn,
        min_size=1,
        max_size=connections,
        max_waiting=WAITING,
        timeout=5,
        check=tried,
        reconnect_timeout=PATIENCE,
        reconnect_failed=AsyncConnectionPool.check,  # which sees to it that somebody tries to connect
        kwargs={
            "row_factory": dict_row,
            "application_name": name,
            "connect_timeout": 5,
            # The last is longer than a task's file may keep its row while S3 works (two tries of 22 s).
            "options": "-c statement_timeout=10s -c lock_timeout=3s -c timezone=UTC"
            " -c idle_in_transaction_session_timeout=60s",
        },
        open=False,
    )
    return pool


@asynccontextmanager
async def transaction(pool: Pool, row: type[Row]) -> AsyncIterator[AsyncCursor[Row]]:
    """A cursor whose rows are `row`s, in a transaction that commits when the block ends without an error.

    Speaks our errors in place of psycopg's: Unavailable where the database is
    away, Exhausted where too many wait for a connection, what `refusal_of` makes
    of it otherwise.
    """
    try:
        async with (
            pool.connection(PATIENCE) as connection,
            connection.cursor(row_factory=class_row(row)) as cursor,
        ):
            yield cursor
    except TooManyRequests as busy:
        raise Exhausted("Too many requests wait for the database.", reason="DATABASE_BUSY") from busy
    except psycopg.OperationalError as away:
        if away.sqlstate is None:  # no word of the server's: the pool or the network
            raise Unavailable("The database is away for now.", reason="DATABASE_AWAY") from away
        raise refusal_of(away) from away
    except psycopg.Error as refused:
        raise refusal_of(refused) from refused


async def all_of(cursor: AsyncCursor[Any], statements: Iterable[Statement]) -> None:
    """Runs statements of somebody else's in the cursor's transaction."""
    for statement, parameters in statements:
        await cursor.execute(statement, parameters)


async def swept(pool: Pool, delete: str, beyond: timedelta | int, bite: int) -> int:
    """Deletes all that is beyond so long, or so many, by a statement that deletes so much of it (its parameters: `beyond`,
    `bite`), each time in a transaction of its own; how many rows it were. What is left after SWEEP_SECONDS is for the next
    sweep."""
    until, done = time.monotonic() + SWEEP_SECONDS, 0
    while time.monotonic() < until:
        async with transaction(pool, object) as cursor:
            await cursor.execute(cast(Any, delete), [beyond, bite])
            done += cursor.rowcount
            if cursor.rowcount < bite:
                break
    return done
