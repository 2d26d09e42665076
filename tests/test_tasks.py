"""Tasks by name: enqueued with what asks for them, run once in their effect, whatever dies when."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from consumers_ground import Ground, asynchronous, eventually
from prometheus_client import CollectorRegistry

from consumers.declaring import declaring
from consumers.task_runner import TaskMetrics, TaskRunner
from consumers.workshop import Workshop
from deploy.native.stack import Stack
from server.app import micros
from server.apps import Backoff, Cancel, Discard, Order, Retry, Snooze, Work, task
from server.apps.declarations import MARK
from server.apps.loading import TASKS, load
from server.apps.named import Named, declared
from server.caller import NOBODY, OPERATOR, Caller, Kind
from server.engine.audit import Audit
from server.engine.resources import Call
from server.engine.task_enqueuing import Enqueuing, Wish
from server.engine.tasks import TASK, Tasks, enqueue
from server.errors import Denied, Exhausted, Invalid, NotFound, Precondition, Stale, Unauthenticated, Unavailable
from server.services.task_following import FOLLOWED_MAX_OF_ONE, Following
from server.store.task_handlers import StoredHandlers
from server.store.tasks import StoredTasks

AT_ONCE = Backoff(0.01, 1)


@pytest.fixture(scope="module")
def module_ground(components: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with Ground.on(components, tmp_path_factory.mktemp("tasks")) as ground:
        yield ground


@pytest.fixture
def ground(module_ground: Ground) -> Ground:
    module_ground.execute("delete from transom.tasks; delete from transom.task_queues; delete from test_v1.things")
    return module_ground


def named(function: Callable[..., Any], **options: Any) -> Named:
    mark = getattr(task(**{"backoff": AT_ONCE} | options)(function), MARK)
    assert isinstance(mark, Named)
    return mark


@asynccontextmanager
async def running(ground: Ground, shop: Workshop, *functions: Named, workers: int = 1) -> AsyncIterator[None]:
    stop = asyncio.Event()
    runs = [
        asyncio.create_task(
            TaskRunner(
                ground.postgres,
                StoredTasks(shop.parts.pool),
                shop.work,
                functions,
                TaskMetrics(CollectorRegistry()),
                message=shop.parts.schema.message_class,
                instance=f"w{n}",
                grace=0.2,
            ).run(stop)
        )
        for n in range(workers)
    ]
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(asyncio.gather(*runs), 10)


async def asked(shop: Workshop, handler: str, payload: Any = None, **options: Any) -> str:
    name, statements = enqueue(datetime.now(UTC), handler, payload, **options)
    await StoredTasks(shop.parts.pool).run(statements)
    return name.removeprefix("tasks/")


def row(ground: Ground, id: str, columns: str = "state") -> Any:
    [found] = ground.rows(f"select {columns} from transom.tasks where id = %s", [id])
    return found[0] if len(found) == 1 else found


@asynchronous
async def test_each_outcome_leaves_the_state_it_says(ground: Ground) -> None:
    async def ends(order: Order, work: Work) -> Any:
        work.create("test.v1.Thing", "", f"of-{order.key}", {})
        match order.payload["how"], order.attempt:
            case "done", _:
                await work.progress(0.5, "half")
                return {"answer": 42}
            case "again", 1:
                raise Retry(0.01)
            case "fails", _:
                raise ValueError("no")
            case "discard", _:
                raise Discard("not wanted")
            case "cancel", _:
                raise Cancel
            case "slow", _:
                await asyncio.sleep(60)
            case "large", _:
                return "x" * 70_000
        return None

    async with ground.workshop() as shop, running(ground, shop, named(ends, retries=1, time_limit=1)):
        wanted = {
            "done": ("SUCCEEDED", 1),
            "again": ("SUCCEEDED", 2),
            "fails": ("DEAD", 2),
            "discard": ("DISCARDED", 1),
        }
        wanted |= {"cancel": ("CANCELLED", 1), "slow": ("DEAD", 2), "large": ("DEAD", 2)}
        ids = {how: await asked(shop, "ends", {"how": how}) for how in wanted}
        await eventually(lambda: not ground.value("select count(*) from transom.tasks where end_time is null"))
    assert {how: tuple(row(ground, id, "state, attempts")) for how, id in ids.items()} == wanted
    assert row(ground, ids["done"], "result, progress") == ('{"answer": 42}', 1.0)
    error, trace = row(ground, ids["fails"], "error, traceback")
    assert error == "ValueError: no" and "in ends" in trace
    assert "time limit" in row(ground, ids["slow"], "error")
    things = {name for (name,) in ground.rows("select name from test_v1.things")}
    assert things == {f"things/of-{ids[how]}" for how in ("done", "again")}  # of the others nothing is left


@asynchronous
async def test_a_task_is_enqueued_with_the_work_that_asks_for_it_or_not_at_all(ground: Ground) -> None:
    async with ground.workshop() as shop:
        cause = type("Cause", (), {"request_id": "r", "traceparent": ""})()
        work = shop.work(cause)
        name = await work.enqueue_once("later", "k", {"a": 1}, delay=timedelta(hours=1), priority=3)
        assert ground.rows("select 1 from transom.tasks") == []
        await work.commit()
        id = name.removeprefix("tasks/")
        assert row(ground, id, "handler, payload, priority, request_id, run_time > now()") == (
            "later",
            '{"a":1}',
            3,
            "r",
            True,
        )
        assert (await asked(shop, "later", unique_key="k")) and ground.value("select count(*) from transom.tasks") == 1
        ground.execute("update transom.tasks set state = 'SUCCEEDED', end_time = now()")
        await asked(shop, "later", unique_key="k")
        assert ground.value("select count(*) from transom.tasks") == 2
        for wrong in (
            {"handler": "1"},
            {"payload": object()},
            {"payload": "x" * 70_000},
            {"priority": 101},
            {"delay": timedelta(-1)},
        ):
            with pytest.raises(Invalid):
                enqueue(datetime.now(UTC), **{"handler": "later"} | wrong)


@asynchronous
async def test_what_is_more_urgent_goes_first_and_a_queue_is_bounded_over_all_workers(ground: Ground) -> None:
    order_of: list[str] = []
    now = most = 0

    async def one(order: Order, work: Work) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        order_of.append(order.payload["as"])
        await asyncio.sleep(0.01)
        now -= 1

    def slow(order: Order, work: Work) -> None:
        """In a thread."""

    async with ground.workshop() as shop:
        for priority in (0, -5, 7):
            for n in range(3):
                await asked(shop, "one", {"as": f"{priority} {n}"}, priority=priority)
        for _ in range(5):
            await asked(shop, "slow")
        functions = named(one, at_once=1), named(slow, rate="2/1h")
        async with running(ground, shop, *functions, workers=3):
            await eventually(lambda: len(order_of) == 9)
            await eventually(lambda: ground.value("select count(*) from transom.tasks where state = 'SUCCEEDED'") == 11)
    assert most == 1
    assert order_of == [f"{priority} {n}" for priority in (7, 0, -5) for n in range(3)]
    assert ground.value("select count(*) from transom.tasks where handler = 'slow' and state = 'QUEUED'") == 3


@asynchronous
async def test_operators_cancel_and_retry(ground: Ground) -> None:
    begun = asyncio.Event()
    hold = True

    async def held(order: Order, work: Work) -> None:
        begun.set()
        if hold:
            await asyncio.Event().wait()

    async with ground.workshop() as shop:
        stored = StoredTasks(shop.parts.pool)
        tasks = Tasks(stored, Audit(None))  # type: ignore[arg-type]
        waits = await asked(shop, "held", delay=timedelta(hours=1))
        assert (await tasks.cancel(OPERATOR, f"tasks/{waits}")).state == "CANCELLED"
        with pytest.raises(Precondition):
            await tasks.cancel(OPERATOR, f"tasks/{waits}")
        async with running(ground, shop, named(held)):
            runs = await asked(shop, "held")
            await begun.wait()
            assert (await tasks.cancel(OPERATOR, f"tasks/{runs}")).cancelling
            await eventually(lambda: row(ground, runs) == "CANCELLED")
            hold = False
            await tasks.retry(OPERATOR, f"tasks/{runs}")
            await eventually(lambda: row(ground, runs) == "SUCCEEDED")
        with pytest.raises(Precondition):
            await tasks.retry(OPERATOR, f"tasks/{runs}")
        listed, token = await tasks.list(OPERATOR, "", "held", 1, "")
        rest, end = await tasks.list(OPERATOR, "", "held", 1, token)
        assert [one.id for one in (*listed, *rest)] == [runs, waits] and not end
        for caller, name, refusal in (
            (NOBODY, f"tasks/{runs}", Unauthenticated),
            (Caller(Kind.USER, "users/u"), f"tasks/{runs}", NotFound),
            (Caller(Kind.KEY, "keys/k", scopes=frozenset()), f"tasks/{runs}", Denied),
            (OPERATOR, "tasks/none", NotFound),
            (OPERATOR, "x", Invalid),
        ):
            for method in (tasks.get, tasks.cancel, tasks.retry):
                with pytest.raises(refusal):
                    await method(caller, name)


@asynchronous
async def test_a_worker_that_stops_gives_back_what_it_cannot_finish(ground: Ground) -> None:
    begun = asyncio.Event()

    async def held(order: Order, work: Work) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with ground.workshop() as shop:
        id = await asked(shop, "held")
        async with running(ground, shop, named(held)):
            await begun.wait()
        assert row(ground, id, "state, attempts") == ("QUEUED", 0)


@pytest.mark.parametrize("others", [0, 1])
@asynchronous
async def test_a_run_that_was_given_up_has_no_effect_any_more(ground: Ground, others: int) -> None:
    """Its lease is over while it goes on: another run takes the task, in another worker or the same, and of both one commits."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def makes(order: Order, work: Work) -> None:
        if order.attempt == 1:
            begun.set()
            await go.wait()
        work.create("test.v1.Thing", "", f"by-{order.attempt}", {})

    async with ground.workshop() as shop:
        id = await asked(shop, "makes")
        function = named(makes)
        async with running(ground, shop, function):
            await begun.wait()
            ground.execute("update transom.tasks set state = 'FAILED', lease_time = null")
            async with running(ground, shop, function, workers=others):
                await eventually(lambda: row(ground, id) == "SUCCEEDED")
                go.set()
    assert ground.value("select count(*) from test_v1.things") == 1


@asynchronous
async def test_a_snooze_uses_up_no_attempt(ground: Ground) -> None:
    seen: list[int] = []

    async def early(order: Order, work: Work) -> None:
        seen.append(order.attempt)
        if len(seen) < 3:
            raise Snooze(0.01)

    async with ground.workshop() as shop, running(ground, shop, named(early, retries=0)):
        id = await asked(shop, "early")
        await eventually(lambda: row(ground, id) == "SUCCEEDED")
    assert seen == [1, 1, 1]


@asynchronous
async def test_a_call_enqueues_what_its_handler_takes_for_whom_it_lets(ground: Ground) -> None:
    told: list[Any] = []

    async def typed(order: Order, work: Work) -> None:
        told.append(order.payload)

    async def quiet(order: Order, work: Work) -> None:
        """Nobody's but keys' and admins'."""

    functions = [named(typed, payload="test.v1.Thing", priority=7, callable_by="users"), named(quiet)]
    user, key = Caller(Kind.USER, "users/u"), Caller(Kind.KEY, "keys/k", scopes=frozenset({f"{TASK}:create"}))
    async with ground.workshop() as shop:
        parts = shop.parts
        stored, handlers = StoredTasks(parts.pool), StoredHandlers(parts.pool)
        await handlers.declare(declared(functions))
        enqueuing = Enqueuing(stored, handlers, parts.schema, parts.resources.decisions, micros)
        name = parts.schema.message_class("test.v1.Thing").DESCRIPTOR.fields[0].name
        made = await enqueuing.enqueue(Call(user), Wish("typed", {name: "things/a"}, unique_key="k"))
        assert (made.priority, made.caller, made.unique_key) == (7, "users/u", "users/u/k")
        assert (await enqueuing.enqueue(Call(user), Wish("typed", {name: "things/b"}, unique_key="k"))).id == made.id
        assert (await enqueuing.enqueue(Call(key), Wish("quiet", None, priority=-3))).priority == -3
        for caller, wish, refusal in (
            (NOBODY, Wish("typed", {}), Unauthenticated),
            (user, Wish("quiet", {}), NotFound),  # as if there were none
            (user, Wish("none", {}), NotFound),
            (user, Wish("typed", {"none": 1}), Invalid),
            (user, Wish("typed", {}, priority=1), Invalid),
            (Caller(Kind.KEY, "keys/k", scopes=frozenset()), Wish("quiet", {}), Denied),
        ):
            with pytest.raises(refusal):
                await enqueuing.enqueue(Call(caller), wish)
        wrong = await asked(shop, "typed", {"none": 1})
        async with running(ground, shop, *functions):
            await eventually(lambda: not ground.value("select count(*) from transom.tasks where end_time is null"))
        assert [getattr(one, name) for one in told] == ["things/a"]
        assert row(ground, wrong, "state, attempts") == ("DEAD", 1)  # what is no such message never will be
        ground.execute(
            "insert into transom.tasks (id, handler, caller) select 'n' || n, 'x', 'users/u' from generate_series(1, 1000) n"
        )
        with pytest.raises(Exhausted):
            await enqueuing.enqueue(Call(user), Wish("typed", {}))
        await handlers.declare([])
        with pytest.raises(NotFound):
            await enqueuing.enqueue(Call(key), Wish("quiet", {}))


@asynchronous
async def test_who_asks_for_a_task_with_a_key_is_told_the_name_of_the_one_that_has_it(ground: Ground) -> None:
    cause = type("Cause", (), {"request_id": "", "traceparent": ""})()
    async with ground.workshop() as shop:

        async def once(meanwhile: str = "") -> str:
            work = shop.work(cause)
            name = await work.enqueue_once("later", "k")
            assert await work.enqueue_once("later", "k", {"again": True}) == name
            if meanwhile:
                ground.execute(meanwhile)
            await work.commit()
            return name

        first = await once()
        assert await once() == first and ground.rows("select 'tasks/' || id from transom.tasks") == [(first,)]
        # What is told must be so when it is committed: else it is decided again.
        ended = "update transom.tasks set state = 'SUCCEEDED', end_time = now()"
        with pytest.raises(Stale):
            await once(ended)
        with pytest.raises(Stale):
            await once("insert into transom.tasks (id, handler, unique_key) values ('other', 'later', 'k')")
        assert await once() == "tasks/other"
        ground.execute(ended)
        assert await once() not in (first, "tasks/other")
        with pytest.raises(Invalid):
            await shop.work(cause).enqueue_once("later", "")


@asynchronous
async def test_the_app_may_ask_for_what_a_live_worker_runs(ground: Ground) -> None:
    def called(*names: str, **more: Any) -> Any:
        return declared([named(lambda order, work: None, name=name, **more) for name in names])

    cause = type("Cause", (), {"request_id": "", "traceparent": ""})()
    async with ground.workshop() as shop:
        handlers = StoredHandlers(shop.parts.pool)

        async def known(name: str) -> bool:
            work = shop.work(cause)
            work.enqueue(name)
            try:
                await work.commit()
            except Precondition as refused:
                return refused.reason != "TASK_UNKNOWN"
            return True

        await handlers.declare([])
        assert await known("a")  # no worker ever ran: nobody can tell
        await handlers.declare(called("a", "b", callable_by="users"), "old")
        await handlers.declare(called("b", "c"), "new")
        assert [await known(name) for name in "abcd"] == [True, True, True, False]
        await handlers.keep(called("a", "b", callable_by="users"), "old")
        found = await handlers.find("b")
        assert found is not None and found.callable_by == "nobody"  # who started last is right
        ground.execute("update transom.task_workers set seen_time = now() - interval '31 s' where worker = 'old'")
        await handlers.keep(called("b", "c"), "new")
        assert [await known(name) for name in "abc"] == [False, True, True]
        await handlers.keep(called("a", "b"), "old")  # it was away, not dead
        assert await known("a")
        with pytest.raises(Invalid):
            shop.work(cause).enqueue("schedule.beat")
        with pytest.raises(ValueError, match="those of schedules"):
            called("schedule.beat")
        ground.execute("delete from transom.task_handlers; delete from transom.task_workers")


@asynchronous
async def test_workers_say_what_they_run_for_as_long_as_they_live(ground: Ground) -> None:
    async def function(order: Order, work: Work) -> None: ...

    stop = asyncio.Event()
    async with ground.workshop() as shop:
        saying = asyncio.create_task(
            declaring(StoredHandlers(shop.parts.pool), declared([named(function, name="a")]), "w", stop)
        )
        names = "select names from transom.task_workers"
        await eventually(lambda: ground.rows(names) == [(["a"],)])
        stop.set()
        await asyncio.wait_for(saying, 10)
        ground.execute("delete from transom.task_handlers; delete from transom.task_workers")


@asynchronous
async def test_who_follows_a_task_is_told_what_it_becomes_while_they_may(ground: Ground) -> None:
    user = Caller(Kind.USER, "users/u")
    now = [user]

    async def again() -> Caller:
        return now[0]

    async with ground.workshop() as shop:
        stored = StoredTasks(shop.parts.pool)
        following = Following(Tasks(stored, Audit(None)), stored)  # type: ignore[arg-type]
        name = f"tasks/{await asked(shop, 'x', caller=user.name)}"
        told = following.follow(user, name, again)
        assert (await anext(told)).state == "QUEUED"
        ground.execute("update transom.tasks set state = 'RUNNING', progress = 0.5")
        assert ((await anext(told)).state, (await anext(following.follow(user, name, again))).progress) == (
            "RUNNING",
            0.5,
        )
        ground.execute("update transom.tasks set state = 'SUCCEEDED', end_time = now()")
        assert [one.state async for one in told] == ["SUCCEEDED"]
        with pytest.raises(NotFound):
            await anext(following.follow(Caller(Kind.USER, "users/v"), name, again))
        name = f"tasks/{await asked(shop, 'x', caller=user.name)}"
        many = [following.follow(user, name, again) for _ in range(FOLLOWED_MAX_OF_ONE)]
        for one in many:
            await anext(one)
        with pytest.raises(Exhausted):
            await anext(following.follow(user, name, again))
        now[0] = NOBODY  # signed out
        ground.execute("update transom.tasks set progress = 0.7 where state = 'QUEUED'")
        with pytest.raises(Unauthenticated):
            await anext(many[0])
        now[0] = user
        following.drain()
        with pytest.raises(Unavailable):
            await anext(many[1])
        for one in many:
            await one.aclose()


APART = """
import os, time
from server.apps import Snooze, task

@task("snoozes", cpu=True)
def snoozes(payload):
    raise Snooze(3600)

@task("answers", cpu=True)
def answers(payload):
    return {"sum": sum(payload["of"]), "pid": os.getpid()}

@task("raises", cpu=True, retries=0)
def raises(payload):
    raise ValueError("no")

@task("exits", cpu=True, retries=0)
def exits(payload):
    os._exit(3)

@task("sleeps", cpu=True, retries=0, time_limit=1)
def sleeps(payload):
    time.sleep(60)

@task("waits", cpu=True)
def waits(payload):
    open(payload["file"], "w").write(str(os.getpid()))
    time.sleep(60)
"""


@asynchronous
async def test_what_needs_a_core_has_a_process_whose_end_is_that_of_its_run_alone(
    ground: Ground, tmp_path: Path
) -> None:
    (tmp_path / "tasks.py").write_text(APART)
    waiting = tmp_path / "waiting"
    async with ground.workshop() as shop:
        app = load(tmp_path, shop.parts.schema, [TASKS])
        async with running(ground, shop, *app.named):
            wanted = {"raises": "DEAD", "exits": "DEAD", "sleeps": "DEAD", "answers": "SUCCEEDED", "snoozes": "QUEUED"}
            ids = {handler: await asked(shop, handler, {"of": [1, 2]}) for handler in wanted}
            for handler, state in wanted.items():
                await eventually(lambda handler=handler, state=state: row(ground, ids[handler]) == state)
            await eventually(lambda: row(ground, ids["snoozes"], "takes, attempts") == (1, 0))
            cancelled = await asked(shop, "waits", {"file": str(waiting)})
            await eventually(lambda: waiting.exists() and waiting.read_text())
            tasks = Tasks(StoredTasks(shop.parts.pool), Audit(None))  # type: ignore[arg-type]
            await tasks.cancel(OPERATOR, f"tasks/{cancelled}")
            await eventually(lambda: row(ground, cancelled) == "CANCELLED")
            await eventually(lambda: not Path(f"/proc/{waiting.read_text()}").exists())
    told = json.loads(row(ground, ids["answers"], "result"))
    assert told["sum"] == 3 and told["pid"] != os.getpid()
    error, trace = row(ground, ids["raises"], "error, traceback")
    assert error == "ValueError: no" and "in raises" in trace
    assert "BrokenProcessPool" in row(ground, ids["exits"], "error")
    assert "time limit" in row(ground, ids["sleeps"], "error")
