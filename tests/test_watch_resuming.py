"""Watches that go on: at other servers, after what was lost, and where that cannot be."""

from __future__ import annotations

import asyncio
import random
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from library_ground import Database, asynchronous, database, now
from watch_ground import ADA, BOB, ROOT, Newsroom, Reading, newsroom, relayed, resource, schema, settled

from deploy.native.stack import Stack
from server.caller import Caller
from server.caller import Kind as CallerKind
from server.engine import watch_streams
from server.engine.access import Access
from server.engine.resources import Call
from server.engine.watch_views import CREATED, CURRENT, DELETED, REMOVED, RESET, UPDATED, Kind
from server.errors import Exhausted, Internal, Refusal, Unavailable
from server.query import resume_tokens
from server.query.rules.checking import rules_of
from server.store import log_tail


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Database]:
    with database(components, schema()) as made:
        yield made


async def refusal(reading: Reading) -> tuple[str, str]:
    """Code and reason."""
    await reading.until(lambda me: me.refused)
    assert reading.refused is not None
    return reading.refused.code.name, reading.refused.reason


@asynchronous
async def test_a_stream_goes_on_at_another_server(at: Database) -> None:
    async with relayed(at), newsroom(at) as one, newsroom(at) as two:
        await one.make("Team", "teams/move")
        a = await one.make("Note", "teams/move/notes/a")
        first = one.watch("Note", "teams/move")
        await first.says(f"CURRENT {a}", "synced")
        await two.change("Note", a, title="x")
        await first.says(f"CURRENT {a}", "synced", f"UPDATED {a}")
        token = await first.stop()
        b = await one.make("Note", "teams/move/notes/b")
        await settled(at)
        second = two.watch("Note", "teams/move", token=token)
        await second.says(f"CREATED {b}", "synced")
        await one.remove("Note", b)
        await second.says(f"CREATED {b}", "synced", f"DELETED {b}")
        for other in ({"by": ADA, "filter": "rank = 1"}, {"by": ADA, "deleted": True}):
            assert await refusal(two.watch("Note", "teams/move", token=token, **other)) == (  # type: ignore[arg-type]
                "INVALID_ARGUMENT",
                "INVALID_REQUEST",
            )
        # Whose rights are others begins anew.
        await two.watch("Note", "teams/move", BOB, token=token).says("RESET", "synced")
        await two.watch("Note", "teams/move", ROOT, token=token).says("RESET", f"CURRENT {a}", "synced")


@asynchronous
async def test_rights_that_changed_meanwhile(at: Database) -> None:
    async with relayed(at), newsroom(at) as here:
        await here.make("Team", "teams/mean")
        note = await here.make("Note", "teams/mean/notes/a")
        member = await here.make("Member", "teams/mean/members/bob")
        bob = here.watch("Note", "teams/mean", BOB)
        await bob.says(f"CURRENT {note}", "synced")
        token = await bob.stop()
        await here.remove("Member", member)
        await here.change("Note", note, title="not his to know")
        await settled(at)
        await here.watch("Note", "teams/mean", BOB, token=token).says("RESET", "synced")


@asynchronous
async def test_who_may_see_it_by_now_is_not_told_what_it_was_before(at: Database) -> None:
    async with relayed(at), newsroom(at) as here:
        await here.make("Team", "teams/late")
        note = await here.make("Note", "teams/late/notes/a", title="one")
        bob = here.watch("Note", "teams/late", BOB)
        await bob.says("synced")
        token = await bob.stop()
        await here.change("Note", note, title="two, which he was never to know")
        await here.change("Note", note, title="three")
        await here.make("Member", "teams/late/members/bob")
        await here.change("Note", note, title="four")
        await settled(at)
        again = here.watch("Note", "teams/late", BOB, token=token)
        await again.says("RESET", f"CURRENT {note}", "synced")
        assert b"four" in (again.told[1].payload or b"")
        # What concerned him before the token, or concerns others, is no reason.
        await here.make("Member", "teams/late/members/carol")
        token = await again.stop()
        await here.change("Note", note, title="five")
        await settled(at)
        await here.watch("Note", "teams/late", BOB, token=token).says(f"UPDATED {note}", "synced")


@pytest.mark.parametrize("between", [0, 600])
@asynchronous
async def test_what_was_before_rights_were_given_is_not_told_by_them(at: Database, between: int) -> None:
    """Where the relay was away meanwhile; and where more was written than is read at once."""
    team = f"teams/ahead{between}"
    async with newsroom(at) as here:
        async with relayed(at):
            await here.make("Team", team)
            note = await here.make("Note", f"{team}/notes/a", title="one")
            await settled(at)
        bob = here.watch("Note", team, BOB)
        await bob.says("synced")
        await here.change("Note", note, title="two, which he was never to know")
        at.sql(
            "insert into transom.events (resource_type, verb, name, payload, owner)"
            " select 'newsroom.v1.Note', 'updated', 'teams/elsewhere/notes/' || n, '', 'users/ada' from generate_series(1, %s) n",
            between,
        )
        await here.change("Note", note, title="three")
        await here.make("Member", f"{team}/members/bob")
        at.sql(
            "with next as (select id, row_number() over (order by id) as step from transom.events where position is null),"
            " given as (update transom.events e set position = r.numbered + step from next, transom.relay r where e.id = next.id)"
            " update transom.relay set numbered = numbered + (select count(*) from next)"
            " returning pg_notify('transom_positions', '')"
        )
        await bob.says("synced", "RESET", f"CURRENT {note}", "synced")
        assert not any(b"two" in (told.payload or b"") for told in bob.told)


@asynchronous
async def test_what_cannot_be_told_keeps_nobody_waiting(at: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async with relayed(at), newsroom(at) as here:
        held, refusals = here.on.resources.access.held, list[Refusal]()

        async def refusing(*asked: Any) -> list[bool]:
            if refusals:
                raise refusals.pop()
            return await held(*asked)

        monkeypatch.setattr(here.on.resources.access, "held", refusing)
        await here.make("Team", "teams/refusal")
        note = await here.make("Note", "teams/refusal/notes/a")
        watch = here.watch("Note", "teams/refusal")
        told = [f"CURRENT {note}", "synced"]
        for given, seconds, says in (
            ([], 30.0, [f"UPDATED {note}"]),
            ([Unavailable("Away."), Exhausted("Busy.")], 30.0, [f"UPDATED {note}"]),  # which passes
            ([Internal("Never.")], 30.0, ["RESET", f"CURRENT {note}", "synced"]),
            ([Unavailable("Away."), Unavailable("Away.")], 0.0, ["RESET", f"CURRENT {note}", "synced"]),  # for too long
            ([], 30.0, [f"UPDATED {note}"]),
        ):
            await watch.says(*told)
            monkeypatch.setattr(log_tail, "TELLING_SECONDS", seconds)
            refusals[:] = given
            await here.change("Note", note, title=f"{len(told)}")
            told += says
        await watch.says(*told)


@asynchronous
async def test_tokens_are_only_those_that_were_given(at: Database) -> None:
    """Else anybody could read what everything was, as far back as the log goes."""
    async with relayed(at), newsroom(at) as here:
        await here.make("Team", "teams/forge")
        note = await here.make("Note", "teams/forge/notes/a", title="one", public=True)
        await here.change("Note", note, title="two")
        bob = here.watch("Note", "teams/forge", BOB)
        await bob.says(f"CURRENT {note}", "synced")
        token = await bob.stop()
        raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        for at_byte in range(
            1, len(raw)
        ):  # the watch, the rights, the history, the position, what was told, the signature
            forged = (
                urlsafe_b64encode(raw[:at_byte] + bytes([raw[at_byte] ^ 1]) + raw[at_byte + 1 :]).decode().rstrip("=")
            )
            answer = await refusal(here.watch("Note", "teams/forge", BOB, token=forged))
            assert answer in (("INVALID_ARGUMENT", "INVALID_REQUEST"), ("OUT_OF_RANGE", "RESUME_TOKEN_EXPIRED")), (
                at_byte
            )
        ends = await here.streams.log.ends()
        assert ends.key == here.watching.log.key
        assert len(ends.key) == 32
        assert repr(ends.key) not in repr(ends)
        history = ends.history.fingerprint, ends.history.timeline
        mine = resume_tokens.sealed(b"k" * 32, raw[1:9], raw[9:17], history, 1)
        assert await refusal(here.watch("Note", "teams/forge", BOB, token=mine)) == (
            "OUT_OF_RANGE",
            "RESUME_TOKEN_EXPIRED",
        )
        await here.watch("Note", "teams/forge", BOB, token=token).says("synced")


def test_what_may_be_seen_is_part_of_a_token() -> None:
    """After another rule is applied, whoever goes on begins anew."""

    def standing(text: str, caller: Caller) -> bytes:
        rules = rules_of(schema())
        note = resource("Note")
        rule = replace(rules.resources[note.message].actions["watch"], text=text)
        changed = replace(rules.resources[note.message], actions={"watch": rule})
        by_message = {**rules.resources, note.message: changed}
        access = Access(schema(), replace(rules, resources=by_message), None, now)  # type: ignore[arg-type] - nothing is looked up
        return Kind(schema(), note, access).standing(caller).digest

    root = Caller(CallerKind.KEY, "serviceKeys/one")
    said = standing("resource.public", BOB.caller)
    assert said == standing("resource.public", BOB.caller)
    assert said != standing("resource.public && resource.rank > 1", BOB.caller)
    assert said != standing("resource.public", ADA.caller)
    assert standing("a", root) == standing("b", root)


@asynchronous
async def test_what_is_kept_no_more(at: Database) -> None:
    async with relayed(at), newsroom(at) as here:
        await here.make("Team", "teams/trim")
        watch = here.watch("Note", "teams/trim")
        await watch.says("synced")
        token = await watch.stop()
        last = await here.make("Note", "teams/trim/notes/a")
        await settled(at)
        follower = here.watch("Note", "teams/trim")
        await follower.until(lambda me: me.said[-1:] == ["synced"])
        at.sql("delete from transom.events where position is not null; update transom.relay set trimmed = numbered")
        assert await refusal(here.watch("Note", "teams/trim", token=token)) == ("OUT_OF_RANGE", "RESUME_TOKEN_EXPIRED")
        await here.change("Note", last, title="goes on")
        await follower.until(lambda me: me.said[-1] == f"UPDATED {last}")
        # Nor is what was never there: the log of another database, or of one that was set back.
        at.sql("update transom.relay set numbered = numbered + 1000")
        beyond = follower.token
        await here.change("Note", last, title="far")
        await follower.until(lambda me: follower.token != beyond)
        beyond = await follower.stop()
        at.sql(
            "delete from transom.events where position is not null; update transom.relay set numbered = 5, trimmed = 0"
        )
        assert await refusal(here.watch("Note", "teams/trim", token=beyond)) == ("OUT_OF_RANGE", "RESUME_TOKEN_EXPIRED")


@asynchronous
async def test_what_has_no_position_yet_is_told_once(at: Database) -> None:
    async with newsroom(at) as one, newsroom(at) as two:
        await one.make("Team", "teams/wait")
        a = await one.make("Note", "teams/wait/notes/a")
        first = one.watch("Note", "teams/wait")
        await first.says(f"CURRENT {a}", "synced")  # no relay has seen it
        token = first.token
        await one.change("Note", a, title="x")
        async with relayed(at):
            await first.says(f"CURRENT {a}", "synced", f"UPDATED {a}")
            await two.watch("Note", "teams/wait", token=token).says(f"UPDATED {a}", "synced")
            await two.watch("Note", "teams/wait", token=first.token).says("synced")


@asynchronous
async def test_lost_connections_lose_nothing(at: Database) -> None:
    async with relayed(at), newsroom(at) as here:
        await here.make("Team", "teams/lost")
        watch = here.watch("Note", "teams/lost")
        await watch.says("synced")
        names = []
        for i in range(6):
            names.append(await here.make("Note", f"teams/lost/notes/n{i}"))
            if i % 2:
                at.sql(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name = 'test watch' and datname = current_database()"
                )
        await watch.says("synced", *(f"CREATED {name}" for name in names))


@asynchronous
async def test_events_that_do_not_say_all(at: Database) -> None:
    """Such as a process of an older version writes; and one that nobody can read."""
    async with relayed(at), newsroom(at) as here:
        await here.make("Team", "teams/old")
        note = await here.make("Note", "teams/old/notes/a")
        watch = here.watch("Note", "teams/old")
        await watch.says(f"CURRENT {note}", "synced")
        insert = "insert into transom.events (resource_type, verb, name, payload, owner, before) values (%s, %s, %s, %s, %s, %s)"
        at.sql(insert, "newsroom.v1.Note", "updated", note, b"", None, None)
        await watch.says(f"CURRENT {note}", "synced", "RESET", f"CURRENT {note}", "synced")
        at.sql(insert, "newsroom.v1.Note", "updated", note, b"\xff", "users/ada", b"\xff")
        await watch.until(lambda me: me.said.count("RESET") == 2)
        await here.change("Note", note, title="goes on")
        await watch.until(lambda me: me.said[-1] == f"UPDATED {note}")
        # Who went on before it meets it in the log; so does who depends on what nobody can read.
        token = watch.token
        at.sql(insert, "newsroom.v1.Note", "updated", note, b"\xff", "users/ada", b"\xff")
        await settled(at)
        await here.watch("Note", "teams/old", token=token).says("RESET", f"CURRENT {note}", "synced")
        bob = here.watch("Note", "teams/old", BOB)
        await bob.says("synced")
        at.sql(insert, "newsroom.v1.Team", "updated", "teams/old", b"\xff", "users/ada", b"\xff")
        await bob.says("synced", "RESET", "synced")


class Copy:
    """What a client has that does as it is told."""

    def __init__(self, *, strict: bool) -> None:
        """`strict`: rights do not change, so that nothing is judged by what they are a moment later."""
        self.rows: dict[str, bytes] = {}
        self.read = 0
        self._strict = strict

    def follow(self, reading: Reading) -> None:
        for told in reading.told[self.read :]:
            match told.change:
                case c if c == RESET:
                    self.rows.clear()
                case c if c == CURRENT:
                    assert told.name not in self.rows, f"{told.name} was told twice"
                    self.rows[told.name] = told.payload or b""
                case c if c == CREATED:
                    assert told.name not in self.rows or not self._strict, f"{told.name} was there already"
                    self.rows[told.name] = told.payload or b""
                case c if c == UPDATED:
                    assert told.name in self.rows or not self._strict, f"{told.name} was not told of"
                    assert self.rows.get(told.name) != told.payload, f"an update of {told.name} was told twice"
                    self.rows[told.name] = told.payload or b""
                case c if c in (DELETED, REMOVED):
                    had = self.rows.pop(told.name, None) is not None
                    assert had or not self._strict, f"{told.name} was not there"
        self.read = len(reading.told)


async def write(here: Newsroom, team: str, chance: random.Random, count: int, known: set[str]) -> None:
    """So many random writes."""
    for i in range(count):
        name = f"{team}/notes/n{chance.randrange(25):02}"
        if name not in known:
            await here.make("Note", name, public=chance.random() < 0.7, rank=chance.randrange(3), title=f"{i}")
            known.add(name)
        elif chance.random() < 0.3:
            known.discard(name)
            await here.remove("Note", name)
        else:
            title = f"{chance.random()}"
            await here.change("Note", name, public=chance.random() < 0.7, rank=chance.randrange(3), title=title)
        if chance.random() < 0.05:
            member = f"{team}/members/bob"
            if member in known:
                known.discard(member)
                await here.remove("Member", member)
            else:
                known.add(member)
                await here.make("Member", member)


@pytest.mark.parametrize("seed", [1, 2, 3])
@asynchronous
async def test_whatever_happens_all_end_with_what_is_there(
    at: Database, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers, and watchers that come, go and go on anywhere, while the relay does; pages are small, so that writes fall between
    them; one server reads from the replica."""
    monkeypatch.setattr(watch_streams, "PAGE", 4)
    chance = random.Random(seed)
    team = f"teams/all{seed}"
    asked: list[dict[str, Any]] = [{"by": who, "filter": f} for who in (ADA, BOB, ROOT) for f in ("", "rank > 0")]
    async with newsroom(at) as one, newsroom(at, replica=at.replica) as two:
        await one.make("Team", team)
        known: set[str] = set()
        copies = [Copy(strict=ask["by"] is not BOB) for ask in asked]
        watches: list[Reading | None] = [None] * len(asked)
        for _ in range(3):
            async with relayed(at):
                writing = asyncio.create_task(write(one, team, chance, 40, known))
                while not writing.done():
                    i = chance.randrange(len(asked))
                    if (watch := watches[i]) is not None and chance.random() < 0.5:
                        token = await watch.stop()
                        copies[i].follow(watch)
                        watches[i] = None
                        if not token:
                            copies[i].rows.clear()
                        watches[i] = chance.choice((one, two)).watch("Note", team, token=token, **asked[i])
                        copies[i].read = 0
                    elif watch is None:
                        watches[i] = chance.choice((one, two)).watch("Note", team, **asked[i])
                    await asyncio.sleep(0.005)
                await writing
            await write(one, team, chance, 5, known)  # while there is no relay
        async with relayed(at):
            marks = [await one.make("Note", f"{team}/notes/zz", public=True, rank=2, title="the end")]
            for i, watch in enumerate(watches):
                if watch is None:
                    watch = watches[i] = one.watch("Note", team, **asked[i])
                await watch.until(lambda me: any(t.name == marks[0] for t in me.told) and me.token != "")
                copies[i].follow(watch)
        for i, ask in enumerate(asked):
            caller: Call = ask["by"]
            fresh = one.watch("Note", team, **ask)
            await fresh.until(lambda me: "synced" in me.said)
            there = {told.name: told.payload for told in fresh.told if told.name}
            assert copies[i].rows == there, (caller.caller.name, ask["filter"])


@asynchronous
async def test_tokens_hold_no_more_than_they_must(at: Database) -> None:
    """What waits elsewhere, or was told meanwhile, does not stay in a token for ever."""
    async with newsroom(at) as here:
        await here.make("Team", "teams/hold")
        await here.make("Member", "teams/hold/members/bob")
        for i in range(60):
            await here.make("Team", f"teams/h{i}")
        await here.make("Team", "teams/beside")
        for i in range(60):
            await here.make("Note", f"teams/beside/notes/n{i}", public=True)
        a = await here.make("Note", "teams/hold/notes/a")
        watch = here.watch("Note", "teams/hold", BOB)
        await watch.says(f"CURRENT {a}", "synced")
        assert 0 < len(watch.watcher.skip) < 5
        assert watch.token
        async with relayed(at):
            b = await here.make("Note", "teams/hold/notes/b")
            await watch.says(f"CURRENT {a}", "synced", f"CREATED {b}")
            assert not watch.watcher.skip
