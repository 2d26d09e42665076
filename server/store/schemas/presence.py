"""That this process serves its version of the schema, known to whoever changes the schema, for as long as it lives.

It is a shared advisory lock on a connection of its own: Postgres lets go of it when the process dies, of whatever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import structlog
from psycopg.rows import tuple_row

from server.errors import Unavailable
from server.schema.changes import layout
from server.schema.compilation import SchemaError
from server.schema.model import Schema
from server.store.schemas.versions import GATE, SERVED

PATIENCE = 60.0
"""Seconds for which a start waits for an apply that lets nobody in."""
PAUSE = 0.1
"""Seconds between two looks. Who waited in Postgres would be waited for, by indexes that are built."""
EVERY = 1.0
"""Seconds from one sign of life of the connection to the next."""
RETRY = 0.2, 5.0
"""Seconds before a connection that was lost is made anew, the first time and after many."""

_VERSIONS = """
select version, state in ('expanded', 'settling', 'serving'), state = 'closed' from transom.schemas
where layout = %s and state <> 'past' order by version desc
"""

log = structlog.get_logger("presence")


class Presence:
    """Holds the lock, on a connection to the primary, which is made anew whenever it is lost."""

    tell: Callable[[bool], Awaitable[None]]
    """Told whether the process serves what is deployed: True each time it is known to, False while it serves what is past."""

    def __init__(self, dsn: str, name: str, schema: Schema) -> None:
        self._dsn = dsn
        self._name = name
        self._layout = layout.digest(schema)
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._keeps: asyncio.Task[None] | None = None
        self.tell = _nobody

    async def open(self) -> None:
        """Returns once the process may serve, and is known to.

        Raises SchemaError where the database is not made for its schema, Unavailable where it cannot be reached.
        """
        try:
            await self._enter()
        except (psycopg.OperationalError, OSError) as away:
            raise Unavailable("The database cannot be reached.", reason="DATABASE_AWAY") from away
        self._keeps = asyncio.create_task(self._keep())

    async def aclose(self) -> None:
        """Lets go."""
        if self._keeps is not None:
            self._keeps.cancel()
            await asyncio.gather(self._keeps, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()

    async def _enter(self) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._dsn,
            autocommit=True,
            row_factory=tuple_row,
            application_name=f"{self._name} presence",
            connect_timeout=5,
            tcp_user_timeout=5000,
        )
        try:
            await self._look(connection)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection

    async def _look(self, connection: psycopg.AsyncConnection[Any]) -> None:
        until = time.monotonic() + PATIENCE
        while not await _asked(connection, "select pg_try_advisory_lock_shared(%s)", [GATE]):
            if time.monotonic() > until:
                raise SchemaError(
                    f"the tables are being changed, and nobody may start meanwhile, for {PATIENCE:g} s now"
                )
            await asyncio.sleep(PAUSE)
        try:
            version = await self._version(connection)
            await _asked(connection, "select pg_advisory_lock_shared(%s, %s)", [SERVED, version])
        finally:
            await connection.execute("select pg_advisory_unlock_shared(%s)", [GATE])

    async def _version(self, connection: psycopg.AsyncConnection[Any]) -> int:
        """The version of the schema; raises SchemaError where it may not be served."""
        try:
            known = await (await connection.execute(_VERSIONS, [self._layout])).fetchall()
        except psycopg.errors.UndefinedTable as missing:
            raise SchemaError("the database has no tables of Transom's: transom migrate makes them") from missing
        for version, starts, _ in known:
            if starts:
                return int(version)
        if any(closed for *_, closed in known):
            raise SchemaError("the tables are not ready yet: an apply that lets nobody in was interrupted: apply again")
        if known:
            raise SchemaError("the tables are not ready yet: an apply is under way, or was interrupted: apply (again)")
        raise SchemaError(
            "the tables are not those of this schema: transom plan says what is to be done, transom apply does it"
        )

    async def _keep(self) -> None:
        pause, longest = RETRY
        while True:
            try:
                while self._connection is not None:
                    await asyncio.sleep(EVERY)
                    await self._connection.execute("select 1")
                await self._enter()
                pause = RETRY[0]
                await self.tell(True)
            except SchemaError as fault:
                # Nobody waits for this process any more: it was not there while the schema went on. Its calls fail.
                log.error("serves what is past", reason=str(fault))
                await self.tell(False)
                await asyncio.sleep(longest)
            except (psycopg.Error, OSError) as lost:
                log.warning(
                    "not known to serve", cause=f"{type(lost).__name__}: {str(lost).partition(chr(10))[0][:200]}"
                )
                if self._connection is not None:
                    await self._connection.close()
                    self._connection = None
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)


async def _nobody(_: bool) -> None:
    """Where nobody is to be told."""


async def _asked(connection: psycopg.AsyncConnection[Any], text: str, parameters: list[int]) -> Any:
    row = await (await connection.execute(text.encode(), parameters)).fetchone()
    return row[0] if row else None
