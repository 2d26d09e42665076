"""Rows of transom.authenticators and transom.recovery_codes: the second factor of accounts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from psycopg import AsyncCursor

from server.store.pooled import Pool, Statement, all_of, transaction

_ONE = """
select u.id as user_id, u.email, u.verified, a.secret, a.confirm_time,
       (select count(*) from transom.recovery_codes r where r.user_id = u.id)::int as codes
from transom.users u left join transom.authenticators a on a.user_id = u.id
where u.id = %s
"""

# What every sign-in with a first factor asks: by primary keys, one round trip.
_METHODS = """
select exists (select 1 from transom.recovery_codes r where r.user_id = a.user_id) as codes
from transom.authenticators a where a.user_id = %s and a.confirm_time is not null
"""

# A confirmed one stays: to replace it, it is removed first.
_ENROLL = """
insert into transom.authenticators (user_id, secret) values (%s, %s)
on conflict (user_id) do update set secret = excluded.secret, last_step = 0
where authenticators.confirm_time is null
"""

# What ends an account's sessions together with its password waits here, or is waited for; then the session is looked for.
_LOCK_ACCOUNT = "select id from transom.users where id = %s for no key update"
_SESSION = "select id from transom.sessions where id = %s and user_id = %s and expire_time > now()"

# Only with the very secret that the code was compared with: another enrolment may have come in between.
_CONFIRM = """
update transom.authenticators set confirm_time = clock_timestamp(), last_step = %(step)s
where user_id = %(user)s and secret = %(secret)s and confirm_time is null
"""

# Of two calls with one code, one gets it: the row is locked, and the second finds the step taken.
_TAKE_STEP = """
update transom.authenticators set last_step = %(step)s
where user_id = %(user)s and secret = %(secret)s and confirm_time is not null and last_step < %(step)s
"""
_RESEAL = "update transom.authenticators set secret = %s where user_id = %s and secret = %s"

_TAKE_CODE = """
delete from transom.recovery_codes where user_id = %s and code_hash = %s
and exists (select 1 from transom.authenticators a where a.user_id = recovery_codes.user_id and a.confirm_time is not null)
"""

_LOCK = "select user_id from transom.authenticators where user_id = %s and confirm_time is not null for update"
_REMOVE = "delete from transom.authenticators where user_id = %s"
_DROP_CODES = "delete from transom.recovery_codes where user_id = %s"
_ADD_CODES = "insert into transom.recovery_codes (user_id, code_hash) select %s, unnest(%s::bytea[])"


@dataclass(frozen=True, slots=True)
class StoredSecondFactor:
    """The second factor of an account as it is kept."""

    user_id: str
    email: str | None
    verified: bool
    secret: bytes | None
    """Sealed; None where no authenticator was begun with."""
    confirm_time: datetime | None
    codes: int
    """Recovery codes that were not used yet."""


@dataclass(frozen=True, slots=True)
class _Methods:
    codes: bool


class NotDone(Enum):
    """Why a second factor was not changed."""

    OVER = "over"
    """The session has ended, or the account is gone."""
    OTHER = "other"
    """It is not, or no longer, as it must be for this change."""


class StoredSecondFactors:
    """Second factors in Postgres."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def one(self, user: str) -> StoredSecondFactor | None:
        """The second factor of `user`, empty where there is none; None where there is no such account."""
        async with transaction(self._pool, StoredSecondFactor) as cursor:
            await cursor.execute(_ONE, [user])
            return await cursor.fetchone()

    async def methods(self, user: str) -> tuple[bool, bool]:
        """Whether `user` has a confirmed authenticator, and whether recovery codes beside it."""
        async with transaction(self._pool, _Methods) as cursor:
            await cursor.execute(_METHODS, [user])
            found = await cursor.fetchone()
            return found is not None, found is not None and found.codes

    async def enroll(self, user: str, secret: bytes) -> bool:
        """Keeps the sealed secret of an authenticator to be confirmed; False where one is confirmed already."""
        async with transaction(self._pool, StoredSecondFactor) as cursor:
            await cursor.execute(_ENROLL, [user, secret])
            return cursor.rowcount > 0

    async def confirm(
        self, user: str, session: str, secret: bytes, step: int, codes: Sequence[bytes], also: Sequence[Statement]
    ) -> NotDone | None:
        """Makes the authenticator with this sealed secret count, with `codes` as recovery codes, and does something
        else (`also`) with it; OTHER where it is not (any more) the one to be confirmed, OVER where the session with this
        id is none of the account's (any more)."""
        async with transaction(self._pool, StoredSecondFactor) as cursor:
            if not await _signed_in(cursor, user, session):
                return NotDone.OVER
            await cursor.execute(_CONFIRM, {"user": user, "secret": secret, "step": step})
            if cursor.rowcount == 0:
                return NotDone.OTHER
            await cursor.execute(_DROP_CODES, [user])
            await cursor.execute(_ADD_CODES, [user, list(codes)])
            await all_of(cursor, also)
            return None

    async def take_step(self, user: str, secret: bytes, step: int) -> bool:
        """Takes the code of `step`: False where it, or a later one, was taken before. One call gets it."""
        async with transaction(self._pool, StoredSecondFactor) as cursor:
            await cursor.execute(_TAKE_STEP, {"user": user, "secret": secret, "step": step})
            return cursor.rowcount > 0

    async def reseal(self, user: str, old: bytes, new: bytes) -> None:
        """Keeps the same secret in another seal."""
        async with transaction(self._pool, StoredSecondFactor) as cursor:
            await cursor.execute(_RESEAL, [new, user, old])

    async def take_code(self, user: str, code_hash: bytes, also: Sequence[Statement]) -> bool:
        """Takes a recovery code, and does something else with it: False where there is no such code (any more). One call
        gets it."""
        async with transaction(self._pool, StoredSecondFactor) as cursor:
            await cursor.execute(_TAKE_CODE, [user, code_hash])
            if cursor.rowcount == 0:
                return False
            await all_of(cursor, also)
            return True

    async def replace_codes(
        self, user: str, session: str, codes: Sequence[bytes], also: Sequence[Statement]
    ) -> NotDone | None:
        """Puts `codes` in place of the recovery codes there are, and does something else with it; OTHER where no
        authenticator is confirmed, OVER as `confirm`."""
        async with transaction(self._pool, StoredSecondFactor) as cursor:
            if not await _signed_in(cursor, user, session):
                return NotDone.OVER
            await cursor.execute(_LOCK, [user])
            if cursor.rowcount == 0:
                return NotDone.OTHER
            await cursor.execute(_DROP_CODES, [user])
            await cursor.execute(_ADD_CODES, [user, list(codes)])
            await all_of(cursor, also)
            return None

    async def remove(self, user: str, also: Sequence[Statement]) -> bool:
        """Removes the authenticator, confirmed or not, and the recovery codes, and does something else with it; False
        where there was none."""
        async with transaction(self._pool, StoredSecondFactor) as cursor:
            await cursor.execute(_REMOVE, [user])
            removed = cursor.rowcount > 0
            if removed:
                await all_of(cursor, also)
            await cursor.execute(_DROP_CODES, [user])
            return removed


async def _signed_in(cursor: AsyncCursor[Any], user: str, session: str) -> bool:
    """Whether the session still is one of the account's; what would end it with the password waits from now on."""
    await cursor.execute(_LOCK_ACCOUNT, [user])
    await cursor.execute(_SESSION, [session, user])
    return cursor.rowcount > 0
