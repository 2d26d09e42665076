"""Says which tasks a worker runs, for as long as it lives: servers refuse to enqueue what nobody would run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from consumers.waiting import Backoff, either
from server.errors import Refusal
from server.store.task_handlers import LIVE, DeclaredHandler, StoredHandlers

EVERY = LIVE.total_seconds() / 3
"""Seconds after which it is said again."""

log = structlog.get_logger("tasks")


async def declaring(
    stored: StoredHandlers, handlers: Sequence[DeclaredHandler], worker: str, stop: asyncio.Event
) -> None:
    """Until `stop` is set, with the database away or not. `worker` is this process's own name."""
    backoff, declared = Backoff(), False
    while not stop.is_set():
        try:
            if declared:
                await stored.keep(handlers, worker)
            else:
                await stored.declare(handlers, worker)
            declared = True
            backoff.reset()
            await either(stop, EVERY)
        except Refusal as away:
            wait = backoff.next()
            log.warning("tasks are not declared", reason=away.reason, retry_in=round(wait, 2))
            await either(stop, wait)
