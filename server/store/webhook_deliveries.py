"""Rows of transom.webhook_deliveries: what is to be posted, taken by whoever is free, and what became of it.

What is taken is leased: who dies with it loses it after LEASE seconds, and another posts it again. Of one resource only one
delivery is due at a time, the one whose turn it is; the others wait until it is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

from psycopg.rows import class_row

from server.store.pooled import Pool, Statement, all_of, swept, transaction

LEASE = 60.0
"""Seconds after which what was taken counts as lost: more than a posting may take."""
PER_ENDPOINT = 8
"""Postings to one endpoint at one time, of all processes."""
ENDPOINTS_AT_ONCE = 8
"""Endpoints that one look takes deliveries of."""
BROKEN = 5
"""Failures in a row from which on one delivery at a time is posted, to see whether it works again."""

# Locked, so that what is under way for an endpoint is counted by one at a time.
_ENDPOINTS = f"""
select e.id, e.url, e.secret, e.old_secret, e.old_until, e.failures, clock_timestamp() as now
from transom.webhook_endpoints e
where e.state = 'active' and (e.open_until is null or e.open_until <= clock_timestamp())
  and exists (select from transom.webhook_deliveries d
    where d.endpoint = e.id and d.state = 'waiting' and d.next_time <= clock_timestamp())
order by random() limit {ENDPOINTS_AT_ONCE} for no key update skip locked
"""
_TAKE = f"""
update transom.webhook_deliveries set lease = %(lease)s, next_time = clock_timestamp() + interval '{LEASE} seconds',
    attempts = attempts + 1, first_time = coalesce(first_time, clock_timestamp())
where id in (
    select id from transom.webhook_deliveries
    where endpoint = %(endpoint)s and state = 'waiting' and next_time <= clock_timestamp()
    order by next_time
    limit greatest(0, least(%(limit)s, %(room)s - (select count(*) from transom.webhook_deliveries
        where endpoint = %(endpoint)s and state = 'waiting' and lease is not null and next_time > clock_timestamp()
          and next_time < 'infinity'))))
returning id, message, type, resource, body, attempts, lease, extract(epoch from clock_timestamp() - first_time)::float8 as age
"""
_HOLD = """
select failures, failing_since, clock_timestamp() as now from transom.webhook_endpoints where id = %s for no key update
"""
_SETTLE = """
update transom.webhook_deliveries set state = %(state)s, lease = null, code = %(code)s, error = %(error)s, said = %(said)s,
    millis = %(millis)s, last_time = clock_timestamp(),
    next_time = case when %(state)s = 'waiting' then clock_timestamp() + %(wait)s else next_time end,
    done_time = case when %(state)s = 'waiting' then null else clock_timestamp() end
where id = %(id)s and lease = %(lease)s
returning resource, first_time
"""
_NEXT = """
update transom.webhook_deliveries set next_time = clock_timestamp()
where next_time = 'infinity' and id = (select id from transom.webhook_deliveries
    where endpoint = %s and resource = %s and state = 'waiting' order by turn limit 1)
"""
_WELL = """
update transom.webhook_endpoints set failures = 0, failing_since = null, open_until = null where id = %s and failures > 0
"""
_RELEASE = """
update transom.webhook_deliveries set next_time = clock_timestamp()
where endpoint = %s and state = 'waiting' and lease is null and next_time <> 'infinity' and next_time > clock_timestamp()
"""
_ILL = """
update transom.webhook_endpoints set failures = failures + 1, failing_since = coalesce(failing_since, clock_timestamp()),
    open_until = case when %(closed)s::interval is null then open_until else clock_timestamp() + %(closed)s end
where id = %(id)s
"""
_DISABLE = """
update transom.webhook_endpoints set state = 'disabled', reason = %s, version = version + 1, update_time = clock_timestamp()
where id = %s and state = 'active'
"""
_COLUMNS = """
    id, endpoint, message, type, resource, position, state, attempts, nullif(next_time, 'infinity') as next_time, last_time,
    code, error, said, millis, create_time
"""
_ONE = f"select {_COLUMNS} from transom.webhook_deliveries where endpoint = %s and id = %s"
_LIST = f"""
select {_COLUMNS} from transom.webhook_deliveries
where endpoint = %(endpoint)s and id < %(before)s and (%(state)s = '' or state = %(state)s) order by id desc limit %(limit)s
"""
_PINGS = """
select count(*)::int as number from transom.webhook_deliveries where endpoint = %s and state = 'waiting' and resource = ''
"""
_PING = """
insert into transom.webhook_deliveries (endpoint, message, type, resource, position, body, next_time)
values (%s, %s, %s, '', 0, %s, clock_timestamp()) returning id as number
"""
_AGAIN = """
update transom.webhook_deliveries d set state = 'waiting', turn = nextval('transom.webhook_turns'), attempts = 0,
    first_time = null, done_time = null,
    next_time = case when resource <> '' and exists (select from transom.webhook_deliveries w
      where w.endpoint = d.endpoint and w.resource = d.resource and w.state = 'waiting')
      then 'infinity' else clock_timestamp() end
where endpoint = %(endpoint)s and id = %(id)s and state <> 'waiting'
"""
_NOW = """
update transom.webhook_deliveries set next_time = clock_timestamp()
where endpoint = %(endpoint)s and id = %(id)s and state = 'waiting' and lease is null and next_time <> 'infinity'
"""
_CLOSE = "update transom.webhook_endpoints set open_until = null where id = %(endpoint)s"
_OLD = """
delete from transom.webhook_deliveries where id in (select id from transom.webhook_deliveries
    where state <> 'waiting' and done_time < clock_timestamp() - %s order by done_time limit %s)
"""


@dataclass(frozen=True, slots=True)
class DueEndpoint:
    """Whom something is to be posted to. Its secrets are sealed."""

    id: str
    url: str
    secret: bytes
    old_secret: bytes | None
    old_until: datetime | None
    failures: int
    now: datetime


@dataclass(frozen=True, slots=True)
class TakenDelivery:
    """What is to be posted, by whoever has taken it."""

    id: int
    message: str
    type: str
    resource: str
    body: bytes
    attempts: int
    lease: str
    age: float
    """Seconds since the first attempt."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of an attempt."""

    state: str
    """waiting, delivered, failed."""
    code: int
    error: str
    said: str
    millis: int
    wait: timedelta = timedelta(0)
    """Where it waits: how long."""
    closed: timedelta | None = None
    """How long nothing is posted to the endpoint."""
    disable: str = ""
    """Why the endpoint is given up at once."""


@dataclass(frozen=True, slots=True)
class StoredDelivery:
    """A delivery, without what is posted."""

    id: int
    endpoint: str
    message: str
    type: str
    resource: str
    position: int
    state: str
    attempts: int
    next_time: datetime | None
    last_time: datetime | None
    code: int
    error: str
    said: str
    millis: int
    create_time: datetime


@dataclass(frozen=True, slots=True)
class _Health:
    failures: int
    failing_since: datetime | None
    now: datetime


@dataclass(frozen=True, slots=True)
class _Done:
    resource: str
    first_time: datetime


@dataclass(frozen=True, slots=True)
class _Number:
    number: int


class StoredDeliveries:
    """Deliveries in Postgres, whose clock counts for all processes. Everything raises Unavailable where it is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def take(self, limit: int, lease: str) -> list[tuple[DueEndpoint, TakenDelivery]]:
        """Takes at most `limit` deliveries that are due, for one who says `lease` with what becomes of them."""
        taken: list[tuple[DueEndpoint, TakenDelivery]] = []
        async with transaction(self._pool, DueEndpoint) as cursor:
            await cursor.execute(_ENDPOINTS)
            for endpoint in await cursor.fetchall():
                if len(taken) >= limit:
                    break
                asked = {
                    "endpoint": endpoint.id,
                    "lease": lease,
                    "limit": limit - len(taken),
                    "room": 1 if endpoint.failures >= BROKEN else PER_ENDPOINT,
                }
                rows = await _all(cursor.connection, TakenDelivery, _TAKE, asked)
                taken += [(endpoint, row) for row in rows]
        return taken

    async def settle(self, endpoint: str, id: int, lease: str, settled: Settled) -> str | None:
        """Writes down what became of an attempt, and lets the next delivery of the resource go. The reason for which the
        endpoint is disabled with it, "" where it is not; None where somebody else has taken the delivery, or it is gone.

        Given up for good, it also disables an endpoint that nothing has got to since the first attempt.
        """
        async with transaction(self._pool, _Health) as cursor:
            await cursor.execute(_HOLD, [endpoint])
            health = await cursor.fetchone()
            if health is None:
                return None
            values = {
                "id": id,
                "lease": lease,
                "state": settled.state,
                "code": settled.code,
                "error": settled.error,
                "said": settled.said,
                "millis": settled.millis,
                "wait": settled.wait,
            }
            done = await _all(cursor.connection, _Done, _SETTLE, values)
            if not done:
                return None
            if settled.state != "waiting" and done[0].resource:
                await cursor.execute(_NEXT, [endpoint, done[0].resource])
            if settled.state == "delivered":
                await cursor.execute(_WELL, [endpoint])
                if health.failures >= BROKEN:
                    await cursor.execute(_RELEASE, [endpoint])
                return ""
            await cursor.execute(_ILL, {"id": endpoint, "closed": settled.closed})
            reason = settled.disable
            since = health.failing_since or health.now
            if not reason and settled.state == "failed" and health.failures and since <= done[0].first_time + _BRIEF:
                reason = "FAILING"
            if reason:
                await cursor.execute(_DISABLE, [reason, endpoint])
                return reason if cursor.rowcount else ""
            return ""

    async def one(self, endpoint: str, id: int) -> StoredDelivery | None:
        """The delivery, if there is one."""
        async with transaction(self._pool, StoredDelivery) as cursor:
            await cursor.execute(_ONE, [endpoint, id])
            return await cursor.fetchone()

    async def page(self, endpoint: str, state: str, before: int, limit: int) -> list[StoredDelivery]:
        """At most `limit` of them, the newest first, those older than the id `before`; of one state where it is given."""
        async with transaction(self._pool, StoredDelivery) as cursor:
            asked = {"endpoint": endpoint, "state": state, "before": before, "limit": limit}
            await cursor.execute(_LIST, asked)
            return await cursor.fetchall()

    async def ping(self, endpoint: str, message: str, type: str, body: bytes, most: int) -> int | None:
        """Has something posted that is of no resource; its id. None where `most` of these wait. There must be the
        endpoint."""
        async with transaction(self._pool, _Number) as cursor:
            await cursor.execute(_PINGS, [endpoint])
            waiting = await cursor.fetchone()
            if waiting is None or waiting.number >= most:
                return None
            await cursor.execute(_PING, [endpoint, message, type, body])
            made = await cursor.fetchone()
            assert made is not None
            return made.number

    async def again(self, endpoint: str, id: int, note: Statement) -> bool:
        """Has a delivery posted again, or now where it waits for its next attempt; False where there is none."""
        asked: Any = {"endpoint": endpoint, "id": id}
        async with transaction(self._pool, _Health) as cursor:
            await cursor.execute(_HOLD, [endpoint])
            if await cursor.fetchone() is None:
                return False
            await cursor.execute(_NOW, asked)
            await cursor.execute(_AGAIN, asked)
            await cursor.execute(_ONE, [endpoint, id])
            found = cursor.rowcount > 0
            if found:
                await cursor.execute(_CLOSE, asked)
                await all_of(cursor, [note])
            return found

    async def sweep(self, days: float, bite: int = 500) -> int:
        """Deletes what was done so many days ago; how many it were."""
        return await swept(self._pool, _OLD, timedelta(days=days), bite)


_BRIEF = timedelta(seconds=90)
"""An attempt begins before its failure is written down: the first failure is a little later than the first attempt."""


async def _all(connection: Any, row: type[Any], statement: LiteralString, parameters: Any) -> Sequence[Any]:
    async with connection.cursor(row_factory=class_row(row)) as cursor:
        await cursor.execute(statement, parameters)
        return list(await cursor.fetchall())
