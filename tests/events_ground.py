"""Where events are followed by everybody at once: two servers, a relay, a broker behind a line that can be cut, workers that post
webhooks, and receivers that misbehave; and what clients keep who believe what they are told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_network
from typing import Any

import psycopg
from consumers_ground import Ground, Line, Tap, cut_off, eventually
from library_ground import Database
from prometheus_client import CollectorRegistry
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from watch_ground import Newsroom, Reading, newsroom, schema

from consumers.relay import Relay, RelayMetrics
from consumers.webhooks import WebhookMetrics, WebhookWorker
from consumers.wiring import delivering
from consumers.workshop import Workshop
from server.caller import OPERATOR
from server.engine.watch_views import CREATED, CURRENT, DELETED, REMOVED, RESET, UPDATED
from server.engine.webhook_delivering import Patience
from server.engine.webhooks import CHANGEABLE, Wanted
from server.store.webhook_posts import WebhookPosts

QUICK = Patience(horizon=7200, first=0.02, factor=1.0, most=0.02, pause=0.02, pause_most=0.02)
"""How soon a post that failed is tried again."""
PROCESSES = 2
"""Servers, and workers."""


class WatchingClient:
    """Keeps what a watch tells, over all the streams that it takes; and minds that it is told in order, and nothing twice."""

    def __init__(self, kind: str, *, strict: bool) -> None:
        """`strict`: rights do not change, so that nothing is judged by what they are a moment later."""
        self.rows: dict[str, bytes] = {}
        self.kind = kind
        self.token = ""
        self.reading: Reading | None = None
        self.position = 0
        self._read = 0
        self._strict = strict

    def begin(self, reading: Reading) -> None:
        """A stream that goes on after `token`, or a first one."""
        self.reading, self._read = reading, 0
        if not self.token:
            self.rows.clear()
            self.position = 0

    async def forget(self) -> None:
        """The stream breaks, and what it told is thrown away."""
        await self.leave()
        self.token = ""

    async def leave(self) -> None:
        """The stream breaks."""
        reading, self.reading = self.reading, None
        if reading is not None:
            await reading.stop()
            self._follow(reading)

    async def until(self, marker: str, expected: dict[str, Any]) -> None:
        """Follows until the marker was told and it keeps what is expected, and fails where that does not come."""
        reading = self.reading
        assert reading is not None

        def there(me: Reading) -> bool:
            self.follow()
            return bool(me.token) and any(told.name == marker for told in me.told) and self.messages() == expected

        try:
            await reading.until(there)
        except AssertionError:
            assert self.messages() == expected, reading.said
            raise

    def follow(self) -> None:
        """Believes what was told so far."""
        if self.reading is not None:
            self._follow(self.reading)

    def _follow(self, reading: Reading) -> None:
        for told in reading.told[self._read :]:
            name, payload = told.name, told.payload or b""
            if told.position:
                assert told.position > self.position, f"{name}: {told.position} after {self.position}"
                self.position = told.position
            match told.change:
                case c if c == RESET:
                    self.rows.clear()
                case c if c == CURRENT:
                    assert name not in self.rows, f"{name} was told twice"
                    self.rows[name] = payload
                case c if c == CREATED:
                    assert name not in self.rows or not self._strict, f"{name} was there already"
                    self.rows[name] = payload
                case c if c == UPDATED:
                    assert name in self.rows or not self._strict, f"{name} was not told of"
                    assert self.rows.get(name) != payload or not self._strict, f"an update of {name} was told twice"
                    self.rows[name] = payload
                case c if c in (DELETED, REMOVED):
                    assert self.rows.pop(name, None) is not None or not self._strict, f"{name} was not there"
        self._read = len(reading.told)
        if reading.told:
            self.token = reading.token  # none before `synced`: then it begins anew

    def messages(self) -> dict[str, Any]:
        """What it keeps, by name."""
        parse = schema().message_class(f"newsroom.v1.{self.kind}").FromString
        return {name: parse(payload) for name, payload in self.rows.items()}


class Receiver:
    """Takes in what is posted, each message once, in one of these moods: `well`; `failing` (500, not taken in); `deaf` (taken in,
    but the connection breaks before that is said); `away` (the connection breaks before anything is read); `slow` (taken in,
    but not said before the mood changes)."""

    MOODS = ("well", "failing", "deaf", "away", "slow")

    def __init__(self) -> None:
        self.url = ""
        self.mood = "well"
        self.resources: dict[str, Any] = {}
        self.heard: set[str] = set()
        self.again = 0
        self.positions: dict[str, int] = {}
        self.wrong: list[str] = []
        self._changed = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Receiver]:
        """One that listens on loopback."""
        one = cls()
        server = await asyncio.start_server(one._hear, "127.0.0.1", 0)
        one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        try:
            yield one
        finally:
            one.be("well")
            server.close()

    def be(self, mood: str) -> None:
        """From now on."""
        self.mood = mood
        self._changed.set()
        self._changed = asyncio.Event()

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while self.mood != "away" and (head := await reader.readuntil(b"\r\n\r\n")):
                headers = {n.lower(): v for n, v in re.findall(r"^([\w-]+): *(.*?)\r$", head.decode(), re.MULTILINE)}
                body = await reader.readexactly(int(headers["content-length"]))
                if self.mood == "away":
                    break
                failing = self.mood == "failing"
                if not failing:
                    self._take(headers["webhook-id"], json.loads(body)["data"])
                if self.mood == "deaf":
                    break
                if self.mood == "slow":
                    await self._changed.wait()
                writer.write(f"HTTP/1.1 {500 if failing else 204} X\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()

    def _take(self, id: str, data: Any) -> None:
        if id in self.heard:
            self.again += 1
            return
        self.heard.add(id)
        name, position = data["name"], int(data["position"])
        if position <= self.positions.get(name, 0):
            self.wrong.append(f"{name}: {position} after {self.positions[name]}")
        self.positions[name] = position
        if (data["change"] == "CREATED") == (name in self.resources):
            self.wrong.append(f"{name}: {data['change']}, which was {'' if name in self.resources else 'not '}there")
        if data["change"] in ("CREATED", "UPDATED"):
            self.resources[name] = data["resource"]
        else:
            self.resources.pop(name, None)


class World:
    """All processes that have to do with events; each dies and comes back when it is told to."""

    def __init__(self, ground: Ground, at: Database, amqp: str) -> None:
        self.ground, self.at, self.amqp = ground, at, amqp
        self.servers: list[Newsroom] = []
        self.shops: list[Workshop] = []
        self.posts = WebhookPosts((ip_network("127.0.0.0/8"),))
        self._closings: list[AsyncExitStack] = []
        self._relay: asyncio.Task[None] | None = None
        self._workers: list[WebhookWorker] = []
        self._working: list[asyncio.Task[None]] = []

    async def serve(self, index: int) -> None:
        """Server `index` dies, and another takes its place; the second reads from the replica."""
        if index < len(self.servers):
            await self._closings[index].aclose()
        closing = AsyncExitStack()
        server = await closing.enter_async_context(newsroom(self.at, replica=self.at.replica if index else ""))
        self.servers[index : index + 1] = [server]
        self._closings[index : index + 1] = [closing]

    async def relay(self) -> None:
        """A relay runs, if none does."""
        if self._relay is None:
            relay = Relay(self.at.postgres, self.amqp, [], RelayMetrics(CollectorRegistry()))
            self._relay = asyncio.create_task(relay.run())

    async def kill_relay(self) -> None:
        """It ends where it is, without a word to anybody."""
        if self._relay is not None:
            await _killed([self._relay])
            self._relay = None

    async def cut_relay_off_the_database(self) -> None:
        """It loses its connections."""
        await asyncio.to_thread(
            self.at.sql,
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name like 'transom-relay%%' and datname = current_database()",
        )

    async def work(self) -> None:
        """Workers run, if none do."""
        if not self._workers:
            for shop in self.shops:
                made = delivering(shop.parts, self.posts, QUICK)
                self._workers.append(WebhookWorker(made, WebhookMetrics(CollectorRegistry())))
            self._working = [asyncio.create_task(worker.run(asyncio.Event())) for worker in self._workers]

    async def kill_workers(self) -> None:
        """They end where they are. What they had taken is theirs for a minute more; the minute goes by at once."""
        await _killed(self._working)
        for worker in self._workers:
            await _killed([*worker._posts])
        self._workers = []
        await self._lapse()

    async def _lapse(self) -> None:
        """What was taken and not settled is taken again, as after a minute."""
        await asyncio.to_thread(
            self.at.sql,
            "update transom.webhook_deliveries set next_time = clock_timestamp()"
            " where state = 'waiting' and lease is not null and next_time < 'infinity'",
        )

    async def endpoint(self, id: str, url: str, types: tuple[str, ...], filter: str) -> None:
        """Tells that receiver of what happens from now on."""
        await self.shops[0].parts.webhooks.create(OPERATOR, id, Wanted(frozenset(CHANGEABLE), url, types, filter))

    async def forget(self, id: str) -> None:
        """Tells it nothing more."""
        await self.shops[0].parts.webhooks.delete(OPERATOR, f"webhookEndpoints/{id}")

    async def numbered(self) -> int:
        """The last position, once all that was committed has one."""
        await eventually(
            lambda: not self.at.sql("select 1 from transom.events where position is null limit 1"), within=10
        )
        [[last]] = await asyncio.to_thread(self.at.sql, "select numbered from transom.relay")
        return int(last)

    async def published(self) -> None:
        """Returns once the broker has all that has a position."""
        sql = "select published = numbered from transom.relay"
        await eventually(lambda: self.at.sql(sql) == [(True,)], within=15)

    async def posted(self) -> None:
        """Returns once nothing waits to be posted."""
        sql = """select not exists (select from transom.webhook_deliveries where state = 'waiting') and not exists
            (select from transom.webhook_positions p, transom.relay r where p.position < least(p.until, r.numbered))"""

        def done() -> bool:
            return self.at.sql(sql) == [(True,)]

        try:
            await eventually(done, within=15)
        except (
            AssertionError
        ):  # on a machine too busy to write down what became of a post, it comes again a minute later
            await self._lapse()
            await eventually(done, within=15)

    @asynccontextmanager
    async def in_flight(self) -> AsyncIterator[None]:
        """A transaction that takes its event's id now, and commits when the block ends."""
        connection = await psycopg.AsyncConnection.connect(self.at.postgres)
        async with connection:
            await connection.execute(
                "insert into transom.events (resource_type, verb, name, payload) values ('late.v1.Late', 'told', 'x', '')"
            )
            yield

    async def aclose(self) -> None:
        """All of them end."""
        await self.kill_relay()
        await self.kill_workers()
        for closing in self._closings:
            await closing.aclose()


async def _killed(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def world(ground: Ground, replica: str) -> AsyncIterator[tuple[World, Tap, Line]]:
    """The world, who hears what comes by the broker, and the line to that."""
    database = conninfo_to_dict(ground.postgres)["dbname"]
    at = Database(ground.postgres, make_conninfo(replica, dbname=str(database)), ground.env["TRANSOM_REDIS"])
    async with AsyncExitStack() as closing:
        amqp, line = await closing.enter_async_context(cut_off(ground.amqp))
        made = World(ground, at, amqp)
        closing.push_async_callback(made.aclose)
        closing.push_async_callback(made.posts.aclose)
        for index in range(PROCESSES):
            made.shops.append(await closing.enter_async_context(ground.workshop()))
            await made.serve(index)
        tap = await Tap.on(ground.amqp)
        closing.push_async_callback(tap.close)
        yield made, tap, line
