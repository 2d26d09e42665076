"""Records whose writes are all part of one transaction that is under way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from server.schema.model import Resource
from server.store.changes import Became, Change
from server.store.transactions import Transacting, Transaction, Undone


class Joined(Transacting):
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

    @asynccontextmanager
    async def transaction(self, *, rehearsal: bool = False) -> AsyncIterator[Transaction]:
        """A part of the transaction, which can be taken back by itself."""
        try:
            async with self._transaction.part(rehearsal=rehearsal) as part:
                yield part
        except Undone:
            pass
