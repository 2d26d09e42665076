"""The app's schedules: what this process declares, and a handler for the ticks of each."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import LiteralString

from psycopg.rows import scalar_row
from transom.events.v1.event_pb2 import Event

from consumers.handlers import Handler, Poison, Statement
from server import apps
from server.apps import Discard
from server.apps.schedules import Scheduled
from server.engine.schedules import Tick
from server.store.pooled import Pool
from server.store.schedules import Declared
from server.store.ticks import RESOURCE_TYPE

AT_ONCE = 1
"""Runs of one schedule at one time in one worker: what is done again and again takes little from tasks."""

# Of the session, not of a transaction: it ends with the worker, however that ends.
_LOCK: LiteralString = "select pg_try_advisory_lock(hashtextextended(%s, 0))"
_UNLOCK: LiteralString = "select pg_advisory_unlock(hashtextextended(%s, 0))"


def declared(schedules: Sequence[Scheduled]) -> list[Declared]:
    """As they are written down."""
    return [Declared(one.name, one.name, one.spec.written(), one.description) for one in schedules]


def addresses(schedules: Sequence[Scheduled]) -> list[tuple[str, str]]:
    """The names and routing keys of the handlers."""
    return [(_name(one), f"{RESOURCE_TYPE}.{one.name}") for one in schedules]


def handlers(schedules: Sequence[Scheduled], pool: Pool) -> list[Handler]:
    """As the runner wants them. Each run of one that may not overlap holds a connection of the pool."""
    return [_handler(one, pool) for one in schedules]


def _name(schedule: Scheduled) -> str:
    return f"schedule.{schedule.name}"


def _handler(schedule: Scheduled, pool: Pool) -> Handler:
    async def run(event: Event, work: apps.Work) -> Sequence[Statement]:
        try:
            tick = Tick.read(event.payload)
        except (ValueError, KeyError, TypeError) as error:
            raise Poison(f"the event does not hold a tick: {error}") from error
        if schedule.spec.overlap:
            await _called(schedule, tick, work)
        else:
            async with _alone(pool, _name(schedule)):
                await _called(schedule, tick, work)
        return ()

    return Handler(
        _name(schedule), RESOURCE_TYPE, schedule.name, run, schedule.retries, schedule.time_limit, at_once=AT_ONCE
    )


async def _called(schedule: Scheduled, tick: Tick, work: apps.Work) -> None:
    if inspect.iscoroutinefunction(schedule.function):
        await schedule.function(tick, work)
    else:
        await asyncio.to_thread(schedule.function, tick, work)


@asynccontextmanager
async def _alone(pool: Pool, name: str) -> AsyncIterator[None]:
    """Nobody else is within while the block lasts, in any worker. Raises Discard where somebody is."""
    async with pool.connection() as connection:
        async with connection.cursor(row_factory=scalar_row) as cursor:
            ours = await (await cursor.execute(_LOCK, [name])).fetchone()
        if not ours:
            raise Discard("a run of a tick before goes on, and its runs do not overlap")
        try:
            await connection.commit()  # a transaction that idles would be ended
            yield
        finally:
            await connection.execute(_UNLOCK, [name])
