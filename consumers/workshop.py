"""What tasks work with: the parts of every process, and a unit of work for each run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from server.app import Parts, opened
from server.apps import Work
from server.apps.loading import TASKS
from server.caller import SYSTEM
from server.engine.resources import Call
from server.settings import Settings

CONNECTIONS = 16
"""Connections of a worker to Postgres at most, beside the pipelined ones: each run's commit takes one."""


class Cause(Protocol):
    """What a run is for: an event, or a task."""

    @property
    def request_id(self) -> str: ...
    @property
    def traceparent(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Workshop:
    """Makes a Work for each run."""

    parts: Parts

    def work(self, event: Cause) -> Work:
        """A unit of work by the system, whose events carry on the request and trace of `event`."""
        parts = self.parts
        call = Call(SYSTEM, event.request_id, event.traceparent)
        accounts = parts.people.accounts
        return Work(call, parts.resources, parts.files, accounts, templates=parts.templates, tasks=parts.tasks)


@asynccontextmanager
async def open_workshop(settings: Settings) -> AsyncIterator[Workshop]:
    """A workshop for as long as the block lasts. Raises as server.app.opened."""
    # Everything is read from the primary: a replica might not have the very change that the event is about.
    async with opened(settings, [TASKS], replica_reads=False, connections=CONNECTIONS) as parts:
        yield Workshop(parts)
