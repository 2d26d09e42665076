"""What the supervisor runs: a command with the conditions under which it starts, counts as ready, and stops."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
    in_turn: bool = False
    """Whether one that an earlier supervisor left running goes on until its successor may start: until all that is
    needed is ready and all in `follows` have been replaced. Others make room at once."""
    follows: Sequence[str] = ()
    settled: Callable[[], bool] = lambda: True
    """Whether it does its work again once it was replaced, so that those that follow may be replaced, too."""
    succeeds: float = 0.0
    """Whether it is started beside the one in whose place it comes, which then ends by itself: within so many seconds."""
    files: Sequence[Path] = ()
    """What it reads only when it starts: where the content has changed, it may not outlive its supervisor."""
    grace: float = 10.0
    """Seconds between `stop_signal` and SIGKILL."""
    patience: float = 120.0
    """Seconds a start may take."""

    @property
    def fingerprint(self) -> str:
        """Changes when what would be started is no longer what runs."""
        text = json.dumps([list(self.command), sorted(self.env.items())])
        found = hashlib.sha256(text.encode())
        for file in self.files:
            found.update(file.read_bytes() if file.exists() else b"")
        return found.hexdigest()[:16]
