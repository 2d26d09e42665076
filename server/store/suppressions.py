"""Rows of transom.mail_suppressions: addresses that nothing is sent to any more."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from server.store.pooled import Pool, Statement, all_of, transaction

SAID = 500
"""Characters kept of why."""


class Reason(StrEnum):
    """Why nothing is sent to an address."""

    BOUNCED = "BOUNCED"
    """A mail server said that there is no such mailbox."""
    BOUNCED_OFTEN = "BOUNCED_OFTEN"
    """Its mails failed again and again, for other reasons."""
    OPERATOR = "OPERATOR"
    """An operator said so."""


@dataclass(frozen=True, slots=True)
class Suppression:
    """An address that nothing is sent to."""

    address: str
    reason: str
    status: str
    said: str
    create_time: datetime


_SUPPRESS = """
insert into transom.mail_suppressions as s (address, reason, status, said)
values (lower(%s), %s, %s, %s)
on conflict (address) do update
set reason = excluded.reason, status = excluded.status, said = excluded.said, create_time = clock_timestamp(), lifted_time = null
where s.lifted_time is not null
"""
_LIFT = """
update transom.mail_suppressions set lifted_time = clock_timestamp()
where address = lower(%s) and lifted_time is null
returning address, reason, status, said, create_time
"""
_NEWEST = """
select address, reason, status, said, create_time from transom.mail_suppressions
where lifted_time is null and (%(address)s = '' or address = lower(%(address)s)) order by create_time desc limit %(limit)s
"""


def suppressing(address: str, reason: Reason, status: str = "", said: str = "") -> Statement:
    """The statement that suppresses an address; one that is already stays as it is."""
    return _SUPPRESS, [address, reason, status, said[:SAID]]


class Suppressions:
    """Those that hold."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def newest(self, limit: int, address: str = "") -> list[Suppression]:
        """The newest ones; with an address, its own."""
        async with transaction(self._pool, Suppression) as cursor:
            await cursor.execute(_NEWEST, {"address": address, "limit": limit})
            return await cursor.fetchall()

    async def suppress(self, address: str, reason: Reason, said: str, note: Statement) -> bool:
        """Suppresses an address, with a note for the audit log; whether it was not before."""
        async with transaction(self._pool, object) as cursor:
            await all_of(cursor, [suppressing(address, reason, said=said)])
            done = cursor.rowcount > 0
            await all_of(cursor, [note] if done else [])
            return done

    async def lift(self, address: str, note: Statement) -> bool:
        """Lifts a suppression, with a note for the audit log; whether there was one."""
        async with transaction(self._pool, Suppression) as cursor:
            await cursor.execute(_LIFT, [address])
            done = await cursor.fetchone() is not None
            await all_of(cursor, [note] if done else [])
            return done
