"""Remembers for a moment that something is away, so that not every call waits to find out again."""

from __future__ import annotations

import time
from collections.abc import Callable


class Breaker:
    """Open for `pause` seconds after each failure; closed again when they are over."""

    def __init__(self, pause: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._pause = pause
        self._clock = clock
        self._until = 0.0

    @property
    def open(self) -> bool:
        """Whether it is too early to try again."""
        return self._clock() < self._until

    def failed(self) -> None:
        """Opens it."""
        self._until = self._clock() + self._pause
