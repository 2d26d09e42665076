"""Waiting: for a moment that may be cut short, and longer each time something fails."""

from __future__ import annotations

import asyncio
import contextlib
import random


class Backoff:
    """Seconds to wait before trying again: doubling from `first` to `most`, with jitter so that many spread out."""

    def __init__(self, first: float = 0.2, most: float = 5.0) -> None:
        self._first = self._next = first
        self._most = most

    def next(self) -> float:
        """How long to wait this time."""
        wait = self._next
        self._next = min(self._next * 2, self._most)
        return wait * random.uniform(0.5, 1)

    def reset(self) -> None:
        """It went well: begin again with the shortest wait."""
        self._next = self._first


async def either(event: asyncio.Event, seconds: float) -> None:
    """Returns when `event` is set or the time is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
