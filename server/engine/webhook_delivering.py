"""Posting: what is due goes out signed, and what became of it decides when it is tried again, or never."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import structlog

from server.engine.sealing import Seal
from server.engine.webhook_events import WebhookEvents
from server.engine.webhook_signing import headers
from server.errors import Internal
from server.store.webhook_deliveries import BROKEN, DueEndpoint, Settled, StoredDeliveries, TakenDelivery
from server.store.webhook_fanning import Fanning, Lag
from server.store.webhook_posts import Answer

log = structlog.get_logger("webhooks")

LATE_MOST = 3600.0
"""Seconds of a Retry-After at most."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited after a failure: `first` seconds, each time `factor` times as long, at most `most`, with a jitter of a
    quarter; until `horizon` seconds after the first attempt. After BROKEN failures in a row an endpoint is left alone for
    `pause` seconds, each time twice as long, at most `pause_most`."""

    horizon: float = 72 * 3600.0
    first: float = 5.0
    factor: float = 3.0
    most: float = 4 * 3600.0
    pause: float = 5.0
    pause_most: float = 600.0

    def wait(self, attempts: int) -> float:
        """After so many failures of a delivery, from 1."""
        return min(self.most, self.first * self.factor ** min(attempts - 1, 30)) * random.uniform(0.75, 1.25)

    def closed(self, failures: int) -> float:
        """After so many failures of an endpoint in a row; 0 where it goes on."""
        over = failures - BROKEN
        return 0.0 if over < 0 else min(self.pause_most, self.pause * 2 ** min(over, 20)) * random.uniform(0.75, 1.25)


class Posts(Protocol):
    """Who posts."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer: ...


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt, and what became of it."""

    endpoint: str
    delivery: TakenDelivery
    answer: Answer
    state: str
    disabled: str
    """Why the endpoint was disabled with it; "" where it was not."""


class Delivering:
    """Tells endpoints what happened. Any number of processes may."""

    def __init__(
        self,
        fanning: Fanning,
        deliveries: StoredDeliveries,
        events: WebhookEvents,
        posts: Posts,
        seal: Seal,
        micros: Callable[[], int],
        patience: Patience,
        lease: Callable[[], str],
    ) -> None:
        self._fanning = fanning
        self._deliveries = deliveries
        self._events = events
        self._posts = posts
        self._seal = seal
        self._micros = micros
        self._patience = patience
        self._lease = lease

    async def fan(self) -> tuple[bool, int]:
        """Writes down what endpoints are to be told next: whether there was something to do, and how many deliveries it
        made. Raises Unavailable."""
        return await self._fanning.step(self._events.messages, self._events.told)

    def unreadable(self) -> int:
        """How many deliveries could not be told as they should, since this was asked last."""
        return self._events.unreadable()

    async def lags(self) -> Sequence[Lag]:
        """How far behind endpoints are that are not disabled. Raises Unavailable."""
        return await self._fanning.lags()

    async def take(self, limit: int) -> Sequence[tuple[DueEndpoint, TakenDelivery]]:
        """At most so many deliveries that are due; they are this process's for a minute. Raises Unavailable."""
        return await self._deliveries.take(limit, self._lease())

    async def attempt(self, endpoint: DueEndpoint, delivery: TakenDelivery) -> Attempt:
        """Posts one and writes down what became of it. Raises Refusal where that cannot be: then it is posted again."""
        sealed = [endpoint.secret]
        if endpoint.old_secret is not None and endpoint.old_until is not None and endpoint.old_until > endpoint.now:
            sealed.append(endpoint.old_secret)
        try:
            opened = [self._seal.open(one, endpoint.id) for one in sealed]
        except Internal:
            answer = Answer(0, "SECRET_UNREADABLE", "", 0.0)
        else:
            signed = headers(delivery.message, self._micros() // 1_000_000, delivery.body, opened)
            try:
                answer = await self._posts.post(endpoint.url, signed, delivery.body)
            except Exception:  # it waits and is given up like any other that fails, and holds nothing up for good
                log.exception("a post went wrong", endpoint=endpoint.id, delivery=delivery.id)
                answer = Answer(0, "INTERNAL", "", 0.0)
        settled = self._settled(endpoint, delivery, answer)
        disabled = await self._deliveries.settle(endpoint.id, delivery.id, delivery.lease, settled)
        return Attempt(endpoint.id, delivery, answer, settled.state, disabled or "")

    def _settled(self, endpoint: DueEndpoint, delivery: TakenDelivery, answer: Answer) -> Settled:
        millis = round(answer.seconds * 1000)
        told = (answer.code, answer.error, answer.said, millis)
        if 200 <= answer.code < 300:
            return Settled("delivered", *told)
        if answer.code == 410:
            return Settled("failed", *told, disable="GONE")
        # The last attempt is at the horizon; or later, where the endpoint asks to wait beyond it.
        left = self._patience.horizon - delivery.age
        wait = min(self._patience.wait(delivery.attempts), max(left, 0.0))
        closed = self._patience.closed(endpoint.failures + 1)
        if answer.code in (429, 503) and answer.retry_after is not None:
            late = min(answer.retry_after, LATE_MOST)
            wait, closed = max(wait, late), max(closed, late)
        shut = timedelta(seconds=closed) if closed else None
        if left <= 0:
            return Settled("failed", *told, closed=shut)
        return Settled("waiting", *told, wait=timedelta(seconds=wait), closed=shut)
