"""A few threads for what blocks, with a bounded line in front of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

from server.errors import Exhausted

T = TypeVar("T")


class Threads:
    """`workers` threads; at most `waiting` calls wait for one of them, above that a call is refused at once."""

    def __init__(self, name: str, *, workers: int, waiting: int, full: str) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._most = workers + waiting
        self._full = full
        self._taken = 0
        self._lock = Lock()

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises, done in a thread.

        Raises Exhausted where the line is full. A caller that goes away
        before its turn gives up its place.
        """
        with self._lock:
            if self._taken >= self._most:
                raise Exhausted(self._full, reason="BUSY", retry_after=1.0)
            self._taken += 1
        try:
            future = self._pool.submit(work)
        except RuntimeError:  # shut down: the process is going away
            self._leave()
            raise Exhausted(self._full, reason="BUSY", retry_after=1.0) from None
        future.add_done_callback(self._leave)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Lets what runs finish in its thread and drops what waits."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _leave(self, _: Future[T] | None = None) -> None:
        with self._lock:
            self._taken -= 1
