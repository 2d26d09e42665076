"""What is left behind is swept: expired sessions, uploads that nobody finished, the bytes of deleted files."""

from __future__ import annotations

import asyncio
import random

import structlog

from consumers.waiting import either
from server.engine.accounts import Accounts
from server.engine.files import Files
from server.errors import Refusal

EVERY = 60.0
"""Seconds between two sweeps of one worker. Any number may sweep: each takes what the others have not."""

log = structlog.get_logger("sweeping")


async def sweep(accounts: Accounts, files: Files, stop: asyncio.Event) -> None:
    """Sweeps now and then until `stop` is set."""
    while not stop.is_set():
        await either(stop, EVERY * random.uniform(0.8, 1.2))
        try:
            sessions, uploads = await accounts.sweep(), await files.sweep()
        except Refusal as refusal:
            log.warning("not swept this time", reason=refusal.reason)
        else:
            if sessions or uploads:
                log.info("swept", sessions=sessions, files=uploads)
