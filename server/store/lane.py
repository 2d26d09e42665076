"""A few pipelined connections to one Postgres server."""

from __future__ import annotations

import time
from collections.abc import Sequence

from server.errors import Unavailable
from server.store.binary import int8
from server.store.pipeline import Pipeline, Result, Step

_MARK = Step(b"select (pg_current_wal_insert_lsn() - '0/0')::bigint", [])
MARK_AND_WAKE = Step(b"select (pg_current_wal_insert_lsn() - '0/0')::bigint, pg_notify('transom_events', '')", [])

WAKE_SECONDS = 0.02
"""How often the relay is woken at most. A NOTIFY takes a lock that every other one waits for, so it is no part of the
writing transaction and does not follow every one; what it misses, the relay's own look a moment later finds."""


class Lane:
    """Runs go to the connection with the fewest under way. What writes may wait for a lock, and whatever is behind it on
    the same connection waits too: so writes have connections of their own, made when the first comes."""

    def __init__(self, dsn: str, name: str, connections: int) -> None:
        self.connections = tuple(Pipeline(dsn, name) for _ in range(connections))
        self.writing = tuple(Pipeline(dsn, name) for _ in range(connections))
        self._woken = 0.0

    async def open(self) -> None:
        """Connects those for reading. Raises Unavailable where the server cannot be reached."""
        for connection in self.connections:
            await connection.open()

    async def close(self) -> None:
        """Closes all."""
        for connection in (*self.connections, *self.writing):
            await connection.close()

    def drop(self) -> None:
        """Gives up all connections: what is under way fails with Unavailable, what comes connects anew."""
        for connection in (*self.connections, *self.writing):
            connection.drop()

    async def run(self, steps: Sequence[Step]) -> list[Result]:
        """As Pipeline.run."""
        return await min(self.connections, key=lambda c: c.pending).run(steps)

    async def read(self, steps: Sequence[Step]) -> list[Result]:
        """As run, for steps that change nothing: asked again where a connection was lost on the way."""
        for _ in self.connections:
            try:
                return await self.run(steps)
            except Unavailable as lost:
                if lost.reason != "OUTCOME_UNKNOWN":
                    raise
        return await self.run(steps)

    async def run_and_mark(self, steps: Sequence[Step]) -> tuple[list[Result], int]:
        """As run, for what leaves events: the relay is told. Answers also the position in the log (LSN, bytes) that
        surely holds what was committed."""
        connection = min(self.writing, key=lambda c: c.pending)
        now, after = time.monotonic(), _MARK
        if now - self._woken > WAKE_SECONDS:
            self._woken, after = now, MARK_AND_WAKE
        results, [mark] = await connection.run_both(steps, [after])
        return results, int8(mark.get_value(0, 0))

    @property
    def pending(self) -> int:
        """Runs under way, for the metrics."""
        return sum(c.pending for c in (*self.connections, *self.writing))
