"""Which reads may go to the replica: those that cannot tell.

A caller who wrote reads from the primary until the replica has replayed that write: the commit's position in the
log (LSN) is kept as the caller's mark, in Redis so that every server knows it, before the write is acknowledged.
A caller without a mark may read what the replica has, if the replica is at most `lag_max` seconds behind.
Where the marks cannot be asked for, or the replica cannot be watched, reads go to the primary. While the primary cannot be
reached by this server, how far the replica is behind cannot be known: it is read as it is, callers' own writes excepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable
from typing import Protocol

from server.errors import Refusal
from server.store.binary import int8
from server.store.gathering import Gathering
from server.store.lane import Lane
from server.store.pipeline import Step

WATCH_SECONDS = 0.25
"""How often primary and replica are asked for their positions."""

MARK_SECONDS = 30
"""How long a mark is kept: far longer than `lag_max`, after which the replica is not read anyway."""

RECENT_MAX = 10_000
"""Own marks kept in memory: they hold even while Redis is away. Beyond, the newest of them holds for everybody."""

LOOK_SECONDS = 0.5
"""How long primary and replica may take to tell their positions: then they count as away."""

_WRITTEN = Step(b"select (pg_current_wal_flush_lsn() - '0/0')::bigint", [])
_REPLAYED = Step(b"select (pg_last_wal_replay_lsn() - '0/0')::bigint", [])


class Marks(Protocol):
    """Where marks are shared between servers."""

    def put(self, caller: str, lsn: int, seconds: int) -> Awaitable[None]:
        """Keeps the caller's mark. Raises Unavailable where it cannot."""

    def get(self, callers: list[str]) -> Awaitable[list[int]]:
        """The marks, 0 where there is none. Raises Unavailable where they cannot be asked for."""


class Freshness:
    """What this process knows of the replica and of who wrote what."""

    def __init__(self, marks: Marks, primary: Lane, replica: Lane | None, lag_max: float) -> None:
        self._marks = marks
        self._primary = primary
        self._replica = replica
        self._lag_max = lag_max
        self._replayed = 0
        self._seen: deque[tuple[float, int]] = deque(maxlen=int(60 / WATCH_SECONDS))
        self._caught_up_at = 0.0
        self._recent: dict[str, int] = {}
        self._everybody = 0
        self._asking: Gathering[str, int] = Gathering(self._ask, size=1000, lanes=2)
        self._looked = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    @property
    def lag(self) -> float:
        """Seconds the replica is behind, at most; infinite where that is not known."""
        return time.monotonic() - self._caught_up_at if self._caught_up_at else float("inf")

    async def open(self) -> None:
        """Begins to watch the replica, if there is one."""
        if self._replica is not None:
            await self._look()
            self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Ends the watch."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching

    async def suffices(self, reader: str) -> bool:
        """Whether the replica shows `reader` all that they may expect."""
        if self.lag > self._lag_max:
            return False
        if not reader:
            return True
        if max(self._everybody, self._recent.get(reader, 0)) > self._replayed:
            return False
        try:
            return await self._asking.ask(reader) <= self._replayed
        except Refusal:
            return False

    async def written(self, caller: str, lsn: int) -> None:
        """Keeps the mark of a write that was committed; afterwards the write may be acknowledged.

        Where Redis cannot keep it, other servers could not know: then this returns only once the replica has replayed the
        write, or is so far behind that nobody reads it.
        """
        if self._replica is None or not caller:
            return
        if len(self._recent) >= RECENT_MAX:
            self._everybody = max(self._recent.values())
            self._recent = {}
        self._recent[caller] = max(lsn, self._recent.get(caller, 0))
        try:
            await self._marks.put(caller, self._recent[caller], MARK_SECONDS)
        except Refusal:
            await self._shown(lsn)

    async def _shown(self, lsn: int) -> None:
        """Returns once no reader of the replica can miss what was written at `lsn`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._lag_max + WATCH_SECONDS):
                while self._replayed < lsn:
                    await self._looked.wait()

    def failed(self) -> None:
        """The replica did not answer: nobody is sent there until it is seen again."""
        self._caught_up_at = 0.0
        self._seen.clear()

    async def _ask(self, callers: list[str]) -> list[int]:
        return await self._marks.get(callers)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await self._look()
            self._looked.set()  # those who wait look for themselves
            self._looked = asyncio.Event()

    async def _look(self) -> None:
        assert self._replica is not None
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                [replayed] = await self._replica.run([_REPLAYED])
            self._replayed = int8(replayed.get_value(0, 0))
        except TimeoutError:
            self.failed()
            self._replica.drop()  # who waits for it asks the primary
            return
        except Refusal:
            self.failed()
            return
        for when, written in reversed(self._seen):
            if written <= self._replayed:
                self._caught_up_at = max(self._caught_up_at, when)
                break
        now = time.monotonic()
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                [written_now] = await self._primary.run([_WRITTEN])
            self._seen.append((now, int8(written_now.get_value(0, 0))))
        except (Refusal, TimeoutError):
            # The primary is away: nothing is written that the replica could lack, beyond what it lacks now.
            if self.lag <= 2 * self._lag_max:
                self._caught_up_at = now
