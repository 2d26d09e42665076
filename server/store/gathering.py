"""Requests that arrive together are answered together.

What is asked in one turn of the event loop goes into one call. What arrives while a call is under way waits for its
return and forms the next one, so that batches grow with the load and an idle system adds no delay; only where the call
takes longer than PATIENCE, others set out beside it, as many as there are `lanes`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

from server.errors import Exhausted

Q = TypeVar("Q")
A = TypeVar("A")

WAITING_MAX = 10_000
"""Requests of one kind that may wait; more are refused with RESOURCE_EXHAUSTED."""

PATIENCE = 0.005
"""Seconds that a question waits for the call under way before another sets out. An answer is nearly always there
sooner, and a larger batch is cheaper for all in it."""


class Gathering(Generic[Q, A]):
    """Gathers questions of one kind. `answer` gets a list of them and gives the answers in the same order; an answer
    that is an Exception is raised to the one who asked.

    No two questions of one call have the same `key`: the second waits for the next call (two changes of one
    resource cannot be one statement). `light` is for an `answer` that awaits futures and nothing else, no timeout and no
    task of its own: it is carried out without a task, at less than half the cost.
    """

    def __init__(
        self,
        answer: Callable[[list[Q]], Awaitable[Sequence[A | Exception]]],
        *,
        size: int,
        lanes: int = 2,
        key: Callable[[Q], Hashable] | None = None,
        light: bool = False,
    ) -> None:
        self._answer = answer
        self._size = size
        self._lanes = lanes
        self._key = key
        self._light = light
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._scheduled = False
        self._under_way = 0
        self._impatient: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, question: Q) -> asyncio.Future[A]:
        """The answer to come. Raises Exhausted where too many wait."""
        waiting = self._waiting
        if len(waiting) >= WAITING_MAX:
            raise Exhausted("Too many requests wait for the database.", reason="DATABASE_BUSY")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[A] = loop.create_future()
        waiting.append((question, future))
        if self._scheduled:
            return future
        if not self._under_way:
            self._scheduled = True
            loop.call_soon(self._depart)
        elif self._under_way < self._lanes and self._impatient is None:
            self._impatient = loop.call_later(PATIENCE, self._depart)
        return future

    def _depart(self) -> None:
        """Sends one call on its way, and as many more as it takes and may be where there is too much for one."""
        self._scheduled = False
        if self._impatient is not None:
            self._impatient.cancel()
            self._impatient = None
        while self._under_way < self._lanes and (batch := self._next()):
            self._under_way += 1
            call = self._run(batch)
            if self._light:
                _drive(call)
            else:
                task = asyncio.get_running_loop().create_task(call)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _next(self) -> list[tuple[Q, asyncio.Future[A]]]:
        # Whoever has gone meanwhile is not asked for.
        waiting = [item for item in self._waiting if not item[1].done()]
        if self._key is None:
            batch, self._waiting = waiting[: self._size], waiting[self._size :]
            return batch
        batch, rest, seen = [], [], set()
        for item in waiting:
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
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
        finally:
            self._under_way -= 1
            if self._waiting and not self._scheduled:
                self._scheduled = True
                asyncio.get_running_loop().call_soon(self._depart)


def _drive(call: Any) -> None:
    """Takes a coroutine to the next future that it awaits, or to its end; from there on, when that is done."""
    try:
        future = call.send(None)
    except (StopIteration, asyncio.CancelledError):
        return
    future._asyncio_future_blocking = False  # what a Task does, too: it says that somebody has taken it over
    future.add_done_callback(lambda _: _drive(call))
