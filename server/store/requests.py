"""Rows of transom.requests: writes that may be repeated, and what they answered."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from weakref import WeakValueDictionary

from prometheus_client import Counter
from psycopg import sql

from server.store.pooled import Pool, swept
from server.store.transactions import Transaction

NOBODYS_MAX = 100_000
"""Of those who are not signed in, whom nobody can tell apart: the newest of all of them that are kept. Before a sweep there
may be more, by what came since the last one."""

REPEATED = Counter(
    "transom_requests_repeated_total", "Calls that were answered as the first with their request id was."
)

# Two of the same id take turns, whichever server they came to: the lock ends with the transaction.
_CLAIM = sql.SQL("select pg_advisory_xact_lock(hashtextextended($1::text || chr(10) || $2::text, 155))").format()

_KEPT = sql.SQL(
    "select digest, reply from transom.requests "
    "where caller = $1::text and id = $2::text and create_time > clock_timestamp() - $3::interval"
).format()

# One that is there is too old to count, but was not swept yet.
_KEEP = sql.SQL(
    "insert into transom.requests (caller, id, digest, reply) values ($1::text, $2::text, $3::bytea, $4::bytea) "
    "on conflict (caller, id) do update set digest = excluded.digest, reply = excluded.reply, create_time = clock_timestamp() "
    "returning 1"
).format()

_SWEEP = """
delete from transom.requests where (caller, id) in (
    select caller, id from transom.requests where create_time <= now() - %s limit %s for update skip locked
)
"""

_SWEEP_NOBODYS = """
delete from transom.requests where (caller, id) in (
    select caller, id from transom.requests where caller = '' order by create_time desc offset %s limit %s
    for update skip locked
)
"""


@dataclass(frozen=True, slots=True)
class Answered:
    """What was asked with an id, and what was answered."""

    digest: bytes
    reply: bytes


class StoredRequests:
    """Requests in Postgres, in transactions of those that they ask for."""

    def __init__(self, pool: Pool, kept: timedelta) -> None:
        self._pool = pool
        self._kept = kept
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    def turn(self, caller: str, id: str) -> AbstractAsyncContextManager[object]:
        """One's turn with this id, among the calls of this process: those who wait here hold no connection."""
        return self._turns.setdefault((caller, id), asyncio.Lock())

    async def claim(self, within: Transaction, caller: str, id: str) -> Answered | None:
        """What was answered to this id; None where nothing was: then it is the transaction's to answer. Waits while another
        transaction has that to do."""
        await within.rows(_CLAIM, [caller, id])
        rows = await within.rows(_KEPT, [caller, id, self._kept])
        if not rows:
            return None
        REPEATED.inc()
        return Answered(bytes(rows[0][0]), bytes(rows[0][1]))

    async def keep(self, within: Transaction, caller: str, id: str, answered: Answered) -> None:
        """Keeps what is answered, if the transaction is committed."""
        await within.rows(_KEEP, [caller, id, answered.digest, answered.reply])

    async def sweep(self, bite: int = 1000) -> int:
        """Deletes those that are too old to count, and nobody's beyond the newest, `bite` at once; how many it were."""
        done = await swept(self._pool, _SWEEP, self._kept, bite)
        return done + await swept(self._pool, _SWEEP_NOBODYS, NOBODYS_MAX, bite)
