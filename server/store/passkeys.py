"""Rows of transom.passkeys: public keys that sign in to accounts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from server.store.pooled import Pool, Statement, all_of, transaction

PER_ACCOUNT = 20
"""Passkeys of one account."""

_COLUMNS = """credential_id, id, user_id, public_key, sign_count, transports, backup_eligible, backed_up, title,
       create_time, seen_time"""

_OF_USER = f"select {_COLUMNS} from transom.passkeys where user_id = %s order by create_time, id"
_BY_CREDENTIAL = f"select {_COLUMNS} from transom.passkeys where credential_id = %s"

# Whatever adds or takes ways to sign in waits here for each other, so that what is counted below stays so; and what ends
# sessions together with a password: a session that has ended by then adds none.
_LOCK = "select id from transom.users where id = %s for no key update"

_SESSION = "select id from transom.sessions where id = %s and user_id = %s and expire_time > now()"

_ADD = f"""
insert into transom.passkeys
    (credential_id, id, user_id, public_key, sign_count, transports, backup_eligible, backed_up, title)
select %(credential_id)s, %(id)s, %(user)s, %(public_key)s, %(sign_count)s, %(transports)s, %(backup_eligible)s,
       %(backed_up)s, %(title)s
where (select count(*) from transom.passkeys where user_id = %(user)s) < %(most)s
on conflict (credential_id) do nothing
returning {_COLUMNS}
"""

# With a passkey, somebody can sign in to it.
_UPGRADE = "update transom.users set anonymous = false where id = %s and anonymous"

# A counter that does not count stays 0; one that does only goes up. Of two uses with one count, one is taken.
_USED = """
update transom.passkeys set sign_count = %(count)s, backed_up = %(backed_up)s, seen_time = clock_timestamp()
where credential_id = %(credential_id)s and (sign_count < %(count)s or (sign_count = 0 and %(count)s = 0))
"""

_RENAME = f"update transom.passkeys set title = %s where id = %s and user_id = %s returning {_COLUMNS}"

_DELETE = """
delete from transom.passkeys p where p.id = %(id)s and p.user_id = %(user)s and (
    exists (select 1 from transom.passkeys o where o.user_id = p.user_id and o.id <> p.id)
    or exists (select 1 from transom.identities i where i.user_id = p.user_id)
    or exists (
        select 1 from transom.users u
        where u.id = p.user_id and (u.password_hash is not null or (u.verified and u.email is not null))
    )
)
"""
_STILL = "select id from transom.passkeys where credential_id = %s and user_id = %s"
_ONE = f"select {_COLUMNS} from transom.passkeys where id = %s and user_id = %s"


@dataclass(frozen=True, slots=True)
class StoredPasskey:
    """A passkey as it is kept."""

    credential_id: bytes
    id: str
    user_id: str
    public_key: bytes
    sign_count: int
    transports: list[str]
    backup_eligible: bool
    backed_up: bool
    title: str
    create_time: datetime
    seen_time: datetime | None


@dataclass(frozen=True, slots=True)
class NewPasskey:
    """What a new passkey is made of."""

    id: str
    credential_id: bytes
    public_key: bytes
    sign_count: int
    transports: Sequence[str]
    backup_eligible: bool
    backed_up: bool
    title: str


class NotAdded(Enum):
    """Why a passkey was not added."""

    GONE = "gone"
    """There is no such account (any more), or the session has ended."""
    TAKEN = "taken"
    """Some account has it."""
    FULL = "full"
    """The account has PER_ACCOUNT of them."""


class NotDeleted(Enum):
    """Why a passkey was not deleted."""

    ABSENT = "absent"
    """The account has no such passkey."""
    LAST = "last"
    """Without it, nobody could sign in to the account."""


def still(credential_id: bytes, user: str) -> Statement:
    """Finds a row where the passkey signs in to the account `user`."""
    return _STILL, [credential_id, user]


class StoredPasskeys:
    """Passkeys in Postgres."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def of_user(self, user: str) -> list[StoredPasskey]:
        """All passkeys of `user`, oldest first."""
        async with transaction(self._pool, StoredPasskey) as cursor:
            await cursor.execute(_OF_USER, [user])
            return await cursor.fetchall()

    async def by_credential(self, credential_id: bytes) -> StoredPasskey | None:
        """The passkey with this credential id."""
        async with transaction(self._pool, StoredPasskey) as cursor:
            await cursor.execute(_BY_CREDENTIAL, [credential_id])
            return await cursor.fetchone()

    async def add(
        self, user: str, session: str, passkey: NewPasskey, also: Sequence[Statement]
    ) -> tuple[StoredPasskey, bool] | NotAdded:
        """Adds a passkey to `user`, where the session with this id still is one of its own, and does something else
        (`also`) with it; and whether the account was anonymous until now."""
        async with transaction(self._pool, StoredPasskey) as cursor:
            await cursor.execute(_LOCK, [user])
            if cursor.rowcount == 0:
                return NotAdded.GONE
            await cursor.execute(_SESSION, [session, user])
            if cursor.rowcount == 0:
                return NotAdded.GONE
            await cursor.execute(
                _ADD,
                {
                    "id": passkey.id,
                    "user": user,
                    "credential_id": passkey.credential_id,
                    "public_key": passkey.public_key,
                    "sign_count": passkey.sign_count,
                    "transports": list(passkey.transports),
                    "backup_eligible": passkey.backup_eligible,
                    "backed_up": passkey.backed_up,
                    "title": passkey.title,
                    "most": PER_ACCOUNT,
                },
            )
            made = await cursor.fetchone()
            if made is None:
                await cursor.execute(_BY_CREDENTIAL, [passkey.credential_id])
                return NotAdded.TAKEN if await cursor.fetchone() else NotAdded.FULL
            await all_of(cursor, also)
            await cursor.execute(_UPGRADE, [user])
            return made, cursor.rowcount > 0

    async def used(self, credential_id: bytes, sign_count: int, backed_up: bool) -> bool:
        """Keeps what a passkey told when it was used; False where its counter did not go up as it should."""
        async with transaction(self._pool, StoredPasskey) as cursor:
            await cursor.execute(_USED, {"credential_id": credential_id, "count": sign_count, "backed_up": backed_up})
            return cursor.rowcount > 0

    async def rename(self, id: str, user: str, title: str) -> StoredPasskey | None:
        """Gives the passkey `id` of `user` another title; None where there is none."""
        async with transaction(self._pool, StoredPasskey) as cursor:
            await cursor.execute(_RENAME, [title, id, user])
            return await cursor.fetchone()

    async def delete(self, id: str, user: str, also: Sequence[Statement]) -> NotDeleted | None:
        """Deletes the passkey `id` of `user`, and does something else with it, where the account can be signed in to
        without it."""
        async with transaction(self._pool, StoredPasskey) as cursor:
            await cursor.execute(_LOCK, [user])
            await cursor.execute(_DELETE, {"id": id, "user": user})
            if cursor.rowcount:
                await all_of(cursor, also)
                return None
            await cursor.execute(_ONE, [id, user])
            return NotDeleted.LAST if await cursor.fetchone() else NotDeleted.ABSENT
