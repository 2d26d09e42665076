"""Rows of transom.audit: written together, and kept back for a while where Postgres is away."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from prometheus_client import Counter

from server.errors import Exhausted, Refusal, Stale, Unavailable
from server.store.gathering import Gathering
from server.store.pooled import Pool, transaction

KEPT_MAX = 10_000
"""Entries kept back at most while Postgres does not take them; above that the oldest is lost, and counted."""
TOGETHER = 500
"""Entries of one statement."""
PATIENCE = 2.0
"""Seconds that `add` waits for Postgres; then the entry is kept back."""
PAUSE = 0.2
"""Seconds until what is kept back is written."""
AGAIN = 2.0
"""Seconds after which it is tried again where that failed."""

COLUMNS = "time, actor, impersonator, action, target, outcome, address, device, request_id, details"

INSERT = f"insert into transom.audit ({COLUMNS}) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb)"
"""One entry, for a transaction of the caller's own; its parameters are an Entry's `values`."""

_INSERT_ALL = f"""
insert into transom.audit ({COLUMNS})
select * from unnest(%s::timestamptz[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
                     %s::text[], %s::text[], %s::jsonb[])
"""

_PAGE = f"""
select id, {COLUMNS} from transom.audit
where (%(before)s::bigint is null or id < %(before)s)
  and (%(actor)s = '' or actor = %(actor)s or impersonator = %(actor)s)
  and (%(target)s = '' or target = %(target)s)
  and (%(action)s = '' or action = %(action)s)
  and (%(since)s::timestamptz is null or time >= %(since)s)
  and (%(until)s::timestamptz is null or time < %(until)s)
order by id desc limit %(limit)s
"""

# A bounded bite, as every sweep's.
_SWEEP = """
delete from transom.audit where id in (
    select id from transom.audit where time < now() - %s::interval limit %s for update skip locked
)
"""

DROPPED = Counter("transom_audit_dropped_total", "Audit entries lost because Postgres was away for too long.")
log = structlog.get_logger("audit")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is written of one thing that was done, or refused."""

    time: datetime
    actor: str
    impersonator: str
    action: str
    target: str
    outcome: str
    address: str
    device: str
    request_id: str
    details: str
    """A JSON object of texts."""

    @property
    def values(self) -> tuple[object, ...]:
        """In the order of COLUMNS."""
        return (
            self.time,
            self.actor,
            self.impersonator,
            self.action,
            self.target,
            self.outcome,
            self.address,
            self.device,
            self.request_id,
            self.details,
        )


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry as it is kept."""

    id: int
    time: datetime
    actor: str
    impersonator: str
    action: str
    target: str
    outcome: str
    address: str
    device: str
    request_id: str
    details: dict[str, str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries a list shows; what is empty does not narrow it."""

    actor: str = ""
    """Also as the one who acted as somebody else."""
    target: str = ""
    action: str = ""
    since: datetime | None = None
    until: datetime | None = None


class StoredAudit:
    """Entries in Postgres. One per process and event loop."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._writes: Gathering[Entry, None] = Gathering(self._write, size=TOGETHER, lanes=1)
        self._kept: deque[Entry] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def add(self, entry: Entry) -> None:
        """Returns once the entry is written, or after PATIENCE or a failure: then it is kept back. Raises nothing."""
        written = self._writes_of(entry)
        if written is None:
            return
        try:
            await asyncio.wait_for(written, PATIENCE)
        except (Refusal, TimeoutError):
            self.keep(entry)  # where it was written all the same, it is there twice: better than not at all

    def keep(self, entry: Entry) -> None:
        """Writes the entry in a moment; nobody waits. A process that dies before takes it along."""
        if len(self._kept) >= KEPT_MAX:
            self._kept.popleft()
            DROPPED.inc()
        self._kept.append(entry)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_kept())

    async def page(self, wanted: Wanted, before: int | None, limit: int) -> list[StoredEntry]:
        """At most `limit` entries, the last written first, that were written before the one with that id."""
        async with transaction(self._pool, StoredEntry) as cursor:
            await cursor.execute(
                _PAGE,
                {
                    "before": before,
                    "actor": wanted.actor,
                    "target": wanted.target,
                    "action": wanted.action,
                    "since": wanted.since,
                    "until": wanted.until,
                    "limit": limit,
                },
            )
            return await cursor.fetchall()

    async def sweep(self, older: timedelta, limit: int = 1000) -> int:
        """Deletes at most `limit` entries that are `older`; how many it were."""
        async with transaction(self._pool, StoredEntry) as cursor:
            await cursor.execute(_SWEEP, [older, limit])
            return cursor.rowcount

    async def aclose(self) -> None:
        """Tries a last time to write what is kept back."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        while self._kept:
            batch = [self._kept[i] for i in range(min(TOGETHER, len(self._kept)))]
            try:
                await asyncio.wait_for(self._write(batch), PATIENCE)
            except (Refusal, TimeoutError):
                DROPPED.inc(len(self._kept))
                log.warning("audit entries are lost", entries=len(self._kept))
                return
            self._took(batch)

    def _writes_of(self, entry: Entry) -> asyncio.Future[None] | None:
        try:
            return self._writes.ask(entry)
        except Refusal:  # too many wait
            self.keep(entry)
            return None

    async def _write(self, entries: Sequence[Entry]) -> list[Exception | None]:
        async with transaction(self._pool, StoredEntry) as cursor:
            await cursor.execute(_INSERT_ALL, _columns(entries))
        return [None] * len(entries)

    async def _write_kept(self) -> None:
        await asyncio.sleep(PAUSE)
        while self._kept:
            batch = [self._kept[i] for i in range(min(TOGETHER, len(self._kept)))]
            try:
                await self._write(batch)
            except (Unavailable, Exhausted, Stale) as refusal:
                log.warning("audit entries wait", entries=len(self._kept), reason=refusal.reason)
                await asyncio.sleep(AGAIN)
            except Refusal as refusal:  # it will never take these, and others wait behind them
                log.error("audit entries are lost", entries=len(batch), reason=refusal.reason)
                DROPPED.inc(len(batch))
                self._took(batch)
            else:
                self._took(batch)

    def _took(self, batch: Iterable[Entry]) -> None:
        """What was written is kept no longer; the oldest may have been given up meanwhile."""
        for entry in batch:
            if self._kept and self._kept[0] is entry:
                self._kept.popleft()


def _columns(entries: Sequence[Entry]) -> list[list[Any]]:
    return [list(column) for column in zip(*(entry.values for entry in entries), strict=True)]
