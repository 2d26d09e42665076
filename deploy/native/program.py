"""What the supervisor runs: a command with the conditions under which it starts, counts as ready, and stops."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from .machine import User


@dataclass(frozen=True)
class Program:
    """One process of the stack.

    `prepare` runs in a thread before each start, `after` once each start is ready: both must be safe to repeat.
    A `once` program is a step: it is done when it exits with 0.
    """

    name: str
    command: Sequence[str]
    needs: Sequence[str] = ()
    address: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    ready: Callable[[], bool] = lambda: True
    prepare: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None
    tidy: Callable[[], None] = lambda: None
    """Removes what it leaves outside its data folder, once it is gone."""
    once: bool = False
    user: User | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    kill_signal: signal.Signals = signal.SIGKILL
    """Ends it at once, where nothing it keeps is wanted any more."""
    outlives: bool = False
    """Whether the process may go on under the next supervisor: not where code or schema may have changed meanwhile."""
    grace: float = 10.0
    """Seconds between `stop_signal` and SIGKILL."""
    patience: float = 120.0
    """Seconds a start may take."""

    @property
    def fingerprint(self) -> str:
        """Changes when what would be started is no longer what runs."""
        text = json.dumps([list(self.command), sorted(self.env.items())])
        return hashlib.sha256(text.encode()).hexdigest()[:16]
