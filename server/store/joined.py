"""Records whose writes are all part of one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from types import TracebackType
from typing import Any

from server.schema.model import Resource
from server.store.changes import Became, Change
from server.store.transactions import Transacting, Transaction, Undone


class Joined(Transacting):
    """The transaction begins with the first write and is committed when the block ends, unless that raises. Reads go as ever,
    and see nothing of it yet.

    So a connection is held while something is written, but not while somebody thinks about what to write.
    """

    def __init__(self, records: Any, first: Callable[[Transaction], Awaitable[None]] | None = None) -> None:
        """`first` is what the transaction begins with. What it raises ends the block."""
        self._records = records
        self._first = first
        self._open = AsyncExitStack()
        self._transaction: Transaction | None = None
        self._wrote = False

    async def __aenter__(self) -> Joined:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._open.__aexit__(kind, raised, traceback)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)

    async def begun(self) -> Transaction:
        """The transaction, which begins now at the latest."""
        if self._transaction is None:
            transaction = await self._open.enter_async_context(self._records.transaction())
            if self._first is not None:
                await self._first(transaction)
            self._transaction = transaction
        return self._transaction

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
            async with (await self.begun()).part(rehearsal=rehearsal) as part:
                yield part
            self._wrote = True
        except Undone:
            if not self._wrote:
                # Whoever decides again on what is there now shall hold no connection meanwhile.
                self._transaction = None
                await self._open.__aexit__(Undone, Undone(), None)
