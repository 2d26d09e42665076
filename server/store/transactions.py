"""One transaction of several changes, of any resources: locked in one order, carried out in the order asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import Enum
from typing import Any, Protocol, cast

from psycopg import AsyncConnection, AsyncRawCursor, sql
from psycopg.rows import tuple_row

from server.errors import Refusal, Stale
from server.schema.model import Resource
from server.store.changes import Act, Became, Change, Outcome, Row, Value
from server.store.statements import LEADS, Statements

GROUP = 256
"""Changes of one kind that share a statement at most."""

GROUP_BYTES = 8 << 20
"""And their payload, about."""


class Lock(Enum):
    """How a row is held until the transaction ends; the strongest first."""

    UPDATE = "update"
    """It is to be removed: nobody can refer to it, or make something below it."""
    CHANGE = "no key update"
    """It is to be replaced."""
    READ = "share"
    """It stays as it is."""
    KEEP = "key share"
    """It stays."""


_ORDER = list(Lock)


class Undone(Exception):
    """Raised in the block of a transaction: all of it is taken back, and the block is over."""


class Consequences(Protocol):
    """What else a change asks for, within its transaction."""

    def concern(self, change: Change) -> bool:
        """Whether there may be any; else it need not be asked."""

    def of(self, transaction: Transaction, change: Change) -> Awaitable[Sequence[Change] | Refusal]:
        """What must be done before the change; or why it cannot be done."""


class Transaction:
    """A transaction that is under way. Whoever made it ends it."""

    def __init__(
        self,
        connection: AsyncConnection[Any],
        statements: Mapping[str, Statements],
        consequences: Consequences | None = None,
    ) -> None:
        self._connection = connection
        self._statements = statements
        self._consequences = consequences
        self.callers: set[str] = set()
        """Who wrote something here."""
        self.changes: list[Change] = []
        """What was done here."""

    @asynccontextmanager
    async def part(self, *, rehearsal: bool = False) -> AsyncIterator[Transaction]:
        """A part of the transaction: what the block raises takes back what was done in it, and nothing else."""
        async with self._connection.transaction(force_rollback=rehearsal):
            yield self

    async def execute(self, text: str, parameters: Sequence[Any]) -> None:
        """Runs a statement of somebody else's (SQL with %s)."""
        await self._connection.execute(cast(Any, text), parameters)

    async def rows(self, statement: sql.Composed, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The rows of a statement ($1)."""
        cursor = AsyncRawCursor(self._connection, row_factory=tuple_row)
        await cursor.execute(statement, parameters)
        return await cursor.fetchall()

    async def lock(self, wanted: Sequence[tuple[Resource, str]], how: Lock) -> list[Row | None]:
        """The rows of these names, held until the end; None where there is none. Each message's in the order of their names."""
        found: dict[tuple[str, str], Row] = {}
        by_message: dict[str, list[str]] = {}
        for message, name in sorted({(r.message, n) for r, n in wanted}):
            by_message.setdefault(message, []).append(name)
        for message, names in by_message.items():
            text = self._statements[message].fetch + f" order by name for {how.value}".encode()
            cursor = AsyncRawCursor(self._connection, row_factory=tuple_row)
            await cursor.execute(text.decode(), [names])
            found |= {(message, row[0]): Row(*row) for row in await cursor.fetchall()}
        return [found.get((resource.message, name)) for resource, name in wanted]

    async def lock_all(self, changes: Sequence[Change]) -> None:
        """Locks what several changes replace, remove or need, in one order: two transactions that make them in different
        orders wait for each other, but hardly in a circle. Where they do, Postgres ends one of them."""
        wanted: dict[tuple[str, int], list[tuple[Resource, str]]] = {}
        for change in changes:
            for resource, name, how in _needs(change):
                wanted.setdefault((resource.message, _ORDER.index(how)), []).append((resource, name))
        if sum(map(len, wanted.values())) > 1:
            for message, strength in sorted(wanted):
                await self.lock(wanted[message, strength], _ORDER[strength])

    async def lock_below(self, change: Change) -> None:
        """Locks what a REMOVE_TREE is to remove: from then on nobody adds to it."""
        for statement, below in self._statements[change.resource.message].remove_tree:
            if not below and statement != self._statements[change.resource.message].lock:
                return
            await self._run(statement, [f"{change.name}/", f"{change.name}0"] if below else [[change.name]])

    async def carry_out(self, changes: Sequence[Change]) -> list[Became]:
        """What became of changes, in order, up to the first ones that are not all DONE: then nothing more is done."""
        outcomes: list[Became] = []
        for group in self._groups(changes):
            self.callers |= {change.origin.caller for change in group}
            if self._consequences is not None and self._consequences.concern(group[0]):
                found = await self._consequences.of(self, group[0])
                if isinstance(found, Refusal):
                    return [*outcomes, found]
                await self._follow(found)
            outcomes += await self._carried_out(group)
            if any(outcome is not Outcome.DONE for outcome in outcomes[-len(group) :]):
                break
        return outcomes

    async def _follow(self, changes: Sequence[Change]) -> None:
        """Carries out consequences. What they change is locked: all of it can be done."""
        for group in self._groups(changes, judged=True):
            if any(outcome is not Outcome.DONE for outcome in await self._carried_out(group)):
                raise Stale(
                    "Others changed the same at the same time; try again.", reason="CONTENTION", retry_after=0.1
                )

    def _groups(self, changes: Sequence[Change], *, judged: bool = False) -> Iterator[list[Change]]:
        """Changes that follow one another and can be one statement: of one kind, each of another resource, and without
        consequences, unless these are `judged` already."""
        group: list[Change] = []
        names: set[str] = set()
        size = 0
        for change in changes:
            if group and (
                self._alone(change, judged)
                or self._alone(group[0], judged)
                or _kind(change) != _kind(group[0])
                or change.name in names
                or len(group) >= GROUP
                or size + len(change.payload) > GROUP_BYTES
            ):
                yield group
                group, names, size = [], set(), 0
            group.append(change)
            names.add(change.name)
            size += len(change.payload)
        if group:
            yield group

    def _alone(self, change: Change, judged: bool) -> bool:
        if change.act is Act.REMOVE_TREE:
            return True
        return not judged and self._consequences is not None and self._consequences.concern(change)

    async def _carried_out(self, group: Sequence[Change]) -> list[Outcome]:
        first = group[0]
        statements = self._statements[first.resource.message]
        leads = [list(column) for column in zip(*(lead(change) for change in group), strict=True)]
        columns = [list(column) for column in zip(*(values(change) for change in group), strict=True)]
        rows: list[tuple[Any, ...]] = []
        for statement, below in steps(statements, first):
            if below:
                parameters: list[Any] = [f"{first.name}/", f"{first.name}0"]
            elif statement == statements.lock:
                parameters = [[change.name for change in group]]
            else:
                parameters = [*leads, *columns]
            rows = await self._run(statement, parameters)
        self.changes += group
        return [Outcome(str(row[0]).encode()) for row in rows]

    async def _run(self, statement: bytes, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        cursor = AsyncRawCursor(self._connection, row_factory=tuple_row)
        await cursor.execute(statement.decode(), parameters)
        return await cursor.fetchall() if cursor.description else []


class Transacting(ABC):
    """Makes changes in transactions of its own, or in parts of one."""

    @abstractmethod
    def transaction(self, *, rehearsal: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """A transaction that is committed when the block ends, but for a rehearsal; what the block raises takes it back."""

    async def revise(
        self, resource: Resource, name: str, decide: Callable[[Row], Awaitable[Change | None]]
    ) -> Change | Row | None:
        """Carries out the change that `decide` makes of the row called `name`, which is locked meanwhile: nobody comes
        first. Answers that change, or the row where there is none to make, or None where there is no such row."""
        async with self.transaction() as transaction:
            [row] = await transaction.lock([(resource, name)], Lock.CHANGE)
            if row is None:
                return None
            change = await decide(row)
            if change is None:
                return row
            [outcome] = await transaction.carry_out([change])
            if isinstance(outcome, Refusal):
                raise outcome
            assert outcome is Outcome.DONE, outcome
        return change

    async def commit(
        self, changes: Sequence[Change], extra: Sequence[tuple[str, Sequence[Any]]] = (), *, rehearsal: bool = False
    ) -> list[Became]:
        """Carries out all changes and the extra statements (SQL with %s, parameters) in one transaction, or none.

        Answers what became of each change: all DONE, and it is committed, but for a rehearsal; else nothing was done, and the
        last ones that are answered say why.
        """
        outcomes: list[Became] = []
        async with self.transaction(rehearsal=rehearsal) as transaction:
            for text, parameters in extra:
                await transaction.execute(text, parameters)
            await transaction.lock_all(changes)
            outcomes = await transaction.carry_out(changes)
            if any(outcome is not Outcome.DONE for outcome in outcomes):
                raise Undone
        return outcomes


def _kind(change: Change) -> tuple[str, Act, str]:
    return change.resource.message, change.act, change.kept_parent.message if change.kept_parent else ""


def steps(statements: Statements, change: Change) -> list[tuple[bytes, bool]]:
    """The statements that carry out a change, and whether each takes the range of names below it (else the change)."""
    match change.act:
        case Act.INSERT:
            return [(statements.insert[change.kept_parent.message if change.kept_parent else None], False)]
        case Act.REPLACE | Act.UNMARK:
            return [(statements.replace, False)]
        case Act.MARK:
            return [(statements.lock, False), (statements.mark, False)]
        case Act.MARK_TREE:
            return [(statements.lock, False), (statements.replace, False)]
        case Act.REMOVE:
            return [(statements.lock, False), (statements.remove, False)]
        case Act.REMOVE_TREE:
            return statements.remove_tree


def lead(change: Change) -> list[Value]:
    """The values of the leading columns that the statement of this act takes (`statements.LEADS`)."""
    known: dict[str, Value] = {
        "name": change.name,
        "parent": change.parent,
        "owner": change.owner,
        "uid": change.uid,
        "version": str(change.version),
        "expected": None if change.expected is None else str(change.expected),
        "at": change.time,
        "payload": change.payload,
        "verb": change.verb,
        "caller": change.origin.caller,
        "request_id": change.origin.request_id,
        "traceparent": change.origin.traceparent,
    }
    return [known[column] for column in LEADS[change.act]]


def values(change: Change) -> Sequence[Value]:
    """Those of the fields' columns, where the act takes them."""
    return () if change.act in (Act.REMOVE, Act.REMOVE_TREE) else change.values


def _needs(change: Change) -> Iterator[tuple[Resource, str, Lock]]:
    yield from ((one.target, one.name, Lock.KEEP) for one in change.refers)
    if change.act is Act.INSERT:
        if change.kept_parent is not None:
            yield change.kept_parent, change.parent, Lock.KEEP
    else:
        yield change.resource, change.name, Lock.CHANGE if change.act in (Act.REPLACE, Act.UNMARK) else Lock.UPDATE
