"""Schedules: what each tick makes, which is a task, and what operators may do with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from server.caller import Caller
from server.engine.audit import Audit
from server.engine.cadence import Spec
from server.engine.granting import require_scope
from server.engine.tasks import RESERVED
from server.engine.tasks import enqueue as enqueue_task
from server.errors import Invalid, NotFound, Precondition
from server.query import pages
from server.store.pooled import Statement
from server.store.schedules import Advance, Declared, StoredSchedule, StoredSchedules

SCHEDULE = "transom.schedules.v1.Schedule"
"""What scopes call it."""
COLLECTION = "schedules"
SHOWN_OF_ONE, SHOWN_OF_MANY = 20, 5
"""Next ticks that are told."""
AT_ONCE = 20
"""Schedules that are looked after in one transaction; each may have up to CATCH_UP_MOST ticks to make up for."""
KEPT_DAYS = 30
"""Days for which a schedule that nobody declares any more is remembered: whether it was paused, when it ran last."""
NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class Tick:
    """One moment for which a schedule is run."""

    schedule: str
    """Its name: `schedules/{schedule}`."""
    time: datetime
    """When it was due, UTC. It may be run later."""
    missed: int = 0
    """How many ticks before it were let go because nobody was there to let them through; up to 1000 are counted."""
    manual: bool = False
    """Whether somebody asked for it, beside the schedule's own time."""

    @property
    def key(self) -> str:
        """The same for the same tick, and for no other: for effects outside that must not be repeated."""
        return f"{self.schedule}/{self.time.isoformat()}{'/manual' if self.manual else ''}"

    @property
    def name(self) -> str:
        """`schedules/{schedule}/ticks/{tick}`."""
        return (
            f"{self.schedule}/ticks/{self.time:%Y%m%dT%H%M%S}{f'.{self.time.microsecond:06}' if self.manual else ''}Z"
        )

    def told(self) -> dict[str, Any]:
        """As JSON says it, and `of` reads it."""
        return asdict(self) | {"time": self.time.isoformat()}

    @classmethod
    def of(cls, told: Any) -> Tick:
        """From what `told` says. Raises ValueError, KeyError or TypeError for anything else."""
        return cls(told["schedule"], datetime.fromisoformat(told["time"]), told["missed"], told["manual"])


@dataclass(frozen=True, slots=True)
class Run:
    """What runs a schedule's function for a tick."""

    tick: str
    """The tick's name."""
    task: str
    """The task's."""
    statements: Sequence[Statement]
    """They enqueue it, in the transaction they are run in."""


def enqueued(task: str, tick: Tick, now: datetime, caller: str = "system") -> Run:
    """What runs the schedule's function called `task` for a tick."""
    name, statements = enqueue_task(now, handler(task), tick.told(), caller=caller)
    return Run(tick.name, name, statements)


def handler(task: str) -> str:
    """What the tasks that run the function of a schedule are called."""
    return RESERVED + task


Enqueue = Callable[[str, Tick, datetime, str], Run]
"""Function, tick, the time, who asks → what runs."""


class Ticking:
    """Lets the ticks of what a process declares through. Any number of processes may: each tick is let through once."""

    def __init__(self, stored: StoredSchedules, declared: Sequence[Declared], enqueue: Enqueue) -> None:
        self._stored = stored
        self._declared = declared
        self._enqueue = enqueue

    async def declare(self) -> None:
        """Writes down what is declared. Raises Unavailable."""
        await self._stored.declare(self._declared, lambda one, now: Spec.read(one.spec).cadence.after(now))

    async def tick(self) -> list[tuple[str, Advance, float]]:
        """Enqueues what is due, at most AT_ONCE schedules; names, what was done, and by how many seconds the newest tick was
        late. Raises Unavailable."""
        done = await self._stored.tick(self._declared, self._decided, AT_ONCE)
        return [
            (row.name, advance, (row.now - (advance.last_tick or row.next_time)).total_seconds())
            for row, advance in done
        ]

    async def wait(self) -> float | None:
        """Seconds until the next tick; None where there is none to come. Raises Unavailable."""
        return await self._stored.wait(self._declared)

    def _decided(self, row: StoredSchedule) -> Advance:
        spec = Spec.read(row.spec)
        ticks, missed = spec.taken(row.next_time, row.now)
        if row.going and not spec.overlap:
            ticks, missed = [], missed + len(ticks)
        runs = [
            # What was let go was so before the first that is run.
            self._enqueue(row.task, Tick(f"{COLLECTION}/{row.name}", tick, 0 if n else missed), row.now, "system")
            for n, tick in enumerate(ticks)
        ]
        return Advance(
            spec.cadence.after(row.now),
            ticks[-1] if ticks else None,
            runs[-1].tick if runs else None,
            runs[-1].task if runs else None,
            missed,
            [statement for run in runs for statement in run.statements],
        )


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule, as operators see it."""

    stored: StoredSchedule
    spec: Spec
    next_times: Sequence[datetime]
    """Empty unless it is active."""


class Schedules:
    """What operators may do. `enqueue` as for Ticking."""

    def __init__(
        self, stored: StoredSchedules, audit: Audit, enqueue: Enqueue, *, page_size: int = 50, page_size_max: int = 1000
    ) -> None:
        self._stored = stored
        self._audit = audit
        self._enqueue = enqueue
        self._page_size, self._page_size_max = page_size, page_size_max

    async def list(self, caller: Caller, size: int, token: str) -> tuple[Sequence[Schedule], str]:
        """A page of them by name, and the next page's token. Raises Invalid, and as `require_scope`."""
        require_scope(caller, SCHEDULE, "list")
        size = pages.size_of(size, self._page_size, self._page_size_max)
        rows = await self._stored.page(pages.opened(token, COLLECTION), size + 1)
        shown = [_schedule(row, SHOWN_OF_MANY) for row in rows[:size]]
        return shown, pages.sealed(COLLECTION, rows[size - 1].name) if len(rows) > size else ""

    async def get(self, caller: Caller, name: str) -> Schedule:
        """One of them. Raises Invalid, NotFound, and as `require_scope`."""
        require_scope(caller, SCHEDULE, "get")
        return _found(await self._stored.one(_id(name)), name)

    async def pause(self, caller: Caller, name: str) -> Schedule:
        """Lets no tick through until it is resumed. Raises Invalid, NotFound, and as `require_scope`."""
        require_scope(caller, SCHEDULE, "pause")
        note = self._audit.statement("schedule_paused", actor=caller.name, target=name)
        return _found(await self._stored.pause(_id(name), True, lambda row: row.next_time, note), name)

    async def resume(self, caller: Caller, name: str) -> Schedule:
        """Goes on with the next tick from now. Raises Invalid, NotFound, and as `require_scope`."""
        require_scope(caller, SCHEDULE, "resume")
        note = self._audit.statement("schedule_resumed", actor=caller.name, target=name)
        return _found(
            await self._stored.pause(_id(name), False, lambda row: Spec.read(row.spec).cadence.after(row.now), note),
            name,
        )

    async def run(self, caller: Caller, name: str) -> Run:
        """Runs it once, now; where its runs do not overlap, after the one that goes on. Raises Invalid, NotFound, Precondition
        (SCHEDULE_RETIRED), and as `require_scope`."""
        require_scope(caller, SCHEDULE, "run")
        note = self._audit.statement("schedule_run", actor=caller.name, target=name)
        made: list[Run] = []

        def decide(row: StoredSchedule) -> tuple[str, Sequence[Statement]]:
            if row.retired:
                raise Precondition("The app does not declare it any more.", reason="SCHEDULE_RETIRED")
            tick = Tick(f"{COLLECTION}/{row.name}", row.now.astimezone(UTC), manual=True)
            made.append(self._enqueue(row.task, tick, row.now, caller.name))
            return made[-1].task, [*made[-1].statements, note]

        _found(await self._stored.run(_id(name), decide), name)
        return made[-1]

    async def sweep(self) -> int:
        """Forgets what nobody has declared for KEPT_DAYS; how many it were."""
        return await self._stored.sweep(KEPT_DAYS)


def _id(name: str) -> str:
    collection, _, id = name.partition("/")
    if collection != COLLECTION or not NAME.fullmatch(id):
        raise Invalid.field("name", f"must look like {COLLECTION}/{{schedule}}", "INVALID_NAME")
    return id


def _found(row: StoredSchedule | None, name: str) -> Schedule:
    if row is None:
        raise NotFound("There is no such schedule.", resource=("transom.dev/Schedule", name))
    return _schedule(row, SHOWN_OF_ONE)


def _schedule(row: StoredSchedule, shown: int) -> Schedule:
    spec = Spec.read(row.spec)
    if row.paused or row.retired:
        return Schedule(row, spec, ())
    # The first is the one that is written down: it may be overdue, where no worker runs.
    return Schedule(row, spec, [row.next_time, *spec.cadence.following(max(row.next_time, row.now), shown - 1)])
