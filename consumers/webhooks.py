"""Posts events to webhook endpoints, in every worker: what happened is written down for each endpoint by one of them at a time,
in the order of the log, and posted by all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from consumers.waiting import Backoff, either
from server.engine.webhook_delivering import Delivering
from server.errors import Refusal
from server.store.webhook_deliveries import DueEndpoint, TakenDelivery
from server.store.webhook_fanning import Lag

AT_ONCE = 32
"""Posts of one process at one time."""
LOOK, LOOK_BUSY = 1.0, 0.02
"""Seconds between two looks for what is new or due, where nobody tells, and while there is some."""
LOOK_DUE = 0.5
"""Seconds between two looks for what is due again."""
LOOK_LAGS = 20.0
"""Seconds between two looks at how far behind endpoints are."""
GRACE = 16.0
"""Seconds that posts under way may take when the process ends: as long as one takes at most. What is given up is posted again."""

log = structlog.get_logger("webhooks")


class WebhookMetrics:
    """What a worker says of webhooks."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        to: dict[str, Any] = {} if registry is None else {"registry": registry}
        self.made = Counter("transom_webhook_deliveries", "Events that were written down for an endpoint here.", **to)
        self.attempts = Counter(
            "transom_webhook_attempts",
            "Posts by outcome: delivered, waiting (to be tried again), failed, and what was answered (2xx to 5xx, or an error).",
            ["outcome", "answer"],
            **to,
        )
        self.seconds = Histogram(
            "transom_webhook_seconds",
            "Duration of a post.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15),
            **to,
        )
        self.in_flight = Gauge("transom_webhook_in_flight", "Posts under way.", **to)
        self.disabled = Counter("transom_webhook_disabled", "Endpoints that were given up here.", ["reason"], **to)
        self.errors = Counter(
            "transom_webhook_errors",
            "What should not happen, by where: fan (writing down), event (one that cannot be told), take, attempt, listen, lags.",
            ["where"],
            **to,
        )
        self._events = Gauge(
            "transom_webhook_behind_events",
            "Events that an endpoint was not yet looked at for, and deliveries to it that wait; every worker says the same.",
            ["endpoint"],
            **to,
        )
        self._late = Gauge(
            "transom_webhook_behind_seconds",
            "Seconds that the oldest of them has been waiting; every worker says the same.",
            ["endpoint"],
            **to,
        )
        self._behind: set[str] = set()

    def behind(self, lags: Sequence[Lag]) -> None:
        """Says how far behind these endpoints are, and nothing more of others."""
        for lag in lags:
            self._events.labels(lag.endpoint).set(lag.events)
            self._late.labels(lag.endpoint).set(lag.seconds or 0.0)
        told = {lag.endpoint for lag in lags}
        for gone in self._behind - told:
            self._events.remove(gone)
            self._late.remove(gone)
        self._behind = told


class WebhookWorker:
    """One process's. `run` returns after `stop` was set and what was under way is done. `hear` calls what it is given whenever
    there may be new events, until it is cancelled; without it they are looked for."""

    def __init__(
        self,
        delivering: Delivering,
        metrics: WebhookMetrics,
        hear: Callable[[Callable[[], None]], Awaitable[None]] | None = None,
    ) -> None:
        self._delivering = delivering
        self._metrics = metrics
        self._hear = hear
        self._told = asyncio.Event()
        self._posts: set[asyncio.Task[None]] = set()
        self._done = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Writes down and posts; outlives Postgres being away."""
        beside = [asyncio.create_task(self._listen(stop)), asyncio.create_task(self._look_behind(stop))]
        try:
            await asyncio.gather(self._fan(stop), self._post(stop))
        finally:
            for task in (*beside, *self._posts):  # no posts, but where this was cancelled
                task.cancel()
            await asyncio.gather(*beside, *self._posts, return_exceptions=True)

    async def _listen(self, stop: asyncio.Event) -> None:
        backoff = Backoff()

        def told() -> None:
            backoff.reset()
            self._told.set()

        while self._hear is not None and not stop.is_set():
            try:
                await self._hear(told)
            except Exception as lost:
                await self._wait(stop, backoff, lost, "listen")

    async def _look_behind(self, stop: asyncio.Event) -> None:
        backoff = Backoff()
        while not stop.is_set():
            try:
                self._metrics.behind(await self._delivering.lags())
            except Exception as lost:
                await self._wait(stop, backoff, lost, "lags")
                continue
            backoff.reset()
            await either(stop, LOOK_LAGS)

    async def _fan(self, stop: asyncio.Event) -> None:
        backoff = Backoff()
        while not stop.is_set():
            self._told.clear()
            try:
                busy, made = await self._delivering.fan()
            except Exception as lost:
                await self._wait(stop, backoff, lost, "fan")
                continue
            backoff.reset()
            self._metrics.made.inc(made)
            self._metrics.errors.labels("event").inc(self._delivering.unreadable())
            if made:
                self._done.set()
            if busy:
                await either(stop, LOOK_BUSY)
            else:
                await _first(stop, self._told, LOOK * random.uniform(0.5, 1))

    async def _post(self, stop: asyncio.Event) -> None:
        backoff = Backoff()
        while not stop.is_set():
            self._done.clear()
            try:
                taken: Sequence[tuple[DueEndpoint, TakenDelivery]] = ()
                if room := AT_ONCE - len(self._posts):
                    taken = await self._delivering.take(room)
            except Exception as lost:
                await self._wait(stop, backoff, lost, "take")
                continue
            backoff.reset()
            for endpoint, delivery in taken:
                task = asyncio.create_task(self._attempt(endpoint, delivery))
                self._posts.add(task)
                task.add_done_callback(self._over)
            if not taken:
                await _first(stop, self._done, LOOK_DUE * random.uniform(0.5, 1))
        if self._posts:
            _, late = await asyncio.wait(self._posts, timeout=GRACE)
            for task in late:
                task.cancel()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._posts.discard(task)
        self._done.set()

    async def _attempt(self, endpoint: DueEndpoint, delivery: TakenDelivery) -> None:
        self._metrics.in_flight.inc()
        try:
            attempt = await self._delivering.attempt(endpoint, delivery)
        except Refusal as refusal:
            log.warning("a post was not written down; it comes again", endpoint=endpoint.id, reason=refusal.reason)
            return
        except Exception:
            self._metrics.errors.labels("attempt").inc()
            log.exception("a post was not written down; it comes again", endpoint=endpoint.id, delivery=delivery.id)
            return
        finally:
            self._metrics.in_flight.dec()
        answer = attempt.answer
        self._metrics.attempts.labels(attempt.state, answer.error or f"{answer.code // 100}xx").inc()
        self._metrics.seconds.observe(answer.seconds)
        if attempt.state != "delivered":
            log.info(
                "not delivered",
                endpoint=endpoint.id,
                delivery=delivery.id,
                state=attempt.state,
                code=answer.code,
                error=answer.error,
                attempts=delivery.attempts,
            )
        if attempt.disabled:
            self._metrics.disabled.labels(attempt.disabled).inc()
            log.warning("an endpoint was disabled", endpoint=endpoint.id, reason=attempt.disabled)

    async def _wait(self, stop: asyncio.Event, backoff: Backoff, lost: Exception, where: str) -> None:
        """Before it is tried again; whatever happened ends nothing."""
        wait = round(backoff.next(), 2)
        self._metrics.errors.labels(where).inc()
        if isinstance(lost, Refusal):
            log.warning("webhooks wait", where=where, reason=lost.reason, retry_in=wait)
        else:
            log.error("webhooks wait", where=where, retry_in=wait, exc_info=lost)
        await either(stop, wait)


async def _first(one: asyncio.Event, other: asyncio.Event, seconds: float) -> None:
    """Returns when one of both is set, or the time is over."""
    waits = [asyncio.create_task(event.wait()) for event in (one, other)]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
