"""Rows of transom.task_handlers: what workers say of the tasks that they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from psycopg import AsyncCursor

from server.store.pooled import Pool, Statement, transaction

LIVE = timedelta(seconds=30)
"""A worker that was not heard of for so long declares nothing any more."""

_COLUMNS = "name, callable_by, payload, priority, description"
_ALONE = "select pg_advisory_xact_lock(hashtextextended('transom.task_handlers', 0))"
_SEEN = """
insert into transom.task_workers as w (worker, names) values (%s, %s)
on conflict (worker) do update set names = excluded.names, seen_time = clock_timestamp()
"""
_GONE = "delete from transom.task_workers where seen_time < clock_timestamp() - %s::interval"
_FORGET = """
delete from transom.task_handlers h where not exists (select from transom.task_workers w where h.name = any(w.names))
"""
_ADD = """
insert into transom.task_handlers as h (name, callable_by, payload, priority, description)
values (%s, %s, %s, %s, %s)
on conflict (name) do
"""
_DECLARE = f"""
{_ADD} update set callable_by = excluded.callable_by, payload = excluded.payload,
    priority = excluded.priority, description = excluded.description, update_time = clock_timestamp()
where (h.callable_by, h.payload, h.priority, h.description) is distinct from
      (excluded.callable_by, excluded.payload, excluded.priority, excluded.description)
"""
_KEEP = f"{_ADD} nothing"
_FIND = f"select {_COLUMNS} from transom.task_handlers where name = %s"


@dataclass(frozen=True, slots=True)
class DeclaredHandler:
    """What a server must know of a function that runs tasks."""

    name: str
    callable_by: str
    payload: str
    """Full name of the message that it is told; empty for any JSON."""
    priority: int
    description: str


def required(handler: str) -> Statement:
    """The statement that fails, with Precondition (TASK_UNKNOWN), where workers have declared tasks, and none of that name: for
    the transaction that enqueues one."""
    return "select transom.require_task_handler(%s)", [handler]


class StoredHandlers:
    """What is written down of them. All of it raises Unavailable where the database does not answer."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def declare(self, handlers: Sequence[DeclaredHandler], worker: str = "worker") -> None:
        """Writes down what a worker that starts declares, as it does: where others declare the same name otherwise, the newest
        version of the app is right. Names that no live worker declares are forgotten."""
        await self._told(handlers, worker, _DECLARE)

    async def keep(self, handlers: Sequence[DeclaredHandler], worker: str = "worker") -> None:
        """Says that the worker is alive, and so what it declared holds; wanted more often than every LIVE."""
        await self._told(handlers, worker, _KEEP)

    async def _told(self, handlers: Sequence[DeclaredHandler], worker: str, add: str) -> None:
        async with transaction(self._pool, object) as cursor:
            await cursor.execute(_ALONE)
            await cursor.execute(_SEEN, [worker, [one.name for one in handlers]])
            await cursor.execute(_GONE, [LIVE])
            await cursor.execute(_FORGET)
            await _added(cursor, handlers, add)

    async def find(self, name: str) -> DeclaredHandler | None:
        """The one of that name, if some worker has declared it."""
        async with transaction(self._pool, DeclaredHandler) as cursor:
            await cursor.execute(_FIND, [name])
            return await cursor.fetchone()


async def _added(cursor: AsyncCursor[object], handlers: Sequence[DeclaredHandler], add: str) -> None:
    for one in handlers:
        await cursor.execute(add, [one.name, one.callable_by, one.payload, one.priority, one.description])
