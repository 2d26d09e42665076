"""Records whose writes are all part of one transaction that is under way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from server.errors import Refusal
from server.schema.model import Resource
from server.store.changes import Became, Change, Outcome, Row
from server.store.transactions import Lock, Transaction, Undone


class Joined:
    """Writes join the transaction, whose owner commits it; reads go as ever, and see nothing of it yet."""

    def __init__(self, records: Any, transaction: Transaction) -> None:
        self._records = records
        self._transaction = transaction

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)

    def turn(self, resource: Resource, name: str) -> AbstractAsyncContextManager[object]:
        """At once: whoever waits with a transaction under way waits for the row, and not for who waits for a connection."""
        return nullcontext()

    async def write(self, change: Change) -> Became:
        """As Records.write, but committed with the rest."""
        return (await self.commit([change]))[-1]

    async def revise(
        self, resource: Resource, name: str, decide: Callable[[Row], Awaitable[Change | None]]
    ) -> Change | Row | None:
        """As Records.revise, but committed with the rest."""
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
        """As Records.commit, but committed with the rest."""
        outcomes: list[Became] = []
        async with self.transaction(rehearsal=rehearsal) as transaction:
            for text, parameters in extra:
                await transaction.execute(text, parameters)
            await transaction.lock_all(changes)
            outcomes = await transaction.carry_out(changes)
            if any(outcome is not Outcome.DONE for outcome in outcomes):
                raise Undone
        return outcomes

    @asynccontextmanager
    async def transaction(self, *, rehearsal: bool = False) -> AsyncIterator[Transaction]:
        """A part of the transaction, which can be taken back by itself."""
        try:
            async with self._transaction.part(rehearsal=rehearsal) as part:
                yield part
        except Undone:
            pass
