"""The core's completion queue, read on the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grpc._cython import cygrpc

from server.wire.experiments import POLLED_BY_US

AT_ONCE = 256
"""Events that are handled before the loop sees to others."""
TICK = 0.05
"""Seconds after which the queue is looked at without a sign: the core keeps its timers (deadlines, keepalive) when it is
looked at, and what its own threads put into the queue gives none."""

_SELF = Path("/proc/self/fd")
_POLLED = "anon_inode:[eventpoll]"

Then = Callable[[Any], None]
"""What is called with an event: the tag of what was begun."""


class Unpollable(Exception):
    """The core does not wait on descriptors that the loop could watch."""


class Queue:
    """One completion queue and the descriptors that tell of it. For one thread: that of the loop it is opened on.

    It must be the first of its process, and no channel or server of grpc.aio may be in it: theirs would take its events.
    """

    def __init__(self) -> None:
        """Raises Unpollable."""
        if POLLED_BY_US not in os.environ.get("GRPC_EXPERIMENTS", ""):
            raise Unpollable("GRPC_EXPERIMENTS was set otherwise")
        before = _polled()
        self.core = cygrpc.CompletionQueue()
        self._signs = _polled() - before
        if not self._signs:
            raise Unpollable("grpc's core made no epoll descriptor")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._soon = False
        self._tick: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Reads from now on, on the loop that runs."""
        self._loop = asyncio.get_running_loop()
        for sign in self._signs:
            self._loop.add_reader(sign, self._read)
        self._ticked()

    def look(self) -> None:
        """Has the queue looked at soon: what was begun may have ended at once, which gives no sign."""
        if not self._soon and self._loop is not None:
            self._soon = True
            self._loop.call_soon(self._looked)

    def close(self) -> None:
        """Reads no more. Nothing may be under way."""
        if self._loop is None:
            return
        for sign in self._signs:
            self._loop.remove_reader(sign)
        if self._tick is not None:
            self._tick.cancel()
        self._loop = None
        self.core.shutdown()
        while self.core.poll(0).completion_type is not cygrpc.CompletionType.queue_shutdown:
            pass

    def _looked(self) -> None:
        self._soon = False
        self._read()

    def _ticked(self) -> None:
        if self._loop is not None:
            self._read()
            self._tick = self._loop.call_later(TICK, self._ticked)

    def _read(self) -> None:
        poll, nothing = self.core.poll, cygrpc.CompletionType.queue_timeout
        for _ in range(AT_ONCE):
            event = poll(0)  # a deadline long past: never waits
            if event.completion_type == nothing:
                return
            then: Then | None = event.tag
            if then is not None:
                then(event)
        self.look()


def _polled() -> set[int]:
    """The epoll descriptors of this process; none where there are no such things."""
    found = set()
    for file in _SELF.iterdir() if _SELF.exists() else ():
        try:
            if os.readlink(file) == _POLLED:
                found.add(int(file.name))
        except OSError:  # the one that lists them
            pass
    return found
