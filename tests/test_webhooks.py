"""Webhooks: what is posted, to whom, in which order, until when; against a receiver on this machine and a real Postgres."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from consumers_ground import PROJECT, Ground, asynchronous, eventually
from prometheus_client import CollectorRegistry
from standardwebhooks import Webhook, WebhookVerificationError
from transom.events.v1.event_pb2 import Event

from consumers.webhooks import WebhookMetrics, WebhookWorker
from consumers.wiring import delivering
from consumers.workshop import Workshop, open_workshop
from deploy.native.stack import Stack
from server.caller import ADMIN, NOBODY, OPERATOR, Caller, Kind
from server.engine.webhook_delivering import Patience
from server.engine.webhooks import CHANGEABLE, Wanted, Webhooks
from server.errors import (
    AlreadyExists,
    Denied,
    Exhausted,
    Expired,
    Invalid,
    NotFound,
    Precondition,
    Refusal,
    Stale,
    Unauthenticated,
)
from server.store import webhook_deliveries
from server.store.positions_told import hear
from server.store.webhook_posts import WebhookPosts, may_reach, retry_after

THING = "test.v1.Thing"
QUICK = Patience(horizon=7200, first=0.02, factor=1.0, most=0.02, pause=0.02, pause_most=0.02)
LOOPBACK = (ip_network("127.0.0.0/8"),)


@pytest.fixture(scope="module")
def shared(components: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with Ground.on(components, tmp_path_factory.mktemp("webhooks")) as ground:
        ground.env |= {"TRANSOM_SECRET": "s" * 40, "TRANSOM_WEBHOOK_NETWORKS": "127.0.0.0/8"}
        yield ground


@pytest.fixture
def ground(shared: Ground) -> Ground:
    shared.execute("truncate transom.webhook_endpoints cascade; truncate transom.events; truncate test_v1.things")
    shared.execute("update transom.relay set trimmed = numbered")
    return shared


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


@asynchronous
async def test_what_is_committed_is_posted_signed_in_order_once(ground: Ground) -> None:
    async with machine(ground) as one:
        await one.write("before", 1)
        secret = await one.endpoint()
        for runs in range(1, 6):
            for name in ("a", "b"):
                await one.write(name, runs)
        await one.write("b", None)
        ground.events(0)
        await one.run(lambda: one.settled() and len(one.receiver.posts) == 11)
        posts = one.receiver.posts
        assert len({post.id for post in posts}) == 11
        for name in ("a", "b"):
            mine = [post for post in posts if post.data["name"] == f"things/{name}"]
            assert [p.data.get("resource", {}).get("runs") for p in mine][:5] == [1, 2, 3, 4, 5]
            positions = [int(post.data["position"]) for post in mine]
            assert positions == sorted(positions)
        last = next(post for post in posts if post.data["change"] == "DELETED")
        told = last.verified(secret)
        assert told["type"] == "test.v1.Thing.deleted" and told["data"]["resource"] == {"name": "things/b", "runs": 5}
        with pytest.raises(WebhookVerificationError):
            last.verified("whsec_" + base64.b64encode(b"x" * 32).decode())
        # A message of the app's own insides goes nowhere.
        assert {post.headers["webhook-id"].partition("_")[0] for post in posts} == {"evt"}


@asynchronous
async def test_types_and_filters_say_what_is_told(ground: Ground) -> None:
    async with machine(ground) as one:
        await one.endpoint("made", ["test.v1.Thing.created"])
        await one.endpoint("odd", ["test.v1.Thing.submitted"])
        await one.endpoint("many", ["test.v1.Thing.*"], "runs > 2")
        limited = Caller(Kind.KEY, "keys/none", frozenset({ADMIN}), scopes=frozenset({"*:create"}))
        with pytest.raises(Denied, match=r"test.v1.Thing:watch"):
            await one.endpoint("not", [f"{THING}.*"], caller=limited)
        for runs in (1, 3, 4, 2, 1):
            await one.write("a", runs)
        await one.write("s", 1, "submitted")
        await one.fan()
        told = ground.rows("select endpoint, type, body from transom.webhook_deliveries order by turn")
        seen = [
            (e, json.loads(b)["data"]["change"], json.loads(b)["data"].get("resource", {}).get("runs"))
            for e, _, b in told
        ]
        assert seen == [
            ("made", "CREATED", 1),
            ("many", "CREATED", 3),
            ("many", "UPDATED", 4),
            ("many", "REMOVED", None),
            ("odd", "CREATED", 1),
        ]  # fmt: skip


@asynchronous
async def test_one_that_fails_holds_its_resource_back_and_no_other(ground: Ground) -> None:
    async with machine(ground) as one:
        await one.endpoint()
        failing = [True]
        one.receiver.answer = lambda post: (500, "|no") if failing[0] and post.data["name"] == "things/a" else (204, "")
        for name, runs in (("a", 1), ("a", 2), ("b", 1), ("a", 3), ("b", 2)):
            await one.write(name, runs)
        await one.run(lambda: len(one.receiver.posts) > 5)
        tried = [post.data["resource"]["runs"] for post in one.receiver.posts if post.data["name"] == "things/a"]
        assert set(tried) == {1}
        assert len({p.id for p in one.receiver.posts if p.data["name"] == "things/a"}) == 1, "one webhook-id"
        failing[0] = False
        await one.run(one.settled)
        good = [post.data["resource"]["runs"] for post in one.receiver.posts if post.data["name"] == "things/a"]
        assert list(dict.fromkeys(good)) == [1, 2, 3] == good[-3:]
        assert one.receiver.most_at_once <= webhook_deliveries.PER_ENDPOINT


ANSWERS: list[tuple[Any, tuple[str, int, str, str]]] = [
    ((201, "|fine"), ("delivered", 201, "", "")),
    ((302, "Location: http://127.0.0.1:1/\r\n|"), ("waiting", 302, "", "")),
    ((404, "|nothing here"), ("waiting", 404, "", "")),
    ((410, "|"), ("failed", 410, "", "GONE")),
    (None, ("waiting", 0, "TIMEOUT", "")),
    ((200, "|" + "x" * 100_000), ("delivered", 200, "", "")),
]


@asynchronous
async def test_every_answer_has_its_outcome(ground: Ground) -> None:
    async with machine(ground, seconds=0.3) as one:
        for number, (answer, expected) in enumerate(ANSWERS):
            name = f"webhookEndpoints/answer-{number}"
            await one.endpoint(f"answer-{number}")
            one.receiver.answer = lambda post, answer=answer: answer  # type: ignore[misc]
            ping = await one.webhooks.ping(OPERATOR, name)
            [(endpoint, delivery)] = await one.delivering.take(10)
            attempt = await one.delivering.attempt(endpoint, delivery)
            found = await one.webhooks.delivery(OPERATOR, f"{name}/deliveries/{ping.id}")
            assert (found.state, found.code, found.error, attempt.disabled) == expected
            assert len(found.said) <= 1000 and found.attempts == 1
            assert (await one.state(f"answer-{number}"))[1] == expected[3]
            await one.webhooks.delete(OPERATOR, name)


@asynchronous
async def test_who_asks_to_wait_is_left_alone_and_who_fails_too_often_is_tried_by_one(ground: Ground) -> None:
    async with machine(ground) as one:
        await one.endpoint()
        one.receiver.answer = lambda post: (429, "Retry-After: 600\r\n|")
        for name in "abcdefg":
            await one.write(name, 1)
        await one.fan()
        [due, *_] = await one.delivering.take(1)
        await one.delivering.attempt(*due)
        assert await one.delivering.take(10) == []
        left = ground.value("select extract(epoch from open_until - now())::float8 from transom.webhook_endpoints")
        assert 500 < left <= 600
        # As after many failures: one goes, and the others wait for what becomes of it.
        ground.execute("update transom.webhook_endpoints set open_until = null, failures = 9")
        one.receiver.answer = lambda post: (200, "")
        [probe] = await one.delivering.take(10)
        assert await one.delivering.take(10) == []
        await one.delivering.attempt(*probe)
        assert len(await one.delivering.take(20)) == 6  # with the one that was to wait for ten minutes
    assert QUICK.closed(4) == 0 < QUICK.closed(5)
    assert all(Patience().wait(n) <= 4 * 3600 * 1.25 for n in (1, 5, 50, 5000))
    assert 90 < (retry_after(datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")) or 0) + 100 <= 100
    assert retry_after("soon") is None and retry_after("7") == 7


@asynchronous
async def test_beyond_the_horizon_it_is_given_up_and_the_endpoint_with_it(ground: Ground) -> None:
    async with machine(ground) as one:
        await one.endpoint()
        await one.write("a", 1)
        await one.write("a", 2)
        await one.fan()
        one.receiver.answer = lambda post: (500, "|")
        [due] = await one.delivering.take(10)
        await one.delivering.attempt(*due)
        ground.execute(
            "update transom.webhook_deliveries set first_time = first_time - interval '3 hours', next_time = now()"
            " where attempts > 0"
        )
        ground.execute(
            "update transom.webhook_endpoints set failing_since = failing_since - interval '3 hours', open_until = null"
        )
        [due] = await one.delivering.take(10)
        attempt = await one.delivering.attempt(*due)
        assert (attempt.state, attempt.disabled) == ("failed", "FAILING")
        assert await one.state() == ("disabled", "FAILING") and await one.delivering.take(10) == []
        await one.write("a", 3)
        assert (await one.delivering.fan()) == (False, 0)
        # It goes on where it was, with what happened meanwhile.
        one.receiver.answer = lambda post: (200, "")
        await one.webhooks.resume(OPERATOR, "webhookEndpoints/one")
        await one.run(one.settled)
        assert [p.data["resource"]["runs"] for p in one.receiver.posts[-2:]] == [2, 3]


@asynchronous
async def test_while_a_secret_is_rotated_both_sign(ground: Ground) -> None:
    async with machine(ground) as one:
        old = await one.endpoint()
        stored, new = await one.webhooks.rotate(OPERATOR, "webhookEndpoints/one", timedelta(hours=1))
        assert old != new and base64.b64decode(old.removeprefix("whsec_")) not in stored.secret + (
            stored.old_secret or b""
        )
        await one.webhooks.ping(OPERATOR, "webhookEndpoints/one")
        await one.run(one.settled)
        [post] = one.receiver.posts
        assert post.verified(old) == post.verified(new)
        ground.execute("update transom.webhook_endpoints set old_until = now()")
        await one.webhooks.ping(OPERATOR, "webhookEndpoints/one")
        await one.run(one.settled)
        assert one.receiver.posts[1].verified(new)
        with pytest.raises(WebhookVerificationError):
            one.receiver.posts[1].verified(old)
        with pytest.raises(Invalid):
            await one.webhooks.rotate(OPERATOR, "webhookEndpoints/one", timedelta(days=8))


@asynchronous
async def test_one_and_a_range_are_posted_again_with_the_same_id(ground: Ground) -> None:
    async with machine(ground) as one:
        await one.write("early", 1)
        await one.endpoint()
        await one.write("a", 1)
        await one.write("a", 2)
        await one.run(lambda: one.settled() and len(one.receiver.posts) == 2)
        first = ground.value("select min(id) from transom.webhook_deliveries")
        await one.webhooks.replay(OPERATOR, f"webhookEndpoints/one/deliveries/{first}")
        await one.run(lambda: one.settled() and len(one.receiver.posts) == 3)
        start = ground.value("select min(create_time) from transom.events")
        for end in (datetime.now(UTC) + timedelta(hours=1), None):
            before = len(one.receiver.posts)
            await one.webhooks.replay_range(OPERATOR, "webhookEndpoints/one", start, end)
            await one.run(lambda before=before: one.settled() and len(one.receiver.posts) == before + 3)
        names = Counter((post.data["name"], post.id) for post in one.receiver.posts)
        assert sorted(names.values()) == [2, 3, 4]
        ground.execute("update transom.relay set trimmed = numbered - 1")
        ground.execute("delete from transom.events where position <= (select trimmed from transom.relay)")
        with pytest.raises(Expired):
            await one.webhooks.replay_range(OPERATOR, "webhookEndpoints/one", start, None)
        # So far behind that the log does not reach back: told, not passed over.
        ground.execute("update transom.webhook_positions set position = 0")
        await one.fan()
        assert await one.state() == ("disabled", "EVENTS_GONE")
        with pytest.raises(Expired):
            await one.webhooks.resume(OPERATOR, "webhookEndpoints/one")
        await one.webhooks.resume(OPERATOR, "webhookEndpoints/one", skip=True)
        assert await one.state() == ("active", "")


@asynchronous
async def test_an_owner_who_is_no_admin_any_more_is_told_nothing(ground: Ground) -> None:
    async with machine(ground) as one:
        await one.endpoint(caller=Caller(Kind.KEY, "keys/gone", frozenset({ADMIN})))
        await one.write("a", 1)
        await one.fan()
        assert await one.state() == ("disabled", "OWNER_GONE")
        assert ground.value("select count(*) from transom.webhook_deliveries") == 0


@pytest.mark.parametrize(
    ("address", "may"),
    [
        ("93.184.216.34", True), ("2606:4700::1111", True),
        ("127.0.0.1", False), ("10.0.0.1", False), ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False),
        ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("255.255.255.255", False), ("198.18.0.1", False),
        ("::1", False), ("::", False), ("fe80::1%eth0", False), ("fd00:ec2::254", False), ("ff02::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:169.254.169.254", False), ("64:ff9b::7f00:1", False), ("64:ff9b::808:808", True),
        ("64:ff9b:1::808:808", False), ("fec0::1", False), ("2002:7f00:1::", False),
        ("::127.0.0.1", False), ("nonsense", False),
    ],
)  # fmt: skip
def test_only_public_addresses_are_posted_to(address: str, may: bool) -> None:
    assert may_reach(address, ()) is may


@asynchronous
async def test_nothing_inside_is_reached_by_whatever_name(ground: Ground) -> None:
    posts = WebhookPosts(())
    async with Receiver.open() as receiver:
        port = receiver.url.split(":")[2].split("/")[0]
        for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"):
            for scheme in ("http", "https"):
                answer = await posts.post(f"{scheme}://{host}:{port}/", {}, b"{}")
                assert answer.error in ("ADDRESS_NOT_ALLOWED", "NAME_UNKNOWN", "PROTOCOL_ERROR"), (host, answer)
        assert receiver.posts == [] and (await posts.post("https://nowhere.invalid/", {}, b"")).error == "NAME_UNKNOWN"
        allowed = WebhookPosts(LOOPBACK)
        assert (await allowed.post(receiver.url.replace("http", "https"), {}, b"{}")).error in (
            "TLS_FAILED",
            "CONNECTION_FAILED",
        )
        await allowed.aclose()
    await posts.aclose()


@asynchronous
async def test_an_event_that_cannot_be_read_is_put_aside_and_the_next_are_told(ground: Ground) -> None:
    async with machine(ground) as one:
        await one.endpoint()
        await one.write("a", 1)
        ground.execute("update transom.events set payload = '\\xffff'")
        await one.write("b", 1)
        await one.run(lambda: one.settled() and len(one.receiver.posts) == 1)
        [(id, error, body)] = ground.rows(
            "select id, error, body from transom.webhook_deliveries where state = 'failed'"
        )
        assert error == "EVENT_UNREADABLE" and json.loads(body)["data"]["resourceOmitted"] is True
        await one.webhooks.replay(OPERATOR, f"webhookEndpoints/one/deliveries/{id}")
        await one.run(lambda: one.settled() and len(one.receiver.posts) == 2)
        assert one.receiver.posts[1].data["name"] == "things/a"


@asynchronous
async def test_what_should_not_happen_ends_no_worker(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = CollectorRegistry()
    async with machine(ground) as one:
        await one.endpoint()
        await one.write("a", 1)
        steps, takes, failing = one.delivering.fan, one.delivering.take, {"fan", "take", "listen", "post"}

        def once(where: str) -> None:
            if where in failing:
                failing.remove(where)
                raise RuntimeError(where)

        async def fan() -> Any:
            once("fan")
            return await steps()

        async def take(limit: int) -> Any:
            once("take")
            return await takes(limit)

        async def listen(told: Callable[[], None]) -> None:
            once("listen")
            await hear(ground.postgres, "test webhooks", told)

        def answer(post: Post) -> tuple[int, str]:
            return (200, "")

        posted = one.delivering._posts.post

        async def post(*given: Any) -> Any:
            once("post")
            return await posted(*given)

        monkeypatch.setattr(one.delivering, "fan", fan)
        monkeypatch.setattr(one.delivering, "take", take)
        monkeypatch.setattr(one.delivering._posts, "post", post)
        one.receiver.answer = answer
        stop = asyncio.Event()
        worker = asyncio.create_task(WebhookWorker(one.delivering, WebhookMetrics(registry), listen).run(stop))
        await eventually(lambda: one.settled() and len(one.receiver.posts) == 1)
        # Postgres throws everybody out: the loops, and who listens, come back.
        others = "datname = current_database() and pid <> pg_backend_pid()"
        ground.rows("select pg_terminate_backend(pid) from pg_stat_activity where " + others)
        listening = "select count(*) from pg_stat_activity where application_name = 'test webhooks'"
        await eventually(lambda: ground.value(listening) == 1)
        ground.execute("""insert into transom.events (resource_type, verb, name, payload, caller, request_id, traceparent)
            select resource_type, 'again', name, payload, caller, request_id, traceparent from transom.events""")
        await asyncio.to_thread(number, ground)
        await eventually(lambda: one.settled() and len(one.receiver.posts) == 2)
        assert not worker.done() and failing == set()
        stop.set()
        await worker
        for where in ("fan", "take", "listen"):
            assert (registry.get_sample_value("transom_webhook_errors_total", {"where": where}) or 0) >= 1


@asynchronous
async def test_who_asks_to_wait_beyond_the_horizon_is_tried_once_more_after_it(ground: Ground) -> None:
    async with machine(ground) as one:
        await one.endpoint()
        await one.write("a", 1)
        await one.fan()
        one.receiver.answer = lambda post: (503, "Retry-After: 9000\r\n|")
        ground.execute(
            "update transom.webhook_deliveries set attempts = 1, first_time = now() - interval '119 minutes'"
        )
        [due] = await one.delivering.take(1)
        assert (await one.delivering.attempt(*due)).state == "waiting"
        ground.execute(
            "update transom.webhook_deliveries set next_time = now(), first_time = now() - interval '3 hours'"
        )
        ground.execute("update transom.webhook_endpoints set open_until = null")
        [due] = await one.delivering.take(1)
        assert (await one.delivering.attempt(*due)).state == "failed"


@asynchronous
async def test_who_may_not_watch_what_an_endpoint_was_told_does_not_turn_it_elsewhere(ground: Ground) -> None:
    async with machine(ground) as one:
        await one.endpoint()
        await one.write("a", 1)
        await one.fan()
        key = Caller(
            Kind.KEY, "keys/k", frozenset({ADMIN}), scopes=frozenset({"transom.webhooks.v1.WebhookEndpoint:*"})
        )
        with pytest.raises(Denied):
            await one.webhooks.update(key, "webhookEndpoints/one", Wanted(frozenset({"url"}), url=one.receiver.url))
        id = ground.value("select id from transom.webhook_deliveries")
        with pytest.raises(Denied):
            await one.webhooks.replay(key, f"webhookEndpoints/one/deliveries/{id}")


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("certificate")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    made += [
        "-subj",
        "/CN=good.test",
        "-addext",
        "subjectAltName=DNS:good.test",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(made, check=True, capture_output=True)
    return key, certificate


@asynchronous
async def test_the_name_is_proved_by_its_certificate_and_its_address_is_the_one_that_was_checked(
    certified: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = certified
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(certificate, key)
    asked: list[str | None] = []
    theirs.sni_callback = lambda _, name, __: asked.append(name)

    async def hear_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        writer.write(b"HTTP/1.1 204 X\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hear_one, "127.0.0.1", 0, ssl=theirs)
    port = server.sockets[0].getsockname()[1]
    looked_up: list[str] = []
    leads: dict[str, list[str]] = {
        "good.test": ["127.0.0.1"],
        "other.test": ["127.0.0.1"],
        "mixed.test": ["127.0.0.1", "10.0.0.1"],
    }
    real = socket.getaddrinfo

    def names(host: Any, *given: Any, **more: Any) -> Any:
        if host not in leads:
            return real(host, *given, **more)
        looked_up.append(host)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in leads[host]]
        leads[host] = ["10.0.0.1"]  # from now on it leads elsewhere
        return found

    monkeypatch.setattr(socket, "getaddrinfo", names)
    trusting = WebhookPosts(LOOPBACK, seconds=5, tls=ssl.create_default_context(cafile=str(certificate)))
    strict = WebhookPosts(LOOPBACK, seconds=5)
    try:
        assert (await trusting.post(f"https://good.test:{port}/", {}, b"{}")).code == 204
        assert (
            looked_up == ["good.test"] and asked[0] == "good.test" and f"host: good.test:{port}\r\n" in (asked[1] or "")
        )
        assert (await trusting.post(f"https://good.test:{port}/", {}, b"{}")).error == "ADDRESS_NOT_ALLOWED"
        assert (await trusting.post(f"https://other.test:{port}/", {}, b"{}")).error == "TLS_FAILED"
        assert (await trusting.post(f"https://mixed.test:{port}/", {}, b"{}")).error == "ADDRESS_NOT_ALLOWED"
        leads["good.test"] = ["127.0.0.1"]
        assert (await strict.post(f"https://good.test:{port}/", {}, b"{}")).error == "TLS_FAILED"
    finally:
        await trusting.aclose()
        await strict.aclose()
        server.close()


REFUSED: list[tuple[dict[str, Any], type[Refusal], str]] = [
    ({"url": "http://example.com"}, Invalid, "HTTPS_REQUIRED"),
    ({"url": "https://10.0.0.1/x"}, Invalid, "ADDRESS_NOT_ALLOWED"),
    ({"url": "https://u:p@example.com"}, Invalid, "INVALID_URL"),
    ({"url": "https://example.com/#x"}, Invalid, "INVALID_URL"),
    ({"url": "ftp://example.com"}, Invalid, "INVALID_URL"),
    ({"url": "https://example.com/" + "x" * 2000}, Invalid, "TOO_LONG"),
    ({"url": "https://[::1"}, Invalid, "INVALID_URL"),
    ({"types": []}, Invalid, "WRONG_NUMBER"),
    ({"types": ["test.v1.Nothing.created"]}, Invalid, "UNKNOWN_EVENT_TYPE"),
    ({"types": ["transom.mails.v1.Mail.created"]}, Invalid, "UNKNOWN_EVENT_TYPE"),
    ({"filter": "runs > 1"}, Invalid, "FILTER_NEEDS_ONE_MESSAGE"),
    ({"types": [f"{THING}.*"], "filter": "walks > 1"}, Invalid, ""),
    ({"id": "No"}, Invalid, "INVALID_ID"),
    ({"id": "there"}, AlreadyExists, ""),
    ({"caller": NOBODY}, Unauthenticated, ""),
    ({"caller": Caller(Kind.KEY, "keys/k", frozenset({"service"}))}, Denied, ""),
]


@asynchronous
async def test_what_is_no_endpoint_is_refused(ground: Ground) -> None:
    async with machine(ground, webhook_networks=()) as one:
        await one.endpoint("there", url="https://example.com")
        for wanted, refusal, reason in REFUSED:
            with pytest.raises(refusal) as refused:
                await one.endpoint(
                    wanted.get("id", "one"),
                    wanted.get("types", ["*"]),
                    wanted.get("filter", ""),
                    url=wanted.get("url", "https://example.com"),
                    caller=wanted.get("caller", OPERATOR),
                )
            assert not reason or refused.value.violations[0].reason == reason


@asynchronous
async def test_admins_change_list_and_delete_endpoints(ground: Ground) -> None:
    async with machine(ground) as one:
        for id in ("one", "two"):
            await one.endpoint(id)
        found, token = await one.webhooks.list(OPERATOR, 1, "")
        assert [e.id for e in found] == ["one"]
        assert [e.id for e in (await one.webhooks.list(OPERATOR, 1, token))[0]] == ["two"]
        name = "webhookEndpoints/one"
        changed = await one.webhooks.update(OPERATOR, name, Wanted(frozenset({"description"}), description="Ours"))
        assert (changed.description, changed.url, changed.version) == ("Ours", one.receiver.url, 2)
        with pytest.raises(Stale):
            await one.webhooks.update(OPERATOR, name, Wanted(frozenset({"description"}), etag="1"))
        for _ in range(10):
            await one.webhooks.ping(OPERATOR, name)
        with pytest.raises(Exhausted):
            await one.webhooks.ping(OPERATOR, name)
        found_one, token = await one.webhooks.deliveries(OPERATOR, name, "waiting", 6, "")
        rest, none = await one.webhooks.deliveries(OPERATOR, name, "waiting", 6, token)
        assert (len(found_one), len(rest), none) == (6, 4, "")
        assert (await one.webhooks.pause(OPERATOR, name)).state == "paused"
        with pytest.raises(Precondition):
            await one.webhooks.ping(OPERATOR, name)
        assert await one.delivering.take(10) == []
        await one.webhooks.resume(OPERATOR, name)
        await one.run(one.settled)
        ran = await asyncio.to_thread(_told, ground, "deliveries", "one", "--state", "delivered")
        assert len(ran.splitlines()) == 10
        assert "paused" in await asyncio.to_thread(lambda: _told(ground, "pause", "one") + _told(ground, "list"))
        await one.webhooks.delete(OPERATOR, name)
        with pytest.raises(NotFound):
            await one.webhooks.get(OPERATOR, name)
        assert ground.value("select count(*) from transom.webhook_deliveries") == 0


def _told(ground: Ground, *words: str) -> str:
    from server.cli.webhooks import command

    run = CliRunner().invoke(command, list(words), env=ground.env)
    assert run.exit_code == 0, run.output
    return run.output


KILLED = """
import asyncio
from ipaddress import ip_network

from consumers.webhooks import WebhookMetrics, WebhookWorker
from consumers.wiring import delivering
from consumers.workshop import open_workshop
from server.engine.webhook_delivering import Patience
from server.settings import Settings
from server.store.webhook_posts import WebhookPosts

QUICK = Patience(horizon=7200, first=0.02, factor=1.0, most=0.02, pause=0.02, pause_most=0.02)

async def main():
    posts = WebhookPosts([ip_network("127.0.0.0/8")])
    async with open_workshop(Settings()) as shop:
        await WebhookWorker(delivering(shop.parts, posts, QUICK), WebhookMetrics()).run(asyncio.Event())

asyncio.run(main())
"""


@asynchronous
async def test_workers_that_are_killed_anywhere_lose_nothing_and_keep_the_order(ground: Ground) -> None:
    import os

    async with machine(ground) as one:
        await one.endpoint()
        env = {**os.environ, **ground.env, "TRANSOM_REPLICA": ""}
        env.pop("TRANSOM_REPLICA")
        one.receiver.answer = lambda post: (200, "") if time.monotonic_ns() % 3 else (500, "|")

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen([sys.executable, "-c", KILLED], cwd=PROJECT, env=env)

        for runs in range(1, 9):
            for name in ("a", "b", "c"):
                work = one.shop.work(Event())
                if thing := await there(work, name):
                    work.update(thing, {"runs": runs})
                else:
                    work.create(THING, "", name, {"runs": runs})
                await work.commit()
        await asyncio.to_thread(number, ground)
        processes = [start()]
        try:
            for count in (10,):
                await eventually(lambda count=count: len(one.receiver.posts) >= count)
                processes[-1].kill()
                processes[-1].wait()
                # As after a minute: what it had taken is lost.
                ground.execute("update transom.webhook_deliveries set next_time = now() where lease is not null")
                processes.append(start())
            await eventually(one.settled)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        for name in ("a", "b", "c"):
            told = [p.data["resource"]["runs"] for p in one.receiver.posts if p.data["name"] == f"things/{name}"]
            assert list(dict.fromkeys(told)) == list(range(1, 9)) and told == sorted(told)


def test_the_page_names_what_there_is() -> None:
    page = (Path(PROJECT) / "docs" / "webhooks.md").read_text()
    for word in ("webhook-id", "GONE", "FAILING", "EVENTS_GONE", "OWNER_GONE", "TRANSOM_WEBHOOK_NETWORKS", "position"):
        assert word in page
