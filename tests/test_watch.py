"""Watching: what there is, then what changes, once each and in order, whoever may see what."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from weakref import ref

import pytest
from library_ground import Database, asynchronous, database
from watch_ground import ADA, BOB, ROOT, Newsroom, Reading, newsroom, relayed, schema

from deploy.native.stack import Stack
from server.caller import NOBODY, Caller
from server.engine import watch_streams, watching
from server.engine.resources import Call
from server.errors import Invalid, Refusal, Unauthenticated


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Database]:
    with database(components, schema()) as made:
        yield made


def titles(watch: Reading) -> list[str]:
    """Titles of the notes that were told."""
    parse = schema().message_class("newsroom.v1.Note").FromString
    return [parse(told.payload).title for told in watch.told if told.payload is not None]


@asynchronous
async def test_what_there_is_and_then_what_changes(at: Database) -> None:
    async with relayed(at), newsroom(at) as here:
        await here.make("Team", "teams/one")
        a = await here.make("Note", "teams/one/notes/a", title="A")
        watch = here.watch("Note", "teams/one")
        await watch.says(f"CURRENT {a}", "synced")
        b = await here.make("Note", "teams/one/notes/b", title="B")
        await here.change("Note", a, title="AA")
        await here.remove("Note", b)
        await watch.says(f"CURRENT {a}", "synced", f"CREATED {b}", f"UPDATED {a}", f"DELETED {b}")
        assert titles(watch) == ["A", "B", "AA", "B"]


@asynchronous
async def test_each_is_told_what_they_may_see(at: Database) -> None:
    async with relayed(at), newsroom(at) as here:
        await here.make("Team", "teams/sight")
        hers = await here.make("Note", "teams/sight/notes/hers", source="a secret", title="private")
        bob, nobody = here.watch("Note", "teams/sight", BOB), here.watch("Note", "teams/sight", Call(NOBODY))
        ada, root = here.watch("Note", "teams/sight", ADA), here.watch("Note", "teams/sight", ROOT)
        for one in (bob, nobody):
            await one.says("synced")
        await here.change("Note", hers, title="still private")
        await here.change("Note", hers, public=True)
        await here.change("Note", hers, title="known to all")
        await here.change("Note", hers, public=False)
        await here.change("Note", hers, title="private again")
        await here.remove("Note", hers)
        last = await here.make("Note", "teams/sight/notes/last", public=True)
        for one in (bob, nobody):
            await one.says("synced", f"CREATED {hers}", f"UPDATED {hers}", f"REMOVED {hers}", f"CREATED {last}")
            assert titles(one)[:2] == ["still private", "known to all"]
            assert all(b"secret" not in (told.payload or b"") for told in one.told)
        for one in (ada, root):
            await one.says(f"CURRENT {hers}", "synced", *[f"UPDATED {hers}"] * 5, f"DELETED {hers}", f"CREATED {last}")
            assert b"secret" in (one.told[0].payload or b"")


@asynchronous
async def test_what_rules_look_up_is_not_remembered_beyond_its_end(at: Database) -> None:
    async with relayed(at), newsroom(at) as here:
        await here.make("Team", "teams/anew", open=True)
        watch = here.watch("Note", "teams/-", BOB, filter='title = "anew"')
        await watch.says("synced")
        a = await here.make("Note", "teams/anew/notes/a", title="anew")
        await watch.says("synced", f"CREATED {a}")
        await here.remove("Note", a)
        await here.remove("Team", "teams/anew")
        await here.make("Team", "teams/anew")  # another of that name, that is not open
        b = await here.make("Note", "teams/anew/notes/b", title="anew")
        c = await here.make("Note", "teams/anew/notes/c", title="anew", public=True)
        await watch.says("synced", f"CREATED {a}", f"DELETED {a}", f"CREATED {c}")
        assert b not in "".join(watch.said)


@asynchronous
async def test_filters(at: Database) -> None:
    async with relayed(at), newsroom(at) as here:
        await here.make("Team", "teams/filter")
        one = await here.make("Note", "teams/filter/notes/one", rank=1, public=True, source="x")
        two = await here.make("Note", "teams/filter/notes/two", rank=2, public=True, source="x")
        high = here.watch("Note", "teams/filter", filter="rank > 1")
        hidden, hers = (here.watch("Note", "teams/filter", by, filter='source = "x"') for by in (BOB, ADA))
        await high.says(f"CURRENT {two}", "synced")
        await hidden.says("synced")  # what is not seen is not found by, either
        await hers.says(f"CURRENT {one}", f"CURRENT {two}", "synced")
        await here.change("Note", one, rank=3)
        await here.change("Note", two, rank=0)
        await here.change("Note", two, title="below")
        await here.remove("Note", two)
        await here.remove("Note", one)
        await high.says(f"CURRENT {two}", "synced", f"CREATED {one}", f"REMOVED {two}", f"DELETED {one}")
        await hers.until(lambda me: me.said[-1] == f"DELETED {one}")
        await hidden.says("synced")
        with pytest.raises(Invalid):
            here.open("Note", "teams/filter", filter="rank >")


@asynchronous
async def test_rights_that_rules_look_up(at: Database) -> None:
    async with relayed(at), newsroom(at) as here:
        await here.make("Team", "teams/look", title="t")
        await here.make("Team", "teams/other")
        note = await here.make("Note", "teams/look/notes/a")
        bob, everywhere = here.watch("Note", "teams/look", BOB), here.watch("Note", "teams/-", BOB, filter='title = ""')
        await bob.says("synced")
        await everywhere.until(lambda me: "synced" in me.said)
        member = await here.make("Member", "teams/look/members/bob")
        await bob.says("synced", "RESET", f"CURRENT {note}", "synced")
        await everywhere.until(lambda me: f"CURRENT {note}" in me.said)
        # What concerns others, or says nothing that the rules look at, changes nothing.
        await here.make("Member", "teams/look/members/carol")
        await here.make("Member", "teams/other/members/bob")
        await here.change("Team", "teams/look", title="another")
        await here.change("Note", note, title="seen")
        await bob.says("synced", "RESET", f"CURRENT {note}", "synced", f"UPDATED {note}")
        await here.remove("Member", member)
        told = ["synced", "RESET", f"CURRENT {note}", "synced", f"UPDATED {note}", "RESET", "synced"]
        await bob.says(*told)
        await here.change("Note", note, title="not seen")
        seen = await here.make("Note", "teams/look/notes/seen", public=True)
        await bob.says(*told, f"CREATED {seen}")
        await here.change("Team", "teams/look", open=True)
        await bob.says(*told, f"CREATED {seen}", "RESET", f"CURRENT {note}", f"CURRENT {seen}", "synced")


@asynchronous
async def test_what_is_deleted_softly(at: Database) -> None:
    async with relayed(at), newsroom(at) as here:
        await here.make("Team", "teams/soft")
        draft = await here.make("Draft", "teams/soft/drafts/a")
        plain, both = here.watch("Draft", "teams/soft"), here.watch("Draft", "teams/soft", deleted=True)
        one = here.watch("Draft", name=draft)
        for watch in (plain, both, one):
            await watch.says(f"CURRENT {draft}", "synced")
        await here.remove("Draft", draft)
        await here.make("Draft", "teams/soft/drafts/b")
        await plain.says(f"CURRENT {draft}", "synced", f"DELETED {draft}", "CREATED teams/soft/drafts/b")
        await both.says(f"CURRENT {draft}", "synced", f"UPDATED {draft}", "CREATED teams/soft/drafts/b")
        await one.says(f"CURRENT {draft}", "synced", f"DELETED {draft}")


@asynchronous
async def test_who_asks_for_what_is_not_there(at: Database) -> None:
    async with relayed(at), newsroom(at) as here:
        await here.make("Team", "teams/refuse")
        hers = await here.make("Note", "teams/refuse/notes/hers")
        for asked, code in (
            ({"parent": "teams/nowhere"}, "NOT_FOUND"),
            ({"name": "teams/refuse/notes/none"}, "NOT_FOUND"),
            ({"name": hers, "by": BOB}, "NOT_FOUND"),
            ({"parent": "teams/refuse", "name": hers}, "INVALID_ARGUMENT"),
            ({"name": "elsewhere/1"}, "INVALID_ARGUMENT"),
            ({"parent": "elsewhere/1"}, "INVALID_ARGUMENT"),
            ({"parent": "teams/refuse", "token": "nonsense"}, "INVALID_ARGUMENT"),
        ):
            try:
                watch = here.watch("Note", **asked)  # type: ignore[arg-type]
                await watch.until(lambda me: me.refused)
                assert watch.refused is not None
                found = watch.refused
            except Refusal as refused:
                found = refused
            assert found.code.name == code, asked
        nobody = here.watch("Draft", "teams/refuse", Call(NOBODY))
        await nobody.until(lambda me: me.refused)
        assert nobody.refused is not None
        assert nobody.refused.code.name == "UNAUTHENTICATED"


@asynchronous
async def test_whose_rights_are_others(at: Database) -> None:
    async with relayed(at), newsroom(at) as here:
        await here.make("Team", "teams/who")
        note = await here.make("Note", "teams/who/notes/a")
        now: dict[str, Any] = {"bob": BOB.caller}

        async def again() -> Caller:
            if now["bob"] is None:
                raise Unauthenticated("The token has ended.")
            return now["bob"]

        bob = here.watch("Note", "teams/who", BOB, again=again)
        await bob.says("synced")
        here.watching.changed(["users/bob"])  # and yet he is who he was
        now["bob"] = replace(BOB.caller, roles=frozenset({"admin"}))
        here.watching.changed(["users/carol"])
        here.watching.changed(["users/bob"])
        await bob.says("synced", "RESET", f"CURRENT {note}", "synced")
        now["bob"] = None
        here.watching.heard()
        await bob.until(lambda me: me.refused)
        assert bob.refused is not None
        assert bob.refused.code.name == "UNAUTHENTICATED"


@asynchronous
async def test_sessions_that_end_by_themselves(at: Database) -> None:
    async def ended() -> Caller:
        raise Unauthenticated("The token has ended.")

    async with newsroom(at) as here, relayed(at):
        await here.make("Team", "teams/end")
        here.watching.pulse = lambda: None  # type: ignore[method-assign] - who has always something to read looks, too
        watch = here.watch("Note", "teams/end", again=ended)
        await watch.says("synced")
        watch.stream._again = 0  # its time has come
        note = await here.make("Note", "teams/end/notes/a")
        await watch.until(lambda me: me.refused)
        assert isinstance(watch.refused, Unauthenticated)
        assert watch.said == ["synced", f"CREATED {note}"]


@asynchronous
async def test_who_does_not_read_in_time_goes_on_later(at: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "WAITING_MAX", 3)
    async with relayed(at), newsroom(at) as here:
        await here.make("Team", "teams/slow")
        slow, quick = here.open("Note", "teams/slow"), here.watch("Note", "teams/slow")
        messages = slow.stream.told()
        assert (await anext(messages)).synced
        token = slow.stream.token
        names = [await here.make("Note", f"teams/slow/notes/n{i}") for i in range(8)]
        await quick.until(lambda me: len(me.said) == 9)
        with pytest.raises(Refusal) as refused:
            async for _ in messages:
                pass
        assert (refused.value.code.name, refused.value.reason) == ("RESOURCE_EXHAUSTED", "WATCH_TOO_SLOW")
        assert refused.value.metadata["resume_token"] == token
        await messages.aclose()
        again = here.watch("Note", "teams/slow", token=token)
        await again.says(*(f"CREATED {name}" for name in names), "synced")


@asynchronous
async def test_bounds_and_draining(at: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "WATCHES_MAX_OF_ONE", 2)
    async with newsroom(at) as here:
        await here.make("Team", "teams/bound")
        some = [here.watch("Note", "teams/bound") for _ in range(2)]
        for one in some:
            await one.says("synced")
        more, bob = here.watch("Note", "teams/bound"), here.watch("Note", "teams/bound", BOB)
        await more.until(lambda me: me.refused)
        assert more.refused is not None
        assert more.refused.reason == "WATCHES_EXCEEDED"
        await bob.says("synced")
        await some[0].stop()
        await here.watch("Note", "teams/bound").says("synced")
        here.watching.drain()
        await bob.until(lambda me: me.refused)
        late = here.watch("Note", "teams/bound")
        await late.until(lambda me: me.refused)
        for one in (bob, late):
            assert one.refused is not None
            assert (one.refused.code.name, one.refused.reason) == ("UNAVAILABLE", "SERVER_DRAINING")


async def idle(here: Newsroom, reading: Reading) -> None:
    """Returns once an idle watcher was told how far it is."""
    count = len(reading.told)
    here.watching.pulse()
    await reading.until(lambda me: len(me.told) > count)


@asynchronous
async def test_idle_watchers_are_told_how_far_they_are(at: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_streams, "BOOKMARK_SECONDS", 0)
    async with relayed(at), newsroom(at) as here:
        await here.make("Team", "teams/idle")
        watch, other = here.watch("Note", "teams/idle"), here.watch("Note", "teams/-", ROOT)
        await watch.says("synced")
        before = watch.token
        await here.make("Team", "teams/idle2")
        elsewhere = await here.make("Note", "teams/idle2/notes/x")
        await other.until(lambda me: f"CREATED {elsewhere}" in me.said)
        await idle(here, watch)
        assert watch.token not in ("", before)
        assert watch.said == ["synced"]


@asynchronous
async def test_watchers_that_go_leave_nothing(at: Database) -> None:
    """Whenever they go: while they begin, as they are told, where they were refused."""
    async with relayed(at), newsroom(at) as here:
        await here.make("Team", "teams/gone")
        note = await here.make("Note", "teams/gone/notes/a", public=True)
        watching = here.watching
        watches = [
            here.watch(
                "Note", f"teams/{'-' if i % 3 else 'gone'}", Call(Caller(ADA.caller.kind, f"users/{i % 20}")), filter=f
            )
            for i in range(60)
            for f in ("", 'title != "x"')
        ]
        refused = here.watch("Note", "teams/none")
        streams = [ref(watch.stream) for watch in watches]
        await asyncio.gather(*(watch.stop() for watch in watches[:40]))
        await asyncio.gather(*(watch.until(lambda me: "synced" in me.said) for watch in watches[40:]))
        await here.change("Note", note, title="told")
        await asyncio.gather(*(watch.stop() for watch in watches[40:80]))
        await asyncio.gather(*(watch.until(lambda me: me.said[-1] == f"UPDATED {note}") for watch in watches[80:]))
        assert len(watching._watchers) == 40
        await refused.until(lambda me: me.refused)
        await asyncio.gather(*(watch.stop() for watch in watches))
        watches.clear()
        here.readings.clear()
        gc.collect()
        assert not any(stream() for stream in streams)
        for kept in (watching._watchers, watching._counts, watching._views, watching._listening, watching.types()):
            assert not kept
        assert not any([*watching._by_message.values(), *watching._dependent.values()])


@asynchronous
async def test_many_watch_and_one_is_read_for_all(at: Database) -> None:
    async with relayed(at), newsroom(at) as here:
        await here.make("Team", "teams/many")
        watches = [
            here.watch("Note", "teams/many", Call(Caller(ADA.caller.kind, f"users/{i % 50}"))) for i in range(200)
        ]
        await asyncio.gather(*(watch.says("synced") for watch in watches))
        note = await here.make("Note", "teams/many/notes/a", public=True)
        await asyncio.gather(*(watch.says("synced", f"CREATED {note}") for watch in watches))
        assert len({id(watch.told[-1]) for watch in watches}) == 1
