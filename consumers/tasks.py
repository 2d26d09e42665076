"""The app's tasks as handlers."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from transom.events.v1.event_pb2 import Event

from consumers.handlers import Handler, Poison, Statement
from server import apps
from server.apps.declarations import Task
from server.schema.model import Schema


def handlers(tasks: Sequence[Task], schema: Schema) -> list[Handler]:
    """A handler for each of an app's tasks."""
    return [_handler(task, schema) for task in tasks]


def _handler(task: Task, schema: Schema) -> Handler:
    async def run(event: Event, work: apps.Work) -> Sequence[Statement]:
        try:
            typed = apps.Event.of(event, schema)
        except Exception as error:  # of another schema than this worker's, or not what it says it is
            raise Poison(f"the event does not hold a {event.resource_type}: {error}") from error
        await _called(task.function, typed, work)
        return ()

    return Handler(task.name, task.resource_type, task.verb, run, task.retries, task.time_limit)


async def _called(function: Callable[..., Any], event: apps.Event, work: apps.Work) -> None:
    """Calls a task; one that is an ordinary function gets a thread. Over its time limit, that thread is left to itself:
    what it has gathered is never committed."""
    if inspect.iscoroutinefunction(function):
        await function(event, work)
    else:
        await asyncio.to_thread(function, event, work)
