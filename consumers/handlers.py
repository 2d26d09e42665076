"""What the runner runs: a handler of one kind of event, and the outcomes it can have."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from transom.events.v1.event_pb2 import Event

Statement = tuple[str, Sequence[Any]]
"""SQL and its parameters."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")


class Work(Protocol):
    """What a handler changes; nothing of it is done before `commit`, and then all of it in one transaction."""

    async def commit(self, extra: Sequence[Statement] = ()) -> None:
        """Raises Stale where something changed since it was read."""


class Poison(Exception):
    """This event can never be handled: park it now. The text says why and may be read by operators."""


class Outcome(StrEnum):
    """How a delivery ended."""

    DONE = "done"
    """The effect is committed."""
    RETRY = "retry"
    """It failed and waits on the ladder."""
    DISCARD = "discard"
    """The handler said there is nothing to do for it, ever."""
    DEAD = "dead"
    """It is parked in transom.dead."""


@dataclass(frozen=True, slots=True)
class Handler:
    """A function of one event. What it returns is committed together with the Work's own changes."""

    name: str
    resource_type: str
    verb: str
    run: Callable[[Event, Any], Awaitable[Sequence[Statement]]]
    retries: int = 8
    time_limit: float = 300.0
    """Seconds one run may take, its commit included."""
    at_once: int = 0
    """Runs of it at one time in one process, where that is fewer than the runner would allow; 0: as many as it does."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"A handler's name is 1 to 100 letters, digits, '_', '.', '-': {self.name!r}")

    @property
    def key(self) -> str:
        """The routing key of its events."""
        return f"{self.resource_type}.{self.verb}"
