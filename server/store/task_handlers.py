"""Rows of transom.task_handlers: what workers say of the tasks that they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.store.pooled import Pool, transaction

_COLUMNS = "name, callable_by, payload, priority, description"
_DECLARE = """
insert into transom.task_handlers as h (name, callable_by, payload, priority, description)
values (%s, %s, %s, %s, %s)
on conflict (name) do update set callable_by = excluded.callable_by, payload = excluded.payload,
    priority = excluded.priority, description = excluded.description, update_time = clock_timestamp()
where (h.callable_by, h.payload, h.priority, h.description) is distinct from
      (excluded.callable_by, excluded.payload, excluded.priority, excluded.description)
"""
_FORGET = "delete from transom.task_handlers where not name = any(%s)"
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


class StoredHandlers:
    """What is written down of them. All of it raises Unavailable where the database does not answer."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def declare(self, handlers: Sequence[DeclaredHandler]) -> None:
        """Writes down what a worker that starts declares, and forgets all others: the newest version of the app is right."""
        names = sorted(one.name for one in handlers)
        async with transaction(self._pool, object) as cursor:
            await cursor.execute(_FORGET, [names])
            # In one order, for workers that start at the same time.
            for one in sorted(handlers, key=lambda one: one.name):
                values = [one.name, one.callable_by, one.payload, one.priority, one.description]
                await cursor.execute(_DECLARE, values)

    async def find(self, name: str) -> DeclaredHandler | None:
        """The one of that name, if some worker has declared it."""
        async with transaction(self._pool, DeclaredHandler) as cursor:
            await cursor.execute(_FIND, [name])
            return await cursor.fetchone()
