"""What an account owns among the app's resources: found by the index on the owner, removed in bounded bites.

Nothing here is one large transaction: a bite commits, and whoever goes on, after whatever death, finds what is left.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from psycopg import AsyncRawCursor, sql
from psycopg.rows import tuple_row

from server.schema.model import Resource, Schema
from server.store.changes import Origin, Outcome
from server.store.pooled import Pool, transaction
from server.store.statements import Statements

BITE = 200
"""Rows of one transaction. While it lasts they are locked, and nobody else's call waits for more."""

_TABLES = """
select message, table_schema, table_name from transom.tables
where to_regclass(format('%I.%I', table_schema, table_name)) is not null
"""
_MINE = sql.SQL("select name from {} where _owner = %s limit %s")
# From the end: what lies below another comes before it, so that little is below what is removed.
_BELOW = sql.SQL("select name from {} where name >= %s and name < %s order by name desc limit %s")
_FORGET = sql.SQL("""
delete from {table} where name in (
    select name from {table} where _owner = %s order by name limit %s for update skip locked
)
""")


class _Nothing:
    """Where no rows are read."""


class Owned:
    """The tables of a schema, by owner."""

    def __init__(self, schema: Schema, pool: Pool) -> None:
        self._pool = pool
        self._messages = frozenset(schema.resources)
        self._statements = {m: Statements(schema, r) for m, r in schema.resources.items()}

    async def names(self, resource: Resource, owner: str, limit: int = BITE) -> list[str]:
        """Names of at most `limit` resources of `owner`, in no order."""
        return await self._names(_MINE, resource, [owner, limit])

    async def below(self, resource: Resource, name: str, limit: int = BITE) -> list[str]:
        """Names of at most `limit` resources of one kind somewhere below `name`, the last in order first."""
        # `0` is the character after `/`.
        return await self._names(_BELOW, resource, [f"{name}/", f"{name}0", limit])

    async def remove(self, resource: Resource, names: Sequence[str], origin: Origin) -> list[str]:
        """Removes resources, each with its event, but for those that have something below them: these are answered.

        One transaction. Those that are gone already count as removed.
        """
        ordered = sorted(names)
        statements = self._statements[resource.message]
        count = len(ordered)
        lead = [
            ordered,
            [None] * count,
            ["deleted"] * count,
            [origin.caller] * count,
            [origin.request_id] * count,
            [origin.traceparent] * count,
        ]
        async with transaction(self._pool, _Nothing) as cursor:
            raw = AsyncRawCursor(cursor.connection, row_factory=tuple_row)
            await raw.execute(statements.lock.decode(), [ordered])
            await raw.execute(statements.remove.decode(), lead)
            outcomes = [Outcome(str(row[0]).encode()) for row in await raw.fetchall()]
        return [n for n, outcome in zip(ordered, outcomes, strict=True) if outcome is Outcome.OCCUPIED]

    async def forget(self, owner: str, limit: int = BITE) -> int:
        """Removes some rows of `owner` from tables whose resources the schema has no more; how many it were.

        Nobody can read them, so there are no events of it.
        """
        async with transaction(self._pool, _Nothing) as cursor:
            raw = cursor.connection.cursor(row_factory=tuple_row)
            await raw.execute(_TABLES)
            for message, table_schema, table_name in await raw.fetchall():
                if message not in self._messages:
                    await raw.execute(_FORGET.format(table=sql.Identifier(table_schema, table_name)), [owner, limit])
                    if raw.rowcount:
                        return raw.rowcount
        return 0

    async def _names(self, statement: sql.SQL, resource: Resource, parameters: Collection[object]) -> list[str]:
        table = sql.Identifier(resource.table_schema, resource.table_name)
        async with transaction(self._pool, _Nothing) as cursor:
            raw = cursor.connection.cursor(row_factory=tuple_row)
            await raw.execute(statement.format(table), list(parameters))
            return [row[0] for row in await raw.fetchall()]
