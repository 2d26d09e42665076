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
looked at, and what its own threads put into the queue, the first calls of a new connection, gives none."""
FETCHED = 100
"""Ready descriptors that the core takes from its poller at once (MAX_EPOLL_EVENTS in its ev_epoll1_linux.cc)."""
NEW = 1
"""Descriptors that may have come to be watched since the last tick. Where more have and all are ready at once, what the last of
them say is read at the next look, a tick later at worst."""

_SELF = Path("/proc/self/fd")
_POLLED = "anon_inode:[eventpoll]"

Then = Callable[[Any], None]
"""What is called with an event: the tag of what was begun."""


class Unpollable(Exception):
    """The core does not wait on descriptors that the loop could watch."""


class Queue:
    """One completion queue and the descriptor that tells of it. For one thread: that of the loop it is opened on.

    It must be the first of its process, and no channel or server of grpc.aio may be in it: theirs would take its events.
    """

    def __init__(self) -> None:
        """Raises Unpollable."""
        if POLLED_BY_US not in os.environ.get("GRPC_EXPERIMENTS", ""):
            raise Unpollable("GRPC_EXPERIMENTS was set otherwise")
        before = _pollers()
        self.core = cygrpc.CompletionQueue()
        self._pollers = _pollers() - before
        if not self._pollers:
            raise Unpollable("grpc's core made no epoll descriptor")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sign = -1
        self._quiet = FETCHED
        self._soon = False
        self._tick: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Reads from now on, on the loop that runs. The server must be listening."""
        self._loop = asyncio.get_running_loop()
        self._sign = max(self._pollers, key=_watched)  # the other is the event engine's, with nothing to do
        self._loop.add_reader(self._sign, self._read)
        self._ticked()

    def look(self) -> None:
        """Has the queue looked at soon. Whoever begins something outside of it does the core's pending work, too: what comes
        of that lies in the queue and gives no sign."""
        if not self._soon and self._loop is not None:
            self._soon = True
            self._loop.call_soon(self._looked)

    def close(self) -> None:
        """Reads no more. Nothing may be under way."""
        if self._loop is None:
            return
        self._loop.remove_reader(self._sign)
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
            self._tick = self._loop.call_later(TICK, self._ticked)  # first: whatever breaks below, it goes on
            self._quiet = min(FETCHED, _watched(self._sign) + NEW)
            self._read()

    def _read(self) -> None:
        # The core takes all that is ready from its poller at once, which ends the sign, and then works at one descriptor
        # each time it is asked: only after as many answers of nothing as there may be descriptors is there nothing. One
        # takes a microsecond.
        poll, nothing = self.core.poll, cygrpc.CompletionType.queue_timeout
        handled = in_vain = 0
        while in_vain < self._quiet:
            event = poll(0)  # a deadline long past: never waits
            if event.completion_type == nothing:
                in_vain += 1
                continue
            in_vain, handled = 0, handled + 1
            then: Then | None = event.tag
            if then is not None:
                then(event)
            if handled == AT_ONCE:
                self.look()
                return


def _pollers() -> set[int]:
    """The epoll descriptors of this process; none where there are no such things."""
    found = set()
    for file in _SELF.iterdir() if _SELF.exists() else ():
        try:
            if os.readlink(file) == _POLLED:
                found.add(int(file.name))
        except OSError:  # the one that lists them
            pass
    return found


def _watched(poller: int) -> int:
    """How many descriptors it watches. Asked at every tick, so as little as can be stands between."""
    file = os.open(f"/proc/self/fdinfo/{poller}", os.O_RDONLY)
    try:
        told = b""
        while part := os.read(file, 65_536):
            told += part
    finally:
        os.close(file)
    return told.count(b"tfd:")
