"""Hot resources: rows that are read again and again, kept in Redis, where all servers find them.

An entry is as a replica of one row: it is tagged with a position in the log, and shows all that was committed until then.
Who reads it is served if the position is beyond what they must be shown (freshness.py), and recent: beyond what the primary
had written `lag_max` seconds ago, as this server saw it. So the bound of a stale read is that of the replica, whatever
becomes of Redis and whoever writes by whatever way: no clock and no message has to be right for it. And no entry is older
than what anybody was shown elsewhere, because what changes is barred before it is committed (bars.py). Rules are asked of
what is found here as of any row: rows are kept, not answers.

Entries are made of what the replica showed, never of the primary's rows while there is a replica: who is shown an entry
may be sent to the replica next. Without a replica they are made of the primary's. There a commit is in the log before it is
visible, so their tag is one byte less than what was written before the row was read: who wrote that very byte is not served
by them.

An entry is made when a row is missed for the second time in a second, so that names which are asked for once, also those of
nothing, cost Redis nothing. A stampede is one row of one statement on each server, for what is missed in one turn is asked
for once.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from server.errors import Refusal
from server.schema.model import Resource
from server.store.bars import FILL, Bars, Key, entry, filled, generation
from server.store.changes import Row
from server.store.freshness import Freshness
from server.store.gathering import Gathering
from server.store.marks import EPOCH, Memory
from server.store.redis import RedisAway
from server.store.redis_wire import RedisWire

ENTRY_SECONDS = 60.0
"""How long an entry lives at most; `lag_max` where that is less, for it would not count any more."""

ABSENT_SECONDS = 0.5
"""How long an entry lives that says there is no such row."""

ENTRY_BYTES = 64 << 10
"""Of a row that is kept: what is larger is no lighter for Redis than for Postgres."""

OFTEN_SECONDS = 1.0
OFTEN_NAMES = 10_000
"""What was missed is remembered for one to two seconds; so many names for each."""

FILLING_MAX = 1000
"""Entries that are being made at once; more are not made."""


class Found(NamedTuple):
    """What was found of a name."""

    position: int
    """Of the entry; 0 where there is none."""
    row: Row | None
    generation: bytes
    epoch: bytes
    """Empty where Redis cannot be told of an entry."""


class Looked(NamedTuple):
    """What became of a look at the hot rows."""

    rows: dict[Key, Row | None]
    """What is here; None for what is known not to be there."""
    missed: dict[Key, Found]
    """What is to be kept once it is read."""


_NOTHING = Found(0, None, b"", b"")


class Hot:
    """The hot rows, for one process."""

    def __init__(self, redis: RedisWire, memory: Memory, freshness: Freshness, bars: Bars, lag_max: float) -> None:
        self.bars = bars
        self._redis = redis
        self._memory = memory
        self._freshness = freshness
        self._life = min(ENTRY_SECONDS, lag_max)
        self._looking: Gathering[Key, Found] = Gathering(self._look, size=256)
        self._often = Often()
        self._filling: dict[Key, asyncio.Task[None]] = {}
        self.hits = self.misses = 0
        """Reads that were answered here, and those that were not."""
        self.shared = 0
        """Reads that were asked of Redis along with another one of the same row."""
        self.filled = self.barred = 0
        """Entries that were made, and those that were not, because the row was being changed or is newer already."""

    async def look(self, wanted: Sequence[tuple[Resource, str]], reader: str) -> Looked:
        """Which of the rows are here, as fresh as `reader` may expect, and which are to be kept once they are read."""
        looked = Looked({}, {})
        keys = [(r.message, name) for r, name in wanted if r.message in self.bars.messages and "\0" not in name]
        try:
            looking = [self._looking.ask(key) for key in keys]
            least = max(await self._freshness.expected(reader), self._freshness.positions.recent) if keys else 0
        except Refusal:
            return looked  # what they must be shown is not known
        for key, future in zip(keys, looking, strict=True):
            found = await future
            if found.position >= least and found.position:
                looked.rows[key] = found.row
            elif found.epoch and key not in self._filling and self._often.again(key):
                looked.missed[key] = found
        self.hits += len(looked.rows)
        self.misses += len(keys) - len(looked.rows)
        return looked

    def keep(self, key: Key, missed: Found, row: Row | None, position: int) -> None:
        """Makes an entry of a row that was missed and was then read, by a snapshot that shows all until `position`. Nobody
        waits for that."""
        light = row is None or len(row.payload) <= ENTRY_BYTES
        if light and key not in self._filling and len(self._filling) < FILLING_MAX:
            task = asyncio.get_running_loop().create_task(self._fill(key, missed, row, position))
            self._filling[key] = task
            task.add_done_callback(lambda _: self._filling.pop(key, None))

    async def aclose(self) -> None:
        """Ends what is under way."""
        for task in (tasks := list(self._filling.values())):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _fill(self, key: Key, missed: Found, row: Row | None, position: int) -> None:
        head = (
            (missed.generation, position, row.version, row.owner.encode())
            if row
            else (missed.generation, position, 0, b"")
        )
        value = b"%b\n%d\n%d\n%b\n" % head + (row.payload if row else b"")
        life = math.ceil(1000 * (self._life if row else min(self._life, ABSENT_SECONDS)))
        words = (value, str(position), missed.generation, missed.epoch, str(life))
        with contextlib.suppress(RedisAway):
            made = await self._redis.ask("EVAL", FILL, "7", *filled(key, EPOCH), *words)
            self.filled += made
            self.barred += 1 - made

    async def _look(self, keys: list[Key]) -> list[Found]:
        """All in one question; where Redis does not answer, or may have forgotten what is barred, nothing is there."""
        asked = list(dict.fromkeys(keys))
        messages = list(dict.fromkeys(message for message, _ in asked))
        self.shared += len(keys) - len(asked)
        try:
            epoch, *told = await self._redis.ask("MGET", EPOCH, *map(generation, messages), *map(entry, asked))
            await self._memory.check(epoch)
        except RedisAway:
            return [_NOTHING] * len(keys)
        generations = dict(zip(messages, told, strict=False))
        found = {
            key: _opened(key[1], value, generations[key[0]] or b"0", epoch)
            for key, value in zip(asked, told[len(messages) :], strict=True)
        }
        return [found[key] for key in keys]


def _opened(name: str, value: bytes | None, generation: bytes, epoch: bytes) -> Found:
    if value is not None:
        made, position, version, owner, payload = value.split(b"\n", 4)
        if made == generation:
            row = Row(name, payload, int(version), owner.decode()) if version != b"0" else None
            return Found(int(position), row, generation, epoch)
    return Found(0, None, generation, epoch)


class Often:
    """What was asked for before, a moment ago. At most OFTEN_NAMES names of a second are remembered."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._now: set[Key] = set()
        self._before: set[Key] = set()

    def again(self, key: Key) -> bool:
        """Whether it was asked for within the last second or two; from now on it was."""
        gone = self._clock() - self._since
        if gone > OFTEN_SECONDS:
            self._before = self._now if gone < 2 * OFTEN_SECONDS else set()
            self._now = set()
            self._since = self._clock()
        if key in self._now or key in self._before:
            return True
        if len(self._now) < OFTEN_NAMES:
            self._now.add(key)
        return False
