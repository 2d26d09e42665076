"""Lists that ask for more than a plain page, and counts: on connections of their own.

What they cost depends on what is asked and on what indexes there are, so they share neither a statement nor a connection with
what is always quick, and each is given up after `SECONDS`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import Histogram
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg import Error as PostgresError
from psycopg.errors import QueryCanceled
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from server.errors import Exhausted, Precondition, Unavailable
from server.query.groups import Grouping
from server.query.orders import Order
from server.query.rules.checking import Rules
from server.store import selections
from server.store.changes import PAGE_BYTES_MAX, Shown
from server.store.freshness import Freshness
from server.store.pooled import Pool
from server.store.selections import Cut, Selection, Text
from server.store.translation import refusal_of

CONNECTIONS, WAITING = 4, 100
"""Statements to each Postgres server at a time, and how many may wait for that; more are refused."""
SECONDS = 5
"""How long one may take."""
COUNT_SECONDS = 1
"""How long a count may take that a page is answered with."""

_REPLAYED = "select (pg_last_wal_replay_lsn() - '0/0')::bigint"
"""What a snapshot that is taken afterwards shows, of a replica. NULL of a server that was promoted: it shows all there is."""

TAKEN = Histogram(
    "transom_query_seconds",
    "Duration of lists with a filter, an order or several parents, of counts and of aggregates.",
    ["resource"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)

Note = Callable[[Selection, Order | None, float], None]
"""Told of what was asked, of the order that was asked for, and how long it took, in seconds."""


def query_pool(dsn: str, name: str) -> Pool:
    """The pool for them, not open yet; it connects when the first is asked."""
    return AsyncConnectionPool(
        dsn,
        min_size=0,
        max_size=CONNECTIONS,
        max_waiting=WAITING,
        timeout=SECONDS,
        check=AsyncConnectionPool.check_connection,
        kwargs={
            "autocommit": True,
            "application_name": name,
            "connect_timeout": 5,
            # Plans are made for the values that are asked for: which index serves depends on them.
            "options": f"-c statement_timeout={SECONDS}s -c timezone=UTC -c jit=off"
            " -c plan_cache_mode=force_custom_plan",
        },
        open=False,
    )


class Queries:
    """Reads selections of a schema's resources."""

    def __init__(self, rules: Rules, primary: Pool, replica: Pool | None, freshness: Freshness, note: Note) -> None:
        self._rules = rules
        self._primary = primary
        self._replica = replica
        self._freshness = freshness
        self._note = note

    async def page(self, selection: Selection, cut: Cut, reader: str) -> list[Shown]:
        """The rows of a page, as fresh as `reader` may expect. Of a page that is cut by its bytes, one row more is read than
        fits.

        Raises Precondition (QUERY_TOO_EXPENSIVE) where it takes too long.
        """
        out: list[Shown] = []
        for text in selections.pages(selection, cut, self._rules.resources[selection.resource.message]):
            found = await self._read(selection, cut.order, text, reader)
            out += (Shown(*row) for row in found[: cut.size - len(out)])
            if len(out) >= cut.size or sum(len(row.payload) for row in out) > PAGE_BYTES_MAX:
                break
        return out

    async def count(self, selection: Selection, most: int, reader: str) -> int | None:
        """How many resources it has, `most` where there are more; None where counting takes longer than COUNT_SECONDS."""
        text = selections.count(selection, most, self._rules.resources[selection.resource.message])
        try:
            [[number]] = await self._read(selection, None, text, reader, COUNT_SECONDS)
        except Precondition:
            return None
        return int(number)

    async def groups(
        self, selection: Selection, grouping: Grouping, size: int, skip: int, reader: str
    ) -> list[tuple[list[str | None], int]]:
        """The rows of an aggregate, at most `size` after `skip` others: a text for each column, and how many resources the
        group has. Of rows that are cut by their bytes, one more is read than fits.

        Raises Precondition (QUERY_TOO_EXPENSIVE) where it takes too long.
        """
        text = selections.groups(selection, grouping, size, skip, self._rules.resources[selection.resource.message])
        rows = await self._read(selection, None, text, reader)
        return [(list(row[:-2]), int(row[-2])) for row in rows]

    async def _read(
        self, selection: Selection, order: Order | None, text: Text, reader: str, seconds: float | None = None
    ) -> list[tuple[Any, ...]]:
        begin = time.monotonic()

        async def ask(stale: bool) -> list[tuple[Any, ...]] | Precondition:
            pool = self._replica if stale and self._replica is not None else self._primary
            with _translated():
                async with pool.connection() as connection:
                    try:
                        return await self._rows(connection, text, seconds, stale)
                    except QueryCanceled:
                        # Answered and not raised: what is too much for the replica is not asked of the primary, too.
                        return Precondition(
                            "This takes too long to find among so many; narrow the filter, or ask for an order that there is "
                            "an index for.",
                            reason="QUERY_TOO_EXPENSIVE",
                        )

        answer = await self._freshness.read(reader, ask)
        taken = time.monotonic() - begin
        TAKEN.labels(selection.resource.message).observe(taken)
        self._note(selection, order, taken)
        if isinstance(answer, Precondition):
            raise answer
        return answer

    async def _rows(
        self, connection: AsyncConnection[Any], text: Text, seconds: float | None, stale: bool
    ) -> list[tuple[Any, ...]]:
        expected = self._freshness.positions.replayed
        cursor = AsyncRawCursor(connection, row_factory=tuple_row)
        async with connection.transaction(), connection.pipeline():
            if seconds is not None:
                await cursor.execute(f"set local statement_timeout = {int(seconds * 1000)}")
            replayed = await connection.cursor(row_factory=tuple_row).execute(_REPLAYED) if stale else None
            await cursor.execute(text.statement, text.parameters, binary=True)
            if replayed is not None and _behind(await replayed.fetchone(), expected):
                raise Unavailable("The replica may be another one.", reason="DATABASE_AWAY")
            return await cursor.fetchall()


def _behind(replayed: tuple[int | None] | None, expected: int) -> bool:
    return replayed is not None and replayed[0] is not None and replayed[0] < expected


@contextmanager
def _translated() -> Iterator[None]:
    """Speaks our errors in place of psycopg's."""
    try:
        yield
    except TooManyRequests as busy:
        raise Exhausted("Too many requests wait for the database.", reason="DATABASE_BUSY") from busy
    except PoolTimeout as away:
        raise Unavailable("The database cannot be reached, or is busy.", reason="DATABASE_AWAY") from away
    except PostgresError as error:
        raise refusal_of(error) from error
