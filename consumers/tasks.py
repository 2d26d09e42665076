"""The app's tasks as handlers."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from transom.events.v1.event_pb2 import Event
from transom.files.v1.files_pb2 import File

from consumers.handlers import Handler, Poison, Statement
from server import apps
from server.apps.declarations import Task
from server.caller import SYSTEM
from server.engine.files import FILE, Files
from server.errors import NotFound
from server.schema.model import Schema
from server.services.files import file_message


def handlers(tasks: Sequence[Task], schema: Schema, files: Files | None = None) -> list[Handler]:
    """A handler for each of an app's tasks. Those that are told of files read them from `files`."""
    return [_handler(task, schema, files) for task in tasks]


def _handler(task: Task, schema: Schema, files: Files | None) -> Handler:
    async def run(event: Event, work: apps.Work) -> Sequence[Statement]:
        if event.resource_type == FILE and files is not None:
            await _called(task.function, apps.Event.about(event, await _file(files, event.name)), work)
            return ()
        try:
            typed = apps.Event.of(event, schema)
        except Exception as error:  # of another schema than this worker's, or not what it says it is
            raise Poison(f"the event does not hold a {event.resource_type}: {error}") from error
        await _called(task.function, typed, work)
        return ()

    return Handler(task.name, task.resource_type, task.verb, run, task.retries, task.time_limit)


async def _file(files: Files, name: str) -> File | None:
    """The file as it is now: an event of one has no payload."""
    try:
        return file_message(await files.get(SYSTEM, name))
    except NotFound:
        return None


async def _called(function: Callable[..., Any], event: apps.Event, work: apps.Work) -> None:
    """Calls a task; one that is an ordinary function gets a thread. Over its time limit, that thread is left to itself:
    what it has gathered is never committed."""
    if inspect.iscoroutinefunction(function):
        await function(event, work)
    else:
        await asyncio.to_thread(function, event, work)
