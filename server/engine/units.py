"""Several writes as one: each is decided as if it was asked alone, after those before it, and all are carried out in one
transaction, or none.

So nobody can do together what they could not do one by one, and whatever a single write heeds (rules, etags, masks,
parents) is heeded here by the same code. A rule that looks at other resources sees them as the writes before have left
them: who makes a site and its first member may make an inspection there in the same breath.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence, Sized
from contextlib import AsyncExitStack, contextmanager
from typing import Any, TypeVar

from server.engine.resources import Records, Resources, refusal
from server.engine.staging import Staging
from server.errors import Invalid, Refusal, Stale
from server.schema.model import Resource
from server.store.changes import PAGE_BYTES_MAX, Became, Outcome, Row
from server.store.transactions import Lock, Transaction, Undone

T = TypeVar("T")
S = TypeVar("S", bound=Sized)
Statement = tuple[str, Sequence[Any]]
Name = tuple[Resource, str]

WRITES_MAX = 500
"""Writes of one unit."""

ATTEMPTS = 4
"""How often a unit is decided where others change at the same time what it changes: the first time on what was read, then on
what is locked."""

SLICE = 50
"""Resources that are read at once: what is too much is noticed before all of it is in memory."""

PATIENCE = 5.0
"""Seconds after which it is not decided again."""

_AGAIN = (Outcome.CHANGED, Outcome.ABSENT, Outcome.TAKEN)
"""Others came first: what is there now decides."""


class Unit:
    """One unit of work that is being decided."""

    def __init__(self, resources: Resources) -> None:
        self._staging = Staging(resources.records)
        self._relied: dict[tuple[str, str], tuple[Resource, str, Row | None, str]] = {}
        self.resources = resources.over(self._staging)
        """The engine: what it writes is gathered, and read as if it was written."""

    @contextmanager
    def part(self, path: str) -> Iterator[None]:
        """What is refused in the block is refused as this part of the request."""
        outer = self._staging.part
        self._staging.part = f"{outer}.{path}" if outer else path
        try:
            yield
        except Refusal as refused:
            raise refused.at(path) from refused
        finally:
            self._staging.part = outer

    def row(self, resource: Resource, name: str) -> Row | None:
        """A resource that was read or changed here, as it will be."""
        return self._staging.row(resource, name)

    async def rely(self, resource: Resource, name: str) -> Row | None:
        """A resource as it will be. If it is not written here, it is still so when the unit is committed."""
        written = any(s.change.name == name and s.change.resource is resource for s in self._staging.staged)
        row = await self._staging.latest(resource, name)
        if not written:
            self._relied[resource.message, name] = resource, name, row, self._staging.part
        return row

    async def know(
        self, names: Sequence[Name], read: Callable[[Sequence[Name]], Awaitable[Sequence[Row | None]]]
    ) -> None:
        """Reads what is stored, in one order. Raises Invalid where that is too much."""
        ordered = sorted(names, key=_order)
        for start in range(0, len(ordered), SLICE):
            some = ordered[start : start + SLICE]
            rows = await read(some)
            self._staging.know(
                {(resource.message, name): row for (resource, name), row in zip(some, rows, strict=True)}
            )

    async def carry_out(
        self, transaction: Transaction, extra: Sequence[Statement]
    ) -> tuple[Refusal | None, Name | None]:
        """Does all that was gathered; why it cannot be done, and the name that is to be read again where that may help."""
        for text, parameters in (*extra, *self._staging.extra):
            await transaction.execute(text, parameters)
        relied = list(self._relied.values())
        held = await transaction.lock([(resource, name) for resource, name, _, _ in relied], Lock.READ)
        for (resource, name, read, part), row in zip(relied, held, strict=True):
            if (read and read.version) != (row and row.version):
                return _moved().at(part) if part else _moved(), (resource, name)
        changes = [staged.change for staged in self._staging.staged]
        await transaction.lock_all(changes)
        for staged, outcome in zip(self._staging.staged, await transaction.carry_out(changes), strict=False):
            if outcome is not Outcome.DONE:
                change = staged.change
                refused = refusal(change, outcome)
                return refused.at(staged.part) if staged.part else refused, _again(
                    outcome, change.resource, change.name
                )
        return None, None


class Units:
    """Decides and carries out units of work."""

    def __init__(self, resources: Resources, clock: Callable[[], float] = time.monotonic) -> None:
        self.resources = resources
        self._records: Records = resources.records
        self._clock = clock

    async def each(
        self,
        names: Sequence[Name],
        parts: Sequence[tuple[str, Callable[[Unit], Awaitable[S]]]],
        *,
        extra: Callable[[list[S]], Sequence[Statement]] = lambda _: (),
        rehearsal: bool = False,
    ) -> list[S]:
        """What each part, a path into the request and a write, answers, in order; see `run`. The size of an answer is its
        bytes.

        Raises Invalid, too, where all answers together are larger than a reply may be.
        """

        async def act(unit: Unit) -> list[S]:
            answers: list[S] = []
            size = 0
            for path, write in parts:
                with unit.part(path):
                    answers.append(await write(unit))
                size += len(answers[-1])
                if size > PAGE_BYTES_MAX and len(answers) > 1:
                    raise too_large()
            return answers

        return await self.run(names, act, extra=extra, rehearsal=rehearsal)

    async def run(
        self,
        names: Sequence[Name],
        act: Callable[[Unit], Awaitable[T]],
        *,
        extra: Callable[[T], Sequence[Statement]] = lambda _: (),
        rehearsal: bool = False,
    ) -> T:
        """What `act` answers, once all that it wrote with its unit is committed, together with the `extra` statements that
        its answer asks for (SQL with %s, parameters); a rehearsal is taken back.

        `names` are of what it is going to read and change, as far as that is known. It may be called again, with a new
        unit, where others changed that meanwhile. Raises what `act` raises, and what the store finds: NotFound,
        AlreadyExists, Precondition, Stale; and Invalid where what is there, or what it becomes, is too much at once.
        """
        begun = self._clock()
        wanted = dict.fromkeys(names)
        async with AsyncExitStack() as turns:
            # Who changes one of them in this process waits here, where that is cheap; all take their turns in one order.
            for resource, name in sorted(wanted, key=_order):
                await turns.enter_async_context(self._records.turn(resource, name))
            for attempt in range(ATTEMPTS):
                try:
                    answer, refused, again = await self._tried(list(wanted), act, extra, rehearsal, locked=attempt > 0)
                except Stale as stale:
                    if stale.reason != "CONTENTION" or self._last(attempt, begun):
                        raise
                    continue
                if refused is None:
                    return answer
                if again is None or self._last(attempt, begun):
                    raise refused
                wanted[again] = None
        raise AssertionError("unreachable")

    async def _tried(
        self,
        names: Sequence[Name],
        act: Callable[[Unit], Awaitable[T]],
        extra: Callable[[T], Sequence[Statement]],
        rehearsal: bool,
        *,
        locked: bool,
    ) -> tuple[T, Refusal | None, Name | None]:
        unit = Unit(self.resources)
        if not locked:
            await unit.know(names, lambda some: self._records.find(some, None))
            answer = await act(unit)
        async with self._records.transaction(rehearsal=rehearsal) as transaction:
            if locked:
                await unit.know(names, lambda some: transaction.lock(some, Lock.CHANGE))
                answer = await act(unit)
            refused, again = await unit.carry_out(transaction, extra(answer))
            if refused is not None:
                raise Undone
        return answer, refused, again

    def _last(self, attempt: int, begun: float) -> bool:
        return attempt == ATTEMPTS - 1 or self._clock() - begun > PATIENCE


def too_large() -> Invalid:
    """The refusal of what would answer too much."""
    return Invalid(
        f"The answer would be larger than {PAGE_BYTES_MAX} bytes; ask for fewer at once.", reason="ANSWER_TOO_LARGE"
    )


def _order(name: Name) -> tuple[str, str]:
    return name[0].message, name[1]


def _again(outcome: Became, resource: Resource, name: str) -> Name | None:
    return (resource, name) if outcome in _AGAIN else None


def _moved() -> Stale:
    return Stale("What was relied on was changed meanwhile; retry.", reason="CONCURRENT_CHANGE", retry_after=0.1)
