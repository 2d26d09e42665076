"""Lists that were slow, noted so that somebody can declare an index: in the log, in the metrics, and in `transom.filters`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import structlog
from prometheus_client import Counter

from server.errors import Refusal
from server.query.orders import Order
from server.query.shapes import shape_of
from server.schema.model import Resource
from server.store.pooled import Pool, transaction
from server.store.selections import Selection

SLOW_SECONDS = 0.2
"""A list that takes longer is slow: with an index it takes milliseconds."""
FLUSH = 5.0
"""Seconds a note waits at most for others: what a process that is killed forgets."""
WAITING = 100
"""Shapes that wait at most; what is slow then is counted and in the log, but not noted."""
KEPT = 1000
"""Shapes of all resources that are kept: those that were seen last."""

SLOW = Counter("transom_slow_lists_total", f"Lists that took longer than {SLOW_SECONDS} s.", ["resource"])

_NOTED = """
with noted as (
    insert into transom.filters as f (resource, shape, count, slowest)
    select * from unnest(%s::text[], %s::text[], %s::bigint[], %s::double precision[])
    on conflict (resource, shape) do update
    set count = f.count + excluded.count, slowest = greatest(f.slowest, excluded.slowest), last_time = clock_timestamp())
delete from transom.filters where (resource, shape) in (
    select resource, shape from transom.filters order by last_time desc offset %s)"""

_FOUND = "select resource, shape, count, slowest from transom.filters order by resource, slowest desc"

_ROWS = """
select name, greatest(c.reltuples, 0)::bigint as rows
from unnest(%s::text[]) as name join pg_class c on c.oid = to_regclass(name)"""

log = structlog.get_logger("lists")


@dataclass(frozen=True, slots=True)
class Slow:
    """A shape of lists that was slow."""

    resource: str
    shape: str
    count: int
    slowest: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class _Rows:
    name: str
    rows: int


class SlowLists:
    """Collects notes and writes them. One per process."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: dict[tuple[str, str], tuple[int, float]] = {}
        self._writing: asyncio.Task[None] | None = None

    def note(self, selection: Selection, order: Order | None, seconds: float) -> None:
        """A list of that selection and order took so long. Costs the caller nothing that waits."""
        if seconds < SLOW_SECONDS:
            return
        resource = selection.resource.message
        shape = shape_of(selection.filters, order, several=selection.below.parent is None).text
        SLOW.labels(resource).inc()
        log.warning("a slow list", resource=resource, shape=shape, seconds=round(seconds, 3))
        count, slowest = self._waiting.get((resource, shape), (0, 0.0))
        if not count and len(self._waiting) >= WAITING:
            return
        self._waiting[resource, shape] = count + 1, max(slowest, seconds)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def found(self) -> list[Slow]:
        """What was noted, the slowest of each resource first."""
        async with transaction(self._pool, Slow) as cursor:
            return await (await cursor.execute(_FOUND)).fetchall()

    async def rows(self, resources: Iterable[Resource]) -> dict[str, int]:
        """About how many rows each resource's table has, by message, as the last ANALYZE found it."""
        tables = {f'"{r.table_schema}"."{r.table_name}"': r.message for r in resources}
        async with transaction(self._pool, _Rows) as cursor:
            found = await (await cursor.execute(_ROWS, [list(tables)])).fetchall()
        return {tables[one.name]: one.rows for one in found}

    async def aclose(self) -> None:
        """Writes what waits, once."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        await self._flush()

    async def _write(self) -> None:
        while self._waiting:
            await asyncio.sleep(FLUSH)
            await self._flush()

    async def _flush(self) -> None:
        if not self._waiting:
            return
        # In one order: two servers that note the same shapes wait for each other, never in a ring.
        some = sorted(self._waiting.items())
        try:
            async with transaction(self._pool, Slow) as cursor:
                columns = [[r for (r, _), _ in some], [s for (_, s), _ in some], [c for _, (c, _) in some]]
                await cursor.execute(_NOTED, [*columns, [slowest for _, (_, slowest) in some], KEPT])
        except Refusal as away:  # they go on waiting
            log.warning("not noted", reason=away.reason, waiting=len(self._waiting))
            return
        for key, (count, _) in some:
            later, slowest = self._waiting[key]
            if later == count:
                del self._waiting[key]
            else:
                self._waiting[key] = later - count, slowest
