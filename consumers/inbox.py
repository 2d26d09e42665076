"""The inbox: which handler has finished which event. The row commits with the effect, so the effect happens once."""

from __future__ import annotations

from typing import LiteralString

import psycopg

from consumers.handlers import Statement
from server.errors import Unavailable
from server.store.pooled import Pool

_DONE: LiteralString = "select from transom.inbox where handler = %s and event_id = %s"

# Without `on conflict`: a second run of the same event must fail here, and its whole transaction with it.
_RECORD: LiteralString = "insert into transom.inbox (handler, event_id) values (%s, %s)"


class Inbox:
    """What is written down in transom.inbox."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def done(self, handler: str, event: str) -> bool:
        """Whether it is finished. Raises Unavailable where the database does not answer."""
        try:
            async with self._pool.connection() as connection:
                return (await connection.execute(_DONE, [handler, event])).rowcount > 0
        except psycopg.Error as error:
            raise Unavailable("The database is away.", reason="DATABASE_AWAY") from error

    async def write(self, handler: str, event: str) -> None:
        """Writes down that it is finished, where there is no effect to commit it with. Raises Unavailable."""
        try:
            async with self._pool.connection() as connection:
                await connection.execute(_RECORD + " on conflict do nothing", [handler, event])
        except psycopg.Error as error:
            raise Unavailable("The database is away.", reason="DATABASE_AWAY") from error

    @staticmethod
    def record(handler: str, event: str) -> Statement:
        """The statement to commit with the effect. It fails where another run has committed first."""
        return _RECORD, [handler, event]
