"""Rows of transom.schedules: when each schedule is due next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from server.store.pooled import Pool, Statement, all_of, swept, transaction

_COLUMNS = (
    "name, task, spec, description, next_time, paused, retired, last_tick, last_run, last_task, missed, create_time, "
    "coalesce(%(now)s::timestamptz, clock_timestamp()) as now, "
    # A look at two indexes: a task that has not ended waits, or runs.
    "exists (select from transom.tasks t where t.handler = 'schedule.' || schedules.task and t.state in ('QUEUED', 'FAILED')) "
    "or exists (select from transom.tasks t where t.handler = 'schedule.' || schedules.task and t.state = 'RUNNING') as going"
)

# What is declared anew, or otherwise than before, is due from now on: for what came before, nobody had declared it.
_DECLARE = """
insert into transom.schedules as s (name, task, spec, description, next_time)
values (%(name)s, %(task)s, %(spec)s, %(description)s, %(next)s)
on conflict (name) do update set
    task = excluded.task, spec = excluded.spec, description = excluded.description, retired = false,
    next_time = case when s.spec = excluded.spec and not s.retired then s.next_time else excluded.next_time end,
    update_time = clock_timestamp()
where (s.task, s.spec, s.description, s.retired) is distinct from
      (excluded.task, excluded.spec, excluded.description, false)
"""
_RETIRE = """
update transom.schedules set retired = true, update_time = clock_timestamp() where not retired and not name = any(%s)
"""
_NOW = "select coalesce(%s::timestamptz, clock_timestamp()) as now"

# Those that another process has in hand, and those that this one does not know as they are written down, are passed by.
_DUE = f"""
select {_COLUMNS} from transom.schedules
where not paused and not retired and next_time <= coalesce(%(now)s::timestamptz, clock_timestamp())
  and (name, spec) in (select * from unnest(%(names)s::text[], %(specs)s::text[]))
order by next_time limit %(limit)s for update skip locked
"""
_ADVANCE = """
update transom.schedules set next_time = %s, last_tick = coalesce(%s, last_tick), last_run = coalesce(%s, last_run),
    last_task = coalesce(%s, last_task), missed = missed + %s, update_time = clock_timestamp()
where name = %s
"""
_NEXT = """
select extract(epoch from min(next_time) - coalesce(%(now)s::timestamptz, clock_timestamp()))::float8 as seconds
from transom.schedules
where not paused and not retired and (name, spec) in (select * from unnest(%(names)s::text[], %(specs)s::text[]))
"""
_LIST = f"select {_COLUMNS} from transom.schedules where name > %(after)s order by name limit %(limit)s"
_GET = f"select {_COLUMNS} from transom.schedules where name = %(name)s"
_LOCKED = f"{_GET} for update"
_PAUSE = "update transom.schedules set paused = %s, next_time = %s, update_time = clock_timestamp() where name = %s"
_RAN = "update transom.schedules set last_task = %s where name = %s"
_OLD = """
delete from transom.schedules where name in (
    select name from transom.schedules where retired and update_time < clock_timestamp() - %s limit %s for update skip locked
)
"""


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """A schedule as it is written down, and the time at which it was read."""

    name: str
    task: str
    spec: str
    description: str
    next_time: datetime
    paused: bool
    retired: bool
    last_tick: datetime | None
    last_run: str
    """The name of that tick."""
    last_task: str
    """The task of the last run, due or asked for."""
    missed: int
    create_time: datetime
    now: datetime
    going: bool
    """Whether a run of it has not ended."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What an app's code declares."""

    name: str
    task: str
    spec: str
    description: str


@dataclass(frozen=True, slots=True)
class Advance:
    """What is done for a schedule that is due: `statements`, and on to `next_time`."""

    next_time: datetime
    last_tick: datetime | None = None
    last_run: str | None = None
    last_task: str | None = None
    missed: int = 0
    statements: Sequence[Statement] = field(default=())


@dataclass(frozen=True, slots=True)
class _Now:
    now: datetime


@dataclass(frozen=True, slots=True)
class _Wait:
    seconds: float | None


class StoredSchedules:
    """Schedules in Postgres, whose clock counts for all processes; `clock` takes its place in tests."""

    def __init__(self, pool: Pool, clock: Callable[[], datetime] | None = None) -> None:
        self._pool = pool
        self._clock = clock

    async def declare(self, declared: Sequence[Declared], first: Callable[[Declared, datetime], datetime]) -> None:
        """Writes down what a process declares, all of it; what it does not is retired. `first` says when one that is new
        is due. What is paused stays so."""
        async with transaction(self._pool, _Now) as cursor:
            await cursor.execute(_NOW, [self._now])
            found = await cursor.fetchone()
            assert found is not None
            for one in sorted(declared, key=lambda one: one.name):  # in one order, so that no two wait for each other
                told = {"name": one.name, "task": one.task, "spec": one.spec, "description": one.description}
                await cursor.execute(_DECLARE, told | {"next": first(one, found.now)})
            await cursor.execute(_RETIRE, [[one.name for one in declared]])

    async def tick(
        self, declared: Sequence[Declared], decide: Callable[[StoredSchedule], Advance], limit: int
    ) -> list[tuple[StoredSchedule, Advance]]:
        """Does what `decide` says for each schedule that is due, at most `limit`, in one transaction: who dies meanwhile has
        done nothing, and of several processes one does it. What was done."""
        asked = self._asked(declared)
        async with transaction(self._pool, StoredSchedule) as cursor:
            await cursor.execute(_DUE, asked | {"limit": limit})
            done = [(row, decide(row)) for row in await cursor.fetchall()]
            for row, advance in done:
                await all_of(cursor, advance.statements)
                last = [advance.last_tick, advance.last_run, advance.last_task]
                await cursor.execute(_ADVANCE, [advance.next_time, *last, advance.missed, row.name])
        return done

    async def wait(self, declared: Sequence[Declared]) -> float | None:
        """Seconds until the next one is due, negative where that was before; None where none ever is."""
        async with transaction(self._pool, _Wait) as cursor:
            await cursor.execute(_NEXT, self._asked(declared))
            found = await cursor.fetchone()
            return found.seconds if found else None

    async def page(self, after: str, limit: int) -> list[StoredSchedule]:
        """At most `limit` schedules by name, those after the name `after`."""
        async with transaction(self._pool, StoredSchedule) as cursor:
            await cursor.execute(_LIST, {"now": self._now, "after": after, "limit": limit})
            return await cursor.fetchall()

    async def one(self, name: str) -> StoredSchedule | None:
        """The schedule, if there is one."""
        async with transaction(self._pool, StoredSchedule) as cursor:
            await cursor.execute(_GET, {"now": self._now, "name": name})
            return await cursor.fetchone()

    async def pause(
        self, name: str, paused: bool, next_time: Callable[[StoredSchedule], datetime], note: Statement
    ) -> StoredSchedule | None:
        """Pauses a schedule or goes on with it from `next_time`, with a note for the audit log where that is a change; how it
        is then. None where there is none."""
        async with transaction(self._pool, StoredSchedule) as cursor:
            await cursor.execute(_LOCKED, {"now": self._now, "name": name})
            row = await cursor.fetchone()
            if row is not None and row.paused != paused:
                await cursor.execute(_PAUSE, [paused, next_time(row), name])
                await all_of(cursor, [note])
                await cursor.execute(_GET, {"now": self._now, "name": name})
                row = await cursor.fetchone()
            return row

    async def run(
        self, name: str, decide: Callable[[StoredSchedule], tuple[str, Sequence[Statement]]]
    ) -> StoredSchedule | None:
        """Does what `decide` says for a schedule, besides its ticks: the task that runs it, and the statements; None where
        there is none."""
        async with transaction(self._pool, StoredSchedule) as cursor:
            await cursor.execute(_LOCKED, {"now": self._now, "name": name})
            row = await cursor.fetchone()
            if row is not None:
                task, statements = decide(row)
                await all_of(cursor, statements)
                await cursor.execute(_RAN, [task, name])
            return row

    async def sweep(self, days: int, bite: int = 100) -> int:
        """Deletes what was retired so many days ago; how many it were."""
        return await swept(self._pool, _OLD, timedelta(days=days), bite)

    @property
    def _now(self) -> datetime | None:
        return self._clock() if self._clock else None

    def _asked(self, declared: Sequence[Declared]) -> dict[str, object]:
        return {"now": self._now, "names": [d.name for d in declared], "specs": [d.spec for d in declared]}
