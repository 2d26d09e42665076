"""The runner against a real Postgres and a real RabbitMQ: outcomes, repeats, and harm done in the middle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from consumers_ground import TRACE, Ground, asynchronous, cut_off, eventually
from prometheus_client import CollectorRegistry
from transom.events.v1.event_pb2 import Event

from consumers import tasks, topology
from consumers.handlers import Handler
from consumers.inbox import Inbox
from consumers.relay import Relay, RelayMetrics
from consumers.runner import Runner, RunnerMetrics
from consumers.workshop import Workshop
from deploy.native.stack import Stack
from server.apps import Discard, Work
from server.apps.loading import TASKS, load
from server.store import broker

SETTLE = topology.SETTLE
Run = Callable[[Event, Work], Awaitable[Any]]


@pytest.fixture
def ground(components: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    monkeypatch.setattr(topology, "SETTLE", 0)  # only the tests that kill the broker need the queues on disk
    with Ground.on(components, tmp_path) as ground:
        yield ground


@dataclass
class Shop:
    """A runner under test, and what it works with."""

    ground: Ground
    work: Workshop
    runner: Runner
    registry: CollectorRegistry
    seen: list[Event] = field(default_factory=list)

    def outcomes(self, handler: str) -> dict[str, int]:
        """Deliveries of a handler by outcome."""
        found = {}
        for outcome in ("done", "retry", "discard", "dead"):
            labels = {"handler": handler, "outcome": outcome}
            if value := self.registry.get_sample_value("transom_task_runs_total", labels):
                found[outcome] = int(value)
        return found

    def repeats(self, handler: str) -> int:
        """Deliveries of what was done already."""
        return int(self.registry.get_sample_value("transom_task_repeats_total", {"handler": handler}) or 0)

    def runs(self, name: str) -> int:
        """How often a task had its effect on a thing."""
        return int(self.ground.value("select runs from test_v1.things where name = %s", [name]))


def counting(run: Run | None = None, *, verb: str = "tested", **options: Any) -> Handler:
    """A handler that counts on its thing, after `run`."""

    async def effect(event: Event, work: Work) -> tuple[()]:
        if run is not None:
            await run(event, work)
        thing = await work.get(event.name)
        work.update(thing, {"runs": thing.runs + 1}, event="was_tested")
        return ()

    return Handler("test_count", "test.v1.Thing", verb, effect, **options)


@asynccontextmanager
async def working(
    ground: Ground, handler: Handler, *, amqp: str | None = None, grace: float = 8, relay: bool = True
) -> AsyncIterator[Shop]:
    """A runner with that handler, and a relay that feeds it, in this process."""
    ground.queues.add(topology.queue_of(handler.name))
    registry = CollectorRegistry()
    async with ground.workshop() as work:
        runner = Runner(
            amqp or ground.amqp, Inbox(work.parts.pool), work.work, [handler], RunnerMetrics(registry), grace=grace
        )
        feeding = Relay(ground.postgres, ground.amqp, [(handler.name, handler.key)], RelayMetrics(CollectorRegistry()))
        running = [asyncio.create_task(runner.run())]
        if relay:
            running.append(asyncio.create_task(feeding.run()))
        try:
            yield Shop(ground, work, runner, registry)
        finally:
            runner.stop.set()
            feeding.stop.set()
            await asyncio.wait_for(asyncio.gather(*running), 20)


@asynchronous
async def test_a_handler_that_fails_is_run_again_and_its_effect_happens_once(ground: Ground) -> None:
    runs = 0

    async def fails_at_first(event: Event, work: Work) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            work.mail("nobody@example.com", "never", "gathered, and dropped with the failure")
            raise RuntimeError("not yet")

    async with working(ground, counting(fails_at_first)) as shop:
        name = await ground.thing(shop.work, "tested")
        await eventually(lambda: shop.outcomes("test_count") == {"retry": 1, "done": 1})
        assert shop.runs(name) == 1
    assert ground.value("select count(*) from transom.inbox") == 1
    assert ground.value("select count(*) from transom.mails") == 0
    assert ground.parked() == []
    assert ground.waiting(topology.queue_of("test_count")) == 0, "acknowledged"


@asynchronous
async def test_a_handler_that_asks_for_it_runs_so_many_times_at_once_and_no_more(ground: Ground) -> None:
    running = most = 0

    async def heavy(event: Event, work: Work) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)  # others may begin meanwhile
        running -= 1

    async with working(ground, counting(heavy, at_once=2)) as shop:
        for _ in range(6):
            await ground.thing(shop.work, "tested")
        await eventually(lambda: shop.outcomes("test_count") == {"done": 6})
    assert most == 2


@asynchronous
async def test_what_fails_for_good_is_parked_with_its_story(ground: Ground) -> None:
    async def always_fails(event: Event, work: Work) -> None:
        raise ValueError("x" * 2000)

    async with working(ground, counting(always_fails, retries=1)) as shop:
        name = await ground.thing(shop.work, "tested")
        await eventually(lambda: shop.outcomes("test_count") == {"retry": 1, "dead": 1})
        assert shop.runs(name) == 0
    [(body, headers)] = ground.parked()
    assert Event.FromString(body).name == name
    assert headers["transom-handler"] == "test_count"
    assert headers["transom-attempts"] == 2
    assert headers["transom-reason"].startswith("ValueError: xxx") and len(headers["transom-reason"]) == 500
    assert isinstance(headers["transom-first-time"], int)
    assert ground.value("select count(*) from transom.inbox") == 0


@asynchronous
async def test_what_is_no_event_is_parked_at_once(ground: Ground) -> None:
    async with working(ground, counting(), relay=False) as shop:
        await eventually(lambda: shop.registry.get_sample_value("transom_worker_broker_connected") == 1)
        ground.send(topology.queue_of("test_count"), b"\xff\xff nonsense")
        ground.send(topology.queue_of("test_count"), b"")
        await eventually(lambda: shop.outcomes("test_count") == {"dead": 2})
    assert {headers["transom-reason"].split(":")[0] for _, headers in ground.parked()} == {"malformed"}


@asynchronous
async def test_a_repeated_event_has_no_second_effect(ground: Ground) -> None:
    async with working(ground, counting()) as shop:
        name = await ground.thing(shop.work, "tested")
        await eventually(lambda: shop.outcomes("test_count") == {"done": 1})
        identity = ground.value("select id from transom.events where verb = 'tested'")
        again = Event(id=str(identity), name=name, resource_type="test.v1.Thing", verb="tested").SerializeToString()
        for _ in range(3):
            ground.send(topology.queue_of("test_count"), again)
        await eventually(lambda: shop.repeats("test_count") == 3)
        assert shop.outcomes("test_count") == {"done": 1}
        assert shop.runs(name) == 1


@asynchronous
async def test_two_workers_that_run_the_same_event_have_one_effect(ground: Ground) -> None:
    both = asyncio.Barrier(2)

    async def meets(event: Event, work: Work) -> None:
        await both.wait()

    handler = counting(meets)
    async with working(ground, handler, relay=False) as one, working(ground, handler, relay=False) as two:
        shops = (one, two)
        await eventually(lambda: all(s.registry.get_sample_value("transom_worker_broker_connected") for s in shops))
        name = await ground.thing(one.work, "elsewhere")
        again = Event(id="7", name=name, resource_type="test.v1.Thing", verb="tested").SerializeToString()
        for _ in shops:  # the queue deals to its consumers in turn
            ground.send(topology.queue_of("test_count"), again)
        await eventually(lambda: all(s.outcomes("test_count") == {"done": 1} for s in shops))
        assert one.runs(name) == 1


@asynchronous
async def test_what_others_changed_meanwhile_is_decided_again_at_once(ground: Ground) -> None:
    runs = 0

    async def disturbed(event: Event, work: Work) -> None:
        nonlocal runs
        runs += 1
        await work.get(event.name)
        if runs <= 2:
            other = shop.work.work(Event())
            thing = await other.get(event.name)
            other.update(thing, {"runs": thing.runs + 10})
            await other.commit()

    async def effect(event: Event, work: Work) -> tuple[()]:
        thing = await work.get(event.name)
        await disturbed(event, work)
        work.update(thing, {"runs": thing.runs + 1})
        return ()

    handler = Handler("test_count", "test.v1.Thing", "tested", effect)
    async with working(ground, handler) as shop:
        name = await ground.thing(shop.work, "tested")
        await eventually(lambda: shop.outcomes("test_count") == {"done": 1})
        assert shop.runs(name) in (11, 21)


@asynchronous
async def test_a_discarded_event_is_done_with_and_changes_nothing(ground: Ground) -> None:
    async def discards(event: Event, work: Work) -> None:
        work.mail("nobody@example.com", "never", "gathered, and dropped")
        raise Discard("not for us")

    async with working(ground, counting(discards, retries=0)) as shop:
        name = await ground.thing(shop.work, "tested")
        await eventually(lambda: shop.outcomes("test_count") == {"discard": 1})
        assert shop.runs(name) == 0
    assert ground.value("select count(*) from transom.mails") == 0
    assert ground.value("select count(*) from transom.inbox") == 1
    assert ground.parked() == []


@asynchronous
async def test_a_run_over_its_time_limit_has_failed(ground: Ground) -> None:
    async def never_ends(event: Event, work: Work) -> None:
        await asyncio.Event().wait()

    async with working(ground, counting(never_ends, retries=0, time_limit=0.2)) as shop:
        await ground.thing(shop.work, "tested")
        await eventually(lambda: shop.outcomes("test_count") == {"dead": 1})
    [(_, headers)] = ground.parked()
    assert headers["transom-reason"] == "over its time limit of 0.2 s"


@asynchronous
async def test_what_keeps_coming_back_unanswered_counts_as_failed(ground: Ground) -> None:
    async with working(ground, counting(retries=0), relay=False) as shop:
        await eventually(lambda: shop.registry.get_sample_value("transom_worker_broker_connected") == 1)
        event = Event(id="9", name="things/none", resource_type="test.v1.Thing", verb="tested")
        # As the broker marks what its consumers did not answer for.
        ground.send(topology.queue_of("test_count"), event.SerializeToString(), {"x-delivery-count": 5})
        await eventually(lambda: shop.outcomes("test_count") == {"dead": 1})
    [(_, headers)] = ground.parked()
    assert "came back unanswered" in headers["transom-reason"]


@asynchronous
async def test_a_worker_that_is_asked_to_stop_finishes_what_runs(ground: Ground) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def held(event: Event, work: Work) -> None:
        started.set()
        await go.wait()

    async with working(ground, counting(held)) as shop:
        name = await ground.thing(shop.work, "tested")
        await started.wait()
        shop.runner.stop.set()
        await asyncio.sleep(0.1)
        go.set()
        await eventually(lambda: shop.outcomes("test_count") == {"done": 1})
        assert shop.runs(name) == 1
    assert ground.waiting(topology.queue_of("test_count")) == 0


@asynchronous
async def test_what_does_not_end_in_time_is_left_to_the_next_worker(ground: Ground) -> None:
    started = asyncio.Event()

    async def held(event: Event, work: Work) -> None:
        started.set()
        await asyncio.Event().wait()

    async with working(ground, counting(held), grace=0.2) as shop:
        name = await ground.thing(shop.work, "tested")
        await started.wait()
    async with working(ground, counting(), relay=False) as shop:
        await eventually(lambda: shop.outcomes("test_count") == {"done": 1})
        assert shop.runs(name) == 1


@pytest.mark.parametrize("silent", [False, True])
@asynchronous
async def test_a_run_outlives_the_connection_it_came_by_and_has_its_effect_once(
    ground: Ground, silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is cut, or the network swallows all that is said on it."""
    monkeypatch.setattr(broker, "HEARTBEAT", 2)
    started, go = asyncio.Event(), asyncio.Event()

    async def held(event: Event, work: Work) -> None:
        started.set()
        await go.wait()

    async with cut_off(ground.amqp) as (amqp, line), working(ground, counting(held), amqp=amqp) as shop:
        name = await ground.thing(shop.work, "tested")
        await started.wait()
        connected = lambda: shop.registry.get_sample_value("transom_worker_broker_connected")  # noqa: E731
        if silent:
            line.hold()
        else:
            await line.cut()
        await eventually(lambda: connected() == 0)
        await line.mend()
        await eventually(lambda: connected() == 1)
        go.set()
        await eventually(lambda: shop.repeats("test_count") == 1)
        assert shop.runs(name) == 1
    assert ground.waiting(topology.queue_of("test_count")) == 0


@asynchronous
async def test_kill_9_in_the_middle_of_a_task_and_its_effect_happens_once(ground: Ground) -> None:
    ground.queues |= {topology.queue_of(name) for name in ("count", "report", "drop")}
    hold = ground.folder / "hold"
    hold.touch()
    ground.start("relay")
    first = ground.start("work")
    async with ground.workshop() as shop:
        name = await ground.thing(shop, "counted", request_id="request-7")
    await eventually((ground.folder / f"started-{first.pid}").exists)
    first.send_signal(signal.SIGKILL)
    first.wait()
    [port] = ground.ports(1)
    second = ground.start("work", metrics_port=port)
    await eventually((ground.folder / f"started-{second.pid}").exists)
    hold.unlink()
    await eventually(lambda: ground.metric(port, 'transom_task_runs_total{handler="count",outcome="done"}') == 1)
    assert ground.rows("select runs from test_v1.things where name = %s", [name]) == [(1,)]
    assert ground.rows(
        "select request_id, traceparent, caller from transom.events where verb = 'was_counted' and name = %s", [name]
    ) == [("request-7", TRACE, "system")], "the task's own events carry on the request that caused it"
    second.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(second.wait, 15) == 0
    lines = [json.loads(line) for line in ground.log("work").splitlines()]
    assert {"ts", "level", "event", "instance"} <= set(lines[0])


@asynchronous
async def test_an_ordinary_function_is_a_task_too(ground: Ground) -> None:
    loaded = load(ground.settings().app, ground.schema, [TASKS]).tasks
    [drop] = [h for h in tasks.handlers(loaded, ground.schema) if h.name == "drop"]
    async with working(ground, drop) as shop:
        await ground.thing(shop.work, "dropped")
        await eventually(lambda: shop.outcomes("drop") == {"discard": 1})


@asynchronous
async def test_nothing_is_lost_or_repeated_when_the_broker_is_killed(
    ground: Ground, components: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topology, "SETTLE", SETTLE)
    count = 40
    async with working(ground, counting()) as shop:
        names = [await ground.thing(shop.work, "tested")]
        await eventually(lambda: shop.outcomes("test_count") == {"done": 1})
        names += [await ground.thing(shop.work, "tested") for _ in range(count // 2)]
        [broker] = [p for p in components.status()["processes"] if p["name"] == "rabbitmq"]
        os.kill(broker["pid"], signal.SIGKILL)
        names += [await ground.thing(shop.work, "tested") for _ in range(count // 2)]
        await eventually(lambda: ground.value("select count(*) from transom.inbox") == len(names), within=55)
        assert {shop.runs(name) for name in names} == {1}
    assert ground.parked() == []
