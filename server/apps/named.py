"""How an app says that a function runs tasks that are enqueued by name, and what it is told."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from server.apps.declarations import RETRIES_MAX, TIME_LIMIT_MAX, F, marked
from server.engine.tasks import NAME
from server.rates import Rate
from server.rates import rate as written

AT_ONCE_MAX = 1000
"""Most runs of one queue at one time that can be asked for."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds between a failure and the next run: `first`, then `factor` times as long each time, up to `most`; up to half of it
    is taken off by chance, so that what failed together does not come back together."""

    first: float = 1.0
    factor: float = 4.0
    most: float = 3600.0

    def after(self, failures: int) -> float:
        """Seconds to wait after so many failures, from 1."""
        steps = min(failures - 1, 64)
        return min(self.most, self.first * self.factor**steps) * random.uniform(0.5, 1)


@dataclass(frozen=True, slots=True)
class Named:
    """The function runs the tasks called `name`."""

    name: str
    retries: int
    time_limit: float
    queue: str
    at_once: int
    rate: Rate | None
    backoff: Backoff
    cpu: bool
    function: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Order:
    """A task as its function receives it."""

    name: str
    """`tasks/{task}`."""
    payload: Any
    """What was given to `enqueue`, as JSON says it."""
    attempt: int
    """1 for the first run."""
    key: str
    """The same in every run of this task, and in no other: for effects outside that must not be repeated."""
    caller: str
    """Who enqueued it."""


def task(
    name: str = "",
    *,
    retries: int = 8,
    time_limit: float = 300.0,
    queue: str = "",
    at_once: int = 0,
    rate: str = "",
    backoff: Backoff | None = None,
    cpu: bool = False,
) -> Callable[[F], F]:
    """Runs tasks that `work.enqueue(name, …)` asks for: `async def f(order: Order, work: Work) -> result`, or a plain
    `def`, which runs in a thread. What it returns is kept as the task's result, as JSON.

    What it gathers in `work` commits together with the task's end: that effect happens once. A failure is retried `retries`
    times as `backoff` says; one run takes at most `time_limit` seconds. Tasks of one `queue` (its own, if none is named) run at
    most `at_once` at a time, and begin at most at `rate` (`"100/1m"`), over all workers together. With `cpu`, a plain
    `def f(payload)` runs in a process of its own, without `work`: what it returns is its only effect.

    Raises ValueError for what is out of bounds.
    """
    if not 0 <= retries <= RETRIES_MAX or not 0 < time_limit <= TIME_LIMIT_MAX:
        raise ValueError(f"retries go from 0 to {RETRIES_MAX}, time_limit up to {TIME_LIMIT_MAX:.0f} s")
    if not 0 <= at_once <= AT_ONCE_MAX:
        raise ValueError(f"at_once goes from 0 (any number) to {AT_ONCE_MAX}")
    speed = written(rate)

    def declared(function: F) -> F:
        called = name or str(getattr(function, "__name__", ""))
        for one in (called, queue or called):
            if not NAME.fullmatch(one):
                raise ValueError(f"a name is a letter and up to 99 letters, digits, '_', '.', '-': {one[:100]!r}")
        return marked(
            function,
            Named(called, retries, time_limit, queue or called, at_once, speed, backoff or Backoff(), cpu, function),
        )

    return declared
