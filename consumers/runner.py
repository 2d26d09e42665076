"""The runner: takes deliveries, runs their handlers, settles them.

A handler's effect and its inbox row commit in one transaction; the delivery is acknowledged after that. Killed in
between, the broker delivers again and the inbox says that it is done. What fails is published to the ladder of delays
(or parked) and confirmed there before the original is acknowledged: killed in between there are two copies, which the
inbox tells apart again. Handlers of one queue run side by side; their order is not the order of the events.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import pika
import structlog
from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from structlog.contextvars import bind_contextvars
from transom.events.v1.event_pb2 import Event

from consumers import topology
from consumers.handlers import Handler, Outcome, Poison, Work
from consumers.inbox import Inbox
from consumers.waiting import Backoff, either
from server.apps import Discard
from server.errors import Stale, Unavailable
from server.store.broker import BrokerLost, Channel, Delivery, PublishRefused, connect

log = structlog.get_logger("worker")

IN_FLIGHT = 64
"""Deliveries a process holds at most, shared out evenly among its handlers, after what those get that run few at once."""
PREFETCH = 16
"""Deliveries of one handler a process holds at most; so many runs of it at one time."""
RETURNS = 5
"""Times a message may come back unanswered (its worker died, or hung up) before that counts as a failure."""
RERUNS = 5
"""Times a handler is run again at once when somebody changed what it had read."""
REASON = 500
"""Longest reason written into a message's header, in characters."""

ATTEMPTS, FIRST, WHY, WHOSE = "transom-attempts", "transom-first-time", "transom-reason", "transom-handler"
"""Headers of a message that failed: how often, when first (Unix seconds), why last, in which handler."""


class RunnerMetrics:
    """What a worker says of itself."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        to: dict[str, Any] = {} if registry is None else {"registry": registry}
        self.connected = Gauge("transom_worker_broker_connected", "1 while this worker takes deliveries.", **to)
        self.runs = Counter(
            "transom_task_runs", "Deliveries by outcome: done, retry, discard, dead.", ["handler", "outcome"], **to
        )
        self.repeats = Counter(
            "transom_task_repeats", "Deliveries of what was already done, acknowledged unseen.", ["handler"], **to
        )
        self.in_flight = Gauge("transom_task_in_flight", "Deliveries held.", ["handler"], **to)
        self.seconds = Histogram(
            "transom_task_seconds",
            "Duration of a run, commit included.",
            ["handler"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
            **to,
        )


class Runner:
    """One worker process. `run` returns after `stop` was set and what ran was finished or given up."""

    def __init__(
        self,
        amqp: str,
        inbox: Inbox,
        works: Callable[[Event], Work],
        handlers: Sequence[Handler],
        metrics: RunnerMetrics,
        *,
        instance: str = "worker",
        grace: float = 8.0,
    ) -> None:
        self._amqp = amqp
        self._inbox = inbox
        self._works = works
        self._handlers = handlers
        self._metrics = metrics
        self._instance = instance
        self._grace = grace
        self._prefetch = shares(handlers)
        # Bounds what runs across connections too: what an earlier connection delivered may still be running.
        self._slots = {name: asyncio.Semaphore(most) for name, most in self._prefetch.items()}
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}
        self.stop = asyncio.Event()

    async def run(self) -> None:
        """Works until `stop` is set; outlives the broker and Postgres being away."""
        backoff = Backoff()
        while not self.stop.is_set():
            try:
                await self._connected(backoff)
            except BrokerLost as lost:
                wait = backoff.next()
                log.warning("the broker is away", error=lost.message, retry_in=round(wait, 2))
                await either(self.stop, wait)
            finally:
                self._metrics.connected.set(0)
        await self._finish(self._grace)

    async def _connected(self, backoff: Backoff) -> None:
        """Connects and consumes until `stop` is set. Raises BrokerLost."""
        # Two connections: a broker short of memory stops reading from those that publish, and must still hear acks.
        consuming = await connect(self._amqp, self._instance)
        try:
            publishing = await connect(self._amqp, f"{self._instance} retries")
            try:
                out = await publishing.channel()
                await topology.stand(
                    out, self._amqp, self._instance, [(handler.name, handler.key) for handler in self._handlers]
                )
                incoming = await consuming.channel()
                consumers = [await self._consume(incoming, out, handler) for handler in self._handlers]
                backoff.reset()
                self._metrics.connected.set(1)
                log.info("taking deliveries", handlers=len(consumers), prefetch=self._prefetch)
                await _first(self.stop, consuming.lost, publishing.lost)
                for connection in (consuming, publishing):
                    if connection.lost.is_set():
                        raise connection.error()
                for consumer in consumers:
                    await incoming.cancel(consumer)
                await self._finish(self._grace)
            finally:
                await publishing.close()
        finally:
            await consuming.close()

    async def _consume(self, incoming: Channel, out: Channel, handler: Handler) -> str:
        def heard(delivery: Delivery) -> None:
            task = asyncio.create_task(self._deliver(handler, delivery, out))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return await incoming.consume(topology.queue_of(handler.name), self._prefetch[handler.name], heard)

    async def _finish(self, grace: float) -> None:
        """Waits for what runs, then gives the rest up: unacknowledged, it is delivered to somebody else."""
        tasks = set(self._tasks)
        if tasks:
            _, tasks = await asyncio.wait(tasks, timeout=grace)
        if tasks:
            log.warning("gave up what still ran; it will be delivered again", deliveries=len(tasks))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _deliver(self, handler: Handler, delivery: Delivery, out: Channel) -> None:
        in_flight = self._metrics.in_flight.labels(handler.name)
        in_flight.inc()
        try:
            async with self._slots[handler.name]:
                await self._handle(handler, delivery, out)
        except BrokerLost as lost:
            log.warning("not settled; the delivery will come again", handler=handler.name, error=lost.message)
        except Exception:
            log.exception("not settled; the delivery will come again", handler=handler.name)
            await asyncio.sleep(1)
            delivery.give_back()
        finally:
            in_flight.dec()

    async def _handle(self, handler: Handler, delivery: Delivery, out: Channel) -> None:
        try:
            event = Event.FromString(delivery.body)
            if not event.id:
                raise DecodeError("no id")
        except DecodeError:
            bind_contextvars(handler=handler.name)
            log.error("a message is not an event", message_id=delivery.message_id[:100], bytes=len(delivery.body))
            await self._settle(handler, delivery, out, Outcome.DEAD, "malformed: not a transom.events.v1.Event")
            return
        bind_contextvars(handler=handler.name, event_id=event.id, resource=event.name)
        if event.request_id:
            bind_contextvars(request_id=event.request_id)
        if event.traceparent:
            bind_contextvars(traceparent=event.traceparent)
        # A redelivery may come while the first delivery's run, whose connection was lost, still goes on.
        key = (handler.name, event.id)
        while earlier := self._running.get(key):
            await asyncio.wait([earlier])
        task = asyncio.current_task()
        assert task is not None
        self._running[key] = task
        try:
            await self._once(handler, event, delivery, out)
        finally:
            del self._running[key]

    async def _once(self, handler: Handler, event: Event, delivery: Delivery, out: Channel) -> None:
        if delivery.channel.lost:
            return
        if await self._done(handler, event):
            self._metrics.repeats.labels(handler.name).inc()
            delivery.ack()
            return
        if delivery.returns >= RETURNS:
            outcome, reason = Outcome.RETRY, f"came back unanswered {delivery.returns} times: workers died or hung up"
        else:
            start = time.monotonic()
            outcome, reason = await self._attempt(handler, event)
            self._metrics.seconds.labels(handler.name).observe(time.monotonic() - start)
        await self._settle(handler, delivery, out, outcome, reason)

    async def _attempt(self, handler: Handler, event: Event) -> tuple[Outcome, str]:
        """Runs the handler and commits its effect; how it ended and, where it failed, why."""
        reason = ""
        for rerun in range(RERUNS + 1):
            limit = asyncio.timeout(handler.time_limit)
            try:
                async with limit:
                    work = self._works(event)
                    extra = await handler.run(event, work)
                    await work.commit(extra=[*extra, self._inbox.record(handler.name, event.id)])
                return Outcome.DONE, ""
            except Stale as stale:
                reason = _reason(stale)
                if rerun < RERUNS:
                    await asyncio.sleep(random.uniform(0, 0.05) * 2**rerun)
                    continue
                log.warning("somebody changed what the task had read, each time", reruns=RERUNS)
            except Discard as discard:
                log.info("the task discarded the event", reason=str(discard)[:REASON])
                await self._written(handler, event)
                return Outcome.DISCARD, ""
            except Poison as poison:
                log.error("the event can never be handled", reason=str(poison)[:REASON])
                return Outcome.DEAD, _reason(poison)
            except Exception as error:
                reason = f"over its time limit of {handler.time_limit:g} s" if limit.expired() else _reason(error)
                # A failed commit may have been one after all, or another worker's may have come first.
                if await self._done(handler, event):
                    return Outcome.DONE, ""
                log.warning("the task failed", reason=reason, exc_info=not limit.expired())
            break
        return Outcome.RETRY, reason

    async def _done(self, handler: Handler, event: Event) -> bool:
        """Whether it is finished; waits for the database, so that its absence uses up no retries."""
        backoff = Backoff()
        while True:
            try:
                return await self._inbox.done(handler.name, event.id)
            except Unavailable as away:
                log.warning("the database is away; deliveries are held", error=away.message)
                await asyncio.sleep(backoff.next())

    async def _written(self, handler: Handler, event: Event) -> None:
        backoff = Backoff()
        while True:
            try:
                return await self._inbox.write(handler.name, event.id)
            except Unavailable:
                await asyncio.sleep(backoff.next())

    async def _settle(self, handler: Handler, delivery: Delivery, out: Channel, outcome: Outcome, reason: str) -> None:
        """Moves the message on where it failed, and acknowledges it. Raises BrokerLost."""
        attempts = _count(delivery, ATTEMPTS, 0)
        if outcome in (Outcome.RETRY, Outcome.DEAD):
            attempts += 1
            if attempts > handler.retries:
                outcome = Outcome.DEAD
            headers = {
                WHOSE: handler.name,
                ATTEMPTS: attempts,
                FIRST: _count(delivery, FIRST, int(time.time())),
                WHY: reason[:REASON],
            }
            await self._moved(out, delivery, outcome, headers)
            say = log.error if outcome is Outcome.DEAD else log.warning
            say("moved on", outcome=outcome, attempts=attempts, reason=reason)
        self._metrics.runs.labels(handler.name, outcome).inc()
        delivery.ack()

    async def _moved(self, out: Channel, delivery: Delivery, outcome: Outcome, headers: dict[str, Any]) -> None:
        """Publishes a failed message to where it waits or stays, for as long as that is full. Raises BrokerLost."""
        backoff = Backoff()
        while True:
            properties = pika.BasicProperties(
                message_id=delivery.message_id,
                content_type="application/x-protobuf",
                delivery_mode=2,
                headers=headers,
            )
            try:
                if outcome is Outcome.DEAD:
                    await out.publish("", topology.DEAD, delivery.body, properties, mandatory=True)
                else:
                    step = topology.rung(headers[ATTEMPTS])
                    await out.publish(step.name, delivery.queue, delivery.body, properties, mandatory=True)
                return
            except PublishRefused as refused:
                log.error("a failed message has nowhere to go and is held", outcome=outcome, error=refused.message)
                await asyncio.sleep(backoff.next())


def shares(handlers: Sequence[Handler]) -> dict[str, int]:
    """How many deliveries of each handler a process holds, by name."""
    few = sum(min(handler.at_once, PREFETCH) for handler in handlers)
    many = sum(not handler.at_once for handler in handlers)
    most = max(1, min(PREFETCH, (IN_FLIGHT - few) // max(1, many)))
    return {handler.name: min(PREFETCH, handler.at_once or most) for handler in handlers}


async def _first(*events: asyncio.Event) -> None:
    """Returns when one of them is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:REASON]


def _count(delivery: Delivery, header: str, default: int) -> int:
    value = delivery.headers.get(header)
    return value if isinstance(value, int) else default
