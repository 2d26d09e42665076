"""How an app says that a function runs tasks that are enqueued by name, and what it is told."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from server.apps.declarations import RETRIES_MAX, TIME_LIMIT_MAX, F, marked
from server.engine.tasks import CALLABLE_BY, NAME, NOBODY, PRIORITY_MAX, RESERVED
from server.rates import Rate
from server.rates import rate as written
from server.store.task_handlers import DeclaredHandler

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
    priority: int = 0
    callable_by: str = NOBODY
    payload: str = ""
    """Full name of the message that it is told; empty for any JSON."""


def declared(named: Sequence[Named]) -> list[DeclaredHandler]:
    """What servers are told of them."""
    return [
        DeclaredHandler(one.name, one.callable_by, one.payload, one.priority, first_sentence(one.function))
        for one in named
    ]


def first_sentence(function: Callable[..., Any]) -> str:
    """Of the function's docstring; empty where there is none."""
    return (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ").partition(". ")[0][:500]


@dataclass(frozen=True, slots=True)
class Order:
    """A task as its function receives it."""

    name: str
    """`tasks/{task}`."""
    payload: Any
    """What was given to `enqueue`, as JSON says it; where the `@task` names a message, that message."""
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
    priority: int = 0,
    callable_by: str = NOBODY,
    payload: str = "",
) -> Callable[[F], F]:
    """Runs tasks that `work.enqueue(name, …)` asks for: `async def f(order: Order, work: Work) -> result`, or a plain
    `def`, which runs in a thread. What it returns is kept as the task's result, as JSON.

    What it gathers in `work` commits together with the task's end: that effect happens once. A failure is retried `retries`
    times as `backoff` says; one run takes at most `time_limit` seconds. Tasks of one `queue` (its own, if none is named) run at
    most `at_once` at a time, and begin at most at `rate` (`"100/1m"`), over all workers together. With `cpu`, a plain
    `def f(payload)` runs in a process of its own, without `work`: what it returns is its only effect.

    Those that are due run in the order of their priority, `priority` where whoever enqueues says none. With
    `callable_by="users"` everybody who is signed in, also anonymously, may enqueue them by a call (transom.tasks.v1), and
    cancel and retry their own; else only keys and admins in scope. With `payload`, the full name of a message of the
    schema, they are told such a message: what is none is refused where a call asks for it, and dead where it runs.

    Raises ValueError for what is out of bounds.
    """
    if not -PRIORITY_MAX <= priority <= PRIORITY_MAX:
        raise ValueError(f"priorities go from {-PRIORITY_MAX} to {PRIORITY_MAX}")
    if callable_by not in CALLABLE_BY:
        raise ValueError(f"callable_by is one of {', '.join(CALLABLE_BY)}")
    if payload and cpu:
        raise ValueError("what runs in a process of its own is told JSON: it has no `payload`")
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
            if one.startswith(RESERVED):
                raise ValueError(f"names that begin with {RESERVED!r} are those of schedules: {one!r}")
        return marked(
            function,
            Named(
                called,
                retries,
                time_limit,
                queue or called,
                at_once,
                speed,
                backoff or Backoff(),
                cpu,
                function,
                priority,
                callable_by,
                payload,
            ),
        )

    return declared
