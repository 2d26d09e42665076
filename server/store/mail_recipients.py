"""Rows of transom.mail_recipients: what became of a mail, recipient by recipient; and what bounces tell of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from server.store.pooled import Pool, Statement, all_of, transaction

SAID = 500
"""Characters kept of what a mail server said."""


class State(StrEnum):
    """What became of a mail to one recipient."""

    WAITING = "waiting"
    """Not taken by the SMTP server yet."""
    SENT = "sent"
    """The SMTP server took it. That it arrived nobody tells."""
    REFUSED = "refused"
    """The SMTP server refused it for good."""
    SUPPRESSED = "suppressed"
    """Nothing is sent to the address any more."""
    BOUNCED = "bounced"
    """It was taken, and came back."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """One recipient of a mail, before it is sent."""

    address: str
    token: str
    """What is in the return path of the mail to this recipient, and nobody else knows."""
    state: str
    suppressed: bool


@dataclass(frozen=True, slots=True)
class Bounced:
    """A recipient whose mail came back."""

    mail: str
    address: str


@dataclass(frozen=True, slots=True)
class Failures:
    """How often an address failed."""

    count: int


_ADD = """
insert into transom.mail_recipients (mail, address, token)
select m.id, given.address, given.token
from transom.mails m, unnest(%s::text[], %s::text[]) as given (address, token)
where m.id = %s
on conflict do nothing
"""
_OF = """
select r.address, r.token, r.state, s.address is not null as suppressed
from transom.mail_recipients r
left join transom.mail_suppressions s on s.address = lower(r.address) and s.lifted_time is null
where r.mail = %s order by r.address
"""
_SETTLE = """
update transom.mail_recipients set state = %s, status = %s, said = %s, update_time = clock_timestamp()
where mail = %s and address = %s
"""
_BOUNCE = """
update transom.mail_recipients set state = 'bounced', status = %s, said = %s, update_time = clock_timestamp()
where token = %s and state <> 'bounced' returning mail, address
"""
_KNOWN = "select mail, address from transom.mail_recipients where token = %s"
_FAILURES = """
select count(*) as count from transom.mail_recipients r
where lower(r.address) = lower(%(address)s) and r.state in ('refused', 'bounced') and r.status !~ %(blameless)s
  and r.update_time > greatest(clock_timestamp() - %(within)s::interval, coalesce((
      select lifted_time from transom.mail_suppressions where address = lower(%(address)s)), '-infinity'))
"""


class MailRecipients:
    """Who a mail goes to, and what became of that."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def of(self, mail: str, addresses: Sequence[str], tokens: Sequence[str]) -> list[Recipient]:
        """The recipients of a mail; those that are new are made, each with its token. Empty where there is no such mail."""
        async with transaction(self._pool, Recipient) as cursor:
            await cursor.execute(_ADD, [list(addresses), list(tokens), mail])
            await cursor.execute(_OF, [mail])
            return await cursor.fetchall()

    async def settle(
        self, mail: str, address: str, state: State, status: str, said: str, also: Sequence[Statement]
    ) -> None:
        """Writes down what became of the mail to one of them, together with what else follows from that."""
        async with transaction(self._pool, object) as cursor:
            await cursor.execute(_SETTLE, [state, status, said[:SAID], mail, address])
            await all_of(cursor, also)

    async def known(self, token: str) -> Bounced | None:
        """Whose token it is."""
        async with transaction(self._pool, Bounced) as cursor:
            await cursor.execute(_KNOWN, [token])
            return await cursor.fetchone()

    async def bounce(self, token: str, status: str, said: str, also: Sequence[Statement]) -> Bounced | None:
        """Writes down that the mail with that token came back, with what follows; None where it is nobody's, or was written
        down before."""
        async with transaction(self._pool, Bounced) as cursor:
            await cursor.execute(_BOUNCE, [status, said[:SAID], token])
            found = await cursor.fetchone()
            if found is not None:
                await all_of(cursor, also)
            return found

    async def failures(self, address: str, days: int, blameless: str) -> int:
        """How many mails to the address failed for good in the last days, since it was lifted last; but for those whose
        status matches `blameless`."""
        async with transaction(self._pool, Failures) as cursor:
            await cursor.execute(_FAILURES, {"address": address, "within": f"{days} days", "blameless": blameless})
            found = await cursor.fetchone()
            return found.count if found else 0
