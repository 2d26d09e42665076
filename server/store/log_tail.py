"""Follows the event log as it grows, for all watchers of this process: one reader, whoever watches what."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

import psycopg
import structlog
from prometheus_client import Counter, Gauge, Histogram

from server.errors import Exhausted, Refusal, Stale, Unavailable
from server.store.event_log import Ends, Entry, EventLog, Stretch

CHANNEL = "transom_positions"
"""Where the relay says that there is more."""

POLL = 1.0
"""Seconds after which the log is looked at without having been told to."""

PULSE = 1.0
"""Seconds between two looks at which watchers have something to do that is no event."""

PAUSE = 0.1, 2.0
"""Seconds before a connection that was lost is made anew, the first time and after many."""

PASSING = Unavailable, Exhausted, Stale
"""Refusals of what rules look up that may be none a moment later."""

TELLING_SECONDS = 30.0
"""How long one event is tried again, while the log itself can be read: beyond it, those whom it concerns begin anew, and nobody
else waits for them."""

START_SECONDS = 5.0
"""How long who wants to watch waits for the log to be followed."""

FOLLOWED = Counter("transom_watch_events_total", "Events that were read for watchers.")
FAILED = Counter("transom_watch_failed_total", "Events that could not be told: those whom they may concern began anew.")
LAG = Histogram(
    "transom_watch_lag_seconds",
    "From the writing of an event to its being told to the watchers of this process.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
POSITION = Gauge(
    "transom_watch_position", "The last position of the event log that watchers of this process were told."
)

log = structlog.get_logger("watch")


class Hearer(Protocol):
    """Who tells watchers."""

    def types(self) -> frozenset[str]:
        """The messages of the resources whose events are wanted, all of them."""

    def begin(self, ends: Ends) -> None:
        """From now on all events after the log's present end are told; some before may not have been: what was told may be
        wrong."""

    def decisive(self) -> frozenset[str]:
        """Those of the messages that rights depend on."""

    def foresee(self, entries: Sequence[Entry]) -> None:
        """These are still to be told: those whose rights one of them changes begin anew at once. Else they would be told what was
        before it by rights that were given after."""

    def tell(self, entry: Entry) -> Awaitable[None]:
        """The next event. Raises Refusal where it cannot be told: nobody was told of it. It comes again where the refusal is one
        that passes (PASSING)."""

    def fail(self, entry: Entry) -> None:
        """This event cannot be told at all."""

    def reach(self, position: int) -> None:
        """All that was wanted was told, up to the position."""

    def pulse(self) -> None:
        """Time goes by."""


class LogTail:
    """Follows the log, woken by the relay."""

    def __init__(self, dsn: str, name: str, event_log: EventLog, hearer: Hearer) -> None:
        self._dsn = dsn
        self._name = name
        self._log = event_log
        self._hearer = hearer
        self._position = -1
        self._timeline = self._foreseen = 0
        self._trying: tuple[int, float] = 0, 0.0
        """The event that could not be told, and until when it is tried."""
        self._begun, self._wanted = asyncio.Event(), asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Begins to follow."""
        self._tasks = [asyncio.create_task(self._keep_following()), asyncio.create_task(self._beat())]

    async def aclose(self) -> None:
        """Follows no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def followed(self) -> None:
        """Returns once the log is followed, for somebody whose types are wanted from now on. Raises Unavailable where that
        takes too long."""
        self._wanted.set()
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._begun.wait()
        except TimeoutError:
            raise Unavailable("The database cannot be reached.", reason="DATABASE_AWAY") from None

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(PULSE)
            self._hearer.pulse()

    async def _keep_following(self) -> None:
        pause, longest = PAUSE
        while True:
            try:
                async with await self._connected() as connection:
                    await connection.execute(f"listen {CHANNEL}")
                    while True:
                        more = await self._step()
                        pause = PAUSE[0]
                        if not more:
                            await self._told_of_more(connection)
            except (psycopg.Error, OSError, Refusal) as lost:
                log.warning("not following", cause=f"{type(lost).__name__}: {str(lost).partition(chr(10))[0][:200]}")
            except Exception:  # whatever it is, nobody would be told anything any more
                log.exception("not following")
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def _told_of_more(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Returns when there is more, or may be. While nobody watches, each batch of the relay's wakes nobody."""
        if self._hearer.types():
            async for _ in connection.notifies(timeout=POLL, stop_after=1):
                pass
            return
        self._wanted.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL):
                await self._wanted.wait()
        async for _ in connection.notifies(timeout=0):  # what was said meanwhile must not pile up
            pass

    async def _step(self) -> bool:
        """Reads on; whether there is more."""
        if self._position < 0:
            await self._begin()
        types = self._hearer.types()
        found = await self._log.after(self._position, types)
        if found.timeline != self._timeline or found.trimmed > self._position or found.numbered < self._position:
            log.warning("the event log is not the one that was followed", position=self._position, found=found[1:])
            await self._begin()
            return True
        await self._look_ahead(found)
        for entry in found.entries:
            # Who has just begun to watch what was not asked for is told all the same: it is read again.
            if not self._hearer.types() <= types:
                return True
            try:
                await self._hearer.tell(entry)
            except Exception as fault:
                if isinstance(fault, PASSING) and self._try_again(entry):
                    raise
                log.exception("an event cannot be told", position=entry.position, type=entry.resource_type)
                FAILED.inc()
                self._hearer.fail(entry)
            self._reached(entry.position)
            FOLLOWED.inc()
            LAG.observe(max(0.0, time.time() - entry.time / 1e6))
            await asyncio.sleep(0)
        if not self._hearer.types() <= types:
            return True
        self._reached(found.reached)
        return found.reached < found.numbered

    async def _look_ahead(self, found: Stretch) -> None:
        """Foresees what there is, once: up to the log's end, where it is farther away than one stretch."""
        if found.reached > self._foreseen:
            self._hearer.foresee(found.entries)
            self._foreseen = found.reached
        while self._foreseen < found.numbered and (types := self._hearer.decisive()):
            ahead = await self._log.after(self._foreseen, types)
            self._hearer.foresee(ahead.entries)
            self._foreseen = ahead.reached

    def _try_again(self, entry: Entry) -> bool:
        tried, until = self._trying
        if tried != entry.position:
            self._trying = entry.position, time.monotonic() + TELLING_SECONDS
            return True
        return time.monotonic() < until

    def _reached(self, position: int) -> None:
        self._position = position
        self._hearer.reach(position)
        POSITION.set(position)

    async def _begin(self) -> None:
        ends = await self._log.ends()
        self._position, self._timeline = ends.numbered, ends.history.timeline
        self._foreseen = 0
        self._hearer.begin(ends)
        self._begun.set()

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(
            self._dsn,
            autocommit=True,
            application_name=f"{self._name} watch"[:63],
            connect_timeout=2,
            # A primary whose machine is gone closes no connection: it is lost when it has not confirmed for so long.
            tcp_user_timeout=math.ceil(3 * POLL * 1000),
        )
