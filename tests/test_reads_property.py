"""No read is staler than it may be, whatever is read, written, cut off, paused and emptied meanwhile.

Sessions read and write through three servers, on a real primary, replica and Redis that are in trouble nearly all the time:
the two change places, too, also when the primary was killed, while commits wait for the replica.
What was shown is checked afterwards against the order in which changes were committed:
- a session is shown its own writes, and nothing older than what it was shown before, of the same resource and of others;
- who brings a token is shown at least the write that it is of, on whichever server;
- nothing that was acknowledged is lost;
- what anybody is shown was true `lag_max` seconds before they asked, or later, but for while the primary is away.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import redis as plain_redis
from identity_ground import Cable, cable
from library_ground import ADA, Database, Engine, asynchronous, database, engine, library
from psycopg.conninfo import make_conninfo
from replica_ground import called, paused

from deploy.native.failover import fail_over, wait_for_replica
from deploy.native.postgres import NODES
from deploy.native.process import Process
from deploy.native.stack import Stack
from server.engine.resources import Call
from server.errors import AlreadyExists, NotFound, Stale, Unavailable
from server.store.changes import Page

READS, TROUBLES, TOLD = 1500, 10, 8
"""How much happens, at least: reads, troubles and tokens handed on."""
SECONDS = 25.0
"""And for how long at most, on a machine that is too slow for that."""
LAG = 0.4
"""Less than most troubles last."""

SHELVES = [f"shelves/s{i}" for i in range(3)]
BOOKS = [f"shelves/p/books/b{i}" for i in range(2)]
"""Shelves are hot, books are not; their shelf is never deleted."""


@pytest.fixture(scope="module")
def pair() -> Iterator[Stack]:
    """Postgres and Redis of its own: which of the two leads changes."""
    with TemporaryDirectory(prefix="transom-pair-") as folder:
        Path(folder).chmod(0o755)
        with Stack(Path(folder) / "state", parts=("postgres", "redis")).running() as stack:
            wait_for_replica(stack.topology.postgres, wanted=True)
            yield stack


@pytest.fixture(scope="module")
def at(pair: Stack) -> Iterator[Database]:
    with database(pair, library()) as made:
        yield made


@dataclass
class Write:
    """A change: `title` is None where it is a deletion, `end` is infinite where its outcome is not known."""

    name: str
    title: str | None
    start: float
    end: float = math.inf


@dataclass
class Read:
    """What somebody was shown, None where there was nothing."""

    name: str
    title: str | None
    start: float
    after: str = ""
    """The request of the write that a token brought along was of."""
    server: int = 0


@dataclass
class Session:
    """Somebody, and what they did in order: requests of writes, and reads."""

    who: str
    did: list[str | Read] = field(default_factory=list)


class World:
    """Everything that happens."""

    def __init__(self, engines: Sequence[Engine], seed: int) -> None:
        self.engines = engines
        self.rolled = random.Random(seed)
        self.numbers = itertools.count(1)
        self.writes: dict[str, Write] = {}
        self.sessions: list[Session] = []
        self.away: list[tuple[float, float]] = []
        """When the primary was."""
        self.refused = self.reads = self.troubles = self.promotions = self.told = 0
        self.until = time.monotonic() + SECONDS

    @property
    def goes_on(self) -> bool:
        enough = self.reads >= READS and self.troubles >= TROUBLES and self.told >= TOLD
        return not enough and time.monotonic() < self.until

    async def live(self, who: str) -> None:
        session = Session(who)
        self.sessions.append(session)
        while self.goes_on:
            server = self.rolled.randrange(3)
            name = self.rolled.choice(SHELVES * 4 + BOOKS)
            kind = self.rolled.random()
            try:
                if who and kind < 0.08:
                    await self.write(session, server, name)
                elif kind < 0.2:
                    await self.list_books(session, server)
                else:
                    await self.read(session, server, name)
            except Unavailable:
                self.refused += 1
                await asyncio.sleep(0.02)
            await asyncio.sleep(self.rolled.random() * 0.004)

    async def read(self, session: Session, server: int, name: str, after: str = "", token: str = "") -> None:
        on, start = self.engines[server], time.monotonic()
        call = Call(replace(ADA.caller, name=session.who))
        title: str | None = None
        with suppress(NotFound):
            found, _ = await called(on, on.get("Book" if name in BOOKS else "Shelf", name, by=call), token)
            title = found.title
        session.did.append(Read(name, title, start, after, server))
        self.reads += 1
        self.told += bool(after)

    async def list_books(self, session: Session, server: int) -> None:
        on, start = self.engines[server], time.monotonic()
        listing = await on.resources.records.page(
            on.schema.resources["library.v1.Book"], Page("shelves/p", "", 100), session.who
        )
        book = on.schema.message_class("library.v1.Book")
        shown = {row.name: book.FromString(row.payload).title for row in listing}
        session.did += [Read(name, shown.get(name), start, server=server) for name in BOOKS]

    async def write(self, session: Session, server: int, name: str) -> None:
        on, request = self.engines[server], str(next(self.numbers))
        call = Call(replace(ADA.caller, name=session.who), request_id=request)
        type, parent, id = ("Book", "shelves/p", name[-2:]) if name in BOOKS else ("Shelf", "", name[-2:])
        deletes = self.rolled.random() < 0.2
        write = self.writes[request] = Write(name, None if deletes else request, time.monotonic())
        acts: list[Callable[[], Awaitable[Any]]] = [
            lambda: on.update(type, name, None, by=call, title=request),
            lambda: on.create(type, parent, id, by=call, title=request),
        ]
        token = ""
        for act in [lambda: on.delete(type, name, by=call)] if deletes else acts:
            with suppress(NotFound, AlreadyExists, Stale):
                _, token = await called(on, act())
                break
        if not token:
            return
        write.end = time.monotonic()
        session.did.append(request)
        if self.rolled.random() < 0.5:  # somebody without a name hears of it
            stranger = Session("")
            self.sessions.append(stranger)
            await self.read(stranger, self.rolled.randrange(3), name, request, token)

    async def trouble(self, at: Database, pair: Stack, nodes: dict[str, Cable], redis: Cable) -> None:
        def flush() -> None:
            with plain_redis.Redis.from_url(at.redis) as direct:
                direct.flushdb()

        postgres, kinds = pair.topology.postgres, list[int]()
        while self.goes_on:
            self.troubles += 1
            kinds = kinds or self.rolled.sample(range(9), 9)
            lasts, kind = self.rolled.uniform(0.1, 0.8), kinds.pop()
            primary, replica = sorted(NODES, key=lambda name: name != postgres.leader)
            match kind:
                case 0 | 1:
                    async with paused(pair):
                        await asyncio.sleep(lasts)
                        if kind:
                            await asyncio.to_thread(flush)
                            await asyncio.sleep(lasts)
                case 2:
                    await asyncio.to_thread(flush)
                case 3:
                    await redis.cut()
                    await asyncio.sleep(lasts)
                    await redis.mend()
                case 4:
                    redis.hold()
                    await asyncio.sleep(lasts)
                    await redis.mend()
                case 5:
                    await nodes[replica].cut()
                    await asyncio.sleep(lasts / 2)
                    await nodes[replica].mend()
                case 6:
                    since = time.monotonic()
                    await nodes[primary].cut()
                    await asyncio.sleep(lasts / 2)
                    await nodes[primary].mend()
                    self.away.append((since, time.monotonic()))
                case 7 | 8:
                    since = time.monotonic()
                    if kind == 8:
                        postgres.lead(replica)  # so that it does not come back as a primary
                        killed = Process.found(primary, pair.place)
                        assert killed is not None
                        os.kill(killed.pid, signal.SIGKILL)
                    assert await asyncio.to_thread(fail_over, postgres, pair.place) == replica
                    self.promotions += 1
                    await asyncio.to_thread(at.wait_replica)
                    self.away.append((since, time.monotonic()))
            await asyncio.sleep(self.rolled.uniform(0.2, 0.8))


class Judge:
    """Holds what was shown against what was committed."""

    def __init__(self, world: World, events: Sequence[tuple[str, str]]) -> None:
        self.world = world
        nothing = Write("", None, -math.inf, -math.inf)
        self.states: dict[str, list[Write]] = {name: [nothing] for name in SHELVES + BOOKS}
        self.index: dict[str, int] = {}
        for name, request in events:
            if name in self.states:
                self.index[request] = len(self.states[name])
                self.states[name].append(world.writes[request])
        self.checked = self.told = self.old = 0

    def faults(self) -> list[str]:
        done = {request: write for request, write in self.world.writes.items() if write.end < math.inf}
        if lost := [f"{write} was lost" for request, write in done.items() if request not in self.index]:
            return lost
        return [fault for session in self.world.sessions for fault in self._faults(session)]

    def _faults(self, session: Session) -> Iterator[str]:
        floor = dict.fromkeys(self.states, 0)
        shown_start = -math.inf
        for did in session.did:
            if isinstance(did, str):
                name = self.world.writes[did].name
                floor[name] = max(floor[name], self.index[did])
                shown_start = max(shown_start, self.world.writes[did].start)
                continue
            states = self.states[did.name]
            may = [i for i, state in enumerate(states) if state.title == did.title]
            if not may:
                yield f"{session}: {did} was never there"
                continue
            latest = may[-1]
            self.checked += 1
            self.old += latest < len(states) - 1 and states[latest + 1].end < did.start
            if session.who and latest < floor[did.name]:
                yield f"{session.who} was shown {did} after {states[floor[did.name]]}"
            if did.after:
                self.told += 1
                if latest < self.index[did.after]:
                    yield f"with the token of {self.world.writes[did.after]}: {did}"
            followed = states[latest + 1].end if latest + 1 < len(states) else math.inf
            if session.who and followed < shown_start:
                yield f"{session.who}: {did} was over, {states[latest + 1]}, before what was shown began, {shown_start}"
            if followed < did.start - LAG and not self._away(did.start):
                yield f"{session.who}: {did} is {did.start - followed:.2f} s old: {states[latest + 1]}"
            if session.who:
                first = next((i for i in may if i >= floor[did.name]), latest)
                floor[did.name] = max(floor[did.name], first)
                shown_start = max(shown_start, states[first].start)

    def _away(self, when: float) -> bool:
        return any(since - 0.1 <= when <= until + LAG + 1.0 for since, until in self.world.away)


@asynchronous
async def test_no_read_is_staler_than_it_may_be(at: Database, pair: Stack) -> None:
    seed = random.SystemRandom().randrange(2**32)
    async with AsyncExitStack() as stack:
        nodes = {}
        for name in NODES:
            nodes[name], _ = await stack.enter_async_context(cable(f"postgresql://127.0.0.1:{pair.ports[name]}/"))
        redis, url = await stack.enter_async_context(cable(at.redis))
        hosts, wires = ",".join(["127.0.0.1"] * len(nodes)), ",".join(str(wire.port) for wire in nodes.values())
        through = [make_conninfo(dsn, host=hosts, port=wires) for dsn in (at.postgres, at.replica)]
        engines = [
            await stack.enter_async_context(
                engine(
                    at, postgres=through[0], replica=through[1], redis=url, lag_max=LAG, forgotten=LAG, hot=["Shelf"]
                )
            )
            for _ in range(3)
        ]
        await engines[0].create("Shelf", "", "p", title="t")
        await asyncio.to_thread(at.wait_replica)
        world = World(engines, seed)
        people = [world.live(f"users/u{i}") for i in range(5)] + [world.live("") for _ in range(5)]
        outcomes = await asyncio.gather(world.trouble(at, pair, nodes, redis), *people, return_exceptions=True)
        assert [o for o in outcomes if o is not None] == [], seed
        hits = sum(e.hot.hits for e in engines)
        reads = sum(e.freshness.from_replica for e in engines), sum(e.freshness.from_primary for e in engines)
    events = at.sql("select name, request_id from transom.events where request_id <> 'request-ada' order by id")
    judge = Judge(world, events)
    faults = judge.faults()
    did = (seed, world.troubles, world.promotions, judge.checked, judge.told, judge.old, hits, reads, world.refused)
    assert faults == [], (did, len(events), len(faults), faults[:5])
    assert world.promotions and judge.checked > 100 and judge.told and hits and all(reads), did
