"""What waits to be told: bounded, for one reader on the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """What can lie in a mailbox."""

    @property
    def size(self) -> int:
        """Bytes, about."""


T = TypeVar("T", bound=Sized)


class Mailbox(Generic[T]):
    """A queue that never makes who puts something in wait: where it is full, it says so."""

    __slots__ = ("_bytes", "_bytes_max", "_items", "_items_max", "_waiter", "_woken")

    def __init__(self, items_max: int, bytes_max: int) -> None:
        self._items: deque[T] = deque()
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._woken = False
        self._waiter: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> bool:
        """Whether there was room for it. An empty mailbox has room for anything."""
        items = self._items
        if items and (len(items) >= self._items_max or self._bytes + item.size > self._bytes_max):
            return False
        items.append(item)
        self._bytes += item.size
        self._wake()
        return True

    def clear(self) -> None:
        """Throws away what is in it."""
        self._items.clear()
        self._bytes = 0

    def wake(self) -> None:
        """Lets who reads look around."""
        self._woken = True
        self._wake()

    async def get(self) -> T | None:
        """The next; None where it was woken without one."""
        while True:
            if self._woken:
                self._woken = False
                return None
            if self._items:
                item = self._items.popleft()
                self._bytes -= item.size
                return item
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Turns:
    """So many at a time; the others wait."""

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)

    async def __aenter__(self) -> None:
        await self._free.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._free.release()
