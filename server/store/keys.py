"""Rows of transom.keys: what programs sign in with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from server.store.pooled import Pool, transaction

_CREATE = """
insert into transom.keys (id, token_hash, title, role) values (%s, %s, %s, %s)
returning id, token_hash, title, role, create_time
"""
_ONE = "select id, token_hash, title, role, create_time from transom.keys where id = %s"
_NEWEST = "select id, token_hash, title, role, create_time from transom.keys order by create_time desc, id limit %s"
_DELETE = "delete from transom.keys where id = %s"


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A service key as it is kept."""

    id: str
    token_hash: bytes
    title: str
    role: str
    create_time: datetime


class StoredKeys:
    """Service keys in Postgres."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, id: str, token_hash: bytes, title: str, role: str) -> StoredKey:
        """Keeps a new key."""
        async with transaction(self._pool, StoredKey) as cursor:
            await cursor.execute(_CREATE, [id, token_hash, title, role])
            made = await cursor.fetchone()
            assert made is not None  # an insert without conflict clause returns its row
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

    async def delete(self, id: str) -> bool:
        """Ends the key `id`; False where there is none."""
        async with transaction(self._pool, StoredKey) as cursor:
            await cursor.execute(_DELETE, [id])
            return cursor.rowcount > 0
