"""What a token stands for: Redis first, Postgres where Redis does not know.

Postgres is the truth; an entry in Redis is a copy of it that lives ENTRY seconds. An ended token must not come back
to life through a copy, whatever happens at the same time:

1. Before the row is deleted, a mark takes the place of the copy (`ending`). A mark says: ask Postgres, keep no copy.
2. The row is deleted.
3. The mark is written again, so that its time counts from the deletion.

A reader who saw the row before 2 and writes its copy after 1 finds the mark and leaves it (copies are only added,
never replaced), and MARK is longer than a look-up may take. Killed after 1, the session is as alive as it was; killed
after 2, the mark is there. Where Redis cannot be reached, the mark is owed and written as soon as it can; only if
the process also dies before that can a copy outlive its row, and then for at most ENTRY seconds.

While the primary does not answer, a row on the replica counts, an absent one does not: it may not have got there yet,
and who has just signed up must not be called a stranger. The replica itself counts only while it is known to be at
most BEHIND seconds behind. What ended longer ago than that is absent there; what ended since has its mark, which says
that only the primary may answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields

import orjson

from server.errors import Exhausted, Unavailable
from server.store.breaker import Breaker
from server.store.gathering import Gathering
from server.store.pooled import Pool, transaction
from server.store.redis import Redis, RedisAway

ENTRY = 60
"""Seconds a copy lives in Redis: the longest that an ended token can live on, under the worst of circumstances."""

MARK = 3600
"""Seconds a mark lives. Longer than any look-up takes (PATIENCE, LONGEST, and Redis' TIMEOUT) and than the replica may
be BEHIND; and long enough for most outages of the primary, whose last changes the replica may never have heard of."""

BEHIND = 30.0
"""Seconds behind the primary beyond which the replica is not asked."""

OWED = 10_000
"""Marks that are owed at most while Redis is away; above that the oldest is given up, and ENTRY bounds its copy."""

PATIENCE = 1.0
"""Seconds the primary is given where there is a replica to ask instead."""

LONGEST = 5.0
"""Seconds a look-up in Postgres may take."""

TOGETHER = 500
"""Tokens looked up in one call."""

_MARKED = b"ended"

# Nobody's are also the sessions of accounts that are disabled or on their way out, those that were idle for too long,
# and those in which an admin acts who is none any more, or as somebody who has become one.
_FIND = """
select s.token_hash, 'users/' || s.user_id as caller, 'sessions/' || s.id as session, u.roles, u.scopes, u.verified,
       u.anonymous, s.impersonator, extract(epoch from s.proof_time)::float8 as session_time,
       extract(epoch from s.seen_time)::float8 as heard,
       extract(epoch from least(s.expire_time, s.seen_time + s.idle_lifetime))::float8 as expire
from transom.sessions s join transom.users u on u.id = s.user_id
where s.token_hash = any(%(digests)s)
  and s.expire_time > now() and (s.idle_lifetime is null or s.seen_time + s.idle_lifetime > now())
  and u.disabled_time is null and u.delete_time is null
  and (s.impersonator = '' or 'admin' <> all(u.roles) and (
       exists (select from transom.users a where 'users/' || a.id = s.impersonator
               and 'admin' = any(a.roles) and a.disabled_time is null and a.delete_time is null)
       or exists (select from transom.keys k where 'keys/' || k.id = s.impersonator and k.role = 'admin')))
union all
select token_hash, 'keys/' || id, '', array[role], scopes, false, false, '', 0, 0, null
from transom.keys where token_hash = any(%(digests)s)
"""


@dataclass(frozen=True, slots=True)
class Known:
    """What a token stands for, as it was at `seen`."""

    caller: str
    """Resource name: `users/...` or `keys/...`."""
    session: str
    """`sessions/...`; empty for a key."""
    roles: frozenset[str]
    scopes: frozenset[str] | None
    """`<resource message>:<action>`; None for all."""
    verified: bool
    anonymous: bool
    impersonator: str
    """Resource name of the admin who acts as the caller; empty where it acts itself."""
    session_time: float
    """Unix time at which the session began or last proved who it is; 0 for a key."""
    heard: float
    """Unix time at which something was heard of the session, as it is written: to the minute. 0 for a key."""
    expire: float | None
    """Unix time after which it is nobody's; None for never."""
    seen: float
    """Monotonic time at which the look-up began."""
    copied: bool = False
    """Whether Redis said so and not Postgres."""


@dataclass(frozen=True, slots=True)
class _Row:
    token_hash: bytes
    caller: str
    session: str
    roles: list[str]
    scopes: list[str] | None
    verified: bool
    anonymous: bool
    impersonator: str
    session_time: float
    heard: float
    expire: float | None

    def known(self, seen: float, copied: bool = False) -> Known:
        """What the row says, read at `seen`."""
        return Known(
            self.caller,
            self.session,
            frozenset(self.roles),
            None if self.scopes is None else frozenset(self.scopes),
            self.verified,
            self.anonymous,
            self.impersonator,
            self.session_time,
            self.heard,
            self.expire,
            seen,
            copied,
        )


@dataclass(frozen=True, slots=True)
class _Absent:
    """Redis has no copy; `marked` where it says why."""

    marked: bool


class Tokens:
    """Finds tokens by their SHA-256. `replica` is read only while the primary is away, and `behind` says how many
    seconds behind it may be: as long as nobody knows, it is not asked."""

    def __init__(
        self, pool: Pool, redis: Redis, replica: Pool | None = None, behind: Callable[[], float] = lambda: math.inf
    ) -> None:
        self._pool = pool
        self._redis = redis
        self._replica = replica
        self._behind = behind
        self._primary = Breaker(pause=1.0)
        # However many ask, each is asked for once in a call, and no store is asked faster than it answers.
        self._copies: Gathering[bytes, Known | _Absent] = Gathering(self._from_redis, size=TOGETHER)
        self._rows: Gathering[bytes, Known | None] = Gathering(self._from_postgres, size=TOGETHER)
        self._marked: Gathering[bytes, Known | None] = Gathering(self._from_primary, size=TOGETHER)
        self._owed: dict[bytes, float] = {}
        self._paying: asyncio.Task[None] | None = None

    async def find(self, digest: bytes) -> Known | None:
        """What the token with this SHA-256 stands for; None where it is nobody's (any more).

        Raises Unavailable where neither Redis nor Postgres can say: that there is no such token only the primary can.
        """
        copy = await self._copies.ask(digest)
        if isinstance(copy, Known):
            return copy
        return await (self._marked if copy.marked else self._rows).ask(digest)

    async def find_anew(self, digest: bytes) -> Known | None:
        """As `find`, for what has changed a moment ago: no copy is believed, and the primary alone can say."""
        return await self._marked.ask(digest)

    async def recall(self, digests: Iterable[bytes]) -> None:
        """What these tokens stand for has changed, in rows that are written: no copy made before outlives this."""
        await self._mark(list(digests))

    @asynccontextmanager
    async def ending(self, digests: Iterable[bytes]) -> AsyncIterator[None]:
        """Within this block the tokens' rows are deleted; no copy of them survives it, here or elsewhere."""
        digests = list(digests)
        await self._mark(digests)
        try:
            yield
        finally:  # also after an error: the deletion may have happened all the same
            await self._mark(digests)

    async def aclose(self) -> None:
        """Tries a last time to write the marks that are owed."""
        if self._paying is not None:
            self._paying.cancel()
            await asyncio.gather(self._paying, return_exceptions=True)
        if self._owed:
            await self._write(self._owed)

    async def _from_redis(self, asked: list[bytes]) -> list[Known | _Absent]:
        seen = time.monotonic()
        digests = list(set(asked))
        try:
            values = await self._redis.get([_key(digest) for digest in digests])
        except RedisAway:
            return [_Absent(marked=False)] * len(asked)
        found = {digest: _opened(value, seen) for digest, value in zip(digests, values, strict=True)}
        return [found[digest] for digest in asked]

    async def _from_postgres(self, asked: list[bytes]) -> list[Known | Exception | None]:
        seen = time.monotonic()
        if self._replica is None or not self._primary.open:
            try:
                rows = await _rows(self._pool, asked, LONGEST if self._replica is None else PATIENCE)
                await self._copy(rows)
                return [*_answers(asked, rows, seen)]
            except (Unavailable, Exhausted):  # away, slow, or too many wait for it
                if self._replica is None:
                    raise
                self._primary.failed()
        return await self._from_replica(self._replica, asked, seen)

    async def _from_replica(self, replica: Pool, asked: list[bytes], seen: float) -> list[Known | Exception | None]:
        """Known, or Unavailable: never None. No copy is kept of what it says."""
        if self._behind() > BEHIND:
            raise _nobody_can_say()
        return [found or _nobody_can_say() for found in _answers(asked, await _rows(replica, asked, LONGEST), seen)]

    async def _from_primary(self, asked: list[bytes]) -> list[Known | None]:
        """For what is marked: the replica may not have heard of its end, and no copy is kept."""
        seen = time.monotonic()
        return _answers(asked, await _rows(self._pool, asked, LONGEST), seen)

    async def _copy(self, rows: list[_Row]) -> None:
        now = time.time()
        copies = {}
        for row in rows:
            left = ENTRY if row.expire is None else min(ENTRY, row.expire - now)
            if left > 0.001:
                copies[_key(row.token_hash)] = (_sealed(row), int(left * 1000))
        if copies:
            with contextlib.suppress(RedisAway):
                await self._redis.add(copies)

    async def _mark(self, digests: list[bytes]) -> None:
        if digests and not await self._write(digests):
            until = time.monotonic() + ENTRY + 10  # then every copy made before has gone by itself
            for digest in digests:
                self._owed[digest] = until
                if len(self._owed) > OWED:
                    del self._owed[next(iter(self._owed))]
            if self._paying is None or self._paying.done():
                self._paying = asyncio.create_task(self._pay())

    async def _write(self, digests: Iterable[bytes]) -> bool:
        try:
            await self._redis.set({_key(digest): _MARKED for digest in digests}, MARK)
        except RedisAway:
            return False
        return True

    async def _pay(self) -> None:
        while self._owed:
            await asyncio.sleep(0.5)
            now = time.monotonic()
            due = {digest for digest, until in self._owed.items() if until > now}
            if due and not await self._write(due):
                continue
            for digest in [digest for digest in self._owed if digest in due or self._owed[digest] <= now]:
                del self._owed[digest]


async def _rows(pool: Pool, digests: Iterable[bytes], patience: float) -> list[_Row]:
    try:
        async with asyncio.timeout(patience), transaction(pool, _Row) as cursor:
            await cursor.execute(_FIND, {"digests": list(set(digests))})
            return await cursor.fetchall()
    except TimeoutError as slow:
        raise Unavailable("The database took too long.", reason="DATABASE_SLOW") from slow


def _answers(asked: list[bytes], rows: list[_Row], seen: float) -> list[Known | None]:
    found = {row.token_hash: row.known(seen) for row in rows}
    return [found.get(digest) for digest in asked]


def _nobody_can_say() -> Unavailable:
    return Unavailable("The database is away for now.", reason="DATABASE_AWAY")


def _key(digest: bytes) -> str:
    return f"transom:token:{digest.hex()}"


def _sealed(row: _Row) -> bytes:
    return orjson.dumps([getattr(row, name) for name in _COPIED])


def _opened(value: bytes | None, seen: float) -> Known | _Absent:
    if value is None or value == _MARKED:
        return _Absent(marked=value is not None)
    try:
        return _Row(b"", *orjson.loads(value)).known(seen, copied=True)
    except (ValueError, TypeError):  # written by another version: as good as nothing
        return _Absent(marked=False)


_COPIED = [field.name for field in fields(_Row) if field.name != "token_hash"]
