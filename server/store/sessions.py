"""Rows of transom.sessions: the truth about who is signed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import AsyncCursor

from server.store.pooled import Pool, Statement, transaction
from server.store.words import NewWord, keep

PER_ACCOUNT = 100
"""Live sessions of one account; one more ends the oldest."""

# Sign-ins of one account wait for each other here, so that the count below is exact.
# Nobody who is disabled at this moment gets in: disabling waits here, too, and ends what sessions it finds.
_LOCK = """
select id from transom.users
where id = %(user)s and disabled_time is null and delete_time is null
  and (%(password_hash)s::text is null or password_hash = %(password_hash)s)
for no key update
"""

_COLUMNS = """id, user_id, device, create_time, expire_time, token_hash, proof, web, seen_time, address, impersonator"""

_LIVE = "expire_time > now() and (idle_lifetime is null or seen_time + idle_lifetime > now())"

_SIGN_IN = f"""
insert into transom.sessions
    (id, user_id, token_hash, device, create_time, seen_time, proof_time, expire_time, idle_lifetime, proof, web, address,
     impersonator)
select %(session)s, %(user)s, %(token_hash)s, %(device)s, time, time, time, time + %(lifetime)s, %(idle)s, %(proof)s,
       %(web)s, %(address)s, %(impersonator)s
from (select clock_timestamp() as time) now
returning {_COLUMNS}
"""

# Sessions in which admins act as the account are counted apart: they push nobody out.
_TRIM = f"""
delete from transom.sessions where id in (
    select id from transom.sessions where user_id = %(user)s and (impersonator = '') = (%(impersonator)s = '')
    order by create_time desc, id desc offset %(most)s
) or (user_id = %(user)s and not ({_LIVE}))
returning {_COLUMNS}
"""

_ONE = f"select {_COLUMNS} from transom.sessions where id = %s and user_id = %s"

_PAGE = f"""
select {_COLUMNS}
from transom.sessions
where user_id = %(user)s and {_LIVE}
  and (%(time)s::timestamptz is null or (create_time, id) < (%(time)s, %(id)s))
order by create_time desc, id desc limit %(limit)s
"""

# Only while the token is still the one that was read: of two at once, one wins.
_ROTATE = """
update transom.sessions
set token_hash = %(fresh)s, proof_time = case when %(proved)s then clock_timestamp() else proof_time end
where id = %(id)s and token_hash = %(token_hash)s
"""

# Heard of within the last minute already, by whatever server, a row is left as it is: at most one write a minute.
_HEARD = """
update transom.sessions s set seen_time = clock_timestamp(), address = coalesce(nullif(h.address, ''), s.address)
from unnest(%(ids)s::text[], %(addresses)s::text[]) as h (id, address)
where s.id = h.id and s.seen_time < clock_timestamp() - %(every)s
"""

# Those of the account, and those in which it acts as another.
_DIGESTS = """
select token_hash from transom.sessions
where (user_id = %(user)s or impersonator = 'users/' || %(user)s) and id <> %(but)s
"""
END = """
delete from transom.sessions
where (user_id = %(user)s or impersonator = 'users/' || %(user)s) and id <> %(but)s
returning token_hash
"""

_DELETE = "delete from transom.sessions where id = %s and user_id = %s"

# A bounded bite, so that the sweep holds no locks for long; rows others work on are theirs. What was idle for too long
# stays until it would have ended anyway: an index on the time it was last heard of would make every note of that dear.
_SWEEP = """
delete from transom.sessions where id in (
    select id from transom.sessions where expire_time <= now() limit %s for update skip locked
)
"""


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session as it is kept."""

    id: str
    user_id: str
    device: str
    create_time: datetime
    expire_time: datetime
    token_hash: bytes
    proof: str
    """How it was signed in."""
    web: bool
    """Whether its token lives in a cookie."""
    seen_time: datetime
    """When it was last heard of, to the minute."""
    address: str
    """Where it was heard from then."""
    impersonator: str
    """Resource name of the admin who acts as the account; empty where it acts itself."""


@dataclass(frozen=True, slots=True)
class NewSession:
    """What a new session is made of."""

    id: str
    token_hash: bytes
    device: str
    lifetime: timedelta
    idle: timedelta | None = None
    proof: str = "password"
    web: bool = False
    address: str = ""
    impersonator: str = ""


@dataclass(frozen=True, slots=True)
class _Digest:
    token_hash: bytes


@dataclass(frozen=True, slots=True)
class _Kept:
    expire_time: datetime


class StoredSessions:
    """Sessions in Postgres."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def sign_in(
        self, user: str, session: NewSession, password_hash: str | None = None, still: Statement | None = None
    ) -> tuple[StoredSession | None, Sequence[bytes]]:
        """Makes a session of the account `user`; with it, the token hashes of those that ended to make room.

        None where the account is gone or disabled, or its password is not, or no longer, the one with that hash, or
        `still` finds no row: with the account held, so that whoever takes its ways to sign in away is before or after.
        """
        async with transaction(self._pool, StoredSession) as cursor:
            if not await _held(cursor, user, password_hash, still):
                return None, ()
            await cursor.execute(_SIGN_IN, {"user": user, **_parameters(session)})
            made = await cursor.fetchone()
            await cursor.execute(_TRIM, {"user": user, "most": PER_ACCOUNT, "impersonator": session.impersonator})
            return made, [ended.token_hash for ended in await cursor.fetchall()]

    async def challenge(
        self, user: str, word: NewWord, password_hash: str | None = None, still: Statement | None = None
    ) -> datetime | None:
        """Keeps the word of a challenge that stands before a session of the account; when it ends. None as `sign_in`."""
        async with transaction(self._pool, _Kept) as cursor:
            return await keep(cursor, word) if await _held(cursor, user, password_hash, still) else None

    async def one(self, id: str, user: str) -> StoredSession | None:
        """The session `id`, where it is one of `user`'s."""
        async with transaction(self._pool, StoredSession) as cursor:
            await cursor.execute(_ONE, [id, user])
            return await cursor.fetchone()

    async def page(self, user: str, after: tuple[datetime, str] | None, limit: int) -> list[StoredSession]:
        """At most `limit` live sessions of `user`, newest first, that come after the one made then and named so."""
        time, id = after or (None, None)
        async with transaction(self._pool, StoredSession) as cursor:
            await cursor.execute(_PAGE, {"user": user, "time": time, "id": id, "limit": limit})
            return await cursor.fetchall()

    async def rotate(self, session: StoredSession, token_hash: bytes, *, proved: bool) -> bool:
        """Gives the session another token, and where it `proved` itself says so; False where it has ended, or has another
        token than it was read with."""
        async with transaction(self._pool, StoredSession) as cursor:
            await cursor.execute(
                _ROTATE,
                {"fresh": token_hash, "proved": proved, "id": session.id, "token_hash": session.token_hash},
            )
            return cursor.rowcount > 0

    async def heard(self, addresses: Mapping[str, str], every: timedelta) -> None:
        """Notes that these sessions were heard of, and from which addresses ("" for unknown), except for those of which
        it was noted less than `every` ago."""
        async with transaction(self._pool, StoredSession) as cursor:
            await cursor.execute(
                _HEARD, {"ids": list(addresses), "addresses": list(addresses.values()), "every": every}
            )

    async def delete(self, id: str, user: str) -> bool:
        """Ends the session `id` of `user`; False where there is none."""
        async with transaction(self._pool, StoredSession) as cursor:
            await cursor.execute(_DELETE, [id, user])
            return cursor.rowcount > 0

    async def digests(self, user: str, but: str = "") -> list[bytes]:
        """Token hashes of the sessions of `user`, and of those in which it acts as another, except of the session `but`."""
        async with transaction(self._pool, _Digest) as cursor:
            await cursor.execute(_DIGESTS, {"user": user, "but": but})
            return [row.token_hash for row in await cursor.fetchall()]

    async def end(self, user: str, but: str = "") -> list[bytes]:
        """Ends those sessions; their token hashes."""
        async with transaction(self._pool, _Digest) as cursor:
            await cursor.execute(END, {"user": user, "but": but})
            return [row.token_hash for row in await cursor.fetchall()]

    async def sweep(self, limit: int = 1000) -> int:
        """Deletes at most `limit` sessions that have expired; how many it were."""
        async with transaction(self._pool, StoredSession) as cursor:
            await cursor.execute(_SWEEP, [limit])
            return cursor.rowcount


async def _held(cursor: AsyncCursor[Any], user: str, password_hash: str | None, still: Statement | None) -> bool:
    """Holds the account until the transaction ends; whether it may be signed in to with what was proved."""
    await cursor.execute(_LOCK, {"user": user, "password_hash": password_hash})
    if cursor.rowcount and still is not None:
        await cursor.execute(*still)
    return cursor.rowcount > 0


def _parameters(session: NewSession) -> dict[str, object]:
    return {
        "session": session.id,
        "token_hash": session.token_hash,
        "device": session.device,
        "lifetime": session.lifetime,
        "idle": session.idle,
        "proof": str(session.proof),
        "web": session.web,
        "address": session.address,
        "impersonator": session.impersonator,
    }
