"""The app's schedules: what this process declares, and a handler for the ticks of each."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence

from transom.events.v1.event_pb2 import Event

from consumers.handlers import Handler, Poison, Statement
from server import apps
from server.apps.schedules import Scheduled
from server.engine.schedules import Tick
from server.store.schedules import Declared
from server.store.ticks import RESOURCE_TYPE


def declared(schedules: Sequence[Scheduled]) -> list[Declared]:
    """As they are written down."""
    return [Declared(one.name, one.name, one.spec.written(), one.description) for one in schedules]


def handlers(schedules: Sequence[Scheduled]) -> list[Handler]:
    """As the runner wants them."""
    return [_handler(one) for one in schedules]


def _handler(schedule: Scheduled) -> Handler:
    async def run(event: Event, work: apps.Work) -> Sequence[Statement]:
        try:
            tick = Tick.read(event.payload)
        except (ValueError, KeyError, TypeError) as error:
            raise Poison(f"the event does not hold a tick: {error}") from error
        if inspect.iscoroutinefunction(schedule.function):
            await schedule.function(tick, work)
        else:
            await asyncio.to_thread(schedule.function, tick, work)
        return ()

    name = f"schedule.{schedule.name}"
    return Handler(name, RESOURCE_TYPE, schedule.name, run, schedule.retries, schedule.time_limit)
