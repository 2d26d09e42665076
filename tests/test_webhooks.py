"""Webhooks: what is posted, to whom, in which order, until when; against a receiver on this machine and a real Postgres."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from consumers_ground import PROJECT, Ground, asynchronous, eventually
from prometheus_client import CollectorRegistry
from standardwebhooks import WebhookVerificationError
from transom.events.v1.event_pb2 import Event
from watch_ground import schema as newsroom_schema
from webhooks_ground import QUICK, THING, Post, machine, number, there

from consumers.keeping import Keeping, forget
from consumers.webhooks import WebhookMetrics, WebhookWorker
from deploy.native.stack import Stack
from server.caller import ADMIN, NOBODY, OPERATOR, Caller, Kind
from server.engine.access import Access
from server.engine.webhook_delivering import LATE_MOST, Patience
from server.engine.webhook_events import WebhookEvents
from server.engine.webhooks import Wanted
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
from server.query.rules.checking import rules_of
from server.store import webhook_deliveries
from server.store.positions_told import hear
from server.store.webhook_fanning import Listener, LoggedEvent


@pytest.fixture(scope="module")
def shared(components: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with Ground.on(components, tmp_path_factory.mktemp("webhooks")) as ground:
        ground.env |= {"TRANSOM_SECRET": "s" * 40, "TRANSOM_WEBHOOK_NETWORKS": "127.0.0.0/8"}
        yield ground


@pytest.fixture
def ground(shared: Ground) -> Ground:
    shared.execute("truncate transom.webhook_endpoints cascade; truncate transom.events; truncate test_v1.things")
    shared.execute("update transom.relay set trimmed = numbered, trimmed_time = null")
    return shared


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


NOTE = "newsroom.v1.Note"
NOW = datetime(2026, 11, 22, tzinfo=UTC)
PROBES = [
    'source = "Deep Throat"',
    'source != "Deep Throat"',
    'source : "Deep"',
    "source:*",
    "-source:*",
    'NOT source = "Deep Throat"',
    'title = "x" AND source > "A"',
]


@pytest.mark.parametrize("filter", ["", *PROBES])
def test_fields_with_rules_leave_with_nobody_and_are_not_to_be_probed(filter: str) -> None:
    """Whatever becomes of the hidden field, an endpoint is told the same: also the one of an admin."""
    schema = newsroom_schema()
    note = schema.message_class(NOTE)
    access = Access(schema, rules_of(schema), None, lambda: 0)  # type: ignore[arg-type] - nothing is looked up
    events = WebhookEvents(schema, access)
    events.checked([f"{NOTE}.*"], filter)
    listener = Listener(1, 0, None, 9, 0, "one", [f"{NOTE}.*"], filter, OPERATOR.name)

    def told(before: str | None, after: str | None, verb: str) -> list[dict[str, Any]]:
        sides = [None if one is None else note(title="x", source=one).SerializeToString() for one in (before, after)]
        gone = sides[1] is None
        event = LoggedEvent(
            1,
            1,
            NOTE,
            verb,
            "teams/a/notes/b",
            (sides[1] or sides[0]) or b"",
            None if gone else sides[0],
            gone,
            NOW,
            False,
        )
        made, refused = events.told([listener], [event], [])
        assert not refused and all(b"Deep" not in one.body and b"Nobody" not in one.body for one in made)
        return [json.loads(one.body) for one in made]

    for verb, befores, afters in (
        ("created", [None], ["Deep Throat", "Nobody", ""]),
        ("updated", ["Deep Throat", "Nobody", ""], ["Deep Throat", "Nobody", ""]),
        ("deleted", ["Deep Throat", "Nobody", ""], [None]),
    ):
        all_told = [told(before, after, verb) for before in befores for after in afters]
        assert all(one == all_told[0] for one in all_told), filter
        assert filter or all_told[0][0]["data"]["resource"] == {"title": "x"}


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
    for attempts, seconds in ((1, 5), (2, 15), (3, 45), (7, 3645), (8, 10_935), (9, 14_400), (5000, 14_400)):
        waits = {Patience().wait(attempts) for _ in range(20)}
        assert len(waits) > 1 and all(0.75 * seconds <= wait <= 1.25 * seconds for wait in waits)


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


async def forget_events(ground: Ground, **keeping: float) -> int:
    """Lets the log go that may; how many events are left."""
    async with await psycopg.AsyncConnection.connect(ground.postgres, autocommit=True) as connection:
        while await forget(connection, Keeping(**keeping)):  # type: ignore[arg-type]
            pass
    return int(ground.value("select count(*) from transom.events where position is not null"))


@asynchronous
async def test_the_log_waits_for_endpoints_within_its_bounds(ground: Ground) -> None:
    async with machine(ground) as one:
        await one.endpoint("one")
        await one.endpoint("paused")
        await one.webhooks.pause(OPERATOR, "webhookEndpoints/paused")
        ground.execute("update transom.relay set published = numbered")
        for runs in range(1, 5):
            await one.write("a", runs)
        ground.execute("update transom.relay set published = numbered, kept_bytes = 1000000")
        days = "update transom.events set create_time = create_time - interval '1 day' * %s"
        ground.execute(days % 8)
        registry = CollectorRegistry()
        metrics = WebhookMetrics(registry)

        def behind(what: str, endpoint: str = "one") -> float | None:
            return registry.get_sample_value(f"transom_webhook_behind_{what}", {"endpoint": endpoint})

        metrics.behind(await one.delivering.lags())
        assert behind("events") == behind("events", "paused") == 4
        assert 8 * 86_400 <= (behind("seconds") or 0) < 9 * 86_400
        assert await forget_events(ground, events=9) == await forget_events(ground, events=7, waiting=3) == 4
        # One of them was told: it is the other one that is waited for, unless it is disabled.
        await one.run(lambda: len(one.receiver.posts) == 4)
        metrics.behind(await one.delivering.lags())
        assert (behind("events"), behind("seconds"), behind("events", "paused")) == (0, 0, 4)
        assert await forget_events(ground, events=7, waiting=3) == 4
        ground.execute(
            "update transom.webhook_endpoints set state = 'disabled', reason = 'FAILING' where id = 'paused'"
        )
        metrics.behind(await one.delivering.lags())
        assert behind("events", "paused") is None
        last, started = await one.delivering.fan(), datetime.now(UTC)
        assert last == (False, 0)
        await one.write("b", 1)
        ground.execute("update transom.relay set published = numbered")
        assert await forget_events(ground, events=7, waiting=3) == 1
        # What is gone is told: to who asks for it, and to an endpoint that lacks it. What came later can be told again,
        # however much is gone.
        with pytest.raises(Expired) as refused:
            await one.webhooks.replay_range(OPERATOR, "webhookEndpoints/one", started - timedelta(days=9), None)
        kept_after = datetime.fromisoformat(refused.value.metadata["kept_after"])
        assert refused.value.reason == "EVENTS_GONE" and kept_after < started - timedelta(days=7)
        await one.run(lambda: len(one.receiver.posts) == 5)
        for start in (kept_after + timedelta(seconds=1), started):
            before = len(one.receiver.posts)
            await one.webhooks.replay_range(OPERATOR, "webhookEndpoints/one", start, None)
            await one.run(lambda before=before: len(one.receiver.posts) == before + 1)
        with pytest.raises(Expired):
            await one.webhooks.resume(OPERATOR, "webhookEndpoints/paused")
        await one.webhooks.resume(OPERATOR, "webhookEndpoints/paused", skip=True)
        assert await one.state("paused") == ("active", "")
        # Beyond the while, and beyond the size, nobody is waited for.
        await one.webhooks.pause(OPERATOR, "webhookEndpoints/paused")
        await one.write("b", 2)
        await one.write("b", 3)
        ground.execute("update transom.relay set published = numbered, kept_bytes = 100000")
        assert await forget_events(ground, events=7, waiting=3, bytes=99_400) == 1
        ground.execute(days % 11)
        assert await forget_events(ground, events=7, waiting=3) == 0
        await one.webhooks.resume(OPERATOR, "webhookEndpoints/one", skip=True)
        ground.execute("update transom.webhook_endpoints set state = 'active' where id = 'paused'")
        await one.fan()
        assert await one.state("paused") == ("disabled", "EVENTS_GONE")


@asynchronous
async def test_an_owner_who_is_no_admin_any_more_is_told_nothing(ground: Ground) -> None:
    async with machine(ground) as one:
        await one.endpoint(caller=Caller(Kind.KEY, "keys/gone", frozenset({ADMIN})))
        await one.write("a", 1)
        await one.fan()
        assert await one.state() == ("disabled", "OWNER_GONE")
        assert ground.value("select count(*) from transom.webhook_deliveries") == 0


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
        # Two and a half hours were asked for; it is left alone for one.
        left = "select extract(epoch from greatest(open_until, next_time) - now())::float8 from transom.webhook_endpoints e, "
        assert 3000 < ground.value(left + "transom.webhook_deliveries d where d.endpoint = e.id") <= LATE_MOST == 3600
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


def test_the_command_line_makes_and_looks_after_endpoints(ground: Ground) -> None:
    url, wrong = "https://billing.example.com/hooks", ["--type", "x", "--filter", "runs > 1"]
    secret = _told(ground, "create", "billing", url, "--type", f"{THING}.*", "--filter", "runs > 1", out=True).strip()
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    shown = _told(ground, "show", "billing")
    assert all(word in shown for word in (url, f"{THING}.*", "runs > 1", "active")) and "whsec_" not in shown
    renewed = _told(ground, "rotate", "billing", "--overlap", "1", out=True).strip()
    assert renewed.startswith("whsec_") and renewed != secret and "old secret" in _told(ground, "show", "billing")
    assert "is posted" in _told(ground, "ping", "billing")
    assert "waiting" in _told(ground, "deliveries", "billing")
    for words, why in (
        (["create", "billing", url, "--type", "*"], "already"),
        (["create", "other", "https://10.0.0.1/", "--type", f"{THING}.*"], "no public address"),
        (["create", "other", url, *wrong], "'x' is not"),
        (["show", "other"], "no such"),
        (["rotate", "billing", "--overlap", "200"], "overlap"),
    ):
        assert why in _told(ground, *words, code=None), words
    assert "deleted" in _told(ground, "delete", "billing", "--yes")
    assert ground.rows(
        "select action, actor from transom.audit where target = 'webhookEndpoints/billing' order by id"
    ) == [(action, OPERATOR.name) for action in ("webhook_created", "webhook_secret_rotated", "webhook_deleted")]


def _told(ground: Ground, *words: str, out: bool = False, code: int | None = 0) -> str:
    """What is printed, or only what others may read of it; where no exit code is expected, it is refused."""
    from server.cli.webhooks import command

    run = CliRunner().invoke(command, list(words), env=ground.env)
    assert run.exit_code == code if code is not None else run.exit_code, run.output
    return run.stdout if out else run.output


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

        for runs in range(1, 9):
            for name in ("a", "b", "c"):
                work = one.shop.work(Event())
                if thing := await there(work, name):
                    work.update(thing, {"runs": runs})
                else:
                    work.create(THING, "", name, {"runs": runs})
                await work.commit()
        await asyncio.to_thread(number, ground)
        process = subprocess.Popen([sys.executable, "-c", KILLED], cwd=PROJECT, env=env)
        try:
            await eventually(lambda: len(one.receiver.posts) >= 10)
        finally:
            process.kill()
            process.wait()
        # As after a minute: what it had taken is lost.
        ground.execute("update transom.webhook_deliveries set next_time = now() where lease is not null")
        await one.run(one.settled)
        for name in ("a", "b", "c"):
            told = [p.data["resource"]["runs"] for p in one.receiver.posts if p.data["name"] == f"things/{name}"]
            assert list(dict.fromkeys(told)) == list(range(1, 9)) and told == sorted(told)


def test_the_page_names_what_there_is() -> None:
    page = (Path(PROJECT) / "docs" / "webhooks.md").read_text()
    for word in ("webhook-id", "GONE", "FAILING", "EVENTS_GONE", "OWNER_GONE", "TRANSOM_WEBHOOK_NETWORKS", "position"):
        assert word in page
