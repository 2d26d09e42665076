"""Sweeping anonymous accounts that nobody can use and that own nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from psycopg import sql

from server.store.pooled import Pool, transaction

_TABLES = "select table_schema, table_name from transom.tables"

# Whoever acts as an account has a session of it, so what has none owns no more a moment later than now.
_SWEEP = sql.SQL("""
delete from transom.users where id in (
    select u.id from transom.users u
    where u.anonymous and u.create_time < now() - {unused}
      and not exists (select from transom.sessions where user_id = u.id)
      and not exists (select from transom.files where owner = 'users/' || u.id)
      {owns_nothing}
    limit {limit} for update of u skip locked
)
""")
_OWNS = sql.SQL("and not exists (select from {table} where _owner = 'users/' || u.id)")


@dataclass(frozen=True, slots=True)
class _Table:
    table_schema: str
    table_name: str


class StoredAnonymous:
    """Anonymous accounts in Postgres."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def sweep(self, unused: timedelta, limit: int = 100) -> int:
        """Deletes at most `limit` anonymous accounts that are older than `unused`, have no session and own nothing; how
        many it were."""
        async with transaction(self._pool, _Table) as cursor:
            await cursor.execute(_TABLES)
            tables = [sql.Identifier(one.table_schema, one.table_name) for one in await cursor.fetchall()]
            owns_nothing = sql.SQL(" ").join(_OWNS.format(table=table) for table in tables)
            await cursor.execute(
                _SWEEP.format(unused=sql.Literal(unused), owns_nothing=owns_nothing, limit=sql.Literal(limit))
            )
            return cursor.rowcount
