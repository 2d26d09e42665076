"""Pipelined Postgres for the hot path: libpq under an event loop, many requests on one connection.

Everything is sent as prepared statements in binary; each `run` ends in one Sync and is therefore one transaction of
its own: it fails or succeeds whole, and its failure touches no neighbour. Source of the protocol's promises:
PostgreSQL documentation, "Pipeline Mode" (libpq) and "Pipelining" (frontend/backend protocol).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import pq

from server.errors import Unavailable
from server.store.translation import refusal_of, refusal_of_result

Result = pq.abc.PGresult
_SYNC = pq.ExecStatus.PIPELINE_SYNC
_DONE = frozenset({pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK})
_BINARY = int(pq.Format.BINARY)

_PLANS = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
"""What runs here finds few rows by an index, however many there are. So it is planned once: left to itself, Postgres would
plan most of it anew each time, which costs it more than the rows do. And since a plan may be made while the table is still
empty, no such plan is allowed as suits only that."""

SILENCE_SECONDS = 30.0
"""A server that has something to answer and says nothing for this long is taken for lost, as a held or broken network
would never tell. Its own limit of a statement is 10 s; only a run of several slow ones may come to more."""


@dataclass(frozen=True, slots=True)
class Step:
    """One statement of a run: its text, and its parameters in Postgres's binary form."""

    statement: bytes
    parameters: Sequence[bytes | None]
    once: bool = False
    """It is not kept prepared, but planned for these parameters, which are texts as SQL has them."""


class _Run:
    """What is under way: who waits for it, and what has come."""

    __slots__ = ("failure", "future", "needs", "prepares", "results")

    def __init__(
        self, future: asyncio.Future[list[Result]] | None, needs: Sequence[_Run] = (), prepares: bytes = b""
    ) -> None:
        self.future = future
        self.needs = needs
        """Runs before this one that prepare what it executes: where one of them fails, that is why this one does."""
        self.prepares = prepares
        """The statement that this run only prepares, if that is all it does."""
        self.results: list[Result] = []
        self.failure: Exception | None = None


class Pipeline:
    """One connection in pipeline mode. Not for use by more than one event loop."""

    def __init__(self, dsn: str, name: str, plans: str = _PLANS) -> None:
        self._dsn = dsn
        self._name = name
        self._plans = plans
        """Options of the sessions, beside those of all."""
        self._connection: psycopg.AsyncConnection | None = None
        self._opening: asyncio.Task[None] | None = None
        self._runs: deque[_Run] = deque()
        self._prepared: dict[bytes, bytes] = {}
        self._preparing: dict[bytes, _Run] = {}
        self._names = 0
        self._within = False
        self._writing = False
        self._closed = False
        self._fd = -1
        self._heard = 0.0
        self._listening = False
        self.connects = 0
        """How often it has connected."""

    @property
    def pending(self) -> int:
        """Runs that are under way."""
        return len(self._runs)

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    async def open(self) -> None:
        """Connects. Raises Unavailable where the server cannot be reached within 5 s."""
        if self._connection is None and not self._closed:
            if self._opening is None or self._opening.done():
                self._opening = asyncio.create_task(self._connect())
            await asyncio.shield(self._opening)

    async def _connect(self) -> None:
        try:
            connection = await psycopg.AsyncConnection.connect(
                self._dsn,
                autocommit=True,
                connect_timeout=5,
                application_name=self._name,
                options="-c statement_timeout=10s -c lock_timeout=3s -c idle_in_transaction_session_timeout=30s "
                f"-c timezone=UTC -c jit=off {self._plans}",
            )
        except psycopg.OperationalError as away:
            raise Unavailable("The database cannot be reached.", reason="DATABASE_AWAY") from away
        libpq = connection.pgconn
        libpq.nonblocking = 1
        libpq.enter_pipeline_mode()
        self._connection = connection
        self.connects += 1
        self._prepared.clear()
        self._preparing.clear()
        self._within = False
        self._fd = libpq.socket
        asyncio.get_running_loop().add_reader(self._fd, self._readable)

    async def close(self) -> None:
        """Closes the connection; what is under way fails with Unavailable."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await self._opening
        self._lost(None)

    def drop(self) -> None:
        """Gives the connection up; what is under way fails with Unavailable, the next run connects again."""
        self._lost(None)

    async def run(self, steps: Sequence[Step]) -> list[Result]:
        """The results of `steps`, one each, run in order as one transaction.

        Raises a Refusal for what Postgres refused (nothing was changed then), and Unavailable where the connection
        was lost: with reason DATABASE_AWAY nothing was sent, with OUTCOME_UNKNOWN it may have been carried out.
        """
        if self._connection is None:
            await self.open()
        return await self._send(steps)

    async def run_then(
        self, first: Sequence[Step], second: Sequence[Step]
    ) -> tuple[list[Result], asyncio.Future[list[Result]]]:
        """The results of `first`, as run gives or raises them, and those to come of `second`: a transaction of its own
        after it, sent together with it. What becomes of the second says nothing of the first."""
        if self._connection is None:
            await self.open()
        one, two = self._send(first), self._send(second)
        two.add_done_callback(_looked_at)
        return await one, two

    def _send(self, steps: Sequence[Step]) -> asyncio.Future[list[Result]]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Result]] = loop.create_future()
        if self._connection is None:
            future.set_exception(Unavailable("The database cannot be reached.", reason="DATABASE_AWAY"))
            return future
        libpq = self._connection.pgconn
        if not self._runs:
            self._heard = loop.time()
        try:
            for step in steps:
                if step.statement not in self._prepared and not step.once:
                    self._prepare(libpq, step.statement)
            for step in steps:
                if step.once:
                    libpq.send_query_params(step.statement, step.parameters, result_format=_BINARY)
                    continue
                libpq.send_query_prepared(
                    self._prepared[step.statement],
                    step.parameters,
                    param_formats=[_BINARY] * len(step.parameters),
                    result_format=_BINARY,
                )
            libpq.pipeline_sync()
            if libpq.flush() and not self._writing:  # the server does not take it all now
                self._writing = True
                loop.add_writer(self._fd, self._writable)
        except psycopg.OperationalError as lost:
            self._lost(lost)
            future.set_exception(Unavailable("The database cannot be reached.", reason="DATABASE_AWAY"))
            return future
        needs = (
            [self._preparing[s.statement] for s in steps if s.statement in self._preparing] if self._preparing else ()
        )
        self._runs.append(_Run(future, needs))
        if not self._listening:
            self._listening = True
            loop.call_later(SILENCE_SECONDS, self._listen)
        return future

    def _prepare(self, libpq: pq.abc.PGconn, statement: bytes) -> None:
        # A run of its own: whatever happens to the run that needs it first, those behind it find it prepared.
        name = self._prepared[statement] = b"s%d" % self._names
        self._names += 1
        libpq.send_prepare(name, statement)
        libpq.pipeline_sync()
        run = self._preparing[statement] = _Run(None, prepares=statement)
        self._runs.append(run)

    def _listen(self) -> None:
        """Gives the connection up where the server is silent."""
        self._listening = False
        if self._connection is None or not self._runs:
            return
        loop = asyncio.get_running_loop()
        left = self._heard + SILENCE_SECONDS - loop.time()
        if left <= 0:
            self._lost(None)
        else:
            self._listening = True
            loop.call_later(left, self._listen)

    def _writable(self) -> None:
        assert self._connection is not None
        try:
            rest = self._connection.pgconn.flush()
        except psycopg.OperationalError as lost:
            self._lost(lost)
            return
        if not rest:
            self._writing = False
            asyncio.get_running_loop().remove_writer(self._fd)

    def _readable(self) -> None:
        assert self._connection is not None
        libpq = self._connection.pgconn
        self._heard = asyncio.get_running_loop().time()
        try:
            libpq.consume_input()
            while self._runs and self._connection is not None and not libpq.is_busy():
                result = libpq.get_result()
                if result is None:
                    # One None ends the results of a statement; a second says that nothing more has arrived.
                    if not self._within:
                        return
                    self._within = False
                elif result.status == _SYNC:
                    self._finished()
                else:
                    self._within = True
                    self._arrived(result)
        except psycopg.OperationalError as lost:
            self._lost(lost)

    def _arrived(self, result: Result) -> None:
        run = self._runs[0]
        if result.status in _DONE:
            run.results.append(result)
        elif result.status != pq.ExecStatus.PIPELINE_ABORTED and run.failure is None:
            run.failure = refusal_of_result(result)

    def _finished(self) -> None:
        run = self._runs.popleft()
        for needed in run.needs:
            run.failure = needed.failure or run.failure
        if run.future is None:
            self._preparing.pop(run.prepares, None)
            if run.failure is not None:
                self._prepared.pop(run.prepares, None)
        elif run.future.done():
            pass  # the one who asked has gone
        elif run.failure is not None:
            run.future.set_exception(run.failure)
        else:
            run.future.set_result(run.results)

    def _lost(self, cause: Exception | None) -> None:
        """The connection is gone: everything under way fails, the next run connects again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._fd)
            loop.remove_writer(self._fd)
            self._writing = False
            connection.pgconn.finish()
        runs, self._runs = list(self._runs), deque()
        for run in runs:
            if run.future is not None and not run.future.done():
                run.future.set_exception(refusal_of(cause))


def _looked_at(future: asyncio.Future[list[Result]]) -> None:
    # Nobody may be left to ask for it; a failure is then no stray.
    if not future.cancelled():
        future.exception()
