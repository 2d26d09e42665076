"""Tasks in Postgres: enqueued in anybody's transaction, taken by workers in the order of priority and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import LiteralString

from psycopg import AsyncCursor
from psycopg.rows import class_row

from server.rates import Rate
from server.store.pooled import Pool, Statement, all_of, swept, transaction

CHANNEL = "transom_tasks"
"""Told, with the handler's name, when a task is enqueued that is due."""

LEASE = 30.0
"""Seconds for which a run is its worker's unless it is renewed: so late is a worker that died found out."""

_COLUMNS: LiteralString = """
id, handler, payload, state, priority, unique_key, run_time, attempts, takes, lost, cancelling, progress, progress_text,
result, error, traceback, caller, request_id, traceparent, create_time, start_time, end_time
"""
_ENQUEUE: LiteralString = """
with made as (
    insert into transom.tasks
        (id, handler, payload, priority, unique_key, run_time, caller, request_id, traceparent)
    values (%s, %s, %s, coalesce(%s, (select priority from transom.task_handlers where name = %s), 0), %s,
            coalesce(%s::timestamptz, clock_timestamp() + %s::interval), %s, %s, %s)
    on conflict (handler, unique_key) where unique_key <> '' and state in ('QUEUED', 'RUNNING', 'FAILED') do nothing
    returning handler
) select pg_notify('transom_tasks', handler) from made
"""
_LOST: LiteralString = """
update transom.tasks set lease_time = null, lost = lost + 1, error = 'its worker was not heard of again',
    state = case when cancelling then 'CANCELLED' else 'FAILED' end,
    end_time = case when cancelling then clock_timestamp() end, run_time = clock_timestamp()
where id in (
    select id from transom.tasks where state = 'RUNNING' and lease_time < clock_timestamp() for update skip locked
) returning handler
"""
_QUEUE: LiteralString = """
insert into transom.task_queues (queue) values (%s) on conflict (queue) do nothing
"""
# Who finds the row locked does not wait: whoever holds it takes what there is.
_HOLD: LiteralString = """
select extract(epoch from greatest(full_time, clock_timestamp()) - clock_timestamp())::float8 as number
from transom.task_queues where queue = %s for update skip locked
"""
# A statement of its own: it must see what whoever held the row before has taken.
_RUNNING: LiteralString = """
select count(*)::float8 as number from transom.tasks where state = 'RUNNING' and handler = any(%s)
"""
_SPEND: LiteralString = """
update transom.task_queues set full_time = greatest(full_time, clock_timestamp()) + %s::interval where queue = %s
"""
# A scan of the index of what is due for each handler, not a sort of everything that waits.
_TAKE: LiteralString = f"""
update transom.tasks set state = 'RUNNING', attempts = attempts + 1, takes = takes + 1, worker = %s,
    start_time = clock_timestamp(), lease_time = clock_timestamp() + %s::interval, progress = 0, progress_text = ''
where id in (
    select id from transom.tasks
    where state in ('QUEUED', 'FAILED') and handler = any(%s) and run_time <= clock_timestamp()
    order by priority desc, run_time, id limit %s for update skip locked
) returning {_COLUMNS}
"""
_NEXT: LiteralString = """
select extract(epoch from min(run_time) - clock_timestamp())::float8 as number from transom.tasks
where state in ('QUEUED', 'FAILED') and handler = any(%s) and run_time > clock_timestamp()
"""
_RENEW: LiteralString = """
update transom.tasks t set lease_time = clock_timestamp() + %s::interval
from unnest(%s::text[], %s::bigint[]) as held (id, takes)
where t.id = held.id and t.takes = held.takes and t.state = 'RUNNING' returning t.id, t.cancelling
"""
_SETTLE: LiteralString = """
update transom.tasks set state = %(state)s, run_time = clock_timestamp() + %(after)s::interval, error = %(error)s,
    traceback = %(traceback)s, lease_time = null, cancelling = false,
    attempts = attempts - case when %(free)s then 1 else 0 end,
    end_time = case when %(ended)s then clock_timestamp() end
where id = %(id)s and takes = %(take)s and state = 'RUNNING'
"""
_PROGRESS: LiteralString = """
update transom.tasks set progress = %s, progress_text = %s where id = %s and takes = %s and state = 'RUNNING'
"""
_FIND: LiteralString = f"select {_COLUMNS} from transom.tasks where id = %s"
_MANY: LiteralString = f"select {_COLUMNS} from transom.tasks where id = any(%s)"
_HOLDS_KEY: LiteralString = f"""
select {_COLUMNS} from transom.tasks
where handler = %s and unique_key = %s and unique_key <> '' and state in ('QUEUED', 'RUNNING', 'FAILED')
"""
# Counted no further than it is asked.
_UNDER_WAY: LiteralString = """
select count(*)::float8 as number
from (select from transom.tasks where caller = %s and end_time is null limit %s) as counted
"""
_DEPTHS: LiteralString = """
select handler, state, count(*) as number
from (select handler, state from transom.tasks where end_time is null limit %s) as counted group by 1, 2
"""
_LIST: LiteralString = f"""
select {_COLUMNS} from transom.tasks
where (%(state)s = '' or state = %(state)s) and (%(handler)s = '' or handler = %(handler)s)
  and (%(caller)s::text is null or caller = %(caller)s) and (%(before)s = '' or id < %(before)s)
order by id desc limit %(limit)s
"""
_CANCEL: LiteralString = f"""
update transom.tasks set cancelling = state = 'RUNNING',
    state = case when state = 'RUNNING' then state else 'CANCELLED' end,
    end_time = case when state = 'RUNNING' then null else clock_timestamp() end
where id = %s and state in ('QUEUED', 'FAILED', 'RUNNING') returning {_COLUMNS}
"""
_RETRY: LiteralString = f"""
with again as (
    update transom.tasks set state = 'QUEUED', attempts = 0, lost = 0, run_time = clock_timestamp(), end_time = null
    where id = %s and state in ('FAILED', 'DEAD', 'CANCELLED', 'DISCARDED') returning {_COLUMNS}
) select again.* from again, pg_notify('transom_tasks', again.handler)
"""
_SWEEP: LiteralString = """
delete from transom.tasks where id in (
    select id from transom.tasks where end_time < clock_timestamp() - %s limit %s for update skip locked
)
"""


@dataclass(frozen=True, slots=True)
class StoredTask:
    """A task as it is written down."""

    id: str
    handler: str
    payload: str
    state: str
    priority: int
    unique_key: str
    run_time: datetime
    attempts: int
    takes: int
    lost: int
    cancelling: bool
    progress: float
    progress_text: str
    result: str
    error: str
    traceback: str
    caller: str
    request_id: str
    traceparent: str
    create_time: datetime
    start_time: datetime | None
    end_time: datetime | None


@dataclass(frozen=True, slots=True)
class _Number:
    number: float | None


@dataclass(frozen=True, slots=True)
class Depth:
    """How many tasks of a handler are in a state."""

    handler: str
    state: str
    number: int


@dataclass(frozen=True, slots=True)
class _Renewed:
    id: str
    cancelling: bool


def enqueued(
    id: str,
    handler: str,
    payload: str,
    *,
    priority: int | None = None,
    unique_key: str = "",
    at: datetime | None = None,
    delay: timedelta = timedelta(0),
    caller: str = "",
    request_id: str = "",
    traceparent: str = "",
) -> Statement:
    """The statement that enqueues a task in whichever transaction it is run. With a `unique_key` that a task of this handler has
    which has not ended, it does nothing. Without a `priority` it has its handler's."""
    return _ENQUEUE, [id, handler, payload, priority, handler, unique_key, at, delay, caller, request_id, traceparent]


def key_required(id: str, handler: str, unique_key: str) -> Statement:
    """The statement that fails with Stale where the task has not, or not any more, the unique key of its handler."""
    return "select transom.require_task_key(%s, %s, %s)", [id, handler, unique_key]


def finished(id: str, take: int, result: str) -> Statement:
    """The statement that ends a run well, for the transaction of its effect; that fails where the run is not the task's any
    more."""
    return "select transom.end_task(%s, %s, %s)", [id, take, result]


class StoredTasks:
    """What is written down in transom.tasks. All of it raises Unavailable where the database does not answer."""

    def __init__(self, pool: Pool, *, lease: float = LEASE) -> None:
        """`lease` is for how many seconds a run is its worker's unless it is renewed."""
        self._pool = pool
        self.lease = lease

    async def run(self, statements: Sequence[Statement]) -> None:
        """Runs them in one transaction."""
        async with transaction(self._pool, object) as cursor:
            await all_of(cursor, statements)

    async def reclaim(self) -> int:
        """Takes tasks back from workers that were not heard of for a lease; how many it were."""
        async with transaction(self._pool, object) as cursor:
            await cursor.execute(_LOST)
            return cursor.rowcount

    async def take(
        self,
        worker: str,
        handlers: Sequence[str],
        limit: int,
        queue: str = "",
        at_once: int = 0,
        rate: Rate | None = None,
    ) -> list[StoredTask]:
        """At most `limit` tasks that are due, now RUNNING. Of a `queue` at most `at_once` run at one time (0: any number) and
        begin at `rate`, whatever the number of workers."""
        async with transaction(self._pool, _Number) as cursor:
            if queue:
                limit = await self._room(cursor, handlers, limit, queue, at_once, rate)
                if limit <= 0:
                    return []
            async with cursor.connection.cursor(row_factory=class_row(StoredTask)) as taking:
                await taking.execute(_TAKE, [worker, timedelta(seconds=self.lease), list(handlers), limit])
                rows = await taking.fetchall()
            if queue and rate is not None and rows:
                await cursor.execute(_SPEND, [timedelta(microseconds=rate.token * len(rows)), queue])
        return sorted(rows, key=lambda row: (-row.priority, row.run_time, row.id))

    async def _room(
        self,
        cursor: AsyncCursor[_Number],
        handlers: Sequence[str],
        limit: int,
        queue: str,
        at_once: int,
        rate: Rate | None,
    ) -> int:
        """How many more may begin; while the transaction lasts nobody else takes from that queue."""
        await cursor.execute(_QUEUE, [queue])
        await cursor.execute(_HOLD, [queue])
        debt = await cursor.fetchone()
        if debt is None:
            return 0
        if at_once:
            await cursor.execute(_RUNNING, [list(handlers)])
            running = await cursor.fetchone()
            limit = min(limit, at_once - int(running.number or 0 if running else 0))
        if rate is not None:
            limit = min(limit, int((rate.microseconds - (debt.number or 0) * 1e6) / rate.token + 1e-6))
        return limit

    async def wait(self, handlers: Sequence[str]) -> float | None:
        """Seconds until the next task that is not due yet; None where there is none."""
        async with transaction(self._pool, _Number) as cursor:
            await cursor.execute(_NEXT, [list(handlers)])
            found = await cursor.fetchone()
            return found.number if found else None

    async def renew(self, held: Sequence[tuple[str, int]]) -> dict[str, bool]:
        """Keeps runs, given by task and take, for a lease more: those that are still the worker's, and whether each shall be
        cancelled."""
        async with transaction(self._pool, _Renewed) as cursor:
            ids, takes = [id for id, _ in held], [take for _, take in held]
            await cursor.execute(_RENEW, [timedelta(seconds=self.lease), ids, takes])
            return {row.id: row.cancelling for row in await cursor.fetchall()}

    async def settle(
        self,
        task: StoredTask,
        state: str,
        *,
        after: float = 0,
        error: str = "",
        traceback: str = "",
        free: bool = False,
    ) -> bool:
        """Ends a run without an effect, in `state`; one that is FAILED or QUEUED runs again `after` seconds, and `free` does not
        count the attempt. False where it was not the task's any more."""
        ended = state not in ("FAILED", "QUEUED")
        told = {"state": state, "after": timedelta(seconds=after), "error": error, "traceback": traceback, "free": free}
        async with transaction(self._pool, object) as cursor:
            await cursor.execute(_SETTLE, told | {"ended": ended, "id": task.id, "take": task.takes})
            return cursor.rowcount > 0

    async def progress(self, task: StoredTask, part: float, text: str) -> None:
        """Writes down how far a run is, 0 to 1."""
        async with transaction(self._pool, object) as cursor:
            await cursor.execute(_PROGRESS, [part, text, task.id, task.takes])

    async def find(self, id: str) -> StoredTask | None:
        """The task, if there is one."""
        return await self._one(_FIND, [id], [])

    async def many(self, ids: Sequence[str]) -> list[StoredTask]:
        """Those that there are of them."""
        async with transaction(self._pool, StoredTask) as cursor:
            await cursor.execute(_MANY, [list(ids)])
            return await cursor.fetchall()

    async def enqueue(
        self, id: str, statements: Sequence[Statement], handler: str, unique_key: str
    ) -> StoredTask | None:
        """The task that the statements enqueue as `id`, or the one of that handler that has the key and has not ended; None
        where that one has ended in between."""
        async with transaction(self._pool, StoredTask) as cursor:
            await all_of(cursor, statements)
            await cursor.execute(_FIND, [id])
            made = await cursor.fetchone()
            if made is None:
                await cursor.execute(_HOLDS_KEY, [handler, unique_key])
                made = await cursor.fetchone()
            return made

    async def holding(self, handler: str, unique_key: str) -> StoredTask | None:
        """The task of that handler that has the key and has not ended, if there is one."""
        return await self._one(_HOLDS_KEY, [handler, unique_key], [])

    async def under_way(self, caller: str, most: int) -> int:
        """How many tasks of the caller's have not ended, counted up to `most`."""
        async with transaction(self._pool, _Number) as cursor:
            await cursor.execute(_UNDER_WAY, [caller, most])
            found = await cursor.fetchone()
            return int(found.number or 0) if found else 0

    async def depths(self, most: int) -> list[Depth]:
        """How many have not ended, by handler and state; of `most` of them."""
        async with transaction(self._pool, Depth) as cursor:
            await cursor.execute(_DEPTHS, [most])
            return await cursor.fetchall()

    async def list(self, state: str, handler: str, caller: str | None, before: str, limit: int) -> list[StoredTask]:
        """At most `limit` tasks, the newest first, after that of the id `before`; of all states, handlers, callers where these
        are empty or None."""
        asked = {"state": state, "handler": handler, "caller": caller, "before": before, "limit": limit}
        async with transaction(self._pool, StoredTask) as cursor:
            await cursor.execute(_LIST, asked)
            return await cursor.fetchall()

    async def cancel(self, id: str, note: Statement) -> StoredTask | None:
        """Cancels a task that waits, or has its worker told; None where there is none that has not ended."""
        return await self._one(_CANCEL, [id], [note])

    async def retry(self, id: str, note: Statement) -> StoredTask | None:
        """Enqueues one again that has ended, not well, or waits to be retried; None where there is none such. Raises
        AlreadyExists where another one has its unique key by now."""
        return await self._one(_RETRY, [id], [note])

    async def sweep(self, days: int, bite: int = 1000) -> int:
        """Deletes what ended so many days ago; how many it were."""
        return await swept(self._pool, _SWEEP, timedelta(days=days), bite)

    async def _one(
        self, text: LiteralString, values: Sequence[object], notes: Sequence[Statement]
    ) -> StoredTask | None:
        async with transaction(self._pool, StoredTask) as cursor:
            await cursor.execute(text, values)
            row = await cursor.fetchone()
            if row is not None:
                await all_of(cursor, notes)
            return row
