"""Rows of transom.users."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from server.store.pooled import Pool, Statement, transaction

COLUMNS = (
    "id, email, email_key, display_name, create_time, password_hash, verified, anonymous, roles, "
    "disabled_time, delete_time"
)
BY_KEY = f"select {COLUMNS} from transom.users where email_key = %s"
_BY_ID = f"select {COLUMNS} from transom.users where id = %s"
_PROVED = "select id from transom.users where id = %s and email_key = %s and verified"

# No row comes back where the address is taken.
CREATE = """
insert into transom.users (id, email, email_key, display_name, password_hash, verified, anonymous, roles)
values (%s, %s, %s, %s, %s, %s, %s, %s)
on conflict (email_key) do nothing
"""

# Only where the hash is still the one that was read: a change of password in between must win.
_REHASH = "update transom.users set password_hash = %s where id = %s and password_hash = %s"


@dataclass(frozen=True, slots=True)
class StoredAccount:
    """An account as it is kept."""

    id: str
    email: str | None
    email_key: str | None
    display_name: str
    create_time: datetime
    password_hash: str | None
    verified: bool
    anonymous: bool
    roles: list[str]
    disabled_time: datetime | None
    delete_time: datetime | None

    @property
    def closed(self) -> bool:
        """Whether nobody can sign in to it: disabled, or waiting to be deleted."""
        return self.disabled_time is not None or self.delete_time is not None


@dataclass(frozen=True, slots=True)
class NewAccount:
    """What a new account is made of."""

    id: str
    email: str | None
    email_key: str | None
    display_name: str
    password_hash: str | None
    verified: bool = False
    anonymous: bool = False
    roles: tuple[str, ...] = ()


def proved(user: str, email_key: str) -> Statement:
    """Finds a row where the address is that of the account `user`, and was proved to be."""
    return _PROVED, [user, email_key]


class StoredAccounts:
    """Accounts in Postgres."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def by_email(self, key: str) -> StoredAccount | None:
        """The account of the address whose canonical spelling is `key`."""
        async with transaction(self._pool, StoredAccount) as cursor:
            await cursor.execute(BY_KEY, [key])
            return await cursor.fetchone()

    async def by_id(self, id: str) -> StoredAccount | None:
        """The account `id`."""
        async with transaction(self._pool, StoredAccount) as cursor:
            await cursor.execute(_BY_ID, [id])
            return await cursor.fetchone()

    async def create(self, account: NewAccount) -> bool:
        """Keeps a new account; False where the address has one."""
        async with transaction(self._pool, StoredAccount) as cursor:
            await cursor.execute(CREATE, parameters(account))
            return cursor.rowcount > 0

    async def rehash(self, account: StoredAccount, password_hash: str) -> bool:
        """Keeps another hash of the same password; False where another is kept by now."""
        async with transaction(self._pool, StoredAccount) as cursor:
            await cursor.execute(_REHASH, [password_hash, account.id, account.password_hash])
            return cursor.rowcount > 0


def parameters(account: NewAccount) -> list[object]:
    """Of CREATE."""
    return [
        account.id,
        account.email,
        account.email_key,
        account.display_name,
        account.password_hash,
        account.verified,
        account.anonymous,
        list(account.roles),
    ]
