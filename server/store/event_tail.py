"""The event log as an operator looks at it: its end, or what comes to it, some of it left out.

Reads the primary on a connection of its own, a bounded number of rows at a time; whoever follows is woken by Postgres when the
relay gave positions, and looks every POLL seconds in any case.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from psycopg.rows import class_row, tuple_row

from server.store.translation import refusal_of

ROWS = 500
"""Events of one statement."""
LAST_MAX = 10_000
"""Events from the end that may be asked for."""
POLL = 1.0
"""Seconds between two looks while nothing is told."""
CHANNEL = "transom_positions"
"""On which the relay tells that it gave positions (consumers/relay.py)."""

_COLUMNS = """
    select position, id, resource_type, verb, name, payload, coalesce(gone, verb = 'deleted') as gone, caller, request_id,
        traceparent, create_time as time
    from transom.events"""
_WANTED = """
    (%(type)s = '' or resource_type = %(type)s) and (%(verb)s = '' or verb = %(verb)s) and name like %(name)s
    and (%(since)s::timestamptz is null or create_time >= %(since)s)"""

_LAST: LiteralString = f"""
    select * from ({_COLUMNS}
        where position <= %(upto)s and {_WANTED} order by position desc limit %(rows)s) as last
    order by position"""
_NEXT: LiteralString = f"""{_COLUMNS}
    where position > %(after)s and position <= %(upto)s and {_WANTED} order by position limit %(rows)s"""
_ENDS: LiteralString = """
    select trimmed, trimmed_time, numbered, numbered - published,
        (select coalesce(extract(epoch from clock_timestamp() - min(create_time)), 0)::float from
            (select create_time from transom.events where position is null order by id limit 1) as waiting)
    from transom.relay"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events; what is empty leaves nothing out."""

    type: str = ""
    """Full name of the resource's message."""
    verb: str = ""
    name: str = ""
    """Of the resource; `*` stands for anything, also for several segments."""
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Logged:
    """One event of the log."""

    position: int
    id: int
    resource_type: str
    verb: str
    name: str
    payload: bytes
    """The resource after the change, serialized; before it, where it is gone."""
    gone: bool
    caller: str
    request_id: str
    traceparent: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Ends:
    """Where the log begins and ends, and what is not in it yet."""

    trimmed: int
    """The last position that is not kept any more."""
    trimmed_time: datetime | None
    """When the youngest event that is not kept any more was written; None where all are kept."""
    numbered: int
    """The last position there is."""
    unpublished: int
    """How many of them the broker has not confirmed."""
    waiting: float
    """Seconds that the oldest event has been waiting for a position: more than a few, and no relay is at work."""


class EventTail:
    """Reads the log on a connection that it is lent."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    @classmethod
    async def connected(cls, dsn: str) -> EventTail:
        """With a connection of its own, that hears of positions. Raises Unavailable."""
        async with _translated():
            connection = await psycopg.AsyncConnection.connect(
                dsn, autocommit=True, connect_timeout=5, application_name="transom events", tcp_user_timeout=10_000
            )
            await connection.execute(f"listen {CHANNEL}")
        return cls(connection)

    async def close(self) -> None:
        """Ends the connection."""
        await self._connection.close()

    async def ends(self) -> Ends:
        """Where the log begins and ends now. Raises Unavailable."""
        async with _translated(), self._connection.cursor(row_factory=tuple_row) as cursor:
            row = await (await cursor.execute(_ENDS)).fetchone()
        return Ends(*(row or (0, None, 0, 0, 0.0)))

    async def last(self, wanted: Wanted, upto: int, count: int) -> list[Logged]:
        """The last `count` (at most LAST_MAX) of those wanted up to a position, oldest first. Raises Unavailable."""
        return await self._rows(_LAST, wanted, {"upto": upto, "rows": min(count, LAST_MAX)})

    async def between(self, wanted: Wanted, after: int, upto: int) -> AsyncIterator[Logged]:
        """Those wanted after one position and up to another, in their order. Raises Unavailable."""
        while True:
            found = await self._rows(_NEXT, wanted, {"after": after, "upto": upto, "rows": ROWS})
            for event in found:
                yield event
            if len(found) < ROWS:
                return
            after = found[-1].position

    async def woken(self) -> None:
        """Returns when positions were given, or after POLL seconds. Raises Unavailable."""
        async with _translated():
            async for _ in self._connection.notifies(timeout=POLL, stop_after=1):
                pass

    async def _rows(self, statement: LiteralString, wanted: Wanted, more: dict[str, Any]) -> list[Logged]:
        given = {"type": wanted.type, "verb": wanted.verb, "name": _like(wanted.name), "since": wanted.since, **more}
        async with _translated(), self._connection.cursor(row_factory=class_row(Logged)) as cursor:
            return await (await cursor.execute(statement, given, binary=True)).fetchall()


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise refusal_of(error) from error


def _like(name: str) -> str:
    if not name:
        return "%"
    for special in ("\\", "%", "_"):
        name = name.replace(special, "\\" + special)
    return name.replace("*", "%")
