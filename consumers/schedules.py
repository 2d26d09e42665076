"""The app's schedules: what this process declares, and a task by name for the ticks of each."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import wraps
from typing import Any

from transom.events.v1.event_pb2 import Event

from consumers.handlers import Handler, Poison, Statement
from server.apps import Order, Work
from server.apps.named import Named
from server.apps.schedules import Scheduled
from server.engine.schedules import Tick, enqueued, handler
from server.store.schedules import Declared

EVENT_TYPE = "transom.schedules.v1.Tick"
"""Of the events that ticks were, before they were tasks."""


def declared(schedules: Sequence[Scheduled]) -> list[Declared]:
    """As they are written down."""
    return [Declared(one.name, one.name, one.spec.written(), one.description) for one in schedules]


def named(schedules: Sequence[Scheduled]) -> list[Named]:
    """What runs their ticks."""
    return [_named(one) for one in schedules]


def _named(schedule: Scheduled) -> Named:
    function: Any = schedule.function
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def run(order: Order, work: Work) -> Any:
            return await function(Tick.of(order.payload), work)

    else:

        @wraps(function)
        def run(order: Order, work: Work) -> Any:
            return function(Tick.of(order.payload), work)

    name = handler(schedule.name)
    return Named(
        name=name,
        retries=schedule.retries,
        time_limit=schedule.time_limit,
        queue=name,
        at_once=0 if schedule.spec.overlap else 1,
        rate=None,
        backoff=schedule.backoff,
        cpu=False,
        function=run,
        priority=schedule.priority,
    )


# Ticks that a worker of a version before let through, as events: while it runs beside this one, or before it was ended. They
# are made tasks, each once, as the inbox has it. To go with the first version that nobody comes to from one that old.


def addresses(schedules: Sequence[Scheduled]) -> list[tuple[str, str]]:
    """The names and routing keys of the handlers."""
    return [(handler(one.name), f"{EVENT_TYPE}.{one.name}") for one in schedules]


def handlers(schedules: Sequence[Scheduled]) -> list[Handler]:
    """As the runner wants them."""
    return [_handler(one) for one in schedules]


def _handler(schedule: Scheduled) -> Handler:
    async def run(event: Event, work: Work) -> Sequence[Statement]:
        try:
            tick = Tick.of(json.loads(event.payload))
        except (ValueError, KeyError, TypeError) as error:
            raise Poison(f"the event does not hold a tick: {error}") from error
        return enqueued(schedule.name, tick, datetime.now(UTC)).statements

    return Handler(handler(schedule.name), EVENT_TYPE, schedule.name, run, at_once=1)
