"""Tasks by name, while their workers are killed: at every step nothing is lost and no effect happens twice."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from consumers_ground import PROJECT, Ground, asynchronous, eventually
from task_deaths import STEPS

from deploy.native.stack import Stack
from server.engine.tasks import enqueue


@pytest.fixture
def ground(components: Stack, tmp_path: Path) -> Iterator[Ground]:
    with Ground.on(components, tmp_path) as ground:
        yield ground


@asynchronous
async def test_kill_9_at_every_step_loses_nothing_and_repeats_no_effect_and_a_drain_gives_back(ground: Ground) -> None:
    with psycopg.connect(ground.postgres, autocommit=True) as connection:
        for name in (*(f"walk{n}" for n in range(len(STEPS))), "held"):
            for sql, values in enqueue(datetime.now(UTC), name)[1]:
                connection.execute(sql, values)
    said, script = ground.folder / "deaths", Path(__file__).parent / "task_deaths.py"
    env = {**os.environ, **ground.env, "PYTHONPATH": str(PROJECT)}
    worker = subprocess.Popen([sys.executable, str(script), str(said)], env=env, cwd=PROJECT)
    try:
        of = "select count(*) from transom.tasks where "
        await eventually(lambda: ground.value(of + "handler like 'walk%%' and state = 'SUCCEEDED'") == len(STEPS))
        await eventually(lambda: ground.value(of + "handler = 'held' and progress > 0") == 1)
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait, 15) == 0
    finally:
        if worker.poll() is None:
            worker.kill()
        worker.wait()
    assert said.read_text().splitlines() == [f"{step}: {int(signal.SIGKILL)}" for step in STEPS]
    done = ground.rows("select verb, count(*) from transom.events where verb like 'walked%%' group by 1")
    assert dict(done) == {f"walked{n}": 1 for n in range(len(STEPS))}
    assert ground.rows("select state, attempts from transom.tasks where handler = 'held'") == [("QUEUED", 0)]
    never_lost = {"before take", "in commit", "after commit", "after settle"}  # nobody's, or whole, or perhaps whole
    lost = {handler for (handler,) in ground.rows("select handler from transom.tasks where lost > 0")}
    assert {f"walk{n}" for n, step in enumerate(STEPS) if step not in never_lost} <= lost
