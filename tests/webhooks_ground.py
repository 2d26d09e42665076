"""What the tests of webhooks stand on: a receiver on this machine, and a process that posts to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

from consumers_ground import Ground, eventually
from prometheus_client import CollectorRegistry
from standardwebhooks import Webhook
from transom.events.v1.event_pb2 import Event

from consumers.webhooks import WebhookMetrics, WebhookWorker
from consumers.wiring import delivering
from consumers.workshop import Workshop, open_workshop
from server.caller import OPERATOR
from server.engine.webhook_delivering import Patience
from server.engine.webhooks import CHANGEABLE, Wanted, Webhooks
from server.errors import NotFound
from server.store.webhook_posts import WebhookPosts

THING = "test.v1.Thing"
QUICK = Patience(horizon=7200, first=0.02, factor=1.0, most=0.02, pause=0.02, pause_most=0.02)
LOOPBACK = (ip_network("127.0.0.0/8"),)


class Post:
    """What a receiver was sent."""

    def __init__(self, headers: dict[str, str], body: bytes) -> None:
        self.headers, self.body = headers, body
        self.data = json.loads(body)["data"]
        self.id = headers["webhook-id"]

    def verified(self, secret: str) -> Any:
        return Webhook(secret).verify(self.body, self.headers)


class Receiver:
    """Hears posts on loopback and answers as it is told: status, headers, body; or None to say nothing."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.answer: Callable[[Post], tuple[int, str] | None] = lambda post: (200, "")
        self.at_once = self.most_at_once = 0
        self.url = ""

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Receiver]:
        one = cls()
        server = await asyncio.start_server(one._hear, "127.0.0.1", 0)
        one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        try:
            yield one
        finally:
            server.close()

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (line := await reader.readline()).startswith(b"POST"):
                headers = {}
                while (line := await reader.readline()).strip():
                    name, _, value = line.decode().partition(":")
                    headers[name.lower()] = value.strip()
                post = Post(headers, await reader.readexactly(int(headers["content-length"])))
                self.posts.append(post)
                self.at_once += 1
                self.most_at_once = max(self.at_once, self.most_at_once)
                answer = self.answer(post)
                await asyncio.sleep(0)
                self.at_once -= 1
                if answer is None:
                    await reader.read()
                    break
                code, more = answer
                head, _, body = more.partition("|")
                writer.write(f"HTTP/1.1 {code} X\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


class Machine:
    """Webhooks of one process, with a receiver."""

    def __init__(self, ground: Ground, shop: Workshop, receiver: Receiver, posts: WebhookPosts) -> None:
        self.ground, self.shop, self.receiver = ground, shop, receiver
        self.webhooks: Webhooks = shop.parts.webhooks
        self.delivering = delivering(shop.parts, posts, QUICK)

    async def endpoint(self, id: str = "one", types: Sequence[str] = ("*",), filter: str = "", **more: Any) -> str:
        """Makes one; its secret."""
        wanted = Wanted(frozenset(CHANGEABLE), more.get("url", self.receiver.url), tuple(types), filter)
        return (await self.webhooks.create(more.get("caller", OPERATOR), id, wanted))[1]

    async def write(self, name: str, runs: int | None, verb: str = "") -> None:
        """Commits a change of a thing, as numbered by the relay: None deletes it."""
        work = self.shop.work(Event())
        if runs is None:
            work.delete(await work.get(f"things/{name}"))
        elif verb or not (found := await there(work, name)):
            work.create(THING, "", name, {"runs": runs}, event=verb or "created")
        else:
            work.update(found, {"runs": runs})
        await work.commit()
        await asyncio.to_thread(number, self.ground)

    async def fan(self) -> None:
        while (await self.delivering.fan())[0]:
            pass

    async def run(self, until: Callable[[], bool]) -> None:
        """Lets a worker run until something holds."""
        stop = asyncio.Event()
        worker = asyncio.create_task(WebhookWorker(self.delivering, WebhookMetrics(CollectorRegistry())).run(stop))
        try:
            await eventually(until)
        finally:
            stop.set()
            await worker

    def settled(self) -> bool:
        sql = """select not exists (select from transom.webhook_deliveries where state = 'waiting') and not exists
            (select from transom.webhook_positions p, transom.relay r where p.position < least(p.until, r.numbered))"""
        return bool(self.ground.value(sql))

    async def state(self, id: str = "one") -> tuple[str, str]:
        found = await self.webhooks.get(OPERATOR, f"webhookEndpoints/{id}")
        return found.state, found.reason


async def there(work: Any, name: str) -> Any:
    try:
        return await work.get(f"things/{name}")
    except NotFound:
        return None


def number(ground: Ground) -> None:
    """Gives positions as the relay does."""
    ground.execute("""
        with r as (select numbered from transom.relay), n as (
          select id, row_number() over (order by id) as n from transom.events where position is null),
        given as (update transom.events e set position = r.numbered + n.n from n, r where e.id = n.id returning e.position)
        update transom.relay set numbered = greatest(numbered, (select coalesce(max(position), 0) from given))""")


@asynccontextmanager
async def machine(ground: Ground, **settings: Any) -> AsyncIterator[Machine]:
    posts = WebhookPosts(LOOPBACK, seconds=settings.pop("seconds", 15))
    async with open_workshop(ground.settings(**settings)) as shop, Receiver.open() as receiver:
        try:
            yield Machine(ground, shop, receiver, posts)
        finally:
            await posts.aclose()
