"""Processes that die at a step of what they do, by SIGKILL, and what became of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence

AT_ONCE = 3
"""That die beside each other: each has connections of its own."""
SECONDS = 50
"""After which one that does not die is ended otherwise."""


def die(*_: object) -> None:
    """At once, with nothing said."""
    os.kill(os.getpid(), signal.SIGKILL)


def all_die(steps: Sequence[str], run: Callable[[int], None], said: str) -> None:
    """Forks a process for each step, a few at a time, which runs `run` with the step's number; writes into the file `said` which
    signal ended each. To be called before anything is opened."""
    for first in range(0, len(steps), AT_ONCE):
        children = []
        for number in range(len(steps))[first : first + AT_ONCE]:
            child = os.fork()
            if child == 0:
                signal.alarm(SECONDS)
                run(number)
                os._exit(1)
            children.append((steps[number], child))
        for step, child in children:
            _, status = os.waitpid(child, 0)
            with open(said, "a") as told:
                print(step, os.WTERMSIG(status) if os.WIFSIGNALED(status) else -1, sep=": ", file=told)
