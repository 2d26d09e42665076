"""From the event log to transom.webhook_deliveries: what each endpoint is to be told, in the order of the log.

How far an endpoint is moves in the transaction that writes its deliveries: each event becomes one delivery, whatever is
killed. One process does it at a time. Endpoints that are at the same place share what is read.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from server.store.pooled import Pool, transaction

EVENTS_MAX, EVENTS_BYTES_MAX = 200, 4 << 20
"""Events that are read at once, and bytes of their resources beyond the first."""
SPAN_MAX = 20_000
"""Positions that one statement looks at."""
WAITING_MAX = 10_000
"""Deliveries of an endpoint that wait; beyond it the rest stays in the log."""
ENDPOINTS_MAX = 1000
"""Endpoints there can be."""

_ALONE = "select pg_try_advisory_xact_lock(hashtextextended('transom.webhook_fanning', 0)) as held"
_LOWEST = f"""
select p.id, p.position, p.until, r.numbered, r.trimmed, e.id as endpoint, e.types, e.filter, e.owner
from transom.webhook_positions p join transom.webhook_endpoints e on e.id = p.endpoint cross join transom.relay r
where e.state = 'active' and p.position < least(p.until, r.numbered)
  and (select count(*) from (select from transom.webhook_deliveries d
    where d.endpoint = e.id and d.state = 'waiting' limit {WAITING_MAX}) waiting) < {WAITING_MAX}
order by p.position, p.id
"""
_BYTES = "octet_length(payload) + coalesce(octet_length(before), 0)"
_EVENTS = f"""
select id, position, resource_type, verb, name, payload, before, coalesce(gone, verb = 'deleted') as gone, create_time,
  weight > {EVENTS_BYTES_MAX} as more
from (select next.*, sum({_BYTES}) over () as weight, sum({_BYTES}) over (order by position) - ({_BYTES}) as ahead from (
    select * from transom.events
    where position > %(after)s and position <= %(until)s and resource_type = any(%(types)s)
    order by position limit {EVENTS_MAX}) next) sized
where ahead <= {EVENTS_BYTES_MAX} order by position
"""
_RIGHTS = """
select 'users/' || id as name, roles, scopes from transom.users
where 'users/' || id = any(%(names)s) and disabled_time is null and delete_time is null
union all
select 'keys/' || id, array[role], scopes from transom.keys where 'keys/' || id = any(%(names)s)
"""
_LOCK = """
select id from transom.webhook_endpoints where id = any(%s) and state = 'active' order by id for no key update
"""
# Another one of the resource that waits goes first. One that waits already is told once.
_INSERT = """
insert into transom.webhook_deliveries as d (endpoint, message, type, resource, position, body, error, state, done_time,
  next_time)
select %(endpoint)s, %(message)s, %(type)s, %(resource)s, %(position)s, %(body)s, %(error)s,
  case when %(error)s = '' then 'waiting' else 'failed' end, case when %(error)s = '' then null else clock_timestamp() end,
  case when exists (select from transom.webhook_deliveries w
    where w.endpoint = %(endpoint)s and w.resource = %(resource)s and w.state = 'waiting')
  then 'infinity' else clock_timestamp() end
on conflict (endpoint, message) do update set
  state = excluded.state, turn = excluded.turn, next_time = excluded.next_time, attempts = 0, first_time = null,
  body = excluded.body, error = excluded.error, done_time = excluded.done_time
where d.state <> 'waiting'
"""
_TRIMMED = "select trimmed from transom.relay"
_MOVE = "update transom.webhook_positions set position = %s where id = any(%s)"
_PARTS_DONE = "delete from transom.webhook_positions where position >= until"
_DISABLE = """
update transom.webhook_endpoints set state = 'disabled', reason = %s, version = version + 1, update_time = clock_timestamp()
where id = any(%s) and state = 'active'
"""
# Of what waits, counts since when it could have been posted: what is told again is as late as that, not as old as its event.
_LAGS = f"""
select e.id as endpoint, greatest(0, r.numbered - p.position) + waiting.number as events,
  greatest(0, extract(epoch from clock_timestamp() - least(waiting.since, case when p.position < r.numbered then
    (select create_time from transom.events where position > p.position order by position limit 1) end)))::float8 as seconds
from transom.webhook_endpoints e join transom.webhook_positions p on p.endpoint = e.id and p.until is null
  cross join transom.relay r cross join lateral (
    select count(*) as number, min(case when attempts > 0 then first_time else next_time end) as since
    from (select attempts, first_time, next_time from transom.webhook_deliveries d
      where d.endpoint = e.id and d.state = 'waiting' order by next_time limit {WAITING_MAX}) as bounded) as waiting
where e.state <> 'disabled'
"""


@dataclass(frozen=True, slots=True)
class Listener:
    """An endpoint that is to be told what follows a position."""

    id: int
    position: int
    until: int | None
    numbered: int
    trimmed: int
    endpoint: str
    types: list[str]
    filter: str
    owner: str


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One event, as it is in the log."""

    id: int
    position: int
    resource_type: str
    verb: str
    name: str
    payload: bytes
    before: bytes | None
    gone: bool
    create_time: datetime
    more: bool
    """Whether those that were asked for weigh more than is read at once."""


@dataclass(frozen=True, slots=True)
class Rights:
    """What an owner may do now."""

    name: str
    roles: list[str]
    scopes: list[str] | None


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """What an endpoint is to be told."""

    endpoint: str
    message: str
    type: str
    resource: str
    position: int
    body: bytes
    error: str = ""
    """Why it is not posted; "" where it is."""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far behind an endpoint is that is not disabled."""

    endpoint: str
    events: int
    """Of the log that were not looked at for it, whether or not it is told of them, and deliveries that wait."""
    seconds: float | None
    """That the oldest of them has been waiting; None where there is none."""


@dataclass(frozen=True, slots=True)
class _Trimmed:
    trimmed: int


@dataclass(frozen=True, slots=True)
class _Held:
    held: bool


@dataclass(frozen=True, slots=True)
class _Active:
    id: str


Decide = Callable[[Sequence[Listener], Sequence[LoggedEvent], Sequence[Rights]], tuple[list[NewDelivery], list[str]]]
"""What the listeners are told, in order, and the endpoints whose owners may not have any any more."""


class Fanning:
    """Moves endpoints on in the log."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def step(self, types: Sequence[str], decide: Decide) -> tuple[bool, int]:
        """Tells those who are at one place some of what follows, of resources of these messages: whether there was
        something to do, and how many deliveries it made. Raises Unavailable."""
        async with transaction(self._pool, _Held) as cursor:
            await cursor.execute(_ALONE)
            alone = await cursor.fetchone()
            if alone is None or not alone.held:
                return False, 0
            connection = cursor.connection
            listeners = await _all(connection, Listener, _LOWEST, None)
            if not listeners:
                return False, 0
            # Any of the places, so that who is told months again does not keep those waiting who are told what is new.
            at = random.choice(sorted({one.position for one in listeners}))
            first = next(one for one in listeners if one.position == at)
            group = [one for one in listeners if one.position == first.position]
            if first.position < first.trimmed:
                await self._lost(cursor, group)
                return True, 0
            # Who is further on is met there, and goes on together with them.
            ends = [one.position for one in listeners if one.position > first.position]
            ends += [one.until for one in group if one.until is not None]
            reached = min([*ends, first.numbered, first.position + SPAN_MAX])
            asked = {"after": first.position, "until": reached, "types": list(types)}
            events = await _all(connection, LoggedEvent, _EVENTS, asked)
            # What was deleted while it was read must not be passed over.
            if (await _all(connection, _Trimmed, _TRIMMED, None))[0].trimmed > first.position:
                return True, 0
            if events and (len(events) >= EVENTS_MAX or events[-1].more):
                reached = events[-1].position
            rights = await _all(connection, Rights, _RIGHTS, {"names": list({one.owner for one in group})})
            made, refused = decide(group, events, rights)
            # Held from here on: nothing of theirs is settled between the look for what waits and the insert.
            touched = sorted({one.endpoint for one in made} | set(refused))
            active = {one.id for one in await _all(connection, _Active, _LOCK, [touched])}
            if refused:
                await cursor.execute(_DISABLE, ["OWNER_GONE", refused])
            told = [one for one in made if one.endpoint in active and one.endpoint not in refused]
            if told:
                await cursor.executemany(_INSERT, [_row(one) for one in told])
            stay = set(refused) | ({one.endpoint for one in made} - active)
            await cursor.execute(_MOVE, [reached, [one.id for one in group if one.endpoint not in stay]])
            await cursor.execute(_PARTS_DONE)
            return True, len(told)

    async def lags(self) -> list[Lag]:
        """How far behind endpoints are. Raises Unavailable."""
        async with transaction(self._pool, Lag) as cursor:
            await cursor.execute(_LAGS)
            return await cursor.fetchall()

    async def _lost(self, cursor: Any, group: Sequence[Listener]) -> None:
        """They are so far behind that events are not kept any more. A part that was to be told again begins later."""
        await cursor.execute(_DISABLE, ["EVENTS_GONE", [one.endpoint for one in group if one.until is None]])
        parts = [one for one in group if one.until is not None]
        if parts:
            await cursor.execute(_MOVE, [parts[0].trimmed, [one.id for one in parts]])
            await cursor.execute(_PARTS_DONE)


def _row(one: NewDelivery) -> dict[str, object]:
    return {name: getattr(one, name) for name in NewDelivery.__slots__}


async def _all(connection: Any, row: type[Any], statement: str, parameters: Any) -> list[Any]:
    async with connection.cursor(row_factory=class_row(row)) as cursor:
        await cursor.execute(statement, parameters)
        return list(await cursor.fetchall())
