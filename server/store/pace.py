"""How often something is done that may wait: at once after a pause, and under load no oftener than pays."""

from __future__ import annotations


class Pace:
    """`burst` times at once, and from then on once in every `interval` seconds; what is not used is saved, up to `burst`."""

    __slots__ = ("_burst", "_due", "_interval")

    def __init__(self, interval: float, burst: int) -> None:
        self._interval = interval
        self._burst = (burst - 1) * interval
        self._due = 0.0

    def wait(self, now: float) -> float:
        """Seconds until it may be done; 0.0 where it may at once."""
        return max(0.0, self._due - now)

    def take(self, now: float) -> None:
        """It is done now, whether or not it was time."""
        self._due = max(self._due, now - self._burst) + self._interval
