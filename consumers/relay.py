"""The relay: committed events, from the outbox (transom.events) to the broker, in order, none lost.

What holds, whatever is killed and whenever:
- Every committed event gets one `position`; positions are dense and increase. For one resource they are in commit
  order: an event's id is taken while the resource's row is locked, and a snapshot that sees an event sees all that
  was committed before its id was taken. A transaction in flight is never waited for and never skipped: its events
  get their positions once they are visible.
- Every event is published at least once: `published` moves only over what the broker has confirmed, in sequence.
- The first copy of each event reaches a queue in the order of positions, but for a queue that refused an event
  because it was full: that one gets it after others that were under way, at most BATCH. After a crash, a lost
  connection or a refusal the unconfirmed are published again, so a queue may see a stretch of events twice. Consumers
  tell by the event's id.
- Numbering never waits for the broker: whoever follows the log in Postgres is told of changes whatever becomes of that.
- One relay is active: it holds an advisory lock on the very connection its statements go through. If that connection
  is lost, so is the lock and the ability to move `published`; the batch under way may still arrive, as second copies.
  One that was killed loses it at once; one that hangs, or whose machine is gone, HUNG seconds after it was last heard:
  Postgres ends the session. Whoever stands by is active at most STANDBY later.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import LiteralString

import pika
import psycopg
import structlog
from psycopg.rows import TupleRow
from transom.events.v1.event_pb2 import Event

from consumers import topology
from consumers.keeping import ROW_BYTES, Keeping, forget
from consumers.relay_metrics import DEPTH_MAX, MEASURE_OUTBOX
from consumers.relay_metrics import RelayMetrics as RelayMetrics
from consumers.waiting import Backoff, either
from server.store.broker import BrokerLost, Channel, Connection, PublishRefused, connect
from server.store.pace import Pace

log = structlog.get_logger("relay")

LOCK = 0x72656C6179
"""Key of the advisory lock of the active relay ("relay")."""

BATCH = 500
"""Most events numbered, read, or waiting for a confirm at one time."""
BATCH_BYTES = 8 << 20
"""Most payload of one batch; a single larger event goes alone."""
POLL = 0.25
"""Seconds after which the outbox is looked at without having been told to. A look that finds nothing is one probe of an
empty index; a `notify transom_events` by whoever writes is heard at once, but costs every commit a lock."""
PACE, BURST = 0.05, 10
"""Seconds from the begin of one batch to that of the next, where the first was not full: under load, events that follow each
other closely share a batch. So many batches go at once after a pause: where little is written, each change goes by itself."""
STANDBY = 1.0
"""Seconds after which a relay that stands by asks for the lock again."""
MEASURE = 1.0
"""Seconds between two measurements of the outbox."""
CONFIRM = 30.0
"""Seconds the broker may take to confirm a batch before it is taken for lost."""
SWEEP = 60.0
"""Seconds between two deletions of what is past its time."""
HUNG = 5.0
"""Seconds without a statement after which Postgres takes the relay for lost and gives the lock to another. The outbox is
looked at every POLL seconds, whatever else is waited for."""
POSITIONS = "transom_positions"
"""Where Postgres tells whoever follows the log (LISTEN) that positions were given; the last of them is what is said."""

# The server, too, must notice a relay that hangs or whose machine is gone: only then does it give the lock to another.
_NOTICE_ITS_LOSS: LiteralString = (
    "select set_config('idle_session_timeout', %s, false), set_config('tcp_user_timeout', %s, false)"
)

# Numbering: one statement, so that positions and the place they were taken from move together or not at all.
_NUMBER: LiteralString = """
    with next as (
        select id, row_number() over (order by id) as step
        from (select id from transom.events where position is null order by id limit %(batch)s) as waiting
    ), given as (
        update transom.events set position = relay.numbered + next.step
        from next, transom.relay where events.id = next.id
        returning octet_length(payload) + coalesce(octet_length(before), 0) + %(row)s as bytes
    ), moved as (
        update transom.relay
        set numbered = numbered + (select count(*) from next), kept_bytes = kept_bytes + (select sum(bytes) from given)
        where exists (select from next) returning numbered
    )
    select count(*), (select pg_notify(%(told)s, numbered::text) from moved) from next"""

# octet_length reads a stored size, not the bytes.
_READ: LiteralString = """
    select id, position, resource_type, verb, name, payload, caller, request_id, traceparent, create_time
    from (
        select *, sum(octet_length(payload)) over (order by position) - octet_length(payload) as ahead
        from (
            select * from transom.events
            where position > (select published from transom.relay) order by position limit %(batch)s
        ) as next
    ) as sized
    where ahead < %(bytes)s order by position"""

# Only from where the batch began: somebody may have set it back meanwhile (`replay`).
_PUBLISHED: LiteralString = """
    update transom.relay set published = %(last)s where published = %(before)s returning numbered > published"""

_REPLAY: LiteralString = """
    with first as (
        select min(position) as position from transom.events where create_time >= clock_timestamp() - %s::interval
    ), back as (
        update transom.relay set published = least(published, first.position - 1) from first
        where first.position is not null returning numbered - published as again
    )
    select coalesce((select again from back), 0), pg_notify('transom_events', 'again')"""


class Relay:
    """One relay process. `run` returns after `stop` was set."""

    def __init__(
        self,
        postgres: str,
        amqp: str,
        handlers: list[tuple[str, str]],
        metrics: RelayMetrics,
        *,
        instance: str = "relay",
        keeping: Keeping | None = None,
    ) -> None:
        self._postgres = postgres
        self._amqp = amqp
        self._handlers = handlers
        self._metrics = metrics
        self._instance = instance
        self._keeping = keeping or Keeping()
        self._broker: Connection | None = None
        self._channel: Channel | None = None
        self._broker_backoff = Backoff()
        self._try_broker = 0.0
        self._woken = asyncio.Event()
        self._behind = asyncio.Event()
        self._measured = self._swept = self._asked = -SWEEP
        self.stop = asyncio.Event()

    async def run(self) -> None:
        """Relays, or stands by, until `stop` is set; outlives Postgres and the broker being away."""
        backoff = Backoff()
        while not self.stop.is_set():
            try:
                async with await self._database() as database:
                    if await self._elected(database):
                        log.info("relay is active")
                        self._metrics.active.set(1)
                        backoff.reset()
                        await self._relay(database)
            except psycopg.Error as error:
                log.warning("the database is away", error=type(error).__name__, sqlstate=error.sqlstate)
                await either(self.stop, backoff.next())
            finally:
                self._metrics.active.set(0)
                await self._hang_up()

    async def _database(self, what: str = "") -> psycopg.AsyncConnection[TupleRow]:
        connection = await psycopg.AsyncConnection.connect(
            self._postgres, autocommit=True, application_name=f"transom-{self._instance[:40]}{what}", connect_timeout=5,
            tcp_user_timeout=5000, keepalives_idle=2, keepalives_interval=1, keepalives_count=3,
        )  # fmt: skip
        silence = f"{HUNG * 1000:.0f}"
        await connection.execute(_NOTICE_ITS_LOSS, [silence, silence])
        return connection

    async def _elected(self, database: psycopg.AsyncConnection[TupleRow]) -> bool:
        """Waits for the lock; False where `stop` came first."""
        while not self.stop.is_set():
            row = await (await database.execute("select pg_try_advisory_lock(%s)", [LOCK])).fetchone()
            if row and row[0]:
                return True
            await either(self.stop, STANDBY)
        return False

    async def _relay(self, database: psycopg.AsyncConnection[TupleRow]) -> None:
        """Until `stop` is set; raises psycopg.Error where the database is lost."""
        self._behind.set()  # until a look says otherwise
        async with await self._database(" ears") as ears:  # who listens keeps a connection to itself
            await ears.execute("listen transom_events")
            parts = [
                asyncio.create_task(part)
                for part in (self._hear(ears), self._keep_numbering(database), self._keep_publishing(database))
            ]
            try:
                await asyncio.wait(parts, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                for part in parts:
                    part.cancel()
                ends = await asyncio.gather(*parts, return_exceptions=True)
            for end in ends:
                if isinstance(end, Exception):
                    raise end

    async def _hear(self, ears: psycopg.AsyncConnection[TupleRow]) -> None:
        while not self.stop.is_set():
            async for told in ears.notifies(timeout=POLL, stop_after=1):
                self._woken.set()
                if told.payload:  # what was published was set back (`replay`); who writes says nothing more
                    self._behind.set()
            await self._still_there(ears)

    async def _still_there(self, ears: psycopg.AsyncConnection[TupleRow]) -> None:
        """A sign of life of who only listens, now and then."""
        if time.monotonic() - self._asked > HUNG / 4:
            self._asked = time.monotonic()
            await ears.execute("select 1")

    async def _keep_numbering(self, database: psycopg.AsyncConnection[TupleRow]) -> None:
        pace = Pace(PACE, BURST)
        while not self.stop.is_set():
            begun = time.monotonic()
            self._woken.clear()
            numbered = await self._number(database)
            if numbered:
                self._behind.set()
            await self._measure(database)
            if numbered == BATCH:
                continue  # there is more
            if not numbered:
                await either(self._woken, POLL)
                continue
            pace.take(begun)
            if wait := pace.wait(time.monotonic()):
                await either(self.stop, wait)
            else:  # what came closely behind wakes it, or is found at the end of the usual time
                await either(self._woken, PACE)

    async def _keep_publishing(self, database: psycopg.AsyncConnection[TupleRow]) -> None:
        await self._ready()  # queues must be there before events are, whoever starts first
        while not self.stop.is_set():
            await either(self._behind, POLL)
            if self._behind.is_set() and await self._ready():
                self._behind.clear()
                if await self._publish(database):
                    self._behind.set()
            elif self._behind.is_set():
                await either(self.stop, POLL)
            await self._sweep(database)

    async def _number(self, database: psycopg.AsyncConnection[TupleRow]) -> int:
        row = await (await database.execute(_NUMBER, {"batch": BATCH, "row": ROW_BYTES, "told": POSITIONS})).fetchone()
        return row[0] if row else 0

    async def _publish(self, database: psycopg.AsyncConnection[TupleRow]) -> bool:
        """Publishes the next batch of those that are numbered; whether there may be more of them."""
        cursor = await database.execute(_READ, {"batch": BATCH, "bytes": BATCH_BYTES}, binary=True)
        events = [_event(row) for row in await cursor.fetchall()]
        if not events or self._channel is None:
            return False
        start = time.monotonic()
        waiting, lost = send(self._channel, events)
        await self._settled(waiting)
        self._metrics.confirm.observe(time.monotonic() - start)
        last, trouble = _confirmed(events, waiting)
        trouble = trouble or lost
        more = True
        if last:
            moved = await database.execute(_PUBLISHED, {"last": last, "before": events[0].position - 1})
            if row := await moved.fetchone():
                more = row[0]
        done = last - events[0].position + 1 if last else 0
        self._metrics.published.inc(done)
        if trouble is None:
            self._broker_backoff.reset()
            return more
        log.warning("events were not confirmed and will be published again", after=last, error=trouble.message)
        if isinstance(trouble, PublishRefused):
            self._metrics.refused.inc()
            await either(self.stop, self._broker_backoff.next())
        else:
            await self._hang_up()
        return True

    async def _settled(self, waiting: list[asyncio.Future[None]]) -> None:
        """Returns when all are settled, when CONFIRM seconds went by in which the broker could have, or on `stop`."""
        left: set[asyncio.Future[None]] = set(waiting)
        deadline = time.monotonic() + CONFIRM
        while left and not self.stop.is_set():
            _, left = await asyncio.wait(left, timeout=POLL)
            if self._broker is not None and self._broker.blocked:
                deadline = time.monotonic() + CONFIRM
            elif time.monotonic() > deadline:
                return

    async def _ready(self) -> bool:
        """Whether there is a broker to publish to; makes the connection where it is time to try."""
        if self._channel is not None and self._broker is not None and not self._broker.lost.is_set():
            return True
        await self._hang_up()
        if time.monotonic() < self._try_broker:
            return False
        try:
            self._broker = await connect(self._amqp, self._instance, timeout=5)
            self._channel = await self._broker.channel()
            await topology.stand(self._channel, self._amqp, self._instance, self._handlers)
        except BrokerLost as error:
            await self._hang_up()
            wait = self._broker_backoff.next()
            self._try_broker = time.monotonic() + wait
            log.warning("the broker is away; events wait in the outbox", error=error.message, retry_in=round(wait, 2))
            return False
        log.info("connected to the broker", handlers=len(self._handlers))
        self._metrics.connected.set(1)
        return True

    async def _hang_up(self) -> None:
        self._metrics.connected.set(0)
        broker, self._broker, self._channel = self._broker, None, None
        if broker is not None:
            await broker.close()

    async def _measure(self, database: psycopg.AsyncConnection[TupleRow]) -> None:
        if time.monotonic() - self._measured < MEASURE:
            return
        self._measured = time.monotonic()
        row = await (await database.execute(MEASURE_OUTBOX, [DEPTH_MAX])).fetchone()
        if row:
            self._metrics.depth.set(row[0])
            self._metrics.age.set(float(row[1]))
            self._metrics.kept.set(row[2])
            self._metrics.kept_bytes.set(row[3])

    async def _sweep(self, database: psycopg.AsyncConnection[TupleRow]) -> None:
        if time.monotonic() - self._swept < SWEEP:
            return
        if not await forget(database, self._keeping):  # else there is more: go on at the next turn
            self._swept = time.monotonic()


def replay(postgres: str, since: timedelta) -> int:
    """Has the events of the last `since` published again; how many, about.

    For a broker that has lost its messages. What handlers have done already they recognise and leave alone.
    """
    with psycopg.connect(postgres, autocommit=True, connect_timeout=5) as database:
        row = database.execute(_REPLAY, [since]).fetchone()
        return int(row[0]) if row else 0


def _event(row: TupleRow) -> Event:
    identity, position, resource_type, verb, name, payload, caller, request_id, traceparent, create_time = row
    event = Event(
        id=str(identity),
        position=position,
        resource_type=resource_type,
        verb=verb,
        name=name,
        payload=bytes(payload),
        caller=caller,
        request_id=request_id,
        traceparent=traceparent,
    )
    event.create_time.FromDatetime(create_time)
    return event


def send(channel: Channel, events: list[Event]) -> tuple[list[asyncio.Future[None]], BrokerLost | None]:
    """Publishes the events in their order, as far as there is a connection."""
    waiting: list[asyncio.Future[None]] = []
    for event in events:
        properties = pika.BasicProperties(
            message_id=event.id,
            content_type="application/x-protobuf",
            delivery_mode=2,
            timestamp=event.create_time.seconds,
        )
        # AMQP's limit for a key is 255 bytes; no handler can be bound to a longer one.
        key = f"{event.resource_type}.{event.verb}".encode()[:255].decode(errors="ignore")
        try:
            waiting.append(channel.publish(topology.EVENTS, key, event.SerializeToString(), properties))
        except BrokerLost as lost:
            return waiting, lost
    return waiting, None


def _confirmed(
    events: list[Event], waiting: list[asyncio.Future[None]]
) -> tuple[int, BrokerLost | PublishRefused | None]:
    """The position up to which all were confirmed (0: none), and what was wrong with the next."""
    last = 0
    for event, confirmed in zip(events, waiting, strict=False):
        if not confirmed.done():
            return last, BrokerLost("The broker did not confirm in time.")
        error = confirmed.exception()
        if isinstance(error, BrokerLost | PublishRefused):
            return last, error
        last = event.position
    return last, None
