"""What is announced of callers, passed on: first to who remembers them, then to whose streams go on for them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from server.engine.authentication import Authentication
from server.engine.watching import Watching


class Hearing:
    """Hears what server/store/announcements.py tells."""

    def __init__(self, callers: Authentication, watching: Watching) -> None:
        self._callers = callers
        self._watching = watching

    def begin(self) -> None:
        """From now on all words are heard; some before may not have been."""
        self._callers.begin()
        self._watching.heard()

    def alive(self, until: float) -> None:
        """Nothing changed that was not told."""
        self._callers.alive(until)

    def forget(self, digests: Iterable[bytes]) -> None:
        """Tokens with these SHA-256 have ended."""
        ended: Collection[bytes] = list(digests)
        self._callers.forget(ended)
        self._watching.forget(ended)

    def changed(self, names: Iterable[str]) -> None:
        """Callers with these resource names are not what they were."""
        these: Collection[str] = list(names)
        self._callers.changed(these)
        self._watching.changed(these)
