"""What Postgres tells every server: that tokens have ended, and that accounts are no longer what they were.

Triggers send the word in the transaction of the change itself (migrations/0004_identity.sql). So it is told if and
only if the change is there, whoever made it, by whatever way, and whatever dies in between; and where there is no
primary to tell it, there is none that could have changed anything.

Whoever remembers callers may do so as long as it would have heard of a change. So the connection on which words come
is asked for a sign of life again and again: all words of changes that were committed before the question have come
when the answer has. What was remembered is good for SILENCE seconds after the last question that was answered. A change
is effective on every server at most that long after its commit, and nearly always as soon as the word has travelled.

Where no sign of life comes (the primary is away, the network is, this process is too slow), nothing remembered counts:
Redis is asked for every call, where every ended token has its mark (store/tokens.py), or Postgres where Redis is away,
too.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import psycopg
import structlog
from prometheus_client import Gauge

SILENCE = 1.0
"""Seconds after the last sign of life in which what is remembered counts: the longest that a change takes to be
effective on a server that remembers."""

EVERY = 0.2
"""Seconds from one question to the next: a few may be late without anybody noticing."""

PAUSE = 0.2, 2.0
"""Seconds before a connection that was lost is made anew, the first time and after many."""

CHANNEL = "transom_callers"

HEARING = Gauge("transom_announcements_heard", "1 while this process would hear that a session ends elsewhere.")

log = structlog.get_logger("announcements")


class Hearer(Protocol):
    """Who remembers callers."""

    def begin(self) -> None:
        """From now on all words are heard; some before may not have been."""

    def alive(self, until: float) -> None:
        """Nothing changed that was not told: what is remembered counts until that time (monotonic)."""

    def forget(self, digests: Iterable[bytes]) -> None:
        """Tokens with these SHA-256 have ended."""

    def changed(self, names: Iterable[str]) -> None:
        """Callers with these resource names are not what they were."""


class Announcements:
    """Hears them, on a connection of its own to the primary, which is made anew whenever it is lost."""

    def __init__(self, dsn: str, name: str, hearer: Hearer, clock: Callable[[], float] = time.monotonic) -> None:
        self._dsn = dsn
        self._name = name
        self._hearer = hearer
        self._clock = clock
        self._hears: asyncio.Task[None] | None = None
        self._until = -math.inf

    def open(self) -> None:
        """Begins to listen."""
        self._hears = asyncio.create_task(self._keep_hearing())
        HEARING.set_function(lambda: float(self._clock() < self._until))

    async def aclose(self) -> None:
        """Stops listening."""
        if self._hears is not None:
            self._hears.cancel()
            await asyncio.gather(self._hears, return_exceptions=True)

    async def _keep_hearing(self) -> None:
        pause, longest = PAUSE
        while True:
            try:
                async with await self._connected() as connection:
                    await connection.execute(f"listen {CHANNEL}")
                    self._hearer.begin()
                    pause = PAUSE[0]
                    await self._hear(connection)
            except (psycopg.Error, OSError) as lost:
                log.warning("not hearing", cause=f"{type(lost).__name__}: {str(lost).partition(chr(10))[0][:200]}")
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def _hear(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Until the connection is lost, with an error."""
        while True:
            asked = self._clock()
            await connection.execute("select 1")
            async for word in connection.notifies(timeout=0):  # what came before the answer
                self._take(word.payload)
            self._until = asked + SILENCE
            self._hearer.alive(self._until)
            async for word in connection.notifies(timeout=EVERY):
                self._take(word.payload)

    def _take(self, word: str) -> None:
        kind, *what = word.split(" ")
        if kind == "ended":
            with contextlib.suppress(ValueError):  # nobody but the triggers speaks here; who does, harms nobody
                self._hearer.forget([bytes.fromhex(digest) for digest in what])
        elif kind == "changed":
            self._hearer.changed(what)

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(
            self._dsn,
            autocommit=True,
            application_name=f"{self._name} announcements",
            connect_timeout=2,
            # A primary whose machine is gone closes no connection: it is lost when it has not confirmed for so long.
            tcp_user_timeout=3000,
        )
