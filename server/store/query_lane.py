"""Connections to one Postgres server for statements of any cost: each carries out one at a time, so that nobody waits behind
what is slow but those who ask for such statements themselves."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence

from server.errors import Exhausted, Unavailable
from server.store.pipeline import Pipeline, Result, Step

CONNECTIONS, WAITING = 4, 100
"""Statements at a time, and how many may wait for that; more are refused."""
HELD, QUEUED = 2, 25
"""Of those, how many may be one reader's: whoever asks for much keeps the rest for others."""
PATIENCE = 5.0
"""Seconds that one waits at most."""
SECONDS = 5
"""How long a statement may take."""

_PLANS = f"-c statement_timeout={SECONDS}s"
"""Plans are left to Postgres, and made for the values that are asked for: which index serves depends on them."""


class QueryLane:
    """Connects when the first statement comes."""

    def __init__(self, dsn: str, name: str, plans: str = _PLANS) -> None:
        self._connections = tuple(Pipeline(dsn, name, plans) for _ in range(CONNECTIONS))
        self._idle = list(self._connections)
        self._waiting: deque[tuple[str, asyncio.Future[Pipeline]]] = deque()
        self._held: Counter[str] = Counter()
        self._queued: Counter[str] = Counter()

    async def close(self) -> None:
        """Closes all; what is under way fails with Unavailable."""
        for connection in self._connections:
            await connection.close()

    async def read(self, steps: Sequence[Step], *, reader: str | None = None, waits: bool = True) -> list[Result]:
        """As Pipeline.run, for steps that change nothing: asked again where a connection was lost on the way.

        Raises Exhausted where too many wait, of all or of this `reader`, or have waited for too long; at once where all are
        busy and this one `waits` not.
        """
        try:
            return await self._run(steps, reader or "", waits)
        except Unavailable as lost:
            if lost.reason != "OUTCOME_UNKNOWN":
                raise
        return await self._run(steps, reader or "", waits)

    async def _run(self, steps: Sequence[Step], reader: str, waits: bool) -> list[Result]:
        connection = await self._leased(reader, waits)
        running = asyncio.ensure_future(connection.run(steps))
        running.add_done_callback(lambda done: self._done(connection, reader, done))
        # Who asks may go: the connection is busy all the same, until the statement has ended.
        return await asyncio.shield(running)

    async def _leased(self, reader: str, waits: bool) -> Pipeline:
        if self._idle and self._may_hold(reader):
            self._held[reader] += 1
            return self._idle.pop()
        if not waits or len(self._waiting) >= WAITING or (reader and self._queued[reader] >= QUEUED):
            raise Exhausted("Too many requests wait for the database.", reason="DATABASE_BUSY")
        turn: asyncio.Future[Pipeline] = asyncio.get_running_loop().create_future()
        self._waiting.append((reader, turn))
        self._queued[reader] += 1
        try:
            async with asyncio.timeout(PATIENCE):
                return await turn
        except TimeoutError:
            self._gone(reader, turn)
            raise Exhausted("The database is busy with lists like this one.", reason="DATABASE_BUSY") from None
        except asyncio.CancelledError:
            self._gone(reader, turn)
            raise
        finally:
            _less(self._queued, reader)

    def _may_hold(self, reader: str) -> bool:
        return not reader or self._held[reader] < HELD

    def _gone(self, reader: str, turn: asyncio.Future[Pipeline]) -> None:
        """Who waited for this turn does not take it."""
        if turn.done() and not turn.cancelled():  # it came in the same moment
            self._free(turn.result(), reader)
        else:
            self._waiting = deque(one for one in self._waiting if one[1] is not turn)

    def _done(self, connection: Pipeline, reader: str, done: asyncio.Future[list[Result]]) -> None:
        if not done.cancelled():
            done.exception()  # nobody may be left to ask for it
        self._free(connection, reader)

    def _free(self, connection: Pipeline, reader: str) -> None:
        """The reader holds it no more: it goes to the first who waits and may hold one."""
        _less(self._held, reader)
        for waiting in self._waiting:
            whose, turn = waiting
            if not turn.done() and self._may_hold(whose):
                self._waiting.remove(waiting)
                self._held[whose] += 1
                turn.set_result(connection)
                return
        self._idle.append(connection)


def _less(counts: Counter[str], reader: str) -> None:
    """One less; who has none is forgotten."""
    counts[reader] -= 1
    if counts[reader] <= 0:
        del counts[reader]
