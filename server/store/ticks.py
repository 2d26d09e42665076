"""A tick of a schedule as an event, which wakes the worker that runs it."""

from __future__ import annotations

from typing import LiteralString

from server.store.pooled import Statement

RESOURCE_TYPE = "transom.schedules.v1.Tick"

_EVENT: LiteralString = """
insert into transom.events (resource_type, verb, name, payload, caller) values (%s, %s, %s, %s, 'system')
"""


def ticked(schedule: str, name: str, told: bytes) -> Statement:
    """The statement that has a schedule run for the tick `name`; `told` is what its function is told."""
    return _EVENT, [RESOURCE_TYPE, schedule, name, told]
