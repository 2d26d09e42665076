"""Rows of transom.mails: mails that a transaction queues, for the mail consumer to send."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import LiteralString

import orjson

from server.store.pooled import Pool, swept, transaction

Statement = tuple[LiteralString, Sequence[object]]

_MAIL: LiteralString = """
insert into transom.mails (id, recipient, subject, body, html, reply_to, attachments, fleeting, sent_time)
values (%s, %s, %s, %s, %s, %s, %s::jsonb, %s, case when %s then clock_timestamp() end)
"""

_EVENT: LiteralString = """
insert into transom.events (resource_type, verb, name, payload, caller, request_id, traceparent)
values ('transom.mails.v1.Mail', 'created', %s, '', %s, %s, %s)
"""

# Nobody reads them any more. A bounded bite, as all sweeps take.
SWEEP: LiteralString = """
delete from transom.mails where id in (
    select id from transom.mails where fleeting and create_time < now() - interval '8 days'
    limit %s for update skip locked
)
"""

_OLD = """
delete from transom.mails where id in (
    select id from transom.mails where create_time < now() - %s order by create_time limit %s for update skip locked
)
"""

# A mail that no worker has looked at yet has no recipients written down.
_NEWEST = """
select m.id as mail, m.create_time, m.subject, coalesce(r.address, m.recipient) as address,
       coalesce(r.state, case when m.sent_time is null then 'waiting' else 'sent' end) as state,
       coalesce(r.status, '') as status, coalesce(nullif(r.said, ''), m.last_error) as said
from transom.mails m left join transom.mail_recipients r on r.mail = m.id
where m.recipient <> '' and (%(to)s = '' or lower(r.address) = lower(%(to)s) or lower(m.recipient) = lower(%(to)s))
  and (not %(failed)s or r.state in ('refused', 'bounced', 'suppressed') or (m.sent_time is null and m.last_error <> ''))
order by m.create_time desc, r.address limit %(limit)s
"""


@dataclass(frozen=True, slots=True)
class Sending:
    """A mail to one recipient, and what became of it."""

    mail: str
    create_time: datetime
    subject: str
    address: str
    state: str
    status: str
    said: str


async def sent(pool: Pool, limit: int, *, to: str = "", failed: bool = False) -> list[Sending]:
    """What was queued and what became of it, newest first; with `to`, to that address; with `failed`, what somebody did not
    get."""
    async with transaction(pool, Sending) as cursor:
        await cursor.execute(_NEWEST, {"to": to, "failed": failed, "limit": limit})
        return await cursor.fetchall()


async def sweep(pool: Pool, days: int, bite: int = 1000) -> int:
    """Deletes the mails that are older than so many days, and what became of them; how many it were."""
    return await swept(pool, _OLD, timedelta(days=days), bite)


def queued(
    id: str,
    recipient: str,
    subject: str,
    body: str,
    *,
    html: str = "",
    reply_to: str = "",
    attachments: Sequence[str] = (),
    caller: str = "",
    request_id: str = "",
    traceparent: str = "",
    fleeting: bool = False,
    withheld: bool = False,
) -> list[Statement]:
    """The statements that queue a mail: its row, and the event that wakes the consumer.

    The text of a `fleeting` mail is forgotten once it is sent: there is a word in it that is a key. A `withheld` one
    is never sent, though all that is done is what is done for others: who waits for the answer cannot tell.
    """
    if withheld:
        recipient, subject, body = "", "", " " * len(body)
    return [
        (_MAIL, [id, recipient, subject, body, html, reply_to, _json(attachments), fleeting, withheld]),
        (_EVENT, [f"mails/{id}", caller, request_id, traceparent]),
    ]


def _json(names: Sequence[str]) -> str:
    return orjson.dumps(list(names)).decode()
