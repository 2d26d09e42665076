"""Workers that die at a step of the runner of deliveries, by SIGKILL, each a process of its own; then one that lives.

`python delivery_deaths.py FILE` forks one worker for each of STEPS, a few at a time, before anything is opened, and writes into
FILE how each of them ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from dying import all_die, die
from prometheus_client import CollectorRegistry
from transom.events.v1.event_pb2 import Event

from consumers import topology
from consumers.handlers import Handler
from consumers.inbox import Inbox
from consumers.runner import Runner, RunnerMetrics
from consumers.workshop import open_workshop
from server.apps import Work
from server.settings import Settings
from server.store.broker import Delivery

STEPS = (
    "before done",
    "after done",
    "in function",
    "before commit",
    "in commit",
    "after commit",
    "before ack",
    "after ack",
    "before _moved",
    "after _moved",
)


def patch(step: str) -> None:
    """Has this process die at the step."""
    when, _, what = step.partition(" ")
    if what == "function":
        return
    owner: Any = {"done": Inbox, "commit": Work, "ack": Delivery, "_moved": Runner}[what]
    real = getattr(owner, what)

    def acks(self: Delivery) -> None:
        if when == "before":
            die()
        real(self)
        die()

    async def dies(self: Any, *values: Any, **named: Any) -> None:
        if when == "before":
            die()
        if when == "in":  # the transaction holds what says that it is done when it is left alone
            named["extra"] = [*named["extra"], ("select pg_sleep(1)", [])]
            asyncio.get_running_loop().call_later(0.5, die)
        await real(self, *values, **named)
        die()

    setattr(owner, what, acks if what == "ack" else dies)


def handler(number: int, *, dying: bool = False) -> Handler:
    """Of the step's event: its effect is one event."""
    step = STEPS[number]

    async def run(event: Event, work: Any) -> tuple[()]:
        work.create("test.v1.Thing", "", "", {}, event=f"walked{number}")
        if dying and step == "in function":
            die()
        if dying and step.endswith("_moved"):
            raise RuntimeError("fails")
        return ()

    return Handler(f"test_walk{number}", "test.v1.Thing", f"walk{number}", run)


async def work(numbers: list[int], *, dying: bool) -> None:
    """Takes the deliveries of these steps until SIGTERM."""
    topology.SETTLE = 0
    async with open_workshop(Settings()) as shop:
        handlers = [handler(n, dying=dying) for n in numbers]
        metrics = RunnerMetrics(CollectorRegistry())
        runner = Runner(os.environ["TRANSOM_AMQP"], Inbox(shop.parts.pool), shop.work, handlers, metrics, grace=1)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, runner.stop.set)
        await runner.run()


def dies(number: int) -> None:
    """Takes the delivery of that step, and dies of it."""
    patch(STEPS[number])
    asyncio.run(work([number], dying=True))


if __name__ == "__main__":
    all_die(STEPS, dies, sys.argv[1])
    asyncio.run(work(list(range(len(STEPS))), dying=False))
