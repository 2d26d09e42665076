"""Schedules: when they are due, that each tick is let through once, and what operators see and do."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from click.testing import CliRunner
from consumers_ground import PROJECT, Ground, asynchronous, eventually
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from psycopg_pool import AsyncConnectionPool
from structlog.testing import capture_logs
from transom.events.v1.event_pb2 import Event

from consumers import schedules
from consumers.handlers import Poison
from consumers.inbox import Inbox
from consumers.scheduler import LONGEST, Scheduler, SchedulerMetrics
from consumers.task_runner import TaskMetrics, TaskRunner
from deploy.native.stack import Stack
from server.apps import Backoff, every
from server.apps.declarations import MARK
from server.apps.loading import TASKS, load
from server.apps.schedules import Scheduled
from server.caller import ADMIN, NOBODY, OPERATOR, Caller, Kind
from server.engine.audit import Audit
from server.engine.cadence import CATCH_UP_MOST, Cadence, Spec
from server.engine.schedules import Run, Schedules, Tick, Ticking, enqueued
from server.errors import AlreadyExists, Denied, Invalid, NotFound, Precondition, Unauthenticated, Unavailable
from server.store import pooled as pooled_store
from server.store.schedules import Declared, StoredSchedules
from server.store.tasks import StoredTasks

APP = Path(__file__).parent / "schedules_app"
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# When.


@pytest.mark.parametrize(
    ("cron", "zone", "after", "ticks"),
    [
        ("30 8 * * *", "UTC", "2026-06-01T08:30", ["2026-06-02T08:30", "2026-06-03T08:30"]),
        ("0 8 * * MON-FRI", "Europe/Berlin", "2026-06-05T06:00", ["2026-06-08T06:00", "2026-06-09T06:00"]),
        ("@daily", "America/New_York", "2026-06-01T00:00", ["2026-06-01T04:00", "2026-06-02T04:00"]),
        ("0 0 L * *", "UTC", "2026-02-01T00:00", ["2026-02-28T00:00", "2026-03-31T00:00"]),
        ("0 9 * * MON#2", "UTC", "2026-06-01T00:00", ["2026-06-08T09:00", "2026-07-13T09:00"]),
        ("*/20 * * * * *", "UTC", "2026-06-01T00:00:05", ["2026-06-01T00:00:20", "2026-06-01T00:00:40"]),
        # Either the 13th or a Friday, as cron has it.
        ("0 0 13 * FRI", "UTC", "2026-06-06T00:00", ["2026-06-12T00:00", "2026-06-13T00:00"]),
        # 02:30 does not exist on 29 March: it is 03:00, summer time.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["2026-03-29T01:00", "2026-03-30T00:30"]),
        # 02:30 comes twice on 25 October: the first time counts.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["2026-10-25T00:30", "2026-10-26T01:30"]),
        # Even if it is asked for between the two, and in the second.
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:45", ["2026-10-26T01:30"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T01:15", ["2026-10-26T01:30"]),
        # What names no hour goes by the real time.
        ("0 * * * *", "Europe/Berlin", "2026-10-24T23:30", ["2026-10-25T00:00", "2026-10-25T01:00", "2026-10-25T02:00"]),
        ("0 * * * *", "Europe/Berlin", "2026-03-29T00:30", ["2026-03-29T01:00", "2026-03-29T02:00"]),
    ],
)  # fmt: skip
def test_cron_expressions_are_due_when_they_say_also_where_clocks_change(
    cron: str, zone: str, after: str, ticks: Sequence[str]
) -> None:
    assert Cadence(cron, zone).following(at(after), len(ticks)) == [at(tick) for tick in ticks]


CADENCES = [
    Cadence("30 2 * * *", "Europe/Berlin"),
    Cadence("15,45 2,3 * * *", "America/New_York"),
    Cadence("*/7 * * * *", "Australia/Lord_Howe"),  # whose clocks change by half an hour
    Cadence("0 0 1 */3 *", "Asia/Kolkata"),
    Cadence(interval=timedelta(minutes=25)),
    Cadence(interval=timedelta(days=3)),
]
MOMENTS = st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(CADENCES), MOMENTS, st.integers(0, 40), st.integers(1, 12))
def test_ticks_are_the_same_from_wherever_they_are_counted(
    cadence: Cadence, begin: datetime, many: int, most: int
) -> None:
    ticks = cadence.following(begin, many + 1)
    assert ticks == sorted(set(ticks)) and ticks[0] > begin
    for before, after in zip([begin, *ticks], ticks):
        assert cadence.after(before) == after == cadence.after(after - timedelta(microseconds=1))
    assert cadence.due(ticks[0], ticks[-1], most) == ticks[-most:]
    assert cadence.due(ticks[-1] + timedelta(microseconds=1), ticks[-1], most) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"when": "8 * * *"}, "is no cron expression"),
        ({"when": "60 8 * * *"}, "is no cron expression: Bad minute"),
        ({"when": "0 0 30 2 *"}, "is no cron expression"),
        ({"when": "0 0 29 2 MON#5,"}, "is no cron expression"),
        ({"when": "x" * 101}, "longer than 100 characters"),
        ({"when": ""}, "either a cron expression or an interval"),
        ({"when": "0 8 * * *", "tz": "Europe/Atlantis"}, "there is no time zone 'Europe/Atlantis'"),
        ({"when": "0 8 * * *", "tz": "../../etc/passwd"}, "there is no time zone"),
        ({"when": timedelta(milliseconds=1500)}, "in whole seconds"),
        ({"when": timedelta(0)}, "1 second to 366 days"),
        ({"when": timedelta(days=400)}, "1 second to 366 days"),
        ({"when": "@daily", "catch_up": "some"}, "catch_up is one of latest, all, skip"),
        ({"when": "@daily", "catch_up_most": CATCH_UP_MOST + 1}, "catch_up_most is 1 to 1000"),
        ({"when": "@daily", "name": "Übersicht"}, "a schedule's name is"),
        ({"when": "@daily", "retries": 51}, "retries go from 0 to 50"),
        ({"when": "@daily", "priority": 101}, "priorities go from -100 to 100"),
    ],
)
def test_what_is_no_schedule_is_refused_when_it_is_declared(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        every(**given)(lambda tick, work: None)


def test_an_apps_schedules_are_found_and_two_of_a_name_are_refused(tmp_path: Path) -> None:
    from consumers_ground import descriptor

    from server.schema.compilation import SchemaError
    from server.schema.reading import read

    schema = read(descriptor())
    beat, morning = load(APP, schema, [TASKS]).schedules
    assert (beat.name, beat.description) == ("beat", "Leaves a thing. Named by its tick.")
    assert Spec.read(morning.spec.written()) == morning.spec
    (tmp_path / "more.py").write_text(
        "from server.apps import every\n@every('@daily', name='a')\ndef f(tick, work): ...\n"
    )
    (tmp_path / "tasks.py").write_text(
        "from server.apps import every\nfrom .more import f\n@every('@daily', name='b')\ndef g(tick, work): ...\n"
    )
    assert [one.name for one in load(tmp_path, schema, [TASKS]).schedules] == ["a", "b"]
    text = (tmp_path / "tasks.py").read_text()
    # Longer than before: what is as long and as old to the second is taken from the bytecode.
    (tmp_path / "tasks.py").write_text(text.replace("'b'", "'a'") + "\n")
    with pytest.raises(SchemaError, match="there are two schedules called a"):
        load(tmp_path, schema, [TASKS])


# Ticks, by a clock that the test holds.


@pytest.fixture(scope="module")
def ground(components: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with Ground.on(components, tmp_path_factory.mktemp("schedules")) as ground:
        ground.env["TRANSOM_APP"] = str(APP)
        yield ground


@pytest.fixture(autouse=True)
def empty(ground: Ground) -> None:
    ground.execute("delete from transom.schedules")
    ground.execute("delete from transom.tasks; delete from transom.task_queues; delete from test_v1.things")


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def declared(name: str = "hourly", when: Any = "0 * * * *", **more: Any) -> Declared:
    mark = getattr(every(when, name=name, **more)(lambda tick, work: None), MARK)
    assert isinstance(mark, Scheduled)
    [one] = schedules.declared([mark])
    return one


class Machine:
    """One worker's schedules on the ground, without its processes."""

    def __init__(self, pool: Any, clock: Clock | None, *what: Declared) -> None:
        self.stored = StoredSchedules(pool, clock)
        self.ticking = Ticking(self.stored, what, enqueued)
        self.schedules = Schedules(self.stored, Audit(cast(Any, None)), enqueued)


@asynccontextmanager
async def pooled(ground: Ground, most: int = 1, dsn: str = "") -> AsyncIterator[Any]:
    async with AsyncConnectionPool(dsn or ground.postgres, min_size=1, max_size=most, open=False) as pool:
        yield pool


def ticks(ground: Ground) -> list[Tick]:
    found = ground.rows(
        "select payload from transom.tasks where starts_with(handler, 'schedule.') order by run_time, id"
    )
    return [Tick.of(json.loads(payload)) for (payload,) in found]


@asynchronous
async def test_of_many_schedulers_one_lets_each_tick_through(ground: Ground) -> None:
    clock = Clock()
    what = [declared(f"s{n}", "* * * * *") for n in range(7)]
    async with pooled(ground, 8) as pool:
        machines = [Machine(pool, clock, *what) for _ in range(8)]
        await asyncio.gather(*(machine.ticking.declare() for machine in machines))
        for _ in range(10):
            clock.now += timedelta(seconds=60)
            await asyncio.gather(*(machine.ticking.tick() for machine in machines for _ in range(2)))
    counted = Counter((tick.schedule, tick.time) for tick in ticks(ground))
    assert len(counted) == 70 and set(counted.values()) == {1}
    assert all(tick.missed == 0 for tick in ticks(ground))


@pytest.mark.parametrize(
    ("given", "away", "run", "missed"),
    [
        ({}, timedelta(minutes=59), [], 0),
        ({}, timedelta(hours=1), [1], 0),
        ({}, timedelta(hours=5, minutes=30), [5], 4),
        ({"catch_up": "all"}, timedelta(hours=3, minutes=1), [1, 2, 3], 0),
        ({"catch_up": "all", "catch_up_most": 2}, timedelta(hours=5), [4, 5], 3),
        ({"catch_up": "skip"}, timedelta(hours=3, minutes=2), [], 3),
        ({"catch_up": "skip"}, timedelta(hours=3, seconds=60), [3], 2),
        ({}, timedelta(days=365), [365 * 24], CATCH_UP_MOST - 1),
        ({"catch_up": "all"}, timedelta(days=365), list(range(365 * 24 - 99, 365 * 24 + 1)), CATCH_UP_MOST - 100),
    ],
)
@asynchronous
async def test_what_was_missed_is_made_up_for_as_the_schedule_says(
    ground: Ground, given: dict[str, Any], away: timedelta, run: list[int], missed: int
) -> None:
    clock = Clock()
    async with pooled(ground) as pool:
        machine = Machine(pool, clock, declared(**given))
        await machine.ticking.declare()
        clock.now += away
        await machine.ticking.tick()
        assert await machine.ticking.tick() == []
    assert [tick.time for tick in ticks(ground)] == [NOON + timedelta(hours=n) for n in run]
    assert sum(tick.missed for tick in ticks(ground)) == (missed if run else 0)
    assert ground.value("select missed from transom.schedules") == missed


@asynchronous
async def test_who_dies_while_it_lets_a_tick_through_has_done_nothing(ground: Ground) -> None:
    clock = Clock()
    async with pooled(ground, 2) as pool:

        def dies(*asked: Any) -> Run:
            run = enqueued(*asked)
            end = "select pg_terminate_backend(pid) from pg_stat_activity where pid = pg_backend_pid()"
            return replace(run, statements=[*run.statements, (end, [])])

        machine = Machine(pool, clock, declared())
        await machine.ticking.declare()
        clock.now += timedelta(hours=1)
        with pytest.raises(Unavailable):
            await Ticking(machine.stored, [declared()], dies).tick()
        assert ticks(ground) == []
        assert len(await machine.ticking.tick()) == 1
    assert len(ticks(ground)) == 1


@asynchronous
async def test_a_new_version_of_an_app_goes_on_where_the_old_one_was(ground: Ground) -> None:
    clock = Clock()
    async with pooled(ground) as pool:
        old = Machine(pool, clock, declared("kept"), declared("changed"), declared("gone"))
        await old.ticking.declare()
        await old.schedules.pause(OPERATOR, "schedules/kept")
        clock.now += timedelta(minutes=85)
        new = Machine(pool, clock, declared("kept"), declared("changed", "30 * * * *"), declared("added"))
        await new.ticking.declare()
        # What the old one declares otherwise, it leaves alone; what is retired nobody runs.
        assert await old.ticking.tick() == []
        shown, _ = await new.schedules.list(OPERATOR, 0, "")
        told = {s.stored.name: (s.stored.paused, s.stored.retired, len(s.next_times)) for s in shown}
        assert told == {
            "added": (False, False, 5),
            "changed": (False, False, 5),
            "gone": (False, True, 0),
            "kept": (True, False, 0),
        }
        # A change makes up for nothing: what was due before was due by another rule.
        assert await new.ticking.tick() == []
        clock.now += timedelta(minutes=36)
        await new.ticking.tick()
        assert sorted(tick.schedule for tick in ticks(ground)) == ["schedules/added", "schedules/changed"]
        ground.execute("update transom.schedules set update_time = now() - interval '31 days'")
        assert await new.schedules.sweep() == 1
        with pytest.raises(NotFound):
            await new.schedules.get(OPERATOR, "schedules/gone")


@asynchronous
async def test_operators_pause_resume_and_run_and_the_audit_log_tells(ground: Ground) -> None:
    clock = Clock()
    async with pooled(ground) as pool:
        machine = Machine(pool, clock, declared(catch_up="all"), declared("other"))
        await machine.ticking.declare()
        of = machine.schedules
        for _ in range(2):
            assert (await of.pause(OPERATOR, "schedules/hourly")).next_times == ()
        clock.now += timedelta(hours=3)
        await machine.ticking.tick()
        assert {tick.schedule for tick in ticks(ground)} == {"schedules/other"}
        run = await of.run(OPERATOR, "schedules/hourly")  # also while it is paused
        assert run.tick.startswith("schedules/hourly/ticks/")
        assert (await of.get(OPERATOR, "schedules/hourly")).stored.last_task == run.task
        resumed = await of.resume(OPERATOR, "schedules/hourly")
        assert resumed.next_times[0] == NOON + timedelta(hours=4)
        clock.now += timedelta(hours=1)
        await machine.ticking.tick()
        mine = [tick for tick in ticks(ground) if tick.schedule == "schedules/hourly"]
        # Not even one that makes up for all is run for what was due while it was paused.
        assert [(tick.time, tick.manual) for tick in mine] == [
            (NOON + timedelta(hours=3), True),
            (NOON + timedelta(hours=4), False),
        ]
        assert len({tick.key for tick in mine}) == 2
        shown = await of.get(OPERATOR, "schedules/hourly")
        assert shown.stored.last_tick == NOON + timedelta(hours=4) and len(shown.next_times) == 20
        page, token = await of.list(OPERATOR, 1, "")
        rest, end = await of.list(OPERATOR, 1, token)
        assert [s.stored.name for s in (*page, *rest)] == ["hourly", "other"] and end == ""
        await Machine(pool, clock).ticking.declare()
        with pytest.raises(Precondition) as refused:
            await of.run(OPERATOR, "schedules/hourly")
        assert refused.value.reason == "SCHEDULE_RETIRED"
    done = ground.rows("select action, actor from transom.audit where target = 'schedules/hourly' order by id")
    assert done == [(f"schedule_{what}", "operator") for what in ("paused", "run", "resumed")]


ADMIN_WITH = Caller(Kind.USER, "users/a", frozenset({ADMIN}), scopes=frozenset({"transom.schedules.v1.Schedule:get"}))


@pytest.mark.parametrize(
    ("caller", "method", "name", "refusal"),
    [
        (NOBODY, "get", "schedules/hourly", Unauthenticated),
        (Caller(Kind.USER, "users/u"), "get", "schedules/hourly", Denied),
        (Caller(Kind.KEY, "keys/k", frozenset({"service"})), "run", "schedules/hourly", Denied),
        (ADMIN_WITH, "get", "schedules/hourly", None),
        *((ADMIN_WITH, method, "schedules/hourly", Denied) for method in ("pause", "resume", "run")),
        *((OPERATOR, method, "schedules/none", NotFound) for method in ("get", "pause", "resume", "run")),
        *(
            (OPERATOR, "get", name, Invalid)
            for name in ("", "hourly", "schedules/", "schedules/A", "schedules/a/b", "x/y")
        ),
    ],
)
@asynchronous
async def test_only_who_may_sees_and_changes_schedules(
    ground: Ground, caller: Caller, method: str, name: str, refusal: type[Exception] | None
) -> None:
    async with pooled(ground) as pool:
        machine = Machine(pool, Clock(), declared())
        await machine.ticking.declare()
        if refusal is None:
            await getattr(machine.schedules, method)(caller, name)
        else:
            with pytest.raises(refusal):
                await getattr(machine.schedules, method)(caller, name)
    assert ticks(ground) == [] and ground.value("select bool_or(paused) from transom.schedules") is False


# The process.


@asynchronous
async def test_the_scheduler_looks_again_in_time_and_counts_what_it_did(ground: Ground) -> None:
    registry = CollectorRegistry()
    async with pooled(ground) as pool:
        clock = Clock()
        machine = Machine(pool, clock, declared())
        scheduler = Scheduler(machine.ticking, 1, SchedulerMetrics(registry))
        await machine.ticking.declare()
        assert 0.8 * LONGEST <= await scheduler.turn() <= LONGEST
        clock.now += timedelta(minutes=59, seconds=59)
        assert 0.9 < await scheduler.turn() <= 1
        clock.now += timedelta(hours=2)
        await scheduler.turn()
    assert registry.get_sample_value("transom_schedule_ticks_total", {"schedule": "hourly"}) == 1
    assert registry.get_sample_value("transom_schedule_missed_ticks_total", {"schedule": "hourly"}) == 1


@asynchronous
async def test_ticks_of_a_time_without_the_database_are_made_up_for_when_it_is_back(
    ground: Ground, components: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooled_store, "PATIENCE", 0.2)
    name = ground.value("select current_database()")

    def operator(*statements: str) -> None:
        with psycopg.connect(components.env["TRANSOM_POSTGRES"], autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    stop = asyncio.Event()
    async with pooled(ground, 2) as pool:
        machine = Machine(pool, None, declared("beat", timedelta(seconds=1), catch_up="all"))
        running = asyncio.create_task(Scheduler(machine.ticking, 1, SchedulerMetrics(CollectorRegistry())).run(stop))
        await eventually(lambda: ticks(ground))
        with capture_logs() as logs:
            end = f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
            operator(f"alter database {name} allow_connections false", end)
            try:
                await eventually(lambda: any(line["event"] == "schedules wait" for line in logs))
            finally:
                operator(f"alter database {name} allow_connections true")
        await eventually(lambda: len(ticks(ground)) >= 3)
        stop.set()
        await asyncio.wait_for(running, 10)
    seen = [tick.time for tick in ticks(ground)]
    assert seen == [seen[0] + timedelta(seconds=n) for n in range(len(seen))]


ALONE = """
import asyncio, sys
from datetime import timedelta
from psycopg_pool import AsyncConnectionPool
from consumers.scheduler import Scheduler, SchedulerMetrics
from consumers.schedules import declared
from server.apps.declarations import MARK
from server.apps.schedules import every
from server.engine.schedules import Ticking, enqueued
from server.store.schedules import StoredSchedules

mark = getattr(every(timedelta(seconds=1), name="beat", catch_up="all")(lambda tick, work: None), MARK)

async def main():
    async with AsyncConnectionPool(sys.argv[1], min_size=1, open=False) as pool:
        what = declared([mark])
        await Scheduler(Ticking(StoredSchedules(pool), what, enqueued), 1, SchedulerMetrics()).run(asyncio.Event())

asyncio.run(main())
"""


def test_schedulers_that_are_killed_anywhere_let_every_tick_through_once(ground: Ground) -> None:
    """Each is its own process, by the database's clock; of three, two are killed with -9."""
    processes: list[subprocess.Popen[bytes]] = []

    def until(count: int) -> None:
        asyncio.run(eventually(lambda: len(ticks(ground)) >= count))

    def start() -> None:
        processes.append(subprocess.Popen([sys.executable, "-c", ALONE, ground.postgres], cwd=PROJECT))

    try:
        start()
        start()
        until(1)
        processes[0].kill()
        start()
        until(2)
        processes[1].kill()
        until(4)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    seen = [tick.time for tick in ticks(ground)]
    assert seen == [seen[0] + timedelta(seconds=n) for n in range(len(seen))]


def scheduled(function: Any, **more: Any) -> Scheduled:
    mark = getattr(every("@daily", **{"backoff": Backoff(0.01, 1)} | more)(function), MARK)
    assert isinstance(mark, Scheduled)
    return mark


@asynccontextmanager
async def workers(ground: Ground, shop: Any, *what: Scheduled, count: int = 1) -> AsyncIterator[None]:
    """So many that run the tasks of the schedules."""
    stop = asyncio.Event()
    runs = [
        asyncio.create_task(
            TaskRunner(
                ground.postgres,
                StoredTasks(shop.parts.pool),
                shop.work,
                schedules.named(what),
                TaskMetrics(CollectorRegistry()),
                instance=f"w{n}",
                grace=0.2,
            ).run(stop)
        )
        for n in range(count)
    ]
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(asyncio.gather(*runs), 10)


def states(ground: Ground) -> list[str]:
    return [state for (state,) in ground.rows("select state from transom.tasks order by run_time, id")]


@asynchronous
async def test_a_run_is_a_task_with_the_schedules_own_bounds_retried_and_seen_as_any(ground: Ground) -> None:
    async def fails_first(tick: Tick, work: Any) -> Any:
        """Fails at first. Then it does not."""
        work.create("test.v1.Thing", "", f"of-{tick.time:%H}", {})
        tried.append(tick)
        if len(tried) == 1:
            raise ValueError("not yet")
        return {"key": tick.key}

    tried: list[Tick] = []
    clock = Clock()
    one = scheduled(fails_first, name="one", retries=1)
    plain = scheduled(lambda tick, work: tick.key, name="plain")
    async with ground.workshop() as shop:
        machine = Machine(shop.parts.pool, clock, *schedules.declared([one, plain]))
        await machine.ticking.declare()
        clock.now += timedelta(days=1)
        await machine.ticking.tick()
        shown = (await machine.schedules.get(OPERATOR, "schedules/one")).stored
        assert shown.going
        async with workers(ground, shop, one, plain):
            await eventually(lambda: states(ground) == ["SUCCEEDED", "SUCCEEDED"])
        tasks = shop.parts.tasks
        task = await tasks.get(OPERATOR, shown.last_task)
        assert (task.handler, task.attempts, task.caller) == ("schedule.one", 2, "system")
        assert json.loads(task.result) == {"key": "schedules/one/2026-06-02T00:00:00+00:00"}
        listed, _ = await tasks.list(OPERATOR, "", "schedule.plain", 0, "")
        assert [json.loads(one.result) for one in listed] == ["schedules/plain/2026-06-02T00:00:00+00:00"]
        assert not (await machine.schedules.get(OPERATOR, "schedules/one")).stored.going
    assert tried == [Tick("schedules/one", datetime(2026, 6, 2, tzinfo=UTC))] * 2
    assert ground.rows("select name from test_v1.things") == [("things/of-00",)]


@asynchronous
async def test_runs_overlap_only_where_they_may(ground: Ground) -> None:
    most: Counter[str] = Counter()
    going: Counter[str] = Counter()
    go_on = asyncio.Event()

    async def slow(tick: Tick, work: Any) -> None:
        going[tick.schedule] += 1
        most[tick.schedule] = max(most[tick.schedule], going[tick.schedule])
        await go_on.wait()
        going[tick.schedule] -= 1

    clock = Clock()
    beside = scheduled(slow, name="beside", catch_up="all")
    both = [beside, replace(beside, name="alone", spec=replace(beside.spec, overlap=False))]
    async with ground.workshop() as shop:
        machine = Machine(shop.parts.pool, clock, *schedules.declared(both))
        await machine.ticking.declare()
        clock.now += timedelta(days=2)
        await machine.ticking.tick()
        async with workers(ground, shop, *both, count=2):
            await eventually(lambda: going["schedules/beside"] == 2 and going["schedules/alone"] == 1)
            clock.now += timedelta(days=1)
            await machine.ticking.tick()
            await machine.schedules.run(OPERATOR, "schedules/alone")  # waits for its turn
            await eventually(lambda: going["schedules/beside"] == 3)
            go_on.set()
            await eventually(lambda: states(ground) == ["SUCCEEDED"] * 6)
    assert most == {"schedules/beside": 3, "schedules/alone": 1}
    days = [(t.time.day, t.manual) for t in ticks(ground) if t.schedule == "schedules/alone"]
    assert days == [(2, False), (3, False), (4, True)]  # that of the 4th was let go
    assert ground.rows("select name, missed from transom.schedules order by name") == [("alone", 1), ("beside", 0)]


@asynchronous
async def test_ticks_of_a_version_before_become_tasks_each_once(ground: Ground) -> None:
    async with ground.workshop() as shop:
        beat, _ = schedules.handlers(shop.parts.app.schedules)
        assert (beat.name, beat.key) == ("schedule.beat", "transom.schedules.v1.Tick.beat")
        told = {"schedule": "schedules/beat", "time": NOON.isoformat(), "missed": 2, "manual": False}
        event = Event(id="1", name="schedules/beat/ticks/20260601T120000Z", payload=json.dumps(told).encode())
        for _ in range(2):
            work = shop.work(event)
            extra = await beat.run(event, work)
            try:
                await work.commit([*extra, Inbox.record(beat.name, event.id)])
            except AlreadyExists:
                assert await Inbox(shop.parts.pool).done(beat.name, "1")
        with pytest.raises(Poison):
            await beat.run(Event(payload=b"{}"), shop.work(event))
        assert ticks(ground) == [Tick("schedules/beat", NOON, missed=2)]
        async with workers(ground, shop, *shop.parts.app.schedules):
            await eventually(lambda: states(ground) == ["SUCCEEDED"])
    assert ground.rows("select name from test_v1.things") == [("things/beat-12-00-00",)]


def test_the_command_shows_and_changes_schedules(ground: Ground) -> None:
    from server.cli.schedules import command

    async def declare() -> None:
        async with pooled(ground) as pool:
            what = [declared("morning", "0 8 * * *", tz="Europe/Berlin"), declared("often", timedelta(minutes=15))]
            await Machine(pool, None, *what).ticking.declare()

    def told(*words: str) -> str:
        run = CliRunner().invoke(command, list(words), env=ground.env)
        assert run.exit_code == 0, run.output
        return run.output

    # As it is used: in a thread without a loop of its own.
    thread = threading.Thread(target=lambda: asyncio.run(declare()))
    thread.start()
    thread.join()
    listed = told("list").splitlines()
    assert "0 8 * * * (Europe/Berlin)" in listed[0] and "every 15 minutes" in listed[1] and "never run" in listed[1]
    assert "08:00:00 CE" in told("show", "morning", "-n", "1")
    # Whatever time zone the database has.
    ground.execute(f"alter database {ground.value('select current_database()')} set timezone to 'Asia/Tokyo'")
    task = told("run", "often").strip()
    assert task == f"tasks/{ground.value('select id from transom.tasks')}" and task in told("show", "often")
    assert told("pause", "often") == "often is paused\n" and "paused" in told("list")
    assert told("resume", "schedules/often").startswith("schedules/often goes on at ")
    run = CliRunner().invoke(command, ["run", "none"], env=ground.env)
    assert (run.exit_code, run.output) == (1, "Error: There is no such schedule.\n")
