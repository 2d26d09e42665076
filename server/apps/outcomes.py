"""What a task may raise to say how it ends, beside returning (done) and failing (retried)."""

from __future__ import annotations


class Discard(Exception):
    """There is nothing to do for this event, now or ever: what was gathered is dropped and nothing is retried."""
