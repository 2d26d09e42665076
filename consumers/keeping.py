"""What is kept of what is done: the event log, bounded in time and in size, and the inbox of the consumers, in time.

Only what the broker has confirmed is ever deleted, oldest first, and with it moves `transom.relay.trimmed`: whoever
follows the log learns in one read whether what it asks for is still there. Sizes are counted, not looked up, in the
transactions that give positions and that delete: `transom.relay.kept_bytes` is exact whatever is killed.

Events that a webhook endpoint has yet to be told of are kept beyond their time, by a bounded while, but never beyond the size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

ROWS = 1000
"""Most rows of one deletion."""
ROW_BYTES = 400
"""What an event takes beside the resource after and before the change, about: its other columns, its places in indexes."""

# Only the lowest positions are looked at: they are the oldest, and a look that finds nothing stays cheap. What goes is always
# all up to some position.
_FORGET_EVENTS: LiteralString = """
    with oldest as materialized (
        select position, create_time, bytes, sum(bytes) over (order by position) - bytes as ahead
        from (
            select position, create_time, octet_length(payload) + coalesce(octet_length(before), 0) + %(row)s as bytes
            from transom.events
            where position <= (select published from transom.relay) order by position limit %(rows)s
        ) as lowest
    ), told as (
        select min(p.position) as position
        from transom.webhook_positions p join transom.webhook_endpoints e on e.id = p.endpoint where e.state <> 'disabled'
    ), first_kept as (
        select min(oldest.position) as position from oldest, transom.relay, told
        where create_time >= clock_timestamp() - make_interval(secs => case
                when oldest.position > told.position then %(seconds)s + %(waiting)s else %(seconds)s end)
          and (%(bytes)s = 0 or kept_bytes - ahead <= %(bytes)s)
    ), gone as (
        delete from transom.events
        where position <= coalesce((select position - 1 from first_kept), (select max(position) from oldest))
        returning position, create_time, octet_length(payload) + coalesce(octet_length(before), 0) + %(row)s as bytes
    ), noted as (
        update transom.relay set trimmed = greatest(trimmed, (select max(position) from gone)),
                                 trimmed_time = greatest(trimmed_time, (select max(create_time) from gone)),
                                 kept_bytes = greatest(0, kept_bytes - (select sum(bytes) from gone))
        where exists (select from gone)
    )
    select count(*) from gone"""

_FORGET_INBOX: LiteralString = """
    delete from transom.inbox where (handler, event_id) in (
        select handler, event_id from transom.inbox
        where done_time < clock_timestamp() - make_interval(days => %(days)s) order by done_time limit %(rows)s)"""


@dataclass(frozen=True)
class Keeping:
    """How long what is done is kept."""

    events: float = 7
    """Days that published events are, for whoever follows the log."""
    waiting: float = 0
    """Days that they are beyond it, where a webhook endpoint that is not disabled has yet to be told of them."""
    bytes: int = 0
    """Bytes that the event log may have, about; the oldest go first, however young. 0: whatever comes together in that time."""
    inbox: int = 30
    """Days that it is known what consumers have done: longer than any message may lie in the broker and come again."""


async def forget(database: psycopg.AsyncConnection[Any], keeping: Keeping) -> bool:
    """Deletes some of what is past its time or beyond its size; whether there may be more of it."""
    events = await database.execute(
        _FORGET_EVENTS,
        {
            "rows": ROWS,
            "row": ROW_BYTES,
            "seconds": keeping.events * 86_400,
            "waiting": keeping.waiting * 86_400,
            "bytes": keeping.bytes,
        },
    )
    [deleted] = await events.fetchone() or [0]
    inbox = await database.execute(_FORGET_INBOX, {"days": keeping.inbox, "rows": ROWS})
    return max(int(deleted), inbox.rowcount) >= ROWS
