"""Which reads may go to the replica: those that cannot tell.

A caller who wrote reads from the primary until the replica has replayed that write: the commit's position in the
log (LSN) is kept as the caller's mark, in Redis so that every server knows it, before the write is acknowledged.
A caller without a mark may read what the replica has, if the replica is at most `lag_max` seconds behind. A consistency
token that comes with a call (consistency.py) counts as a mark of its caller for that call.

Nor does time run backwards. What the replica shows never gets older, so only who was answered by the primary could be shown
the past by the replica afterwards. Such an answer marks its reader with a position beyond all that it can have shown, before
it is given. So it costs nothing where the replica is read; where it is behind the reader's mark, it is asked
for its position first, because what is known of it is a moment old and it is nearly always there already.

Where the marks cannot be asked for, or the replica cannot be watched, reads go to the primary. Where the mark of an answer
cannot be kept, the answer waits until the replica has replayed what it shows, but no longer than others would read a replica
that has not. What is left is a server that reaches neither Redis nor the replica while others reach both: who reads there and
then elsewhere may be shown what was true `lag_max` before. While the primary cannot be reached by this server, how far the
replica is behind cannot be known: it is read as it is, callers' own writes excepted.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from server.errors import Refusal, Unavailable
from server.store import consistency
from server.store.gathering import Gathering
from server.store.positions import WATCH_SECONDS, Positions

MARK_SECONDS = 30
"""How long a mark is kept, at least: far longer than `lag_max`, after which the replica is not read anyway."""

RECENT_MAX = 10_000
"""Own marks kept in memory: they hold even while Redis is away. Beyond, the newest of them holds for everybody."""

T = TypeVar("T")


class Marks(Protocol):
    """Where marks are shared between servers."""

    def put(self, caller: str, lsn: int, seconds: int) -> Awaitable[None]:
        """Keeps the caller's mark. Raises Unavailable where it cannot."""

    def get(self, callers: list[str]) -> Awaitable[list[int]]:
        """The marks, 0 where there is none. Raises Unavailable where they cannot be asked for."""


class Carried(Protocol):
    """What the call that is being served brings and takes along."""

    def brought(self) -> int:
        """The position that its token asks for; 0 without one."""

    def wrote(self, position: int) -> None:
        """It has committed something that `position` shows."""


class Freshness:
    """What this process knows of the replica and of who was shown what."""

    def __init__(self, marks: Marks, positions: Positions, lag_max: float, carried: Carried | None = None) -> None:
        self.positions = positions
        self._marks = marks
        self._lag_max = lag_max
        self._replica = positions.replicated
        self._carried = carried
        self._recent: dict[str, int] = {}
        self._everybody = 0
        self._seconds = max(MARK_SECONDS, math.ceil(2 * lag_max))
        self._asking: Gathering[str, int] = Gathering(self._ask, size=1000, lanes=2, light=True)
        self.from_replica = self.from_primary = 0
        """Reads that the one and the other answered, but for those that a write is decided on."""

    async def read(self, reader: str | None, ask: Callable[[bool], Awaitable[T]]) -> T:
        """What `ask` answers: of the replica (True) where that shows `reader` all that they may expect, else, and where
        it does not answer, of the primary (False). For no reader it is always the primary. Raises what `ask` raises of
        the primary."""
        if reader is None:
            return await ask(False)
        if self._replica and await self.suffices(reader):
            try:
                answer = await ask(True)
            except Unavailable:
                self.positions.failed()
            except Refusal:
                pass  # a replica may put off a query for what it replays; the primary does not
            else:
                self.from_replica += 1
                return answer
        answer = await ask(False)
        self.from_primary += 1
        if self._replica:
            await self._shown(reader)
        return answer

    async def suffices(self, reader: str) -> bool:
        """Whether the replica shows `reader` all that they may expect."""
        positions = self.positions
        if positions.lag > self._lag_max:
            return False
        try:
            known = self._known(reader)
            if known > positions.replayed and known > await positions.replayed_now():
                return False
            if not reader:
                return True
            mark = await self._asking.ask(reader)
            return mark <= positions.replayed or mark <= await positions.replayed_now()
        except Refusal:
            return False

    async def expected(self, reader: str) -> int:
        """The position that `reader` must be shown at least. Raises Unavailable where it cannot be known."""
        known = self._known(reader)
        return max(known, await self._asking.ask(reader)) if reader else known

    async def written(self, caller: str, lsn: int) -> None:
        """Keeps the mark of a write that was committed; afterwards the write may be acknowledged.

        Where Redis cannot keep it, other servers could not know: then this returns only once the replica has replayed the
        write, or is so far behind that nobody reads it.
        """
        if self._carried is not None:
            self._carried.wrote(lsn)
        if self._replica and caller and not await self._keep(caller, lsn):
            await self.positions.until_replayed(lsn, self._lag_max + WATCH_SECONDS)

    def token(self, position: int) -> str:
        """The consistency token of a position; empty where its history is not known."""
        history = self.positions.history
        return consistency.sealed(history, position) if history is not None else ""

    def position(self, tokens: str) -> int:
        """What reads must show at least for these tokens to be heeded. Raises Invalid."""
        return consistency.opened(tokens, self.positions.history, self.positions.since)

    def _known(self, reader: str) -> int:
        """What is known here of what the reader must be shown; a token in the call holds for who has no name, too."""
        brought = self._carried.brought() if self._carried is not None else 0
        return max(brought, self._everybody, self._recent.get(reader, 0)) if reader else brought

    async def _shown(self, reader: str) -> None:
        """Marks a reader who was answered by the primary; afterwards the answer may be given."""
        if not reader:
            return
        lsn = await self.positions.written_now()
        if not await self._keep(reader, lsn) and self.positions.lag <= self._lag_max:  # else it is read nowhere
            await self.positions.until_replayed(lsn, self._lag_max + WATCH_SECONDS)

    async def _keep(self, caller: str, lsn: int) -> bool:
        """Keeps a mark here, and, if that can be, where every server sees it."""
        if len(self._recent) >= RECENT_MAX and caller not in self._recent:
            self._everybody = max(self._everybody, *self._recent.values())
            self._recent = {}
        self._recent[caller] = lsn = max(lsn, self._recent.get(caller, 0))
        try:
            await self._marks.put(caller, lsn, self._seconds)
        except Refusal:
            return False
        return True

    async def _ask(self, callers: list[str]) -> list[int]:
        return await self._marks.get(callers)
