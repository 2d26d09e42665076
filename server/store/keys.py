"""Rows of transom.keys: what programs sign in with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from server.store.pooled import Pool, transaction

_COLUMNS = "id, token_hash, title, role, scopes, create_time"
_CREATE = f"""
insert into transom.keys (id, token_hash, title, role, scopes) values (%s, %s, %s, %s, %s)
returning {_COLUMNS}
"""
_ONE = f"select {_COLUMNS} from transom.keys where id = %s"
_NEWEST = f"select {_COLUMNS} from transom.keys order by create_time desc, id limit %s"
_DELETE = "delete from transom.keys where id = %s"

Statement = tuple[str, Sequence[object]]
"""SQL and its parameters."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A service key as it is kept."""

    id: str
    token_hash: bytes
    title: str
    role: str
    scopes: list[str] | None
    """`<what>:<action>`; None for everything."""
    create_time: datetime


class StoredKeys:
    """Service keys in Postgres."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(
        self, id: str, token_hash: bytes, title: str, role: str, scopes: Sequence[str] | None, also: Statement
    ) -> StoredKey:
        """Keeps a new key, and does something else in the same transaction."""
        async with transaction(self._pool, StoredKey) as cursor:
            await cursor.execute(_CREATE, [id, token_hash, title, role, None if scopes is None else list(scopes)])
            made = await cursor.fetchone()
            assert made is not None  # an insert without conflict clause returns its row
            await cursor.execute(*also)
            return made

    async def one(self, id: str) -> StoredKey | None:
        """The key `id`."""
        async with transaction(self._pool, StoredKey) as cursor:
            await cursor.execute(_ONE, [id])
            return await cursor.fetchone()

    async def newest(self, limit: int) -> list[StoredKey]:
        """At most `limit` keys, newest first."""
        async with transaction(self._pool, StoredKey) as cursor:
            await cursor.execute(_NEWEST, [limit])
            return await cursor.fetchall()

    async def delete(self, id: str, also: Statement) -> bool:
        """Ends the key `id`, and does something else in the same transaction; False, and nothing, where there is none."""
        async with transaction(self._pool, StoredKey) as cursor:
            await cursor.execute(_DELETE, [id])
            if cursor.rowcount == 0:
                return False
            await cursor.execute(*also)
            return True
