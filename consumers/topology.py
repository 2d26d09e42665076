"""What stands in the broker: exchanges, queues, bindings. Declared by every process that needs them, safe to repeat.

    transom.events (topic) ──<resource type>.<verb>──► transom.task.<handler> ──► workers
                                                             ▲            │ failed
                     after its time, by the default exchange │            ▼
                                                      transom.delay.<rung> (fanout + queue)
                                                                          │ out of retries
                                                                          ▼
                                                                    transom.dead

Every queue is a quorum queue: replicated, on disk before it is confirmed. A full queue refuses new messages (the
publisher keeps them) and loses none. What the broker itself moves (a delay that ran out, a delivery limit reached)
it moves at least once: the copy is confirmed by the target before the source forgets it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from server.store.broker import BrokerLost, Channel, connect

log = structlog.get_logger("topology")

EVENTS = "transom.events"
DEAD = "transom.dead"

TASK_MESSAGES = 1_000_000
"""Most messages of one handler's queue. Beyond it the relay keeps the events in the outbox, for every handler."""
DELAY_MESSAGES = 1_000_000
"""Most messages waiting on one rung. Beyond it a worker keeps what failed, and so takes nothing new."""
DEAD_MESSAGES = 100_000
"""Most parked messages. Beyond it a worker keeps what it would park."""
DELIVERY_LIMIT = 20
"""Unanswered deliveries of one message after which the broker parks it by itself. The runner acts much earlier
(`runner.RETURNS`); this is for a message that kills the runner before it can."""
SETTLE = 2.0
"""Seconds between the making of a queue and its first message. RabbitMQ writes the name under which it finds a quorum
queue's log again to disk up to a second late (seen with 3.10): a broker killed in that second comes back with a queue
that never answers again, and nothing must be in it."""

_QUORUM = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}
_MOVED_SAFELY = {**_QUORUM, "x-dead-letter-exchange": "", "x-dead-letter-strategy": "at-least-once"}


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of the ladder of delays, shared by all handlers."""

    name: str
    seconds: int


LADDER = (
    Rung("transom.delay.1s", 1),
    Rung("transom.delay.5s", 5),
    Rung("transom.delay.30s", 30),
    Rung("transom.delay.2m", 120),
    Rung("transom.delay.10m", 600),
    Rung("transom.delay.1h", 3600),
)


def rung(attempts: int) -> Rung:
    """Where a message waits after its `attempts`-th failure (from 1)."""
    return LADDER[min(attempts, len(LADDER)) - 1]


def queue_of(handler: str) -> str:
    """The queue of a handler."""
    return f"transom.task.{handler}"


async def stand(channel: Channel, amqp: str, instance: str, handlers: Sequence[tuple[str, str]]) -> None:
    """Declares what is missing; returns when messages may be sent to all of it.

    `handlers` are their names and routing keys (`<resource type>.<verb>`). The relay does it too, before it publishes
    anything: an event must not pass by a handler whose queue does not exist yet. Nothing is ever deleted. Raises
    BrokerLost, also where something exists with other arguments: the reason then names them.
    """
    new = not await _complete(amqp, instance, handlers)
    await _declare(channel, handlers)
    if new:
        log.info("made new queues", settling=SETTLE)
        await asyncio.sleep(SETTLE)


async def _complete(amqp: str, instance: str, handlers: Sequence[tuple[str, str]]) -> bool:
    """Whether all queues are there. Asked on a connection of its own: the answer no costs it."""
    probe = await connect(amqp, f"{instance} probe")
    try:
        channel = await probe.channel()
        for name in (DEAD, *(step.name for step in LADDER), *(queue_of(name) for name, _ in handlers)):
            await channel.depth(name)
    except BrokerLost:
        return False
    finally:
        await probe.close()
    return True


async def _declare(channel: Channel, handlers: Sequence[tuple[str, str]]) -> None:
    await channel.exchange(EVENTS, "topic")
    await channel.queue(DEAD, {**_QUORUM, "x-max-length": DEAD_MESSAGES})
    for step in LADDER:
        # A fanout of its own for each rung leaves the routing key free to say where the message returns to.
        await channel.exchange(step.name, "fanout")
        await channel.queue(
            step.name,
            {**_MOVED_SAFELY, "x-message-ttl": step.seconds * 1000, "x-max-length": DELAY_MESSAGES},
        )
        await channel.bind(step.name, step.name, "")
    for name, key in handlers:
        queue = queue_of(name)
        await channel.queue(
            queue,
            {
                **_MOVED_SAFELY,
                "x-dead-letter-routing-key": DEAD,
                "x-max-length": TASK_MESSAGES,
                "x-delivery-limit": DELIVERY_LIMIT,
            },
        )
        await channel.bind(queue, EVENTS, key)
