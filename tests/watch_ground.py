"""Where watching is tested: the newsroom (tests/protos/newsroom), by real engines over one database, with a relay that gives
positions. Several servers are several engines."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from library_ground import Database, Engine, engine, now
from prometheus_client import CollectorRegistry

from consumers.relay import Relay, RelayMetrics
from server.caller import Caller, Kind
from server.engine.resources import Call
from server.engine.watch_streams import Stream, Streams
from server.engine.watch_views import NOTHING, RESET, Asked, Told
from server.engine.watching import Watcher, Watching
from server.errors import Refusal
from server.schema.classification import CHANGES
from server.schema.compilation import compile_app
from server.schema.model import Resource, Schema
from server.schema.reading import read
from server.store.event_log import EventLog
from server.store.log_tail import LogTail
from server.store.mailboxes import Turns

APP = Path(__file__).parent / "protos" / "newsroom"
NO_BROKER = "amqp://127.0.0.1:9/"
"""Nobody listens there: events get positions, and wait."""

ADA = Call(Caller(Kind.USER, "users/ada"))
BOB = Call(Caller(Kind.USER, "users/bob"))
ROOT = Call(Caller(Kind.USER, "users/root", frozenset({"admin"})))


@functools.cache
def schema() -> Schema:
    """The schema of the newsroom."""
    return read(compile_app(APP))


def resource(kind: str) -> Resource:
    """A resource of the newsroom."""
    return schema().resources[f"newsroom.v1.{kind}"]


@dataclass
class Reading:
    """Somebody who watches, and what was said so far: `CREATED teams/1/notes/a`, `synced`, `RESET`."""

    stream: Stream
    watcher: Watcher
    said: list[str] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    refused: Refusal | None = None
    token: str = ""
    """That of the last message."""
    _moved: asyncio.Condition = field(default_factory=asyncio.Condition)
    _task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begins to read."""
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        messages: AsyncGenerator[Told, None] = self.stream.told()
        try:
            async for told in messages:
                async with self._moved:
                    self._hear(told)
                    self._moved.notify_all()
        except Refusal as refused:
            async with self._moved:
                self.refused = refused
                self._moved.notify_all()
        finally:
            await messages.aclose()

    def _hear(self, told: Told) -> None:
        self.token = self.stream.token
        self.told.append(told)
        if told.change != NOTHING:
            self.said.append("RESET" if told.change == RESET else f"{CHANGES[told.change - 1]} {told.name}")
        elif told.synced:
            self.said.append("synced")

    async def until(self, true: Callable[[Reading], Any]) -> None:
        """Returns once it is true of what was said."""
        async with self._moved:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await self._moved.wait_for(lambda: true(self) or self.refused is not None)
            assert true(self), (self.said, self.refused)

    async def says(self, *said: str) -> None:
        """What was said from the first message on, or from that after the last RESET; all of it."""
        await self.until(lambda me: len(me.said) >= len(said))
        assert self.said == list(said), self.said

    async def stop(self) -> str:
        """Goes away; the last token."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        return self.token


@dataclass
class Newsroom:
    """One server: its engine and who watches there."""

    on: Engine
    watching: Watching
    tail: LogTail
    streams: Streams
    readings: list[Reading] = field(default_factory=list)

    def open(
        self, kind: str, parent: str = "", by: Call = ADA, *, token: str = "", again: Any = None, **asked: Any
    ) -> Reading:
        """A watch that nobody reads yet."""

        async def same() -> Caller:
            return by.caller

        watcher = Watcher(by.caller, by.caller.name, b"", again or same)
        stream = self.streams.open(Asked(resource(kind), parent, **asked), watcher, f"{kind} {parent} {asked}", token)
        return Reading(stream, watcher)

    def watch(self, kind: str, parent: str = "", by: Call = ADA, **asked: Any) -> Reading:
        """A watch that is read."""
        reading = self.open(kind, parent, by, **asked)
        reading.begin()
        self.readings.append(reading)
        return reading

    async def make(self, kind: str, name: str, by: Call = ADA, **fields: Any) -> str:
        """A new resource; its name."""
        parent, _, id = name.rpartition("/")
        message = schema().message_class(f"newsroom.v1.{kind}")(**fields)
        await self.on.resources.create(by, resource(kind), parent.rpartition("/")[0], id, message)
        return name

    async def change(self, kind: str, name: str, by: Call = ADA, **fields: Any) -> None:
        """Other values."""
        message = schema().message_class(f"newsroom.v1.{kind}")(name=name, **fields)
        await self.on.resources.update(by, resource(kind), message, list(fields))

    async def remove(self, kind: str, name: str, by: Call = ADA, **how: Any) -> None:
        """It is deleted."""
        await self.on.resources.delete(by, resource(kind), name, **how)


@asynccontextmanager
async def newsroom(at: Database, **how: Any) -> AsyncIterator[Newsroom]:
    """One server, for as long as the block lasts."""
    async with engine(at, schema=schema(), ruled=True, **how) as on:
        log = EventLog(on.primary)
        watching = Watching(schema(), on.resources.access, on.resources.lists, now)
        tail = LogTail(at.postgres, "test", log, watching)
        tail.open()
        made = Newsroom(on, watching, tail, Streams(on.resources, watching, tail, log, on.queries, Turns(3)))
        try:
            yield made
        finally:
            for reading in made.readings:
                await reading.stop()
            await tail.aclose()


@asynccontextmanager
async def relayed(at: Database) -> AsyncIterator[Relay]:
    """Events get positions, for as long as the block lasts."""
    relay = Relay(at.postgres, NO_BROKER, [], RelayMetrics(CollectorRegistry()))
    running = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        relay.stop.set()
        await running


async def settled(at: Database) -> None:
    """Returns once all that was committed has its position."""
    async with asyncio.timeout(10):
        while await asyncio.to_thread(at.sql, "select 1 from transom.events where position is null limit 1"):
            await asyncio.sleep(0.01)
