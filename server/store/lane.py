"""A few pipelined connections to one Postgres server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from server.errors import Refusal, Unavailable
from server.store.binary import int8
from server.store.pace import Pace
from server.store.pipeline import Pipeline, Result, Step
from server.store.translation import refusal_of

MARK = Step(b"select (pg_current_wal_insert_lsn() - '0/0')::bigint", [])
_WAKE = Step(b"select set_config('synchronous_commit', 'off', true), pg_notify('transom_events', '')", [])
"""A hint, of which nothing has to be left after a crash: it need not wait for the disk."""

WAKE_SECONDS, WAKE_BURST = 0.1, 10
"""How often the relay is woken: at once, where it was not so many times lately, else at the end of this time. A NOTIFY takes a
lock that every other one waits for, so it is no part of the writing transaction, has a connection of its own and, under load,
does not follow every write."""


class Lane:
    """Runs go to the connection with the fewest under way. What writes may wait for a lock, and whatever is behind it on
    the same connection waits too: so writes have connections of their own, made when the first comes."""

    def __init__(self, dsn: str, name: str, connections: int) -> None:
        self.connections = tuple(Pipeline(dsn, name) for _ in range(connections))
        self.writing = tuple(Pipeline(dsn, name) for _ in range(connections))
        self._waking = Pipeline(dsn, name)
        self._telling: asyncio.Task[None] | None = None
        self._waker: asyncio.TimerHandle | None = None
        self._pace = Pace(WAKE_SECONDS, WAKE_BURST)

    async def open(self) -> None:
        """Connects those for reading. Raises Unavailable where the server cannot be reached."""
        for connection in self.connections:
            await connection.open()

    async def close(self) -> None:
        """Closes all."""
        if self._waker is not None:
            self._waker.cancel()
        if self._telling is not None:
            self._telling.cancel()
        for connection in (*self.connections, *self.writing, self._waking):
            await connection.close()

    def drop(self) -> None:
        """Gives up all connections: what is under way fails with Unavailable, what comes connects anew."""
        for connection in (*self.connections, *self.writing, self._waking):
            connection.drop()

    async def run(self, steps: Sequence[Step]) -> list[Result]:
        """As Pipeline.run."""
        return await min(self.connections, key=lambda c: c.pending).run(steps)

    async def each(self, step: Step) -> list[Result]:
        """What each of the connections for reading answers: they need not lead to the same server."""
        return [found for [found] in await asyncio.gather(*(c.run([step]) for c in self.connections))]

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
        surely holds what was committed.

        Raises Unavailable with reason OUTCOME_UNKNOWN, too, where it was committed but its position cannot be had.
        """
        connection = min(self.writing, key=lambda c: c.pending)
        results, after = await connection.run_then(steps, [MARK])
        self.wake()
        try:
            [mark] = await after
        except Refusal:
            # Whatever was wrong with the question must not look like a refusal of the write: that one is committed.
            try:
                [mark] = await self.run([MARK])
            except Refusal as lost:
                raise refusal_of(None) from lost
        return results, int8(mark.get_value(0, 0))

    def wake(self) -> None:
        """Tells the relay that there are events, now or, where it was told a moment ago, in a moment. Nobody waits for
        that."""
        if self._waker is None:
            loop = asyncio.get_running_loop()
            self._waker = loop.call_later(self._pace.wait(loop.time()), self._wake)

    def _wake(self) -> None:
        self._waker = None
        self._pace.take(asyncio.get_running_loop().time())
        if self._waking.pending:
            self.wake()
        else:
            self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        with contextlib.suppress(Refusal):
            await self._waking.run([_WAKE])

    @property
    def connects(self) -> int:
        """How often those for reading have connected: as long as it stays the same, they lead to the same server."""
        return sum(c.connects for c in self.connections)

    @property
    def pending(self) -> int:
        """Runs under way, for the metrics."""
        return sum(c.pending for c in (*self.connections, *self.writing))
