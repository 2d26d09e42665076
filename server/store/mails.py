"""Rows of transom.mails: mails that a transaction queues, for the mail consumer to send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString

import orjson

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
