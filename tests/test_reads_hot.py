"""Rows that are kept in Redis: what is served from there, what is never served, and what becomes of it without Redis."""

# ruff: noqa: SIM117 - tables and scenes
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis as plain_redis
from identity_ground import cable
from library_ground import ADA, BOB, Database, Engine, asynchronous, database, engine, library, made_of
from replica_ground import asked, called, caught_up, paused

from deploy.native.stack import Stack
from server.errors import NotFound, Unavailable
from server.store import hot as hot_module
from server.store.bars import BAR_SECONDS, PREFIX
from server.store.changes import Change, Row
from server.store.migrations import migrate

NOBODY = replace(BOB, caller=replace(BOB.caller, name=""))
LAG = 20.0
"""Seconds that entries count: longer than a test takes."""


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Database]:
    with database(components, library()) as made:
        yield made


@pytest.fixture(autouse=True)
def _empty(at: Database) -> None:
    """Every test begins with empty tables, and nothing kept."""
    at.empty()
    with plain_redis.Redis.from_url(at.redis) as direct:
        for key in direct.scan_iter(f"{PREFIX}*"):
            direct.delete(key)


def entries(at: Database) -> dict[str, bytes]:
    """What is kept, by name."""
    with plain_redis.Redis.from_url(at.redis) as direct:
        found = {key.decode(): direct.get(key) for key in direct.scan_iter(f"{PREFIX}e:*")}
        return {key.rpartition(":")[2]: value for key, value in found.items() if value is not None}


async def warmed(on: Engine, name: str, *, by: Any = BOB) -> str:
    """Reads until the row is read from what is kept; its title, "" where there is none."""
    hits = on.hot.hits
    async with asyncio.timeout(10):
        while on.hot.hits == hits:
            title = await title_of(on, name, by=by)
            await asyncio.sleep(0.01)
    return title


async def title_of(on: Engine, name: str, *, by: Any = BOB) -> str:
    try:
        found = await on.get("Shelf" if name.count("/") == 1 else "Book", name, by=by)
    except NotFound:
        return ""
    return str(found.title)


@asynchronous
async def test_what_is_read_again_and_again_is_read_from_redis_on_every_server(at: Database) -> None:
    async with engine(at, replica=at.replica, lag_max=LAG, hot=["Shelf"]) as on:
        async with engine(at, replica=at.replica, lag_max=LAG, hot=["Shelf"]) as other:
            await on.create("Shelf", "", "s", title="t")
            await on.create("Book", "shelves/s", "b", title="t")
            await caught_up(at, on, other)
            await on.get("Shelf", "shelves/s", by=BOB)
            assert entries(at) == {}, "what is read once is not kept"
            assert await warmed(on, "shelves/s") == "t"
            counts = [asked(on), asked(other)]
            for server in (on, other):
                for by in (ADA, BOB, NOBODY):
                    shelf = await server.get("Shelf", "shelves/s", by=by)
                    assert (shelf.name, shelf.title) == ("shelves/s", "t")
            assert counts == [{"primary": 0, "replica": 0}] * 2 and on.hot.hits >= 3 and other.hot.hits == 3
            for _ in range(3):
                await on.get("Book", "shelves/s/books/b")
            assert counts[0] == {"primary": 0, "replica": 3}, "what is not hot is read as ever"
            row = await on.records.latest(on.schema.resources["library.v1.Shelf"], "shelves/s")
            assert row is not None and (row.owner, counts[0]["primary"]) == ("users/ada", 1), (
                "writes are decided on the truth"
            )
            kept = await on.records.get(on.schema.resources["library.v1.Shelf"], "shelves/s", "users/bob")
            assert kept == row


@asynchronous
async def test_a_change_is_seen_by_everybody_from_then_on(at: Database, components: Stack) -> None:
    """Also by who is served by the replica, and while that lags: what is kept is never older than what is shown elsewhere."""
    async with engine(at, replica=at.replica, lag_max=LAG, hot=["Shelf"]) as on:
        async with engine(at, replica=at.replica, lag_max=LAG, hot=["Shelf"]) as other:
            await on.create("Shelf", "", "s", title="0")
            await caught_up(at, on, other)
            for i in range(1, 6):
                assert await warmed(other, "shelves/s") == str(i - 1)
                await on.update("Shelf", "shelves/s", None, title=str(i))
                assert entries(at) == {}
                assert await title_of(on, "shelves/s", by=ADA) == str(i)
                await caught_up(at, on, other)
                assert await title_of(other, "shelves/s") == str(i)
            await warmed(other, "shelves/s")
            async with paused(components):
                await on.update("Shelf", "shelves/s", None, title="new")
                for server in (on, other) * 3:
                    assert await title_of(server, "shelves/s", by=ADA) == "new", "own writes"
                    assert await title_of(server, "shelves/s", by=NOBODY) == "5", "the replica's bound"
                async with asyncio.timeout(5):
                    while not on.hot.barred + other.hot.barred:
                        await title_of(other, "shelves/s", by=NOBODY)
                        await asyncio.sleep(0.01)
                assert entries(at) == {}, "what the replica shows is not what was committed last: it is not kept"
            await caught_up(at, on, other)
            assert await warmed(other, "shelves/s") == "new"


@asynchronous
async def test_the_reader_of_an_entry_gets_what_they_must_be_shown(at: Database, components: Stack) -> None:
    """A token, or the mark of a write of something else: an entry that may lack that does not serve them."""
    async with engine(at, replica=at.replica, lag_max=LAG, hot=["Shelf"]) as on:
        await on.create("Shelf", "", "s", title="t")
        await caught_up(at, on)
        await warmed(on, "shelves/s")
        _, token = await called(on, on.create("Book", "shelves/s", "b", title="t"))
        hits = on.hot.hits
        assert await title_of(on, "shelves/s") == "t" and on.hot.hits == hits + 1
        found, _ = await called(on, on.get("Shelf", "shelves/s", by=NOBODY), token)
        assert found.title == "t" and on.hot.hits == hits + 1
        assert await warmed(on, "shelves/s", by=ADA) == "t", "a younger one is made, and serves her again"


Write = Callable[[Engine], Awaitable[Any]]


async def _committed(on: Engine) -> None:
    resource = on.schema.resources["library.v1.Shelf"]
    change = on.decisions.delete(resource, "shelves/s", etag="", force=False, origin=ADA.origin)
    await on.records.commit([change])


async def _revised(on: Engine) -> None:
    resource = on.schema.resources["library.v1.Shelf"]

    async def decide(row: Row) -> Any:
        body = on.schema.message_class("library.v1.Shelf")(name="shelves/s", title="after")
        return on.decisions.update(resource, row, body, ["title"], etag="", origin=ADA.origin)[1]

    await on.records.revise(resource, "shelves/s", decide)


@pytest.mark.parametrize(
    ("write", "after"),
    [
        (lambda on: on.update("Shelf", "shelves/s", None, title="after"), "after"),
        (lambda on: on.delete("Shelf", "shelves/s"), ""),
        (lambda on: on.delete("Shelf", "shelves/s", force=True), ""),
        (_committed, ""),
        (_revised, "after"),
    ],
    ids=["update", "delete", "delete with what is below", "a transaction", "a change of what is locked"],
)
@asynchronous
async def test_a_reader_who_comes_late_does_not_bring_the_past_back(at: Database, write: Write, after: str) -> None:
    """They read the row, then it is changed, and then what they read arrives at Redis."""
    async with engine(at, replica=at.replica, lag_max=LAG, hot=["Shelf"]) as on:
        await on.create("Shelf", "", "s", title="before")
        await caught_up(at, on)
        shelf = on.schema.resources["library.v1.Shelf"]
        key = ("library.v1.Shelf", "shelves/s")
        missed = await on.hot._looking.ask(key)
        row, position = await on.records._tagged[key[0]].ask(key[1])
        assert row is not None and missed.epoch
        await write(on)
        on.hot.keep(key, missed, row, position)
        await on.hot._filling[key]
        assert (on.hot.filled, on.hot.barred, entries(at)) == (0, 1, {})
        await caught_up(at, on)
        for by in (ADA, BOB, NOBODY):
            assert await title_of(on, shelf.patterns[0].parent_of("") + "shelves/s", by=by) == after


async def killed_after(on: Engine, change: Change) -> None:
    """Commits the change, and is not heard of any more."""
    async with on.hot.bars.raised([change]):
        await on.records._carried_out(change)
        raise Unavailable("killed", reason="OUTCOME_UNKNOWN")


@asynchronous
async def test_while_a_change_is_under_way_nothing_is_kept(at: Database) -> None:
    """Its writer dies after the commit: others see the change as ever, but it is not kept until the bar has gone."""
    async with engine(at, replica=at.replica, lag_max=LAG, hot=["Shelf"]) as on:
        async with engine(at, replica=at.replica, lag_max=LAG, hot=["Shelf"]) as other:
            await on.create("Shelf", "", "s", title="before")
            await caught_up(at, on, other)
            await warmed(other, "shelves/s")
            resource = on.schema.resources["library.v1.Shelf"]
            row = await on.records.latest(resource, "shelves/s")
            assert row is not None
            body = on.schema.message_class("library.v1.Shelf")(name="shelves/s", title="after")
            change = on.decisions.update(resource, row, body, ["title"], etag="", origin=ADA.origin)[1]
            assert change is not None
            with pytest.raises(Unavailable, match="killed"):
                await killed_after(on, change)
            await caught_up(at, on, other)
            assert entries(at) == {}
            for _ in range(20):
                assert await title_of(other, "shelves/s") == "after"
            async with asyncio.timeout(5):
                while not other.hot.barred:
                    await asyncio.sleep(0.01)
            assert entries(at) == {}
            with plain_redis.Redis.from_url(at.redis) as direct:
                [bars] = direct.scan_iter(f"{PREFIX}b:*:shelves/s")
                assert 0 < direct.ttl(bars) <= BAR_SECONDS
                direct.delete(bars)  # as time does
            assert await warmed(other, "shelves/s") == "after"


@asynchronous
async def test_what_goes_with_its_parent_is_not_kept_either(at: Database) -> None:
    async with engine(at, replica=at.replica, lag_max=LAG, hot=["Book"]) as on:
        for shelf in "ab":
            await on.create("Shelf", "", shelf, title="t")
            await on.create("Book", f"shelves/{shelf}", "b", title=shelf)
        await caught_up(at, on)
        key = ("library.v1.Book", "shelves/a/books/b")
        missed = await on.hot._looking.ask(key)
        row, position = await on.records._tagged[key[0]].ask(key[1])
        for shelf in "ab":
            assert await warmed(on, f"shelves/{shelf}/books/b") == shelf
        await on.delete("Shelf", "shelves/a", force=True)
        on.hot.keep(key, missed, row, position)
        await on.hot._filling[key]
        await caught_up(at, on)
        assert await title_of(on, "shelves/a/books/b") == ""
        assert await title_of(on, "shelves/b/books/b") == "b"
        assert await warmed(on, "shelves/b/books/b") == "b"


@asynchronous
async def test_whoever_writes_by_other_ways_is_seen_within_the_bound(at: Database) -> None:
    """A statement of an operator's: nothing bars it, yet an entry without it counts no longer than the replica might lag."""
    async with engine(at, replica=at.replica, lag_max=0.5, hot=["Shelf"]) as on:
        await on.create("Shelf", "", "s", title="before")
        await caught_up(at, on)
        await warmed(on, "shelves/s")
        [[payload]] = at.sql("select _payload from library_v1.shelves where name = 'shelves/s'")
        shelf = on.schema.message_class("library.v1.Shelf").FromString(bytes(payload))
        shelf.title = "after"
        at.sql("update library_v1.shelves set _payload = %s", shelf.SerializeToString())
        [[written]] = at.sql("select (pg_current_wal_flush_lsn() - '0/0')::bigint")
        async with asyncio.timeout(10):
            while on.freshness.positions.recent < written:
                await title_of(on, "shelves/s")
                await asyncio.sleep(0.01)
        await asyncio.to_thread(at.wait_replica)
        for _ in range(50):
            assert await title_of(on, "shelves/s", by=NOBODY) == "after"


@asynchronous
async def test_that_there_is_nothing_is_kept_for_a_moment_only(at: Database) -> None:
    async with engine(at, replica=at.replica, lag_max=LAG, hot=["Shelf"]) as on:
        await caught_up(at, on)
        for i in range(200):
            assert await title_of(on, f"shelves/guess{i}") == ""
        assert entries(at) == {} and on.hot.filled == 0, "names that are tried cost Redis nothing"
        assert await warmed(on, "shelves/s") == ""
        counts = asked(on)
        assert await title_of(on, "shelves/s") == "" and sum(counts.values()) == 0
        with plain_redis.Redis.from_url(at.redis) as direct:
            assert 0 < direct.pttl(f"{PREFIX}e:library.v1.Shelf:shelves/s") <= 1000 * hot_module.ABSENT_SECONDS
        await on.create("Shelf", "", "s", title="t", by=BOB)
        assert await title_of(on, "shelves/s", by=BOB) == "t"
        await caught_up(at, on)
        assert await title_of(on, "shelves/s", by=NOBODY) == "t"


@asynchronous
async def test_what_is_large_is_not_kept_and_what_is_remembered_has_bounds(
    at: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot_module, "OFTEN_NAMES", 3)
    async with engine(at, replica=at.replica, lag_max=LAG, hot=["Shelf"]) as on:
        await on.create("Shelf", "", "large", title="x" * (hot_module.ENTRY_BYTES + 1))
        await on.create("Shelf", "", "small", title="x")
        await caught_up(at, on)
        assert await warmed(on, "shelves/small") == "x"
        for _ in range(5):
            assert len(await title_of(on, "shelves/large")) > hot_module.ENTRY_BYTES
            await asyncio.sleep(0)
        assert set(entries(at)) == {"shelves/small"}
        often = hot_module.Often(clock=lambda: 0.0)
        names = [("m", str(i)) for i in range(5)]
        assert [often.again(n) for n in names * 2] == [False] * 5 + [True] * 3 + [False] * 2


@asynchronous
async def test_a_stampede_is_one_row_of_one_statement(at: Database) -> None:
    async with engine(at, replica=at.replica, lag_max=LAG, hot=["Shelf"]) as on:
        await on.create("Shelf", "", "s", title="t")
        await caught_up(at, on)
        await title_of(on, "shelves/s")
        await on.hot._redis.ask("PING")
        counts = asked(on)
        found = await asyncio.gather(*(on.get("Shelf", "shelves/s", by=BOB) for _ in range(300)))
        assert {s.title for s in found} == {"t"}
        assert counts["primary"] == 0 and counts["replica"] <= 2
        assert on.hot.shared >= 298
        async with asyncio.timeout(5):
            while not entries(at):
                await asyncio.sleep(0.01)
        assert on.hot.filled + on.hot.barred <= 2


@asynchronous
async def test_rules_are_asked_of_what_is_kept(components: Stack) -> None:
    """Rows are kept and not answers; the schema says which are hot."""
    text = """syntax = "proto3"; package warm.v1;
      import "google/api/resource.proto"; import "transom/schema/v1/options.proto";
      message Mine {
        option (google.api.resource) = {type: "warm.test/Mine" pattern: "mines/{mine}"};
        option (transom.schema.v1.resource) = {read: "owner == caller.name" write: "true" hot: true};
        string name = 1;
        string secret = 2 [(transom.schema.v1.field).read = "caller.name == 'users/ada'"];
      }"""
    schema = made_of({"warm.proto": text})
    resource, make = schema.resources["warm.v1.Mine"], schema.message_class("warm.v1.Mine")
    assert resource.hot and not library().resources["library.v1.Shelf"].hot
    with database(components, None) as at:
        await asyncio.to_thread(migrate, at.postgres, schema)
        await asyncio.to_thread(at.wait_replica)
        async with engine(at, schema=schema, replica=at.replica, lag_max=LAG, ruled=True) as on:
            await on.resources.create(ADA, resource, "", "a", make(secret="s"))
            await caught_up(at, on)
            async with asyncio.timeout(10):
                while not on.hot.hits:
                    assert make.FromString(await on.resources.get(ADA, resource, "mines/a")).secret == "s"
                    await asyncio.sleep(0.01)
            hits = on.hot.hits
            for by in (BOB, NOBODY):
                with pytest.raises(NotFound):
                    await on.resources.get(by, resource, "mines/a")
            assert on.hot.hits == hits + 2, "they were told so of what is kept"


@asynchronous
async def test_without_a_replica_the_primary_is_spared(at: Database) -> None:
    async with engine(at, lag_max=LAG, hot=["Shelf"]) as on, engine(at, lag_max=LAG, hot=["Shelf"]) as other:
        await on.create("Shelf", "", "s", title="before")
        await other.create(
            "Shelf", "", "t", title="t"
        )  # else nothing is written after it, and it may not be visible yet
        assert await warmed(other, "shelves/s", by=NOBODY) == "before"
        counts = asked(other)
        assert await title_of(other, "shelves/s") == "before" and counts["primary"] == 0
        await on.update("Shelf", "shelves/s", None, title="after")
        for by in (ADA, BOB, NOBODY):
            assert await title_of(other, "shelves/s", by=by) == "after"


@asynchronous
async def test_without_redis_everything_is_only_slower(at: Database) -> None:
    """Emptied, cut off and back again, between reads and writes of two servers."""
    async with cable(at.redis) as (wire, url):
        async with (
            engine(at, replica=at.replica, redis=url, lag_max=0.5, forgotten=0.5, hot=["Shelf"]) as on,
            engine(at, replica=at.replica, redis=url, lag_max=0.5, forgotten=0.5, hot=["Shelf"]) as other,
        ):
            await on.create("Shelf", "", "s", title="0")
            n = 0
            for trouble in ("none", "flushed", "cut", "mended", "flushed"):
                with plain_redis.Redis.from_url(at.redis) as direct:
                    if trouble == "flushed":
                        direct.flushdb()
                if trouble == "cut":
                    await wire.cut()
                if trouble == "mended":
                    await wire.mend()
                for server, second in ((on, other), (other, on)) * 2:
                    n += 1
                    await server.update("Shelf", "shelves/s", None, title=str(n))
                    for _ in range(10):
                        assert await title_of(second, "shelves/s", by=ADA) == str(n)
                        assert await title_of(server, "shelves/s", by=ADA) == str(n)
                if trouble != "cut":
                    async with asyncio.timeout(10):
                        await caught_up(at, on, other)
                        while not entries(at):
                            assert await title_of(other, "shelves/s") == str(n)
                            await asyncio.sleep(0.01)
                        assert await title_of(other, "shelves/s") == str(n)
            assert on.hot.filled + other.hot.filled >= 4


@asynchronous
async def test_a_write_that_redis_cannot_be_told_of_waits_until_nothing_older_counts(at: Database) -> None:
    """Redis is there for the other server, which keeps serving what it has: until that is too old for anybody."""
    async with cable(at.redis) as (wire, url):
        async with (
            engine(at, replica=at.replica, redis=url, lag_max=1.0, hot=["Shelf"]) as on,
            engine(at, replica=at.replica, lag_max=1.0, hot=["Shelf"]) as other,
        ):
            await on.create("Shelf", "", "s", title="before")
            await caught_up(at, on, other)
            await wire.cut()
            await warmed(other, "shelves/s")
            await on.update("Shelf", "shelves/s", None, title="after")
            assert await title_of(other, "shelves/s", by=ADA) == "after", (
                "on the other server, which was told of no mark"
            )
