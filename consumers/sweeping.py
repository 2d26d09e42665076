"""What is left behind is swept: expired sessions and words, uploads that nobody finished, the bytes of deleted files."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping

import structlog

from consumers.waiting import either
from server.errors import Refusal

EVERY = 60.0
"""Seconds between two sweeps of one worker. Any number may sweep: each takes what the others have not."""

Sweep = Callable[[], Awaitable[int]]
"""Removes some of what is left behind; how much it was."""

log = structlog.get_logger("sweeping")


async def sweep(sweeps: Mapping[str, Sweep], stop: asyncio.Event) -> None:
    """Sweeps now and then until `stop` is set. What cannot be swept this time keeps nothing else from it."""
    while not stop.is_set():
        await either(stop, EVERY * random.uniform(0.8, 1.2))
        done = {}
        for what, one in sweeps.items():
            try:
                done[what] = await one()
            except Refusal as refusal:
                log.warning("not swept this time", what=what, reason=refusal.reason)
        if any(done.values()):
            log.info("swept", **{what: number for what, number in done.items() if number})
