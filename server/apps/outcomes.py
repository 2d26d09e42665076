"""What a task may raise to say how it ends, beside returning (done) and failing (retried)."""

from __future__ import annotations


class Discard(Exception):
    """There is nothing to do for this event, now or ever: what was gathered is dropped and nothing is retried."""


class Retry(Exception):
    """It failed and shall be tried again `after` seconds, if it may be tried again at all."""

    def __init__(self, after: float, reason: str = "") -> None:
        super().__init__(after, reason)  # what it is made of again where it comes from another process
        self.after = after
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or "the task asked to be retried"


class Snooze(Exception):
    """It is too early: run it again `after` seconds. That is no failure and uses up no attempt."""

    def __init__(self, after: float) -> None:
        super().__init__(after)
        self.after = after

    def __str__(self) -> str:
        return f"snoozed for {self.after:g} s"


class Cancel(Exception):
    """The task ends itself as cancelled; what was gathered is dropped."""
