"""RabbitMQ under an event loop: connections, channels, confirmed publishes. pika's errors are translated here.

Heartbeats are answered by the loop while others work, so work may last longer than a heartbeat. A channel that the
broker closes takes its connection with it: whoever uses them has one thing to watch, `Connection.lost`, and one
thing to do then: connect again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.exceptions import AMQPError

from server.errors import Unavailable

HEARTBEAT = 20
"""Seconds; a broker that says nothing for about twice as long is taken for dead."""
ANSWER = 30.0
"""Seconds the broker may take to answer a question."""

logging.getLogger("pika").setLevel(logging.CRITICAL)  # what it would say is in the errors raised here


class BrokerLost(Unavailable):
    """There is no connection to the broker (any more). What was not confirmed may have arrived or not."""

    reason = "BROKER_LOST"


class PublishRefused(Unavailable):
    """The broker did not take the message: a queue is full, or there is no queue for a mandatory message."""

    reason = "PUBLISH_REFUSED"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as it came to a consumer. It can be settled on the channel it came by and on no other."""

    channel: Channel
    tag: int
    queue: str
    body: bytes
    headers: Mapping[str, Any]
    message_id: str

    @property
    def returns(self) -> int:
        """How often the message came back to its queue without an answer: its consumer died or hung up."""
        return int(self.headers.get("x-delivery-count", 0))

    def ack(self) -> None:
        """Done with it. Where the connection it came by is gone nothing is sent: the broker will deliver it again."""
        with contextlib.suppress(AMQPError):
            self.channel.raw.basic_ack(self.tag)

    def give_back(self) -> None:
        """Back to its queue, to be delivered again, here or elsewhere."""
        with contextlib.suppress(AMQPError):
            self.channel.raw.basic_nack(self.tag, requeue=True)


class Channel:
    """A lane of a connection, in confirm mode."""

    def __init__(self, raw: Any, connection: Connection) -> None:
        self.raw = raw
        self._connection = connection
        self._tag = 0
        self._asked: set[asyncio.Future[Any]] = set()
        self._unconfirmed: dict[int, asyncio.Future[None]] = {}
        self._unroutable: set[int] = set()
        raw.add_on_close_callback(lambda _, reason: connection.fail(reason))
        raw.add_on_cancel_callback(lambda _: connection.fail("a consumer was cancelled by the broker"))
        raw.add_on_return_callback(self._returned)

    @property
    def lost(self) -> bool:
        """Whether its connection is gone."""
        return self._connection.lost.is_set()

    async def exchange(self, name: str, kind: str) -> None:
        """Declares a durable exchange."""
        await self._ask(lambda done: self.raw.exchange_declare(name, kind, durable=True, callback=done))

    async def queue(self, name: str, arguments: Mapping[str, Any]) -> int:
        """Declares a durable queue; how many messages wait in it.

        Raises BrokerLost where it exists with other arguments: the reason then names the argument.
        """
        answer = await self._ask(
            lambda done: self.raw.queue_declare(name, durable=True, arguments=dict(arguments), callback=done)
        )
        return int(answer.method.message_count)

    async def depth(self, name: str) -> int:
        """How many messages wait in a queue. Raises BrokerLost, and the connection is lost, where there is none."""
        answer = await self._ask(lambda done: self.raw.queue_declare(name, passive=True, callback=done))
        return int(answer.method.message_count)

    async def bind(self, queue: str, exchange: str, key: str) -> None:
        """Binds a queue to an exchange."""
        await self._ask(lambda done: self.raw.queue_bind(queue, exchange, key, callback=done))

    def publish(
        self, exchange: str, key: str, body: bytes, properties: pika.BasicProperties, *, mandatory: bool = False
    ) -> asyncio.Future[None]:
        """Sends a message; the future is done when the broker has taken it over for good.

        It fails with PublishRefused, or with BrokerLost, which leaves open whether the message arrived. Whoever
        publishes bounds how many futures are open.
        """
        tag = self._tag + 1
        if mandatory:
            properties.correlation_id = str(tag)  # names the message where the broker hands it back
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        confirmed.add_done_callback(_retrieved)
        try:
            self.raw.basic_publish(exchange, key, body, properties, mandatory)
        except AMQPError as error:
            raise self._connection.error() from error
        self._tag = tag
        self._unconfirmed[tag] = confirmed
        return confirmed

    async def consume(self, queue: str, prefetch: int, heard: Callable[[Delivery], None]) -> str:
        """Delivers the queue's messages to `heard`, at most `prefetch` unsettled ones; the consumer's tag."""

        def on_message(_: Any, method: Any, properties: Any, body: bytes) -> None:
            headers = properties.headers or {}
            heard(Delivery(self, method.delivery_tag, queue, body, headers, properties.message_id or ""))

        await self._ask(lambda done: self.raw.basic_qos(prefetch_count=prefetch, callback=done))
        answer = await self._ask(lambda done: self.raw.basic_consume(queue, on_message, callback=done))
        return str(answer.method.consumer_tag)

    async def cancel(self, consumer: str) -> None:
        """No more deliveries to that consumer; what it holds it may still settle."""
        await self._ask(lambda done: self.raw.basic_cancel(consumer, callback=done))

    async def confirm(self) -> None:
        """Turns confirm mode on."""
        await self._ask(lambda done: self.raw.confirm_delivery(self._settled, callback=done))

    def fail(self, error: BrokerLost) -> None:
        """Ends every wait with `error`."""
        for waiting in [*self._asked, *self._unconfirmed.values()]:
            if not waiting.done():
                waiting.set_exception(error)
        self._asked.clear()
        self._unconfirmed.clear()

    async def _ask(self, send: Callable[[Callable[[Any], None]], Any]) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_retrieved)
        self._asked.add(answer)
        try:
            send(lambda frame: None if answer.done() else answer.set_result(frame))
            async with asyncio.timeout(ANSWER):
                return await answer
        except AMQPError as error:
            raise self._connection.error() from error
        except TimeoutError as error:
            self._connection.fail(f"no answer within {ANSWER:g} s")
            raise self._connection.error() from error
        finally:
            self._asked.discard(answer)

    def _settled(self, frame: Any) -> None:
        method = frame.method
        taken = method.NAME == "Basic.Ack"
        last = method.delivery_tag
        if method.multiple:
            tags = []
            for tag in self._unconfirmed:  # in the order of publishing
                if tag > last:
                    break
                tags.append(tag)
        else:
            tags = [last]
        for tag in tags:
            confirmed = self._unconfirmed.pop(tag, None)
            unroutable = tag in self._unroutable
            self._unroutable.discard(tag)
            if confirmed is None or confirmed.done():
                continue
            if unroutable:
                confirmed.set_exception(PublishRefused("The broker has no queue for the message."))
            elif taken:
                confirmed.set_result(None)
            else:
                confirmed.set_exception(PublishRefused("The broker did not take the message: a queue is full."))

    def _returned(self, _: Any, method: Any, properties: Any, body: bytes) -> None:
        # A message handed back is confirmed right after (RabbitMQ, "Publisher Confirms").
        self._unroutable.add(int(properties.correlation_id))


class Connection:
    """A connection to the broker. Once lost it stays lost."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._channels: list[Channel] = []
        self._reason = ""
        self.lost = asyncio.Event()
        """Set when the connection is gone, or one of its channels."""
        self.blocked = False
        """Whether the broker takes nothing for now: it is short of memory or disk. Confirms will come once it does."""
        raw.add_on_connection_blocked_callback(lambda *_: self._block(True))
        raw.add_on_connection_unblocked_callback(lambda *_: self._block(False))

    async def channel(self) -> Channel:
        """A new channel in confirm mode."""
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            raw = self._raw.channel(on_open_callback=lambda c: None if opened.done() else opened.set_result(c))
        except AMQPError as error:
            raise self.error() from error
        channel = Channel(raw, self)
        self._channels.append(channel)
        lost = asyncio.ensure_future(self.lost.wait())
        await asyncio.wait([opened, lost], return_when=asyncio.FIRST_COMPLETED)
        lost.cancel()
        if self.lost.is_set():
            raise self.error()
        await channel.confirm()
        return channel

    async def close(self) -> None:
        """Hangs up: what was delivered and not settled goes back to its queue. Takes at most 3 s."""
        with contextlib.suppress(AMQPError):
            self._raw.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3):
                await self.lost.wait()
        self.fail("closed")

    def error(self) -> BrokerLost:
        """Why there is no connection."""
        return BrokerLost(f"The broker's connection is lost: {self._reason or 'closed'}")

    def _block(self, blocked: bool) -> None:
        self.blocked = blocked

    def fail(self, reason: object) -> None:
        """Declares the connection lost, for everybody who waits for something on it."""
        if self.lost.is_set():
            return
        self._reason = f"{type(reason).__name__}: {reason}" if isinstance(reason, Exception) else str(reason)
        self.lost.set()
        for channel in self._channels:
            channel.fail(self.error())
        with contextlib.suppress(AMQPError):
            self._raw.close()


async def connect(url: str, name: str, *, timeout: float = 10) -> Connection:
    """A connection, called `name` in the broker's own lists.

    Raises BrokerLost where there is none within `timeout` seconds, for whatever reason (refused, wrong password).
    """
    parameters = pika.URLParameters(url)
    parameters.heartbeat = HEARTBEAT
    parameters.connection_attempts = 1
    parameters.socket_timeout = parameters.stack_timeout = timeout
    parameters.client_properties = {"connection_name": name}
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[None] = loop.create_future()
    closed: list[Connection] = []

    def on_open(raw: Any) -> None:
        if opened.done():  # whoever asked has gone
            raw.close()
        else:
            opened.set_result(None)

    def on_error(_: Any, error: BaseException | str) -> None:
        if not opened.done():
            opened.set_exception(BrokerLost(f"The broker cannot be reached: {_root(error)}"))

    def on_close(_: Any, reason: BaseException) -> None:
        for connection in closed:
            connection.fail(reason)

    raw = AsyncioConnection(parameters, on_open, on_error, on_close, custom_ioloop=loop)
    connection = Connection(raw)
    closed.append(connection)
    try:
        async with asyncio.timeout(timeout + 1):
            await opened
    except TimeoutError as error:
        raise BrokerLost(f"The broker cannot be reached within {timeout:g} s.") from error
    return connection


def _root(error: BaseException | str) -> str:
    """What lies under pika's nested connection errors, without addresses or credentials."""
    while isinstance(error, BaseException):
        inner = getattr(error, "exception", None) or next(
            (e for e in reversed(getattr(error, "exceptions", None) or ()) if isinstance(e, BaseException)), None
        )
        if not isinstance(inner, BaseException):
            return type(error).__name__
        error = inner
    return str(error)


def _retrieved(future: asyncio.Future[Any]) -> None:
    """Keeps asyncio from reporting an error that nobody came to fetch: the loss is told by `Connection.lost` too."""
    if not future.cancelled():
        future.exception()
