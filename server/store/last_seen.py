"""When and where sessions were last heard of: noted at most once a minute each, together, and behind the calls' backs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import structlog

from server.errors import Refusal
from server.store.sessions import StoredSessions

MINUTE = 60.0
"""Seconds in which a session is noted once at most."""
FLUSH = 5.0
"""Seconds a note waits at most for others: what a process that is killed forgets."""
WAITING = 10_000
"""Notes that wait at most, and sessions of which it is known that they were noted; beyond that the oldest go."""
TOGETHER = 1000
"""Notes of one statement."""

V = TypeVar("V")

log = structlog.get_logger("last_seen")


class LastSeen:
    """Collects notes and writes them. One per process."""

    def __init__(self, sessions: StoredSessions, clock: Callable[[], float] = time.monotonic) -> None:
        self._sessions = sessions
        self._clock = clock
        self._waiting: dict[str, str] = {}
        self._noted: dict[str, float] = {}
        self._writing: asyncio.Task[None] | None = None

    def note(self, session: str, address: str) -> None:
        """The session `sessions/...` was heard of just now, from that address ("" for unknown). Costs the caller
        nothing that waits."""
        now = self._clock()
        if self._noted.get(session, 0.0) > now:
            return
        _bounded(self._noted, session, now + MINUTE)
        _bounded(self._waiting, session, address)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def aclose(self) -> None:
        """Writes what waits, once."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        await self._flush()

    async def _write(self) -> None:
        while self._waiting:
            await asyncio.sleep(FLUSH)
            await self._flush()

    async def _flush(self) -> None:
        while self._waiting:
            # In the order of their names: two servers that note the same sessions wait for each other, never in a ring.
            names = sorted(list(self._waiting)[:TOGETHER])
            some = {name.partition("/")[2]: self._waiting[name] for name in names}
            try:
                await self._sessions.heard(some, timedelta(seconds=MINUTE - FLUSH))
            except Refusal as away:  # they go on waiting
                log.warning("not noted", reason=away.reason, waiting=len(self._waiting))
                return
            for name in names:
                self._waiting.pop(name, None)


def _bounded(table: dict[str, V], key: str, value: V) -> None:
    table.pop(key, None)
    if len(table) >= WAITING:
        del table[next(iter(table))]
    table[key] = value
