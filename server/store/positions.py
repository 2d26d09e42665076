"""How far the primary has written its log and how far the replica has replayed it, as this process sees it.

Both are asked again and again. `replica` is one server: its position never goes back. Whenever one of its connections
was made anew, it may be another server at that address, or the same one that begins again at an earlier position. Then it is
not read until it has replayed what the primary had written after that was noticed; an answer that came meanwhile is not
believed. Of several replicas behind one address the position is that of the one that is farthest behind, as far as connections
lead there: so everybody is shown their own writes, but may be shown less by one of them than by another before.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Sequence

from server.errors import Refusal, Unavailable
from server.store.binary import int8
from server.store.consistency import History
from server.store.gathering import Gathering
from server.store.lane import MARK, Lane
from server.store.pipeline import Result, Step

WATCH_SECONDS = 0.25
"""How often primary and replica are asked for their positions."""

SOON_SECONDS = 0.01
"""How often while somebody waits for the replica."""

LOOK_SECONDS = 0.5
"""How long primary and replica may take to tell their positions: then they count as away."""

WRITTEN = Step(
    b"""select (pg_current_wal_flush_lsn() - '0/0')::bigint,
      ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::bigint,
      (select system_identifier from pg_control_system())""",
    [],
)
"""What the primary has written for good, the timeline and the system."""

RETURN_SECONDS = 10.0
"""How often it is asked for a replica where the one there was has become the primary."""

REPLAYED = Step(
    b"""select case when pg_is_in_recovery() then (pg_last_wal_replay_lsn() - '0/0')::bigint
      else (pg_current_wal_flush_lsn() - '0/0')::bigint - 1 end,
      pg_is_in_recovery()""",
    [],
)
"""What any snapshot that is taken afterwards shows, and whether it is a replica. Of one that was promoted: a commit is in the
log before it is visible, but then it is the last that is there."""


class Positions:
    """The positions in the log (LSN, bytes) of the primary and of the replica, if there is one."""

    def __init__(self, primary: Lane, replica: Lane | None, lag_max: float) -> None:
        self._primary = primary
        self._replica = replica
        self._lag_max = lag_max
        self.replayed = 0
        """What the replica has replayed, at least."""
        self.history: History | None = None
        """What positions belong to; None until the primary was heard of."""
        self.since = 0
        """The first position that was seen of that history."""
        self._connects = 0
        self._look_anew_at = math.inf
        """When another replica is to be looked for; infinite where none was seen yet: then the address may be a primary's."""
        self._seen: deque[tuple[float, int]] = deque(maxlen=int(60 / WATCH_SECONDS))
        self._caught_up_at = 0.0
        self._away = False
        self._waiting = 0
        self._wanted, self._looked = asyncio.Event(), asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._replaying: Gathering[None, int] = Gathering(self._ask_replica, size=1000, lanes=1)
        self._writing: Gathering[None, int] = Gathering(self._ask_primary, size=1000, lanes=1)

    @property
    def replicated(self) -> bool:
        """Whether there is a replica."""
        return self._replica is not None

    @property
    def lag(self) -> float:
        """Seconds the replica is behind, at most; infinite where that is not known."""
        return time.monotonic() - self._caught_up_at if self._caught_up_at else math.inf

    @property
    def recent(self) -> int:
        """A position that shows all that was acknowledged until `lag_max` seconds ago; no position does where that is not
        known. While the primary is away nothing is written, as far as this process knows."""
        found, back = 2**63, time.monotonic() - self._lag_max
        for when, written in reversed(self._seen):
            if when < back:
                if self._away and found == 2**63:
                    found = written
                break
            found = written
        return found if self._replica is not None else found - 1  # see hot.py

    async def open(self) -> None:
        """Begins to watch."""
        await self._look()
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Ends the watch."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching

    async def replayed_now(self) -> int:
        """What the replica has replayed by now. Raises Unavailable."""
        return await self._replaying.ask(None)

    async def written_now(self) -> int:
        """A position that is beyond all that the primary has shown to anybody by now. Raises Unavailable."""
        return await self._writing.ask(None)

    async def read(self, steps: Sequence[Step]) -> list[Result]:
        """Asks the replica. Raises Unavailable also where it may not be the one whose position is known."""
        assert self._replica is not None
        results = await self._replica.run(steps)
        self._check()
        return results

    def _check(self) -> None:
        if self._replica is not None and self._replica.connects != self._connects:
            raise Unavailable("The replica may be another one.", reason="DATABASE_AWAY")

    async def until_replayed(self, position: int, seconds: float) -> None:
        """Returns once the replica has replayed that, or after so many seconds."""
        self._waiting += 1
        self._wanted.set()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while self.replayed < position:
                        await self._looked.wait()
        finally:
            self._waiting -= 1

    def failed(self) -> None:
        """The replica did not answer: nobody is sent there until it is seen again, with all that is written by then."""
        self._caught_up_at = 0.0
        self._seen.clear()

    async def _ask_replica(self, asked: list[None]) -> list[int]:
        assert self._replica is not None
        now = _least(await self._replica.each(REPLAYED))
        self._check()
        self.replayed = max(self.replayed, now)
        return [now] * len(asked)

    async def _ask_primary(self, asked: list[None]) -> list[int]:
        [result] = await self._primary.read([MARK])
        return [int8(result.get_value(0, 0))] * len(asked)

    async def _watch(self) -> None:
        while True:
            if self._waiting:
                await asyncio.sleep(SOON_SECONDS)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(WATCH_SECONDS):
                        await self._wanted.wait()
            self._wanted.clear()
            await self._look()
            looked, self._looked = self._looked, asyncio.Event()
            looked.set()  # those who wait look for themselves

    async def _look(self) -> None:
        if self._replica is not None:
            await self._look_at_replica(self._replica)
        now = time.monotonic()
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                [result] = await self._primary.run([WRITTEN])
        except (Refusal, TimeoutError):
            # The primary is away: nothing is written that the replica could lack, beyond what it lacks now.
            self._away = True
            if self.lag <= 2 * self._lag_max:
                self._caught_up_at = now
            return
        self._away = False
        written, timeline, system = (int8(result.get_value(0, i)) for i in range(3))
        if (history := History(system, timeline)) != self.history:
            self.failed()
            self.history, self.since = history, written
        if not self._seen or now - self._seen[-1][0] > WATCH_SECONDS / 2:
            self._seen.append((now, written))

    async def _look_at_replica(self, replica: Lane) -> None:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await replica.open()
                connects = replica.connects
                results = await replica.each(REPLAYED)
        except TimeoutError:
            self.failed()
            replica.drop()  # who waits for it asks the primary
            return
        except Refusal:
            self.failed()
            return
        if self._promoted(results):
            self.failed()
            replica.drop()  # connected anew, it leads to the new replica, where there is one
            return
        self.replayed = _least(results)
        if connects != self._connects:
            self._connects = connects
            self.failed()
        for when, written in reversed(self._seen):
            if written <= self.replayed:
                self._caught_up_at = max(self._caught_up_at, when)
                break

    def _promoted(self, results: Sequence[Result]) -> bool:
        """Whether what was a replica is none any more and it is time to look for another."""
        if all(one.get_value(0, 1) == b"\x01" for one in results):
            self._look_anew_at = 0.0
            return False
        now = time.monotonic()
        if now < self._look_anew_at:
            return False
        self._look_anew_at = now + RETURN_SECONDS
        return True


def _least(positions: Sequence[Result]) -> int:
    return min(int8(one.get_value(0, 0)) for one in positions)
