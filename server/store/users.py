"""Rows of transom.users as admins see and change them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from psycopg import AsyncCursor
from psycopg.rows import class_row

from server.store import sessions
from server.store.pooled import Pool, transaction

_SELECT = """
select u.id, u.email, u.display_name, u.create_time, u.verified, u.anonymous, u.roles, u.scopes, u.disabled_time,
       u.delete_time, u.password_hash is not null as password,
       exists (select from transom.passkeys p where p.user_id = u.id) as passkey,
       exists (select from transom.identities i where i.user_id = u.id) as identity,
       exists (select from transom.authenticators a where a.user_id = u.id and a.confirm_time is not null) as totp,
       (select max(s.seen_time) from transom.sessions s where s.user_id = u.id and s.expire_time > now()) as seen_time
from transom.users u
"""

_ONE = f"{_SELECT} where u.id = %s"
_HELD = f"{_ONE} for no key update of u"

_PAGE = f"""
{_SELECT}
where (%(email)s = '' or position(%(email)s in u.email_key) > 0)
  and (%(role)s = '' or %(role)s = any(u.roles))
  and (%(time)s::timestamptz is null or (u.create_time, u.id) < (%(time)s, %(id)s))
order by u.create_time desc, u.id desc limit %(limit)s
"""

_UPDATE = """
update transom.users
set display_name = %s, roles = %s, scopes = %s,
    disabled_time = case when %s then coalesce(disabled_time, clock_timestamp()) end
where id = %s
"""


@dataclass(frozen=True, slots=True)
class StoredUser:
    """An account as it is kept, and how it signs in."""

    id: str
    email: str | None
    display_name: str
    create_time: datetime
    verified: bool
    anonymous: bool
    roles: list[str]
    scopes: list[str] | None
    disabled_time: datetime | None
    delete_time: datetime | None
    password: bool
    passkey: bool
    identity: bool
    totp: bool
    seen_time: datetime | None


@dataclass(frozen=True, slots=True)
class _Token:
    token_hash: bytes


class HeldUser:
    """An account that nobody else changes until the transaction ends. Not for use after its block."""

    def __init__(self, cursor: AsyncCursor[StoredUser], user: StoredUser) -> None:
        self._cursor = cursor
        self.user = user

    async def write(
        self,
        *,
        display_name: str,
        roles: Sequence[str],
        scopes: Sequence[str] | None,
        disabled: bool,
        also: Sequence[tuple[str, Sequence[object]]],
    ) -> StoredUser:
        """Changes it, and does something else in the same transaction; as it is then."""
        kept = None if scopes is None else list(scopes)
        await self._cursor.execute(_UPDATE, [display_name, list(roles), kept, disabled, self.user.id])
        for statement, parameters in also:
            await self._cursor.execute(statement, parameters)
        await self._cursor.execute(_ONE, [self.user.id])
        written = await self._cursor.fetchone()
        assert written is not None  # it is held
        return written

    async def end_sessions(self) -> list[bytes]:
        """Ends its sessions, and those in which it acts as others, in the same transaction; the hashes of their tokens."""
        async with self._cursor.connection.cursor(row_factory=class_row(_Token)) as cursor:
            await cursor.execute(sessions.END, {"user": self.user.id, "but": ""})
            return [ended.token_hash for ended in await cursor.fetchall()]


class StoredUsers:
    """Accounts in Postgres."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def one(self, id: str) -> StoredUser | None:
        """The account `id`."""
        async with transaction(self._pool, StoredUser) as cursor:
            await cursor.execute(_ONE, [id])
            return await cursor.fetchone()

    async def page(self, email: str, role: str, after: tuple[datetime, str] | None, limit: int) -> Sequence[StoredUser]:
        """At most `limit` accounts, newest first, that come after the one made then and named so: those whose address,
        in its canonical spelling, contains `email`, and that have the role; empty for all."""
        time, id = after or (None, None)
        values = {"email": email, "role": role, "time": time, "id": id, "limit": limit}
        async with transaction(self._pool, StoredUser) as cursor:
            await cursor.execute(_PAGE, values)
            return await cursor.fetchall()

    @asynccontextmanager
    async def held(self, id: str) -> AsyncIterator[HeldUser | None]:
        """The account `id`, held in a transaction that commits when the block ends without an error; None where there
        is none."""
        async with transaction(self._pool, StoredUser) as cursor:
            await cursor.execute(_HELD, [id])
            found = await cursor.fetchone()
            yield HeldUser(cursor, found) if found is not None else None
