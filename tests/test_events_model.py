"""Whatever is written, and whatever dies, breaks or comes back meanwhile: every watcher and every webhook receiver ends with
exactly what was committed and it may see, each resource's changes in their order, none twice; and the broker gets every event,
in order.

Random, but the same at every run. For other runs, and for longer:

    EVENTS_RUNS=50 EVENTS_STEPS=60 .venv/bin/pytest tests/test_events_model.py -n 0
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from consumers_ground import Ground, Line, Tap, eventually
from events_ground import PROCESSES, Receiver, WatchingClient, World, world
from google.protobuf import json_format
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from watch_ground import ADA, APP, BOB, ROOT, Newsroom, resource, schema

from consumers import relay as relays
from consumers import topology
from deploy.native.stack import Stack
from server.engine import watch_streams
from server.engine.undeletion import undelete
from server.errors import Refusal

RUNS = int(os.environ.get("EVENTS_RUNS", "2"))
STEPS = int(os.environ.get("EVENTS_STEPS", "25"))
CALLERS = {"ada": ADA, "bob": BOB, "root": ROOT}
ASKED = [("Note", who, filter) for who in CALLERS for filter in ("", "rank > 0")] + [("Draft", "bob", "")]
"""Who watches what."""
ENDPOINTS = [(("newsroom.v1.Note.*",), ""), (("newsroom.v1.Note.*",), "rank > 0"), (("*",), "")]
IDS = st.sampled_from(["a", "b", "c", "d", "e"])
SERVERS = st.integers(0, PROCESSES - 1)
AUTHORS = st.sampled_from(["ada", "bob"])
CLIENTS = st.integers(0, len(ASKED) - 1)
_runs = itertools.count()
_titles = itertools.count()


class Events(RuleBasedStateMachine):
    """One run: a team of its own, new watchers and endpoints; the processes are those that earlier runs have left."""

    runner: asyncio.Runner
    world: World
    tap: Tap
    line: Line
    wrong: ClassVar[list[AssertionError]] = []
    """What was found; what another try of the same finds says little, since the world is not what it was."""

    def __init__(self) -> None:
        super().__init__()
        self.run = next(_runs)
        self.team = f"teams/t{self.run}"
        self.notes: dict[str, dict[str, Any]] = {}
        self.drafts: dict[str, dict[str, Any]] = {}
        self.member = self.open = False
        self.clients = [WatchingClient(kind, strict=(kind, who) != ("Note", "bob")) for kind, who, _ in ASKED]
        self.closing = AsyncExitStack()
        self.receivers: list[Receiver] = []
        self.do(self._begin())

    def do(self, what: Coroutine[Any, Any, object]) -> None:
        """On the loop of all runs."""
        try:
            self.runner.run(what)
        except AssertionError as wrong:
            self.wrong.append(wrong)
            raise

    async def _begin(self) -> None:
        await self.world.relay()
        await self.world.work()
        await self.world.numbered()
        for index, (types, filter) in enumerate(ENDPOINTS):
            receiver = await self.closing.enter_async_context(Receiver.open())
            await self.world.endpoint(f"r{self.run}-{index}", receiver.url, types, filter)
            self.receivers.append(receiver)
        await self.world.servers[0].make("Team", self.team)
        for index in range(len(ASKED)):
            await self._watch(index, index % PROCESSES)

    # What is written.

    @rule(id=IDS, server=SERVERS, by=AUTHORS, public=st.booleans(), rank=st.integers(0, 2))
    def write(self, id: str, server: int, by: str, public: bool, rank: int) -> None:
        """A note is made, or changed where there is one."""
        self.do(self._write(id, self.world.servers[server], by, public, rank))

    async def _write(self, id: str, at: Newsroom, by: str, public: bool, rank: int) -> None:
        name = f"{self.team}/notes/{id}"
        fields = {"title": f"{next(_titles)}", "public": public, "rank": rank, "source": "secret"}
        if (had := self.notes.get(name)) is None:
            await at.make("Note", name, CALLERS[by], **fields)
            self.notes[name] = fields | {"owner": f"users/{by}"}
            with pytest.raises(Refusal):
                await at.make("Note", name, CALLERS[by])
        elif self.sees(by, had):
            hidden = {} if had["owner"] == f"users/{by}" else {"source"}
            changed = {key: value for key, value in fields.items() if key not in hidden}
            await at.change("Note", name, CALLERS[by], **changed)
            self.notes[name] = had | changed
        else:
            with pytest.raises(Refusal):
                await at.change("Note", name, CALLERS[by], **fields)

    @rule(id=IDS, server=SERVERS)
    def refuse(self, id: str, server: int) -> None:
        """What is refused leaves no trace."""
        at = self.world.servers[server]
        name = f"{self.team}/notes/{id}"
        note = schema().message_class("newsroom.v1.Note")(name=name, title="refused")
        with pytest.raises(Refusal):
            self.do(at.on.resources.update(ROOT, resource("Note"), note, ["title"], etag='"999999"'))

    @rule(id=IDS, server=SERVERS)
    def delete(self, id: str, server: int) -> None:
        """A note goes, if it is there."""
        name = f"{self.team}/notes/{id}"
        gone = self.world.servers[server].remove("Note", name, ROOT)
        if self.notes.pop(name, None) is not None:
            self.do(gone)
        else:
            with pytest.raises(Refusal):
                self.do(gone)

    @rule(id=IDS, server=SERVERS)
    def draft(self, id: str, server: int) -> None:
        """A draft is made, deleted softly, undeleted and changed, in turn."""
        at, name = self.world.servers[server], f"{self.team}/drafts/{id}"
        had = self.drafts.get(name)
        if had is None:
            self.drafts[name] = {"title": "first", "deleted": False}
            self.do(at.make("Draft", name, title="first"))
        elif had["deleted"]:

            async def back() -> None:
                await undelete(at.on.resources, ADA, resource("Draft"), name)
                title = had["title"] = f"{next(_titles)}"
                await at.change("Draft", name, title=title)

            self.do(back())
            had["deleted"] = False
        else:
            self.do(at.remove("Draft", name))
            had["deleted"] = True

    @rule(server=SERVERS)
    def rights_by_member(self, server: int) -> None:
        """Bob becomes a member, or is one no more."""
        self.do(self._make_member(self.world.servers[server], not self.member))

    async def _make_member(self, at: Newsroom, member: bool) -> None:
        name = f"{self.team}/members/bob"
        await (at.make("Member", name) if member else at.remove("Member", name))
        self.member = member

    @rule(server=SERVERS)
    def rights_by_team(self, server: int) -> None:
        """The team opens, or closes."""
        self.open = not self.open
        self.do(self.world.servers[server].change("Team", self.team, open=self.open))

    @rule(ranks=st.lists(st.integers(0, 2), min_size=2, max_size=4), late=st.booleans(), anew=st.booleans())
    def burst(self, ranks: list[int], late: bool, anew: bool) -> None:
        """All notes change several times, at the same time, by both servers, maybe while a transaction stays open that has
        begun before, or while all watchers begin anew."""
        self.do(self._burst(ranks, late, anew))

    async def _burst(self, ranks: list[int], late: bool, anew: bool) -> None:
        async def one(at: int, name: str) -> None:
            for rank in ranks:
                title = f"{next(_titles)}"
                at = (at + 1) % PROCESSES
                await self.world.servers[at].change("Note", name, ROOT, rank=rank, title=title)
                self.notes[name] |= {"rank": rank, "title": title}

        async with AsyncExitStack() as stack:
            if late:
                await stack.enter_async_context(self.world.in_flight())
            writes = [one(i, name) for i, name in enumerate(self.notes)]
            await asyncio.gather(*writes, *([self._begin_anew()] if anew else []))

    # What becomes of who watches.

    @rule(client=CLIENTS, server=SERVERS, anew=st.booleans())
    def go_on(self, client: int, server: int, anew: bool) -> None:
        """A stream breaks, and goes on, or begins anew, at some server."""

        async def does() -> None:
            if anew:
                await self.clients[client].forget()
            await self._watch(client, server)

        self.do(does())

    @rule(client=CLIENTS, server=SERVERS, id=IDS)
    def begin_with_what_has_no_position(self, client: int, server: int, id: str) -> None:
        """There is no relay; a stream begins with what it has not seen, breaks, and goes on at another server."""

        async def does() -> None:
            one = self.clients[client]
            await self.world.kill_relay()
            await self._write(id, self.world.servers[server], "ada", True, 1)
            await one.forget()
            await self._watch(client, server)
            assert one.reading is not None
            await one.reading.until(lambda me: me.token)
            await self._watch(client, (server + 1) % PROCESSES)

        self.do(does())

    @rule(client=CLIENTS)
    def leave(self, client: int) -> None:
        """A stream breaks."""
        self.do(self.clients[client].leave())

    async def _begin_anew(self) -> None:
        for index, client in enumerate(self.clients):
            await client.forget()
            await self._watch(index, index % PROCESSES)

    async def _watch(self, index: int, server: int) -> None:
        kind, who, filter = ASKED[index]
        client = self.clients[index]
        await client.leave()
        client.begin(self.world.servers[server].watch(kind, self.team, CALLERS[who], token=client.token, filter=filter))

    @rule(server=SERVERS)
    def server_dies(self, server: int) -> None:
        """With all its streams; they go on at another."""

        async def dies() -> None:
            there = self.world.servers[server].readings
            lost = [i for i, client in enumerate(self.clients) if client.reading in there]
            for i in lost:
                await self.clients[i].leave()
            await self.world.serve(server)
            for i in lost:
                await self._watch(i, (server + 1) % PROCESSES)

        self.do(dies())

    # What becomes of who tells.

    @rule(how=st.sampled_from(["kill", "cut", "start", "start"]))
    def relay(self, how: str) -> None:
        """It dies, loses the database, or is started."""
        does = {"kill": self.world.kill_relay, "cut": self.world.cut_relay_off_the_database, "start": self.world.relay}
        self.do(does[how]())

    @rule(how=st.sampled_from(["cut", "hold", "lose", "mend", "mend"]), id=IDS)
    def broker(self, how: str, id: str) -> None:
        """It cannot be reached, says nothing, never gets what was sent, or is there."""

        async def does() -> None:
            if how == "mend":
                await self.line.mend()
                return
            if how == "lose":
                await self._lose(id)
            elif how == "hold":
                self.line.hold()
            else:
                await self.line.cut()

        self.do(does())

    async def _lose(self, id: str) -> None:
        self.line.hold()
        held = self.line.held
        await self.world.relay()
        await self._write(id, self.world.servers[0], "ada", True, 1)
        with suppress(TimeoutError):  # where it was cut off before, nothing is sent
            async with asyncio.timeout(0.5):
                while self.line.held == held:
                    await asyncio.sleep(0.01)
        await self.line.cut()

    @rule(alive=st.booleans())
    def workers(self, alive: bool) -> None:
        """They die, or are started."""
        self.do(self.world.work() if alive else self.world.kill_workers())

    @rule(index=st.integers(0, len(ENDPOINTS) - 1), mood=st.sampled_from(Receiver.MOODS))
    def receiver(self, index: int, mood: str) -> None:
        """A receiver fails, or takes in what it is sent."""

        async def be() -> None:
            self.receivers[index].be(mood)

        self.do(be())

    # What must be true in the end.

    def sees(self, who: str, note: dict[str, Any]) -> bool:
        """Whether the rule of notes lets somebody read one."""
        mine = note["owner"] == f"users/{who}"
        return bool(who == "root" or note["public"] or mine or self.open or (who == "bob" and self.member))

    def expected(self, kind: str, who: str, filter: str) -> dict[str, Any]:
        """What there is for somebody who asks so."""
        made = schema().message_class(f"newsroom.v1.{kind}")
        if kind == "Draft":
            return {n: made(name=n, title=d["title"]) for n, d in self.drafts.items() if not d["deleted"]}
        out = {}
        for name, note in self.notes.items():
            if self.sees(who, note) and (note["rank"] > 0 or not filter):
                fields = {key: value for key, value in note.items() if key != "owner"}
                if who != "root" and note["owner"] != f"users/{who}":
                    fields["source"] = ""
                out[name] = made(name=name, **fields)
        return out

    def teardown(self) -> None:
        self.do(self._end())

    async def _end(self) -> None:
        await self.line.mend()
        await self.world.relay()
        await self.world.work()
        await self.world.published()
        await self._lose("zw")
        await self.line.mend()
        for receiver in self.receivers:
            receiver.be("well")
        for index, client in enumerate(self.clients):
            if client.reading is None or client.reading.refused is not None:
                await self._watch(index, index % PROCESSES)
        try:
            for id in "vwxyz":
                await self._write(f"z{id}", self.world.servers[0], "ada", id != "y", 1)
            await self._burst([0, 1], late=True, anew=True)
            if self.open:
                self.open = False
                await self.world.servers[0].change("Team", self.team, open=False)
            # Twice: whatever comes late, or again, comes between; and whatever was told, rights that change count.
            for member, mood in ((not self.member, "deaf"), (self.member, "well")):
                for receiver in self.receivers:
                    receiver.be(mood)
                await self._make_member(self.world.servers[1], member)
                await self._write("zz", self.world.servers[0], "ada", True, 2)
                await self.world.servers[1].make("Draft", draft := f"{self.team}/drafts/zz{next(_titles)}")
                self.drafts[draft] = {"title": "", "deleted": False}
                for (kind, who, filter), client in zip(ASKED, self.clients, strict=True):
                    marker = draft if kind == "Draft" else f"{self.team}/notes/zz"
                    await client.until(marker, self.expected(kind, who, filter))
            last = await self.world.numbered()
            await self.world.posted()
            self._received()
            await eventually(lambda: last in {event.position for event in self.tap.events}, within=15)
            firsts = list(dict.fromkeys(event.position for event in self.tap.events))
            assert firsts == list(range(1, last + 1)), "the broker got each event after its predecessor"
        finally:
            for client in self.clients:
                await client.leave()
            for index in range(len(ENDPOINTS)):
                await self.world.forget(f"r{self.run}-{index}")
            await self.closing.aclose()

    def _received(self) -> None:
        for (types, filter), receiver in zip(ENDPOINTS, self.receivers, strict=True):
            assert not receiver.wrong, receiver.wrong
            wanted = self.expected("Note", "root", filter)
            for note in wanted.values():
                note.source = ""  # not everybody may read it
            if types == ("*",):
                wanted |= self.expected("Draft", "root", "")
                team = schema().message_class("newsroom.v1.Team")(name=self.team, open=self.open)
                member = schema().message_class("newsroom.v1.Member")(name=f"{self.team}/members/bob")
                wanted |= {team.name: team} | ({member.name: member} if self.member else {})
            as_json = {name: json_format.MessageToDict(one) for name, one in wanted.items()}
            assert receiver.resources == as_json


@pytest.fixture
def ground(components: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    monkeypatch.setattr(topology, "SETTLE", 0)
    monkeypatch.setattr(relays, "STANDBY", 0.05)
    monkeypatch.setattr(watch_streams, "PAGE", 1)  # so that writes fall between pages
    with Ground.on(components, tmp_path, APP) as ground:
        ground.env |= {"TRANSOM_SECRET": "s" * 40, "TRANSOM_WEBHOOK_NETWORKS": "127.0.0.0/8"}
        yield ground


def test_all_end_with_what_was_committed(ground: Ground, components: Stack) -> None:
    with asyncio.Runner() as runner:
        opened = world(ground, components.env["TRANSOM_REPLICA"])
        Events.runner = runner
        Events.world, Events.tap, Events.line = runner.run(opened.__aenter__())
        try:
            run_state_machine_as_test(
                Events,
                settings=settings(
                    max_examples=RUNS,
                    stateful_step_count=STEPS,
                    deadline=None,
                    derandomize="EVENTS_RUNS" not in os.environ,
                    database=None,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                    report_multiple_bugs=False,
                ),
            )
        except Exception:
            if Events.wrong:
                raise Events.wrong[0] from None
            raise
        finally:
            Events.wrong.clear()
            runner.run(opened.__aexit__(None, None, None))
