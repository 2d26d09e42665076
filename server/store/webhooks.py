"""Rows of transom.webhook_endpoints: whom changes are posted to, and how far in the event log each of them is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from server.store.pooled import Pool, Statement, all_of, transaction

_COLUMNS = """
    e.id, e.url, e.types, e.filter, e.description, e.owner, e.secret, e.old_secret, e.old_until, e.state, e.reason, e.version,
    e.failures, e.open_until, e.create_time, e.update_time,
    (select count(*)::int from transom.webhook_deliveries d where d.endpoint = e.id and d.state = 'waiting') as waiting
"""
_GET = f"select {_COLUMNS} from transom.webhook_endpoints e where e.id = %s"
_LIST = f"select {_COLUMNS} from transom.webhook_endpoints e where e.id > %s order by e.id limit %s"
# Those that make endpoints at once wait for each other, so that there are no more than there may be.
_ALONE = "select pg_advisory_xact_lock(hashtextextended('transom.webhook_endpoints', 0))"
_COUNT = "select count(*)::int as number from transom.webhook_endpoints"
_INSERT = """
insert into transom.webhook_endpoints (id, url, types, filter, description, owner, secret)
values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing
"""
_BEGIN = "insert into transom.webhook_positions (endpoint, position) select %s, numbered from transom.relay"
_LOCK = "select version as number from transom.webhook_endpoints where id = %s for no key update"
_UPDATE = """
update transom.webhook_endpoints set url = %s, types = %s, filter = %s, description = %s, owner = %s, version = version + 1,
    update_time = clock_timestamp()
where id = %s
"""
_DELETE = "delete from transom.webhook_endpoints where id = %s"
_PAUSE = """
update transom.webhook_endpoints set state = 'paused', version = version + 1, update_time = clock_timestamp()
where id = %s and state = 'active'
"""
_RESUME = """
update transom.webhook_endpoints set state = 'active', reason = '', failures = 0, failing_since = null, open_until = null,
    version = version + 1, update_time = clock_timestamp()
where id = %s and state <> 'active'
"""
# What waited for its next attempt goes at once; how long it is tried counts from now.
_DUE = """
update transom.webhook_deliveries set next_time = clock_timestamp(), first_time = null, attempts = 0
where endpoint = %s and state = 'waiting' and lease is null and next_time <> 'infinity'
"""
_GIVE_UP = """
update transom.webhook_deliveries set state = 'failed', lease = null, error = 'SKIPPED', done_time = clock_timestamp()
where endpoint = %s and state = 'waiting'
"""
_SKIP = """
update transom.webhook_positions set position = (select numbered from transom.relay) where endpoint = %s and until is null
"""
_NO_PARTS = "delete from transom.webhook_positions where endpoint = %s and until is not null"
_KEPT = """
select case when p.position >= r.trimmed then 1 else 0 end as number
from transom.webhook_positions p, transom.relay r where p.endpoint = %s and p.until is null
"""
_ROTATE = """
update transom.webhook_endpoints set secret = %s, old_secret = %s, old_until = clock_timestamp() + %s, version = version + 1,
    update_time = clock_timestamp()
where id = %s
"""
_ENDS = "select trimmed, trimmed_time, numbered from transom.relay"
_AT = """
select position, create_time as time from transom.events where position >= %s order by position limit 1
"""
_PARTS = "select count(*)::int as number from transom.webhook_positions where endpoint = %s and until is not null"
_PART = "insert into transom.webhook_positions (endpoint, position, until) values (%s, %s, %s)"
_BACK = "update transom.webhook_positions set position = least(position, %s) where endpoint = %s and until is null"


@dataclass(frozen=True, slots=True)
class StoredEndpoint:
    """An endpoint. Its secrets are sealed."""

    id: str
    url: str
    types: list[str]
    filter: str
    description: str
    owner: str
    secret: bytes
    old_secret: bytes | None
    old_until: datetime | None
    state: str
    reason: str
    version: int
    failures: int
    open_until: datetime | None
    create_time: datetime
    update_time: datetime
    waiting: int


@dataclass(frozen=True, slots=True)
class _Number:
    number: int


@dataclass(frozen=True, slots=True)
class _Ends:
    trimmed: int
    trimmed_time: datetime | None
    numbered: int


@dataclass(frozen=True, slots=True)
class _At:
    position: int
    time: datetime


class StoredEndpoints:
    """Endpoints in Postgres. Everything raises Unavailable where the database is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def one(self, id: str) -> StoredEndpoint | None:
        """The endpoint, if there is one."""
        async with transaction(self._pool, StoredEndpoint) as cursor:
            await cursor.execute(_GET, [id])
            return await cursor.fetchone()

    async def page(self, after: str, limit: int) -> list[StoredEndpoint]:
        """At most `limit` of them by id, those after the id `after`."""
        async with transaction(self._pool, StoredEndpoint) as cursor:
            await cursor.execute(_LIST, [after, limit])
            return await cursor.fetchall()

    async def create(
        self,
        id: str,
        url: str,
        types: Sequence[str],
        filter: str,
        description: str,
        owner: str,
        secret: bytes,
        most: int,
        note: Statement,
    ) -> bool | None:
        """Keeps a new endpoint, which is told of what is numbered from now on. False where the id is taken, None where there
        are `most` of them."""
        async with transaction(self._pool, _Number) as cursor:
            await cursor.execute(_ALONE)
            await cursor.execute(_COUNT)
            found = await cursor.fetchone()
            assert found is not None
            if found.number >= most:
                return None
            await cursor.execute(_INSERT, [id, url, list(types), filter, description, owner, secret])
            if not cursor.rowcount:
                return False
            await cursor.execute(_BEGIN, [id])
            await all_of(cursor, [note])
            return True

    async def update(
        self,
        id: str,
        version: int,
        url: str,
        types: Sequence[str],
        filter: str,
        description: str,
        owner: str,
        note: Statement,
    ) -> bool:
        """Changes an endpoint; False where it is not of that version any more."""
        changed = [(_UPDATE, [url, list(types), filter, description, owner, id]), note]
        return await self._change(id, changed, version)

    async def delete(self, id: str, note: Statement) -> bool:
        """Deletes an endpoint with all that belongs to it; False where there is none."""
        return await self._change(id, [(_DELETE, [id]), note])

    async def pause(self, id: str, note: Statement) -> bool:
        """Pauses an active endpoint; False where there is none."""
        return await self._change(id, [(_PAUSE, [id]), note])

    async def resume(self, id: str, skip: bool, note: Statement) -> bool | None:
        """Goes on with an endpoint that is not active, or with `skip` with what comes; False where there is none, None where
        events that it was not told of are not kept any more."""
        async with transaction(self._pool, _Number) as cursor:
            await cursor.execute(_LOCK, [id])
            if await cursor.fetchone() is None:
                return False
            if skip:
                await all_of(cursor, [(_GIVE_UP, [id]), (_SKIP, [id]), (_NO_PARTS, [id])])
            await cursor.execute(_KEPT, [id])
            kept = await cursor.fetchone()
            if kept is None or not kept.number:
                return None
            await cursor.execute(_RESUME, [id])
            if cursor.rowcount:
                await all_of(cursor, [(_DUE, [id]), note])
            return True

    async def rotate(
        self, id: str, secret: bytes, old: bytes, version: int, overlap: timedelta, note: Statement
    ) -> bool:
        """Keeps another secret, and the one before for so long; False where the endpoint is not of that version any more."""
        return await self._change(id, [(_ROTATE, [secret, old, overlap, id]), note], version)

    async def around(self, start: datetime, end: datetime | None) -> tuple[int, int] | datetime:
        """The positions after which, and up to which, the log has what was written in a range of time; or, where some of
        that may be kept no more, the moment after which all is. Positions and times are in one order but for a minute, so
        it may be a little more."""
        slack = timedelta(minutes=1)
        async with transaction(self._pool, _Ends) as cursor:
            await cursor.execute(_ENDS)
            ends = await cursor.fetchone()
        assert ends is not None
        if ends.trimmed_time is not None and start <= ends.trimmed_time:
            return ends.trimmed_time
        first = await self._first(ends.trimmed, ends.numbered, start - slack)
        last = ends.numbered if end is None else await self._first(first, ends.numbered, end + slack)
        return first, last

    async def replay(self, id: str, after: int, until: int | None, most: int, note: Statement) -> bool | None:
        """Has events told again: all after a position or, with `until`, a part, of which there are at most `most` (else
        None). False where there is no endpoint."""
        async with transaction(self._pool, _Number) as cursor:
            await cursor.execute(_LOCK, [id])
            if await cursor.fetchone() is None:
                return False
            if until is None:
                await all_of(cursor, [(_BACK, [after, id]), note])
                return True
            await cursor.execute(_PARTS, [id])
            parts = await cursor.fetchone()
            if parts is None or parts.number >= most:
                return None
            await all_of(cursor, [(_PART, [id, after, until]), note])
            return True

    async def _first(self, low: int, high: int, time: datetime) -> int:
        """The greatest position, of those from `low` to `high`, up to which all was written before the time."""
        async with transaction(self._pool, _At) as cursor:
            while low < high:
                middle = (low + high + 1) // 2
                await cursor.execute(_AT, [middle])
                found = await cursor.fetchone()
                if found is not None and found.time < time:
                    low = max(found.position, middle)
                else:
                    high = middle - 1
        return low

    async def _change(self, id: str, statements: Sequence[Statement], version: int | None = None) -> bool:
        async with transaction(self._pool, _Number) as cursor:
            await cursor.execute(_LOCK, [id])
            found = await cursor.fetchone()
            if found is None or version not in (None, found.number):
                return False
            await all_of(cursor, statements)
            return True
