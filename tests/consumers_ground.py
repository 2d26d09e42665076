"""What the tests of relay, runner and mail stand on: a database of their own, a broker they may harm, a listener."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ClassVar, ParamSpec, Self
from urllib.parse import urlsplit, urlunsplit

import pika
import psycopg
from databases import create
from pika.exceptions import ChannelClosedByBroker
from transom.events.v1.event_pb2 import Event

from consumers import account_data, file_processing, mail, topology
from consumers.workshop import Workshop, open_workshop
from deploy.native.stack import Stack
from server.schema.compilation import compile_app
from server.schema.model import Schema
from server.schema.reading import read
from server.settings import Settings
from server.store.broker import Channel, Connection, Delivery, connect

PROJECT = Path(__file__).parents[1]
APP = Path(__file__).parent / "consumers_app"
DEADLINE = 30.0
"""Seconds until a test gives up waiting."""
TAP = "test.tap"


P = ParamSpec("P")


def asynchronous(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Runs a test's coroutine on a loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 2 * DEADLINE))

    return run


async def eventually(true: Callable[[], Any], *, within: float = DEADLINE) -> None:
    """Returns once `true()` is; fails after `within` seconds."""
    until = time.monotonic() + within
    while not await asyncio.to_thread(true):
        assert time.monotonic() < until, f"not true within {within:g} s"
        await asyncio.sleep(0.01)


@functools.cache
def descriptor(app: Path = APP) -> bytes:
    """The compiled schema of the tests' app."""
    return compile_app(app)


class Ground:
    """One test's database, and the broker emptied of what consumers left there."""

    APP: ClassVar[Path] = APP
    """The app that is served where no other is named."""

    def __init__(self, components: Stack, postgres: str, folder: Path, app: Path) -> None:
        self.env = {
            **components.env,
            "TRANSOM_POSTGRES": postgres,
            "TRANSOM_APP": str(app),
            "TRANSOM_DESCRIPTOR": str(folder / "descriptor.binpb"),
            "FOLDER": str(folder),
        }
        self.env.pop("TRANSOM_REPLICA", None)
        self.schema: Schema = read(descriptor(app))
        (folder / "descriptor.binpb").write_bytes(descriptor(app))
        self.postgres = postgres
        self.amqp = components.env["TRANSOM_AMQP"]
        self.mailbox = components.mailbox
        self.folder = folder
        self.queues: set[str] = set()
        self._processes: list[subprocess.Popen[bytes]] = []

    @classmethod
    @contextmanager
    def on(cls, components: Stack, folder: Path, app: Path | None = None) -> Iterator[Self]:
        """A ground; its database, queues and processes go with the block."""
        admin = components.env["TRANSOM_POSTGRES"]
        name = f"t_{uuid.uuid4().hex[:12]}"
        ground = cls(components, urlunsplit(urlsplit(admin)._replace(path=f"/{name}")), folder, app or cls.APP)
        create(admin, name, ground.schema)
        try:
            ground._clear_broker()
            yield ground
        finally:
            for process in ground._processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
            ground._clear_broker()
            ground._drop(admin, name)

    @staticmethod
    def _drop(admin: str, name: str) -> None:
        """Drops the database, as soon as autovacuum, which may not be thrown out, has left it."""
        until = time.monotonic() + DEADLINE
        with psycopg.connect(admin, autocommit=True) as connection:
            while True:
                try:
                    connection.execute(f"drop database {name} with (force)")
                    return
                except psycopg.errors.InsufficientPrivilege:
                    assert time.monotonic() < until
                    time.sleep(0.1)

    def settings(self, **changed: Any) -> Settings:
        """What a process on this ground is told."""
        own = {k.removeprefix("TRANSOM_").lower(): v for k, v in self.env.items() if k.startswith("TRANSOM_")}
        return Settings(**(own | changed))

    @asynccontextmanager
    async def workshop(self) -> AsyncIterator[Workshop]:
        """What tasks work with, on this ground."""
        async with open_workshop(self.settings()) as shop:
            yield shop

    async def thing(self, shop: Workshop, verb: str, request_id: str = "") -> str:
        """Commits a new test.v1.Thing with an event of that verb; its name."""
        work = shop.work(Event(request_id=request_id, traceparent=TRACE if request_id else ""))
        thing = work.create("test.v1.Thing", "", "", {}, event=verb)
        await work.commit()
        return str(thing.name)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What a query answers."""
        with psycopg.connect(self.postgres, autocommit=True) as connection:
            return connection.execute(sql, parameters).fetchall()

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The one value a query answers."""
        return self.rows(sql, parameters)[0][0]

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Runs a statement and commits it."""
        with psycopg.connect(self.postgres, autocommit=True) as connection:
            connection.execute(sql, parameters)

    def events(self, count: int) -> None:
        """Commits that many events, as one write would."""
        self.execute(
            "insert into transom.events (resource_type, verb, name, payload)"
            " select 'test.v1.Thing', 'created', 'things/' || n, '' from generate_series(1, %s) n",
            [count],
        )

    def start(self, command: str, *, metrics_port: int = 0, **env: str) -> subprocess.Popen[bytes]:
        """A process of `python -m consumers`; its log is in the test's folder."""
        own = {"TRANSOM_METRICS_PORT": str(metrics_port), "TRANSOM_INSTANCE": f"{command}-{len(self._processes)}"}
        with open(self.folder / f"{command}.log", "ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "consumers", command],
                env={**os.environ, **self.env, **own, **env},
                cwd=PROJECT,
                stdout=output,
                stderr=output,
            )
        self._processes.append(process)
        return process

    def log(self, command: str) -> str:
        """What processes of that command have logged."""
        return (self.folder / f"{command}.log").read_text()

    @staticmethod
    def ports(count: int) -> list[int]:
        """Ports nobody listens on."""
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        numbers = [s.getsockname()[1] for s in sockets]
        for s in sockets:
            s.close()
        return numbers

    @staticmethod
    def metric(port: int, name: str) -> float | None:
        """The value of a metric, with its labels as they are written; None where there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as reply:
                lines = reply.read().decode().splitlines()
        except OSError:
            return None
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " ")), None)

    def parked(self) -> list[tuple[bytes, dict[str, Any]]]:
        """Body and headers of what lies in the dead-letter queue; it is taken out."""
        with self._channel() as channel:
            found = []
            while True:
                method, properties, body = channel.basic_get(topology.DEAD, auto_ack=True)
                if method is None:
                    return found
                found.append((body, properties.headers or {}))

    def send(self, queue: str, body: bytes, headers: dict[str, Any] | None = None) -> None:
        """Puts a message into a queue, past the relay."""
        with self._channel() as channel:
            channel.confirm_delivery()
            properties = pika.BasicProperties(headers=headers, delivery_mode=2)
            channel.basic_publish("", queue, body, properties, mandatory=True)

    def waiting(self, queue: str) -> int:
        """How many messages are ready in a queue; 0 where there is none."""
        with self._channel() as channel:
            try:
                return int(channel.queue_declare(queue, passive=True).method.message_count)
            except ChannelClosedByBroker:
                return 0

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        connection = pika.BlockingConnection(pika.URLParameters(self.amqp))
        try:
            yield connection.channel()
        finally:
            connection.close()

    def _clear_broker(self) -> None:
        own = [topology.queue_of(name) for name, _ in (mail.ADDRESS, file_processing.ADDRESS, *account_data.ADDRESSES)]
        names = [TAP, topology.DEAD, *(rung.name for rung in topology.LADDER), *own]
        with self._channel() as channel:
            for queue in [*names, *self.queues]:
                channel.queue_delete(queue)


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Tap:
    """Hears every event that is published, in the order in which one queue gets them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.events: list[Event] = []

    @classmethod
    async def on(cls, amqp: str) -> Tap:
        """A tap that hears all that is published from now on."""
        tap = cls(await connect(amqp, "tap"))
        channel: Channel = await tap._connection.channel()
        await channel.exchange(topology.EVENTS, "topic")
        await channel.queue(TAP, {"x-queue-type": "quorum"})
        await channel.bind(TAP, topology.EVENTS, "#")
        await channel.consume(TAP, 1000, tap._heard)
        return tap

    def _heard(self, delivery: Delivery) -> None:
        self.events.append(Event.FromString(delivery.body))
        delivery.ack()

    async def until(self, count: int) -> None:
        """Returns once that many were heard."""
        await eventually(lambda: len(self.events) >= count)

    async def close(self) -> None:
        """Hears no more."""
        await self._connection.close()


class Line:
    """A TCP line to the broker that can be cut."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = True
        self._flows = asyncio.Event()
        self._flows.set()
        self.port = 0
        self.held = 0
        """Bytes that came while it held."""

    async def start(self) -> None:
        """Listens."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Resets every connection and refuses new ones."""
        self._open = False
        for writer in [*self._writers]:
            writer.transport.abort()

    def hold(self) -> None:
        """Takes what is sent and delivers none of it, until `mend`."""
        self._flows.clear()

    async def mend(self) -> None:
        """Lets connections, and what is sent, through again."""
        self._open = True
        self._flows.set()

    async def stop(self) -> None:
        """Ends it."""
        await self.cut()
        if self._server:
            self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        pair = {writer, far_writer}
        self._writers |= pair
        try:
            await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
        except OSError:
            pass
        finally:
            self._writers -= pair
            for end in pair:
                end.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self._flows.is_set():
                self.held += len(data)
                await self._flows.wait()
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def cut_off(amqp: str) -> AsyncIterator[tuple[str, Line]]:
    """The broker's URL by way of a line that can be cut, and the line."""
    parts = urlsplit(amqp)
    line = Line(parts.hostname or "127.0.0.1", parts.port or 5672)
    await line.start()
    login = parts.netloc.rpartition("@")[0]
    try:
        yield urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{line.port}")), line
    finally:
        await line.stop()
