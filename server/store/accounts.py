"""Rows of transom.users."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from server.store.pooled import Pool, transaction

_BY_KEY = """
select id, email, display_name, create_time, password_hash
from transom.users where email_key = %s
"""

_BY_ID = """
select id, email, display_name, create_time, password_hash
from transom.users where id = %s
"""

# Only where the hash is still the one that was read: a change of password in between must win.
_REHASH = "update transom.users set password_hash = %s where id = %s and password_hash = %s"


@dataclass(frozen=True, slots=True)
class StoredAccount:
    """An account as it is kept."""

    id: str
    email: str
    display_name: str
    create_time: datetime
    password_hash: str


class StoredAccounts:
    """Accounts in Postgres. They are made together with their first session (`StoredSessions.sign_up`)."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def by_email(self, key: str) -> StoredAccount | None:
        """The account of the address whose canonical spelling is `key`."""
        async with transaction(self._pool, StoredAccount) as cursor:
            await cursor.execute(_BY_KEY, [key])
            return await cursor.fetchone()

    async def by_id(self, id: str) -> StoredAccount | None:
        """The account `id`."""
        async with transaction(self._pool, StoredAccount) as cursor:
            await cursor.execute(_BY_ID, [id])
            return await cursor.fetchone()

    async def rehash(self, account: StoredAccount, password_hash: str) -> None:
        """Keeps another hash of the same password."""
        async with transaction(self._pool, StoredAccount) as cursor:
            await cursor.execute(_REHASH, [password_hash, account.id, account.password_hash])
