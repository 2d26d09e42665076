"""Connections to one Postgres server for statements of any cost: each carries out one at a time, so that nobody waits behind
what is slow but those who ask for such statements themselves."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from server.errors import Exhausted, Unavailable
from server.store.pipeline import Pipeline, Result, Step

CONNECTIONS, WAITING = 4, 100
"""Statements at a time, and how many may wait for that; more are refused."""
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
        self._waiting: deque[asyncio.Future[Pipeline]] = deque()

    async def close(self) -> None:
        """Closes all; what is under way fails with Unavailable."""
        for connection in self._connections:
            await connection.close()

    async def read(self, steps: Sequence[Step], *, waits: bool = True) -> list[Result]:
        """As Pipeline.run, for steps that change nothing: asked again where a connection was lost on the way.

        Raises Exhausted where too many wait, or have waited for too long; at once where all are busy and this one `waits` not.
        """
        try:
            return await self._run(steps, waits)
        except Unavailable as lost:
            if lost.reason != "OUTCOME_UNKNOWN":
                raise
        return await self._run(steps, waits)

    async def _run(self, steps: Sequence[Step], waits: bool) -> list[Result]:
        connection = await self._leased(waits)
        running = asyncio.ensure_future(connection.run(steps))
        running.add_done_callback(lambda done: self._done(connection, done))
        # Who asks may go: the connection is busy all the same, until the statement has ended.
        return await asyncio.shield(running)

    async def _leased(self, waits: bool) -> Pipeline:
        if self._idle:
            return self._idle.pop()
        if not waits or len(self._waiting) >= WAITING:
            raise Exhausted("Too many requests wait for the database.", reason="DATABASE_BUSY")
        turn: asyncio.Future[Pipeline] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(PATIENCE):
                return await turn
        except TimeoutError:
            self._gone(turn)
            raise Exhausted("The database is busy with lists like this one.", reason="DATABASE_BUSY") from None
        except asyncio.CancelledError:
            self._gone(turn)
            raise

    def _gone(self, turn: asyncio.Future[Pipeline]) -> None:
        """Who waited for this turn does not take it."""
        if turn.done() and not turn.cancelled():  # it came in the same moment
            self._free(turn.result())
        else:
            self._waiting = deque(one for one in self._waiting if one is not turn)

    def _done(self, connection: Pipeline, done: asyncio.Future[list[Result]]) -> None:
        if not done.cancelled():
            done.exception()  # nobody may be left to ask for it
        self._free(connection)

    def _free(self, connection: Pipeline) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        self._idle.append(connection)
