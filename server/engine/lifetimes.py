"""How long sessions last."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Of sessions that shall be remembered, and of those that shall not: when they end, and after how long a silence."""

    short: timedelta = timedelta(hours=12)
    short_idle: timedelta = timedelta(hours=2)
    long: timedelta = timedelta(days=30)
    long_idle: timedelta = timedelta(days=14)

    def of(self, remember: bool) -> tuple[timedelta, timedelta]:
        """A session's longest life, and its longest silence."""
        return (self.long, self.long_idle) if remember else (self.short, self.short_idle)
