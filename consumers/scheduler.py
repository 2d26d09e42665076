"""Lets ticks of schedules through, in every worker: each tick once, however many there are."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from consumers.waiting import Backoff, either
from server.engine.schedules import AT_ONCE, Ticking
from server.errors import Refusal

LONGEST = 5.0
"""Seconds between two looks at most: by then, what operators have paused or resumed is known."""
SHORTEST = 0.02
"""And at least."""

log = structlog.get_logger("scheduler")


class SchedulerMetrics:
    """What a scheduler says of itself."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        to: dict[str, Any] = {} if registry is None else {"registry": registry}
        self.declared = Gauge("transom_schedules", "Schedules that this process declares.", **to)
        self.ticks = Counter(
            "transom_schedule_ticks", "Times a schedule was due and enqueued here.", ["schedule"], **to
        )
        self.missed = Counter("transom_schedule_missed_ticks", "Ticks that were let go here.", ["schedule"], **to)
        self.late = Histogram(
            "transom_schedule_late_seconds",
            "How much later than its time a tick was enqueued.",
            buckets=(0.1, 0.5, 1, 5, 30, 60, 600, 3600, 86_400),
            **to,
        )


class Scheduler:
    """One process's. `run` returns after `stop` was set."""

    def __init__(self, ticking: Ticking, count: int, metrics: SchedulerMetrics) -> None:
        self._ticking = ticking
        self._metrics = metrics
        metrics.declared.set(count)

    async def run(self, stop: asyncio.Event) -> None:
        """Declares, then lets through what is due when it is; outlives Postgres being away, and whatever else."""
        backoff, declared = Backoff(), False
        while not stop.is_set():
            try:
                if not declared:
                    await self._ticking.declare()
                    declared = True
                await either(stop, await self.turn())
                backoff.reset()
            except Refusal as refusal:
                wait = backoff.next()
                log.warning("schedules wait", reason=refusal.reason, retry_in=round(wait, 2))
                await either(stop, wait)
            except Exception:  # a fault of ours: the rest of the worker goes on, and so does this
                wait = backoff.next()
                log.exception("schedules wait", retry_in=round(wait, 2))
                await either(stop, wait)

    async def turn(self) -> float:
        """Lets through what is due now; seconds until the next look. Raises Refusal where the database does not do it."""
        done = await self._ticking.tick()
        for name, advance, late in done:
            if advance.last_tick is not None:
                self._metrics.ticks.labels(name).inc()
                self._metrics.late.observe(max(late, 0))
            if advance.missed:
                self._metrics.missed.labels(name).inc(advance.missed)
            log.info("due", schedule=name, run=advance.last_run, missed=advance.missed, late=round(late, 3))
        if len(done) >= AT_ONCE:
            return 0
        wait = await self._ticking.wait()
        if wait is None or wait > LONGEST:
            return LONGEST * random.uniform(0.8, 1)
        # Where it was due already, another process has it in hand.
        return max(wait, SHORTEST) if wait > 0 else SHORTEST * random.uniform(1, 5)
