"""Requests that arrive together are answered together.

What is asked in one turn of the event loop goes into one call; while as many calls as `lanes` are under way, what
arrives meanwhile waits and forms the next one, so that batches grow with the load and an idle system adds no delay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from server.errors import Exhausted

Q = TypeVar("Q")
A = TypeVar("A")

WAITING_MAX = 10_000
"""Requests of one kind that may wait; more are refused with RESOURCE_EXHAUSTED."""


class Gathering(Generic[Q, A]):
    """Gathers questions of one kind. `answer` gets a list of them and gives the answers in the same order; an answer
    that is an Exception is raised to the one who asked.

    No two questions of one call have the same `key`: the second waits for the next call (two changes of one
    resource cannot be one statement).
    """

    def __init__(
        self,
        answer: Callable[[list[Q]], Awaitable[Sequence[A | Exception]]],
        *,
        size: int,
        lanes: int = 2,
        key: Callable[[Q], Hashable] | None = None,
    ) -> None:
        self._answer = answer
        self._size = size
        self._lanes = lanes
        self._key = key
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._scheduled = False
        self._calls: set[asyncio.Task[None]] = set()

    def ask(self, question: Q) -> asyncio.Future[A]:
        """The answer to come. Raises Exhausted where too many wait."""
        if len(self._waiting) >= WAITING_MAX:
            raise Exhausted("Too many requests wait for the database.", reason="DATABASE_BUSY")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[A] = loop.create_future()
        self._waiting.append((question, future))
        if not self._scheduled and len(self._calls) < self._lanes:
            self._scheduled = True
            loop.call_soon(self._depart)
        return future

    def _depart(self) -> None:
        self._scheduled = False
        while len(self._calls) < self._lanes and (batch := self._next()):
            call = asyncio.get_running_loop().create_task(self._run(batch))
            self._calls.add(call)
            call.add_done_callback(self._returned)

    def _next(self) -> list[tuple[Q, asyncio.Future[A]]]:
        # Whoever has gone meanwhile is not asked for.
        self._waiting = [item for item in self._waiting if not item[1].done()]
        if self._key is None:
            batch, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
            return batch
        batch, rest, seen = [], [], set()
        for item in self._waiting:
            key = self._key(item[0])
            if len(batch) < self._size and key not in seen:
                seen.add(key)
                batch.append(item)
            else:
                rest.append(item)
                seen.add(key)  # what came later must not overtake
        self._waiting = rest
        return batch

    async def _run(self, batch: list[tuple[Q, asyncio.Future[A]]]) -> None:
        try:
            answers = await self._answer([q for q, _ in batch])
        except BaseException as fault:
            for _, future in batch:
                if not future.done():
                    future.set_exception(fault)
            if not isinstance(fault, Exception):
                raise
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _returned(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if self._waiting:
            self._depart()
