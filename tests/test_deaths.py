"""Workers are killed at every step of what they do: nothing is lost, and no effect happens twice."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import delivery_deaths
import psycopg
import pytest
import task_deaths
from consumers_ground import PROJECT, Ground, asynchronous, eventually
from prometheus_client import CollectorRegistry

from consumers import topology
from consumers.relay import Relay
from consumers.relay_metrics import RelayMetrics
from deploy.native.stack import Stack
from server.engine.tasks import enqueue


@pytest.fixture
def ground(components: Stack, tmp_path: Path) -> Iterator[Ground]:
    with Ground.on(components, tmp_path) as ground:
        yield ground


@contextmanager
def dying(ground: Ground, script: str) -> Iterator[subprocess.Popen[bytes]]:
    """The workers of a script, those that die and the one that lives; it is ended at last."""
    env = {**os.environ, **ground.env, "PYTHONPATH": str(PROJECT)}
    words = [sys.executable, str(Path(__file__).parent / script), str(ground.folder / "deaths")]
    process = subprocess.Popen(words, env=env, cwd=PROJECT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def died(ground: Ground) -> list[str]:
    return (ground.folder / "deaths").read_text().splitlines()


@asynchronous
async def test_tasks_by_name_are_done_once_and_a_drain_gives_back(ground: Ground) -> None:
    steps = task_deaths.STEPS
    with psycopg.connect(ground.postgres, autocommit=True) as connection:
        for name in (*(f"walk{n}" for n in range(len(steps))), "held"):
            for sql, values in enqueue(datetime.now(UTC), name)[1]:
                connection.execute(sql, values)
    with dying(ground, "task_deaths.py") as worker:
        of = "select count(*) from transom.tasks where "
        await eventually(lambda: ground.value(of + "handler like 'walk%%' and state = 'SUCCEEDED'") == len(steps))
        await eventually(lambda: ground.value(of + "handler = 'held' and progress > 0") == 1)
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait, 15) == 0
    assert died(ground) == [f"{step}: {int(signal.SIGKILL)}" for step in steps]
    done = ground.rows("select verb, count(*) from transom.events where verb like 'walked%%' group by 1")
    assert dict(done) == {f"walked{n}": 1 for n in range(len(steps))}
    assert ground.rows("select state, attempts from transom.tasks where handler = 'held'") == [("QUEUED", 0)]
    never_lost = {"before take", "in commit", "after commit", "after settle"}  # nobody's, or whole, or perhaps whole
    lost = {handler for (handler,) in ground.rows("select handler from transom.tasks where lost > 0")}
    assert {f"walk{n}" for n, step in enumerate(steps) if step not in never_lost} <= lost


@asynchronous
async def test_events_are_handled_once(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "SETTLE", 0)
    steps = delivery_deaths.STEPS
    handlers = [delivery_deaths.handler(n) for n in range(len(steps))]
    ground.queues |= {topology.queue_of(one.name) for one in handlers}
    keys = [(one.name, one.key) for one in handlers]
    relay = Relay(ground.postgres, ground.amqp, keys, RelayMetrics(CollectorRegistry()))
    feeding = asyncio.create_task(relay.run())
    try:
        async with ground.workshop() as shop:
            for number in range(len(steps)):
                await ground.thing(shop, f"walk{number}")
        with dying(ground, "delivery_deaths.py") as worker:
            inbox = "select count(*) from transom.inbox where handler like 'test_walk%%'"
            await eventually(lambda: len(died(ground)) == len(steps) if (ground.folder / "deaths").exists() else False)
            await eventually(lambda: ground.value(inbox) == len(steps))
            await eventually(lambda: not any(ground.waiting(queue) for queue in ground.queues))
            worker.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(worker.wait, 15) == 0
    finally:
        relay.stop.set()
        await feeding
    assert died(ground) == [f"{step}: {int(signal.SIGKILL)}" for step in steps]
    done = ground.rows("select verb, count(*) from transom.events where verb like 'walked%%' group by 1")
    assert dict(done) == {f"walked{n}": 1 for n in range(len(steps))}
