"""Follows tasks: for who waits until one has ended, and for who watches how far it is.

One statement every half second looks at all that are followed at this server, however many follow them, and none is run
while nobody does: a task tells of its progress no more often, and its worker has nothing to do for those who look on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import structlog

from server.caller import Caller
from server.engine.tasks import Tasks, require_known
from server.errors import Exhausted, NotFound, Refusal, Unavailable
from server.store.tasks import StoredTask, StoredTasks

EVERY = 0.5
"""Seconds between two looks."""
FOLLOWED_MAX, FOLLOWED_MAX_OF_ONE = 2000, 100
"""Followers at one server, of all callers and of one."""
CHECKED, TOLD_AGAIN = 5.0, 3
"""Seconds after which it is looked at again whether who follows still may; at each third such look they are told the
task again, so that nobody on the way takes the stream for a dead one."""
WAIT_MAX = 20.0
"""Seconds that somebody may wait in one call: the edge gives calls 30."""

log = structlog.get_logger("tasks")


class _Follower:
    """Who follows a task: told of its latest state only, so what they are slow to take does not pile up."""

    __slots__ = ("gone", "row", "woken")

    def __init__(self, row: StoredTask) -> None:
        self.row = row
        self.gone = False
        self.woken = asyncio.Event()


class Following:
    """Those who follow tasks at this server."""

    def __init__(self, tasks: Tasks, stored: StoredTasks) -> None:
        self._tasks = tasks
        self._stored = stored
        self._followers: dict[str, set[_Follower]] = {}
        self._counts: Counter[str] = Counter()
        self._looking: asyncio.Task[None] | None = None
        self._draining = False

    async def follow(
        self, caller: Caller, name: str, again: Callable[[], Awaitable[Caller]]
    ) -> AsyncGenerator[StoredTask, None]:
        """The task as it is, then as it becomes, until it has ended; the same again where nothing changes for long.

        `again` says who calls by now. Raises as Tasks.get, also later; Exhausted (TASK_WATCHES_EXCEEDED), Unavailable
        (SERVER_DRAINING).
        """
        row = await self._tasks.get(caller, name)
        self._admit(caller)
        follower = _Follower(row)
        self._followers.setdefault(row.id, set()).add(follower)
        try:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())
            yield row
            quiet = 0
            while row.end_time is None:
                try:
                    await asyncio.wait_for(follower.woken.wait(), CHECKED)
                except TimeoutError:
                    require_known(await again(), "get")
                    quiet += 1
                    if quiet % TOLD_AGAIN == 0:
                        yield row
                    continue
                follower.woken.clear()
                if self._draining:
                    raise _draining()
                if follower.gone:
                    raise NotFound("There is no such task.", resource=("transom.dev/Task", name))
                require_known(await again(), "get")
                row = follower.row
                yield row
        finally:
            self._counts[caller.name] -= 1
            if self._counts[caller.name] <= 0:
                del self._counts[caller.name]
            self._followers[row.id].discard(follower)
            if not self._followers[row.id]:
                del self._followers[row.id]

    async def wait(
        self, caller: Caller, name: str, seconds: float, again: Callable[[], Awaitable[Caller]]
    ) -> StoredTask:
        """The task, once it has ended or after so many seconds. Raises as `follow`."""
        row: StoredTask | None = None
        try:
            async with asyncio.timeout(seconds):
                async with aclosing(self.follow(caller, name, again)) as told:
                    async for row in told:
                        if row.end_time is not None:
                            return row
        except TimeoutError:
            pass
        return row or await self._tasks.get(caller, name)

    def drain(self) -> None:
        """Ends all, for their clients to go on elsewhere, and admits no more."""
        self._draining = True
        for followers in self._followers.values():
            for follower in followers:
                follower.woken.set()

    def _admit(self, caller: Caller) -> None:
        if self._draining:
            raise _draining()
        if self._counts[caller.name] >= FOLLOWED_MAX_OF_ONE or self._counts.total() >= FOLLOWED_MAX:
            raise Exhausted("Too many tasks are waited for.", reason="TASK_WATCHES_EXCEEDED", retry_after=5.0)
        self._counts[caller.name] += 1

    async def _look(self) -> None:
        while self._followers:
            await asyncio.sleep(EVERY)
            try:
                found = {row.id: row for row in await self._stored.many(list(self._followers))}
            except Refusal as away:  # they are told when it is back, or when it is looked at again whether they may
                log.warning("tasks are not followed", reason=away.reason)
                continue
            for id, followers in self._followers.items():
                row = found.get(id)
                for follower in followers:
                    if row is None:
                        # Who began to follow after the statement is told at the next look.
                        follower.gone = follower.row.id not in found
                    elif _told(row) == _told(follower.row):
                        continue
                    else:
                        follower.row = row
                    follower.woken.set()


def _told(row: StoredTask) -> tuple[object, ...]:
    """What followers are told a change of."""
    return row.state, row.takes, row.attempts, row.cancelling, row.progress, row.progress_text, row.run_time


def _draining() -> Unavailable:
    return Unavailable("This server goes away; ask again, at another.", reason="SERVER_DRAINING", retry_after=0.1)
