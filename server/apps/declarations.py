"""How an app says what its functions are for. A decorator only writes that on the function; loading reads it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from server.apps.work import Call, Event, Work

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])

MARK = "__transom__"
RETRIES_MAX = 50
TIME_LIMIT_MAX = 3600.0


@dataclass(frozen=True, slots=True)
class Implements:
    """The function implements the custom method called `method`, e.g. `inspect.v1.InspectionService.SubmitInspection`."""

    method: str
    function: Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Task:
    """The function acts on the events `verb` of resources of the message `resource_type`."""

    name: str
    resource_type: str
    verb: str
    retries: int
    time_limit: float
    function: Callable[[Event, Work], Awaitable[None]]


def method(name: str) -> Callable[[F], F]:
    """Implements the custom method with that full name: `async def f(call: Call) -> Message`.

    What the function gathers in `call` is committed, in one transaction, when it returns, and before its answer is
    sent; where it raises, nothing is. It runs again where what it read was changed meanwhile, so it must not have
    effects of its own.
    """

    return lambda function: marked(function, Implements(name, function))


def on(resource_type: str, verb: str, *, retries: int = 8, time_limit: float = 300.0) -> Callable[[F], F]:
    """Acts on every event of that resource and verb: `async def f(event: Event, work: Work) -> None`, or a plain `def`,
    which runs in a thread and gathers changes only of what it creates.

    `resource_type` is the message's full name, `verb` is `created`, `updated`, `deleted` or a word that a method gave
    to its update. What the function gathers in `work` commits when it returns, together with the note that this event
    is done: that effect happens once. Effects outside (a call to another system) may be repeated: they carry
    `event.id`. A failure is retried `retries` times with growing delays, then parked as dead; one run takes at most
    `time_limit` seconds.
    """
    if not 0 <= retries <= RETRIES_MAX or not 0 < time_limit <= TIME_LIMIT_MAX:
        raise ValueError(f"retries go from 0 to {RETRIES_MAX}, time_limit up to {TIME_LIMIT_MAX:.0f} s")

    return lambda function: marked(
        function, Task(function.__name__, resource_type, verb, retries, time_limit, function)
    )


def marked(function: F, mark: object) -> F:
    """The function, with what it is for written on it. Raises TypeError where it is for something already."""
    if isinstance(mark, Implements) and not inspect.iscoroutinefunction(cast(object, function)):
        raise TypeError(f"{function.__qualname__} must be an `async def`")
    if hasattr(function, MARK):
        raise TypeError(f"{function.__qualname__} is declared for two things; write a function for each")
    setattr(function, MARK, mark)
    return function
