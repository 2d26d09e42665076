"""The event log (transom.events) as it is read: every committed change, in the order of its position.

The relay gives positions (consumers/relay.py): a snapshot that shows `relay.numbered` shows all events up to that position,
and all that they changed. What is committed and has no position yet will have a later one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from server.store.binary import int8, text_array
from server.store.consistency import History
from server.store.lane import Lane
from server.store.pipeline import Result, Step
from server.store.positions import WRITTEN

ENTRIES_MAX, ENTRIES_BYTES_MAX = 500, 2 << 20
"""Entries of one stretch, and bytes of their resources beyond the first."""
SPAN_MAX = 20_000
"""Positions that one statement looks at: others' events lie between those that are wanted."""

_BYTES = "octet_length(payload) + coalesce(octet_length(before), 0)"
_AFTER = f"""
    select r.numbered, r.trimmed, ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::bigint,
      e.total, e.id, e.position, e.resource_type, e.verb, e.name, e.payload, e.owner, e.before, e.gone,
      (extract(epoch from e.create_time) * 1000000)::bigint
    from transom.relay r left join lateral (
      select * from (
        select next.*, count(*) over () as total, sum({_BYTES}) over (order by position) - ({_BYTES}) as ahead from (
          select id, position, resource_type, verb, name, payload, owner, before, gone, create_time from transom.events
          where position > $1::text::bigint and position <= $1::text::bigint + {SPAN_MAX}
            and resource_type = any($2::text[])
          order by position limit {ENTRIES_MAX}) as next) as sized
      where ahead <= {ENTRIES_BYTES_MAX}) as e on true
    order by e.position""".encode()
_ENDS = b"select trimmed, numbered, token_key from transom.relay"


@dataclass(frozen=True, slots=True)
class Entry:
    """One committed change."""

    id: int
    position: int
    resource_type: str
    """The resource's message."""
    verb: str
    name: str
    payload: bytes
    """The resource after the change; before it, where it is gone."""
    owner: str | None
    """Who owns the resource; None where the process that wrote it did not say what else there is to know."""
    before: bytes | None
    """The resource before the change, where there is one after it; None where there was none."""
    gone: bool
    time: int
    """Microseconds since 1970."""


class Stretch(NamedTuple):
    """Part of the log."""

    entries: list[Entry]
    reached: int
    """All that was asked for, up to this position, is among the entries."""
    numbered: int
    """The last position that there was."""
    trimmed: int
    """The last position that is not kept any more."""
    timeline: int
    """Of Postgres: after a promotion it is another, and positions may have been given anew."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Where the log begins and ends."""

    trimmed: int
    numbered: int
    history: History
    key: bytes = field(repr=False)
    """What resume tokens of this log are signed with."""


class EventLog:
    """Reads the log, of the primary."""

    def __init__(self, primary: Lane) -> None:
        self._primary = primary

    async def after(self, position: int, types: Collection[str]) -> Stretch:
        """The next entries after a position, of resources of these messages. Raises Unavailable."""
        [result] = await self._primary.read([Step(_AFTER, [str(position).encode(), text_array(sorted(types))])])
        value = result.get_value
        numbered, trimmed, timeline, total = (int8(value(0, column)) for column in range(4))
        entries = [_entry(result, i) for i in range(result.ntuples)] if total else []
        if len(entries) < total or total == ENTRIES_MAX:
            reached = entries[-1].position
        else:
            reached = max(position, min(numbered, position + SPAN_MAX))
        return Stretch(entries, reached, numbered, trimmed, timeline)

    async def ends(self) -> Ends:
        """Where it begins and ends by now. Raises Unavailable."""
        written, ends = await self._primary.read([WRITTEN, Step(_ENDS, [])])
        history = History(int8(written.get_value(0, 2)), int8(written.get_value(0, 1)))
        return Ends(int8(ends.get_value(0, 0)), int8(ends.get_value(0, 1)), history, ends.get_value(0, 2) or b"")


def _entry(result: Result, row: int) -> Entry:
    def text(column: int) -> str:
        return (result.get_value(row, column) or b"").decode()

    value = result.get_value
    owner = value(row, 10)
    return Entry(
        id=int8(value(row, 4)),
        position=int8(value(row, 5)),
        resource_type=text(6),
        verb=text(7),
        name=text(8),
        payload=value(row, 9) or b"",
        owner=None if owner is None else owner.decode(),
        before=value(row, 11),
        gone=value(row, 12) == b"\1",
        time=int8(value(row, 13)),
    )
