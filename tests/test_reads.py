"""Reads that may come from anywhere: tokens that say what must be shown, and time that does not run backwards."""

# ruff: noqa: SIM117 - tables and scenes
from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest
from identity_ground import cable
from library_ground import ADA, BOB, Database, asynchronous, database, engine, library
from psycopg.conninfo import make_conninfo
from replica_ground import asked, called, caught_up, paused

from deploy.native.stack import Stack
from server.errors import Invalid, NotFound
from server.store.consistency import PRIMARY, History, opened, sealed

CARL = replace(BOB, caller=replace(BOB.caller, name="users/carl"))
NOBODY = replace(BOB, caller=replace(BOB.caller, name=""))
FOREVER = 1000.0
"""A replica may be so far behind that nobody minds."""


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Database]:
    with database(components, library()) as made:
        yield made


@pytest.fixture(autouse=True)
def _empty(at: Database) -> None:
    """Every test begins with empty tables."""
    at.empty()


# ------------------------------------------------------------------------------------------------- tokens

HERE = History(system=7_123_456_789_012_345_678, timeline=3)
SINCE = 5_000


@pytest.mark.parametrize(
    ("history", "position", "asks"),
    [
        (HERE, 7_000, 7_000),
        (HERE, 10**15, 10**15),
        (HERE._replace(timeline=2), 4_000, SINCE),
        (HERE._replace(timeline=2), 9_000, SINCE),
        (HERE._replace(timeline=4), 9_000, PRIMARY),
        (HERE._replace(system=-5), 7_000, PRIMARY),
    ],
    ids=["of now", "beyond all", "of before", "lost with its timeline", "of a timeline to come", "of another system"],
)
def test_a_token_asks_for_what_its_history_says(history: History, position: int, asks: int) -> None:
    token = sealed(history, position)
    assert len(token) == 23 and token.isascii()
    assert opened(token, HERE, SINCE) == asks
    assert opened(f"{sealed(HERE, 6_000)}, {token}", HERE, SINCE) == max(6_000, asks), "the most of several"
    assert opened(token, None, 0) == PRIMARY, "who knows of no history asks the primary"


def test_a_token_of_a_version_to_come_asks_for_the_primary() -> None:
    assert opened(base64.urlsafe_b64encode(b"\x02" + b"x" * 29).decode(), HERE, SINCE) == PRIMARY


@pytest.mark.parametrize(
    "text",
    [
        ",",
        "x",
        "no token",
        "nonsense",
        "é" * 23,
        "A" * 65,
        sealed(HERE, 1)[:-1],
        sealed(HERE, 1) + "AAAA",
        sealed(HERE, 1) + ",",
        ",".join([sealed(HERE, 1)] * 9),
        base64.urlsafe_b64encode(struct.pack(">B", 1)).decode(),
        "\0",
    ],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as refusal:
        opened(text, HERE, SINCE)
    assert refusal.value.reason == "INVALID_CONSISTENCY_TOKEN"


@asynchronous
async def test_a_token_is_heeded_on_every_server_whoever_brings_it(at: Database, components: Stack) -> None:
    """Out of band: from the writer to somebody else, and to who has no name at all."""
    async with engine(at, replica=at.replica, lag_max=FOREVER) as on:
        async with engine(at, replica=at.replica, lag_max=FOREVER) as other:
            _, first = await called(on, on.create("Shelf", "", "s", title="before"))
            await caught_up(at, on, other)
            counts = asked(other)
            async with paused(components):
                _, token = await called(on, on.update("Shelf", "shelves/s", None, title="after"))
                assert token and token != first
                for who in (CARL, NOBODY):
                    assert (await other.get("Shelf", "shelves/s", by=who)).title == "before"
                    counts.update(primary=0, replica=0)
                    found, none = await called(other, other.get("Shelf", "shelves/s", by=who), token)
                    assert (found.title, none) == ("after", ""), "reads write nothing"
                    assert counts == {"primary": 1, "replica": 0}
                counts.update(primary=0, replica=0)
                found, _ = await called(other, other.get("Shelf", "shelves/s", by=NOBODY), first)
                assert found.title == "before" and counts == {"primary": 0, "replica": 1}, (
                    "an old token asks for little"
                )
                names, _ = await called(other, other.names("Shelf", "", by=NOBODY), f"{first},{token}")
                assert names == ["shelves/s"] and counts["primary"] == 1, "lists heed it, too"
            await asyncio.to_thread(at.wait_replica)
            counts.update(primary=0, replica=0)
            found, _ = await called(other, other.get("Shelf", "shelves/s", by=NOBODY), token)
            assert found.title == "after" and counts == {"primary": 0, "replica": 1}


@asynchronous
async def test_no_token_makes_a_read_wait(at: Database) -> None:
    """Positions that nobody will reach, and histories that nobody has heard of: the primary has all there is."""
    async with engine(at, replica=at.replica, lag_max=FOREVER) as on:
        await on.create("Shelf", "", "s", title="t")
        await caught_up(at, on)
        here = on.freshness.positions.history
        assert here is not None and here.timeline >= 1
        counts = asked(on)
        strange = [
            sealed(here, 2**62),
            sealed(here._replace(timeline=here.timeline + 1), 1),
            sealed(here._replace(system=here.system ^ 1), 1),
        ]
        for token in strange:
            found, _ = await called(on, on.get("Shelf", "shelves/s", by=NOBODY), token)
            assert found.title == "t"
        assert counts == {"primary": 3, "replica": 0}


@asynchronous
async def test_several_changes_in_one_transaction_have_one_token(at: Database, components: Stack) -> None:
    async with engine(at, replica=at.replica, lag_max=FOREVER) as on:
        await caught_up(at, on)
        changes = [
            on.decisions.create(
                on.schema.resources["library.v1.Shelf"],
                on.schema.message_class("library.v1.Shelf")(title="t"),
                parent="",
                id=id,
                owner="users/ada",
                origin=ADA.origin,
            )
            for id in "abc"
        ]
        async with paused(components):
            _, token = await called(on, on.records.commit(changes))
            names, _ = await called(on, on.names("Shelf", "", by=CARL), token)
            assert names == ["shelves/a", "shelves/b", "shelves/c"]
            assert await on.names("Shelf", "", by=NOBODY) == []


# ------------------------------------------------------------------------------------------------- never backwards


@asynchronous
async def test_who_was_shown_the_primary_is_not_shown_the_past_of_it(at: Database, components: Stack) -> None:
    """Whatever led to the primary: here a token, there a replica that is too far behind for one of the servers."""
    async with (
        engine(at, replica=at.replica, lag_max=FOREVER) as on,
        engine(at, replica=at.replica, lag_max=FOREVER) as other,
        engine(at, replica=at.replica, lag_max=0.0) as strict,
    ):
        await on.create("Shelf", "", "s", title="before")
        await caught_up(at, on, other)
        async with paused(components):
            _, token = await called(on, on.update("Shelf", "shelves/s", None, title="after"))
            for server, brought, who in ((on, token, BOB), (strict, "", CARL)):
                assert (await other.get("Shelf", "shelves/s", by=who)).title == "before"
                found, _ = await called(server, server.get("Shelf", "shelves/s", by=who), brought)
                assert found.title == "after"
                assert (await other.get("Shelf", "shelves/s", by=who)).title == "after", "on another server, without it"
                assert await other.names("Shelf", "", by=who) == ["shelves/s"]
            with pytest.raises(NotFound):
                await strict.get("Shelf", "shelves/none", by=CARL)
            await on.create("Shelf", "", "none", title="t")
            with pytest.raises(NotFound):
                await other.get("Shelf", "shelves/none", by=NOBODY)
        await caught_up(at, on, other)
        counts = asked(other)
        assert (await other.get("Shelf", "shelves/s", by=BOB)).title == "after"
        assert counts == {"primary": 0, "replica": 1}, "once the replica has it, it is read again"


@asynchronous
async def test_a_replica_that_has_caught_up_is_read_at_once(at: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for its position: what is known of it by watching may be old."""
    async with engine(at, replica=at.replica, lag_max=FOREVER) as on:
        await on.create("Shelf", "", "s", title="t")
        await caught_up(at, on)
        await on.freshness.positions.close()  # nobody watches from now on
        for i in range(5):
            await on.update("Shelf", "shelves/s", None, title=str(i))
            await asyncio.to_thread(at.wait_replica)
            counts = asked(on)
            assert (await on.get("Shelf", "shelves/s")).title == str(i)
            assert counts == {"primary": 0, "replica": 1}


@asynchronous
async def test_without_redis_the_primary_is_shown_once_the_replica_has_it(at: Database, components: Stack) -> None:
    """Nobody can be told of the mark: so nobody is shown what the replica, which others read, has not replayed."""
    async with cable(at.redis) as (wire, url), engine(at, replica=at.replica, redis=url, lag_max=20) as on:
        await on.create("Shelf", "", "s", title="before")
        await caught_up(at, on)
        async with engine(at, replica=at.replica, lag_max=20) as other:
            await caught_up(at, other)
            async with paused(components):
                await other.update("Shelf", "shelves/s", None, title="after")
                await wire.cut()
                reading = asyncio.create_task(on.get("Shelf", "shelves/s", by=BOB))
                done, _ = await asyncio.wait([reading], timeout=0.6)
                assert not done and (await other.get("Shelf", "shelves/s", by=BOB)).title == "before"
            assert (await reading).title == "after"
            assert (await other.get("Shelf", "shelves/s", by=BOB)).title == "after"


@asynchronous
async def test_a_replica_whose_connections_are_new_is_not_believed_at_once(
    at: Database, components: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be another one, or begin again before what it has shown: it is read once it has what was written since."""
    async with cable(f"postgresql://127.0.0.1:{components.ports['postgres-2']}/") as (wire, _):
        through = make_conninfo(at.replica, host="127.0.0.1", port=wire.port)
        async with engine(at, replica=through, lag_max=FOREVER) as on:
            await on.create("Shelf", "", "s", title="before")
            await caught_up(at, on)
            await on.freshness.positions.close()
            counts = asked(on)
            async with paused(components):
                await called(on, on.update("Shelf", "shelves/s", None, title="after"))
                await wire.cut()
                await wire.mend()
                assert on.replica is not None
                await on.replica.open()
                assert (await on.get("Shelf", "shelves/s", by=CARL)).title == "after"
                for _ in range(3):
                    await on.freshness.positions._look()
                    assert (await on.get("Shelf", "shelves/s", by=NOBODY)).title == "after", "it does not have that yet"
                assert counts["replica"] == 1, "asked once, and not believed"
            await asyncio.to_thread(at.wait_replica)
            await on.freshness.positions._look()
            counts.update(primary=0, replica=0)
            assert (await on.get("Shelf", "shelves/s", by=NOBODY)).title == "after"
            assert counts == {"primary": 0, "replica": 1}


@asynchronous
async def test_a_promoted_replica_has_a_history_of_its_own(at: Database) -> None:
    """What a promotion looks like to a server: the same system, another timeline. Tokens and marks of before ask for no more
    than what there was when it was noticed."""
    async with engine(at, replica=at.replica, lag_max=FOREVER) as on:
        await on.create("Shelf", "", "s", title="t")
        await caught_up(at, on)
        positions = on.freshness.positions
        await positions.close()
        here = positions.history
        assert here is not None
        old = sealed(here._replace(timeline=here.timeline - 1), 2**60)
        assert on.freshness.position(old) == positions.since
        positions.history = here._replace(timeline=here.timeline - 1)  # what was known before
        await positions._look()
        assert positions.history == here and positions.lag == float("inf"), "seen anew, and not believed yet"
        assert positions.since >= positions.replayed > 0
        assert on.freshness.position(old) == positions.since
