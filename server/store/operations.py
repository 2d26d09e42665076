"""Rows of transom.operations."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from psycopg import sql

from server.store.changes import PAGE_BYTES_MAX
from server.store.pooled import Pool, swept, transaction
from server.store.transactions import Transaction

_KEEP = sql.SQL(
    "insert into transom.operations (id, caller, done, payload, deleted) "
    "values ($1::text, $2::text, $3::bool, $4::bytea, $5::text[]) returning 1"
).format()

_FIND = "select id, caller, done, payload, deleted from transom.operations where id = %s and create_time > now() - %s"

# Newest first: their ids sort by time. One more is looked at than is asked for, and as many are read as are not too large.
_LIST = """
select id, caller, done, payload, deleted, more from (
    select *, sum(octet_length(payload)) over newest as bytes, row_number() over newest as place,
           lead(id) over newest is not null as more
    from (
        select id, caller, done, payload, deleted from transom.operations
        where (%(caller)s::text is null or caller = %(caller)s) and (%(done)s::bool is null or done = %(done)s)
          and (%(before)s = '' or id < %(before)s) and create_time > now() - %(kept)s
        order by id desc limit %(limit)s + 1
    ) as found window newest as (order by id desc)
) as measured
where place <= %(limit)s and (bytes <= %(bytes)s or place = 1) order by id desc
"""

_DELETE = "delete from transom.operations where id = %s and done returning id, caller, done, payload, deleted"

_SWEEP = """
delete from transom.operations where id in (
    select id from transom.operations where done and create_time <= now() - %s limit %s for update skip locked
)
"""


@dataclass(frozen=True, slots=True)
class StoredOperation:
    """An operation as it is kept."""

    id: str
    caller: str
    """Who may see it."""
    done: bool
    payload: bytes
    """google.longrunning.Operation, serialized."""
    deleted: list[str]
    """Names of what it deleted for good, or marked: its caller is shown these although they are not there."""


@dataclass(frozen=True, slots=True)
class ListedOperation(StoredOperation):
    """One of a page."""

    more: bool
    """Whether there are others after it."""


class StoredOperations:
    """Operations in Postgres. One is found for so long after it began."""

    def __init__(self, pool: Pool, kept: timedelta) -> None:
        self._pool = pool
        self._kept = kept

    async def keep(self, within: Transaction, operation: StoredOperation) -> None:
        """Keeps a new operation, if the transaction is committed."""
        await within.rows(_KEEP, [operation.id, operation.caller, operation.done, operation.payload, operation.deleted])

    async def find(self, id: str) -> StoredOperation | None:
        """The operation, if there is one."""
        async with transaction(self._pool, StoredOperation) as cursor:
            await cursor.execute(_FIND, [id, self._kept])
            return await cursor.fetchone()

    async def list(self, caller: str | None, done: bool | None, before: str, limit: int) -> list[ListedOperation]:
        """At most `limit` operations of `caller` (None: of all), `done` or not (None: either), that began before that of the id
        `before` (empty: all), newest first; of PAGE_BYTES_MAX at most, but for the first."""
        asked = {"caller": caller, "done": done, "before": before, "limit": limit, "kept": self._kept}
        async with transaction(self._pool, ListedOperation) as cursor:
            await cursor.execute(_LIST, asked | {"bytes": PAGE_BYTES_MAX})
            return await cursor.fetchall()

    async def delete(self, id: str) -> bool:
        """Whether there was such an operation, done, to be deleted."""
        async with transaction(self._pool, StoredOperation) as cursor:
            await cursor.execute(_DELETE, [id])
            return await cursor.fetchone() is not None

    async def sweep(self, bite: int = 1000) -> int:
        """Deletes those that were done too long ago, `bite` at once; how many it were."""
        return await swept(self._pool, _SWEEP, self._kept, bite)
