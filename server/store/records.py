"""Resources as rows: what the engine reads and writes, batched.

Reads of one kind that arrive together share a statement, and so do writes; a batch that fails is tried again one
change at a time, so that nobody fails for a neighbour's sake. Every write's row and event commit together.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import cast
from weakref import WeakValueDictionary

from psycopg import AsyncConnection, AsyncRawCursor
from psycopg import Error as PostgresError
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from server.errors import Exhausted, Refusal, Stale, Unavailable
from server.query.rules.checking import Rules
from server.schema.model import Resource, Schema
from server.store import binary
from server.store.bars import Bars, Key
from server.store.changes import SMALL_PAGE, Act, Became, Change, Outcome, Page, Row, Shown, Value
from server.store.fetches import Fetches, rows_of
from server.store.freshness import Freshness
from server.store.gathering import Gathering
from server.store.hot import Found, Hot
from server.store.lane import MARK, Lane
from server.store.page_statements import page_statements
from server.store.pipeline import Result, Step
from server.store.positions import REPLAYED, WRITTEN
from server.store.statements import LEADS, Statements
from server.store.transactions import Consequences, Transacting, Transaction, Undone, lead, values
from server.store.transactions import steps as steps_of
from server.store.translation import refusal_of

Run = Callable[[Sequence[Step]], Awaitable[list[Result]]]

READ_BATCH, PAGE_BATCH, WRITE_BATCH = 256, 32, 64
"""Requests that share a statement at most."""

WRITE_BATCH_BYTES = 8 << 20
"""Payload of a shared writing statement at most; what is larger goes alone."""


class Records(Transacting):
    """The tables of a schema. One per process and event loop."""

    def __init__(
        self,
        schema: Schema,
        primary: Lane,
        replica: Lane | None,
        pool: AsyncConnectionPool,
        freshness: Freshness,
        rules: Rules,
        consequences: Consequences | None = None,
        bars: Bars | None = None,
        hot: Hot | None = None,
    ) -> None:
        self._pool = pool
        self._bars = bars if bars is not None and bars.messages else None
        self._hot = hot if self._bars is not None else None
        self._primary = primary
        self._freshness = freshness
        self._consequences = consequences
        self._statements = {m: Statements(schema, r) for m, r in schema.resources.items()}
        lanes: dict[bool, tuple[Lane, Run]] = {False: (primary, primary.read)}
        if replica is not None:
            lanes[True] = replica, freshness.positions.read
        fetches = {m: s.fetch for m, s in self._statements.items()}
        self._fetches = {stale: Fetches(fetches, run, len(lane.connections)) for stale, (lane, run) in lanes.items()}
        self._kept = replica is not None
        """Which lane hot rows are kept from: that which most reads go to."""
        self._tagged = {
            m: Gathering(
                self._tagger(self._statements[m], lanes[self._kept][1], REPLAYED if self._kept else WRITTEN),
                size=READ_BATCH,
                lanes=len(lanes[self._kept][0].connections),
            )
            for m in (bars.messages if bars is not None and self._hot is not None else ())
        }
        self._pages = {
            (stale, m, variant): Gathering(
                self._pager(statement, run, judged=variant[0]), size=PAGE_BATCH, lanes=len(lane.connections), light=True
            )
            for m, r in schema.resources.items()
            for variant, statement in page_statements(r, rules.resources[m]).items()
            for stale, (lane, run) in lanes.items()
        }
        self._writes: dict[tuple[str, Act, str], Gathering[Change, tuple[Outcome, int]]] = {}
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    def turn(self, resource: Resource, name: str) -> AbstractAsyncContextManager[object]:
        """One's turn to change that resource, among the calls of this process; who came first has it first.

        It spares work, no more: other processes do not see it.
        """
        key = (resource.message, name)
        turn = self._turns.get(key)
        if turn is None:
            turn = self._turns[key] = asyncio.Lock()
        return turn

    async def get(self, resource: Resource, name: str, reader: str) -> Row | None:
        """The row called `name`, as fresh as `reader` may expect (their own writes, always); None where there is none."""
        return (await self.find([(resource, name)], reader))[0]

    async def latest(self, resource: Resource, name: str) -> Row | None:
        """As get, but from the primary: what a write is decided on."""
        [row] = await self._fetches[False].ask([(resource.message, name)])
        return row

    async def find(self, wanted: Sequence[tuple[Resource, str]], reader: str | None) -> list[Row | None]:
        """The rows of these names, read together; as `get`, or for no reader as `latest`."""
        if self._hot is not None and reader is not None:
            return await self._find_hot(self._hot, wanted, reader)
        keys = [(resource.message, name) for resource, name in wanted]
        return await self._freshness.read(reader, lambda stale: self._fetches[stale].ask(keys))

    async def _find_hot(self, hot: Hot, wanted: Sequence[tuple[Resource, str]], reader: str) -> list[Row | None]:
        looked = await hot.look(wanted, reader)
        keys: list[Key] = [(resource.message, name) for resource, name in wanted]
        rest = [key for key in dict.fromkeys(keys) if key not in looked.rows]
        if rest:

            async def ask(stale: bool) -> list[Row | None]:
                missed = looked.missed if stale is self._kept else {}
                plain = self._fetches[stale].ask([key for key in rest if key not in missed])
                kept = [self._read_to_keep(hot, key, missed[key]) for key in rest if key in missed]
                found = dict(zip([key for key in rest if key in missed], await asyncio.gather(*kept), strict=True))
                rows = iter(await plain)
                return [found[key] if key in missed else next(rows) for key in rest]

            looked.rows.update(zip(rest, await self._freshness.read(reader, ask), strict=True))
        return [looked.rows[key] for key in keys]

    async def _read_to_keep(self, hot: Hot, key: Key, missed: Found) -> Row | None:
        row, position = await self._tagged[key[0]].ask(key[1])
        hot.keep(key, missed, row, position if self._kept else position - 1)
        return row

    async def page(self, resource: Resource, page: Page, reader: str | None) -> list[Shown]:
        """The rows of a page, in order of names; as `get`, or for no reader as `latest`."""
        variant = (page.asking is not None, page.size > SMALL_PAGE, page.deleted and resource.soft_delete)
        return await self._freshness.read(reader, lambda stale: self._pages[stale, resource.message, variant].ask(page))

    async def write(self, change: Change) -> Became:
        """Carries out one change, together with others that arrive now. What is DONE is committed.

        Raises Unavailable with reason OUTCOME_UNKNOWN where the connection was lost on the way.
        """
        if self._consequences is not None and self._consequences.concern(change):
            return (await self.commit([change]))[-1]
        if self._bars is None or not self._bars.concern([change]):
            outcome, lsn = await self._carried_out(change)
        else:
            async with self._bars.raised([change]) as bar:
                outcome, lsn = await self._carried_out(change)
                bar.position = lsn if outcome is Outcome.DONE else 0
        if outcome is Outcome.DONE:
            await self._freshness.written(change.origin.caller, lsn)
        return outcome

    async def _carried_out(self, change: Change) -> tuple[Outcome, int]:
        if change.act is Act.REMOVE_TREE:
            return await self._remove_tree(change)
        return await self._writer(change).ask(change)

    @asynccontextmanager
    async def transaction(self, *, rehearsal: bool = False) -> AsyncIterator[Transaction]:
        """A transaction that is committed when the block ends, but for a rehearsal; what the block raises takes it back.

        Raises Unavailable with reason OUTCOME_UNKNOWN where the connection was lost on the way of the commit.
        """
        committing = False
        try:
            async with self._bars.raised([]) if self._bars is not None else nullcontext() as bar:
                with _translated(lambda: committing):
                    async with self._pool.connection() as connection:
                        async with connection.transaction(force_rollback=rehearsal):
                            transaction = Transaction(connection, self._statements, self._consequences)
                            yield transaction
                            if self._bars is not None and bar is not None and not rehearsal:
                                await self._bars.add(bar, transaction.changes)
                            committing = not rehearsal
                        if rehearsal:
                            return
                        lsn = await self._reached(connection)
                        if bar is not None:
                            bar.position = lsn
        except Undone:
            return
        self._primary.wake()
        for caller in transaction.callers:
            await self._freshness.written(caller, lsn)

    async def _reached(self, connection: AsyncConnection) -> int:
        """The position in the log (LSN, bytes) that surely holds what was committed on this connection.

        Raises Unavailable with reason OUTCOME_UNKNOWN where it cannot be had: whatever is wrong with the question must not
        look like a refusal of what is committed.
        """
        try:
            return await _position(connection)
        except PostgresError:
            try:
                [mark] = await self._primary.run([MARK])
            except Refusal as lost:
                raise refusal_of(None) from lost
            return binary.int8(mark.get_value(0, 0))

    def _writer(self, change: Change) -> Gathering[Change, tuple[Outcome, int]]:
        key = (change.resource.message, change.act, change.kept_parent.message if change.kept_parent else "")
        gathering = self._writes.get(key)
        if gathering is None:
            gathering = self._writes[key] = Gathering(
                self._write_batch,
                size=WRITE_BATCH,
                lanes=len(self._primary.connections),
                key=lambda c: c.name,
                light=True,
            )
        return gathering

    async def _write_batch(self, changes: list[Change]) -> Sequence[tuple[Outcome, int] | Exception]:
        """All in one statement; where Postgres refuses that, each alone. Never again where the outcome is not known."""
        if len(changes) > 1 and sum(len(c.payload) for c in changes) > WRITE_BATCH_BYTES:
            return await self._one_by_one(changes)
        try:
            return await self._written(changes)
        except Unavailable:
            raise
        except Refusal as refusal:
            if len(changes) == 1 and not isinstance(refusal, Stale):
                raise
            return await self._one_by_one(changes)

    async def _one_by_one(self, changes: list[Change]) -> Sequence[tuple[Outcome, int] | Exception]:
        out: list[tuple[Outcome, int] | Exception] = []
        for change in changes:
            try:
                out += await self._written([change])
            except Refusal as refusal:
                out.append(refusal)
        return out

    async def _written(self, changes: list[Change]) -> list[tuple[Outcome, int]]:
        statements = self._statements[changes[0].resource.message]
        arrays = _arrays([lead(c) for c in changes], _lead_kinds(changes[0].act))
        arrays += _arrays([values(c) for c in changes], statements.kinds)
        names, lock = [binary.text_array([c.name for c in changes])], statements.lock
        steps = [Step(s, names if s == lock else arrays) for s, _ in steps_of(statements, changes[0])]
        results, lsn = await self._primary.run_and_mark(steps)
        return [(Outcome(_bytes(results[-1].get_value(i, 0))), lsn) for i in range(len(changes))]

    async def _remove_tree(self, change: Change) -> tuple[Outcome, int]:
        statements = self._statements[change.resource.message]
        arrays, names = _arrays([lead(change)], _lead_kinds(change.act)), [binary.text_array([change.name])]
        reach = [f"{change.name}/".encode(), f"{change.name}0".encode()]
        steps = [
            Step(text, reach if below else names if text == statements.lock else arrays)
            for text, below in statements.remove_tree
        ]
        results, lsn = await self._primary.run_and_mark(steps)
        return Outcome(_bytes(results[-1].get_value(0, 0))), lsn

    @staticmethod
    def _tagger(
        statements: Statements, run: Run, position: Step
    ) -> Callable[[list[str]], Awaitable[list[tuple[Row | None, int]]]]:
        """Rows by name; and the position, as `position` tells it, that was there when they were read."""

        async def fetch(names: list[str]) -> list[tuple[Row | None, int]]:
            asked = [name for name in dict.fromkeys(names) if "\0" not in name]
            told, result = await run([position, Step(statements.fetch, [binary.text_array(asked)])])
            at, rows = binary.int8(told.get_value(0, 0)), rows_of(result)
            return [(rows.get(name), at) for name in names]

        return fetch

    @staticmethod
    def _pager(statement: bytes, run: Run, *, judged: bool) -> Callable[[list[Page]], Awaitable[list[list[Shown]]]]:
        async def read(pages: list[Page]) -> list[list[Shown]]:
            parameters = [
                binary.text_array([p.parent for p in pages]),
                binary.text_array([p.after for p in pages]),
                binary.int4_array([p.size for p in pages]),
            ]
            if judged:
                parameters.append(binary.text_array([(p.asking or b"").decode() for p in pages]))
            [result] = await run([Step(statement, parameters)])
            value = result.get_value
            out: list[list[Shown]] = [[] for _ in pages]
            for i in range(result.ntuples):
                seen = _bytes(value(i, 4)).decode() if judged else ""
                out[binary.int4(value(i, 0)) - 1].append(
                    Shown(_bytes(value(i, 1)).decode(), _bytes(value(i, 2)), binary.int8(value(i, 3)), seen)
                )
            return out

        return read


@contextmanager
def _translated(committing: Callable[[], bool]) -> Iterator[None]:
    """Speaks our errors in place of psycopg's. While it is `committing`, nobody knows the outcome where the database goes away,
    whatever it says of itself."""
    try:
        yield
    except TooManyRequests as busy:
        raise Exhausted("Too many requests wait for the database.", reason="DATABASE_BUSY") from busy
    except PoolTimeout as away:
        raise Unavailable("The database cannot be reached.", reason="DATABASE_AWAY") from away
    except PostgresError as error:
        refusal = refusal_of(error)
        if committing() and isinstance(refusal, Unavailable):
            refusal = refusal_of(None)
        raise refusal from error


async def _position(connection: AsyncConnection) -> int:
    """The position in the log (LSN, bytes) that surely holds what was committed before."""
    cursor = AsyncRawCursor(connection, row_factory=tuple_row)
    row = await (await cursor.execute(MARK.statement)).fetchone()
    return int(cast(tuple[int], row)[0])


def _lead_kinds(act: Act) -> Sequence[str]:
    return ["bytea" if column == "payload" else "text" for column in LEADS[act]]


def _arrays(rows: Sequence[Sequence[Value]], kinds: Sequence[str]) -> list[bytes]:
    """Rows of values → one array parameter a column, a bytea[] for those of that kind, else a text[]."""
    out = []
    for column, kind in zip(zip(*rows, strict=True), kinds, strict=False):
        if kind == "bytea":
            out.append(binary.bytea_array(cast(Sequence[bytes | None], column)))
        else:
            out.append(binary.text_array(cast(Sequence[str | None], column)))
    return out


def _bytes(value: bytes | None) -> bytes:
    return value or b""
