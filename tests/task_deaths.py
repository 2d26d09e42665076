"""Workers that die at a step of the runner of tasks, by SIGKILL, each a process of its own; then one that lives until SIGTERM.

`python task_deaths.py FILE` forks one worker for each of STEPS, a few at a time, before anything is opened, and writes into FILE
how each of them ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from dying import all_die, die
from prometheus_client import CollectorRegistry

from consumers import task_runner
from consumers.task_runner import TaskMetrics, TaskRunner
from consumers.workshop import open_workshop
from server.apps import Backoff, Order, Work, task
from server.apps.declarations import MARK
from server.settings import Settings
from server.store.tasks import StoredTasks

STEPS = (
    "before take",
    "after take",
    "in function",
    "after progress",
    "before commit",
    "in commit",
    "after commit",
    "before settle",
    "after settle",
    "before renew",
    "after renew",
)
LEASE = 1.0


def patch(step: str) -> None:
    """Has this process die at the step."""
    when, _, what = step.partition(" ")
    owner: Any = Work if what == "commit" else StoredTasks
    if what == "function":
        return
    real: Callable[..., Awaitable[Any]] = getattr(owner, what)

    async def dies(self: Any, *values: Any, **named: Any) -> Any:
        if when == "before":
            die()
        if when == "in":  # the transaction holds the end of the task when it is left alone
            named["extra"] = [*named["extra"], ("select pg_sleep(1)", [])]
            asyncio.get_running_loop().call_later(0.5, die)
        result = await real(self, *values, **named)
        if what != "take" or result:
            die()
        return result

    setattr(owner, what, dies)


def function(number: int, *, dying: bool) -> Any:
    """Of the step's task: its effect is one event."""
    step = STEPS[number]

    async def run(order: Order, work: Work) -> None:
        work.create("test.v1.Thing", "", "", {}, event=f"walked{number}")
        await work.progress(0.5, "half")
        if dying and step == "in function":
            die()
        if dying and step.endswith("settle"):
            raise RuntimeError("fails")
        if dying and step.endswith("renew"):
            await asyncio.Event().wait()

    return getattr(task(f"walk{number}", backoff=Backoff(0.01, 1))(run), MARK)


async def work(numbers: list[int], *, dying: bool) -> None:
    """Runs the tasks of these steps until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    task_runner.POLL = 0.2
    async with open_workshop(Settings()) as shop:
        functions = [function(n, dying=dying) for n in numbers]

        async def held(order: Order, work: Work) -> None:
            await work.progress(0.1, "holds")
            await asyncio.Event().wait()

        if not dying:
            functions.append(getattr(task("held")(held), MARK))
        stored = StoredTasks(shop.parts.pool, lease=LEASE)
        metrics = TaskMetrics(CollectorRegistry())
        dsn = os.environ["TRANSOM_POSTGRES"]
        await TaskRunner(dsn, stored, shop.work, functions, metrics, instance=f"p{os.getpid()}", grace=0.2).run(stop)


def dies(number: int) -> None:
    """Runs the task of that step, and dies of it."""
    patch(STEPS[number])
    asyncio.run(work([number], dying=True))


if __name__ == "__main__":
    all_die(STEPS, dies, sys.argv[1])
    asyncio.run(work(list(range(len(STEPS))), dying=False))
