"""Rows of transom.identities: accounts elsewhere that sign in to accounts here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from server.errors import Unauthenticated
from server.store.deeds import Deed
from server.store.pooled import Pool, Statement, transaction

PER_ACCOUNT = 20
"""Identities of one account."""

_COLUMNS = "issuer, subject, user_id, email, create_time, seen_time"

_OF_USER = f"select {_COLUMNS} from transom.identities where user_id = %s order by create_time, issuer, subject"

# A token is remembered for as long as it would be accepted again. Of two who bring it at once, the second waits for the
# first, and only finds the place free where that one failed.
_SPEND = """
insert into transom.words (token_hash, purpose, expire_time) values (%s, 'id_token', to_timestamp(%s))
on conflict (token_hash) do nothing
"""

_SEEN = f"""
update transom.identities set seen_time = clock_timestamp(), email = %s where issuer = %s and subject = %s
returning {_COLUMNS}
"""

_ADD = f"""
insert into transom.identities (issuer, subject, user_id, email)
select %s, %s, %s, %s where (select count(*) from transom.identities where user_id = %s) < %s
returning {_COLUMNS}
"""

_STILL = "select 1 as one from transom.identities where issuer = %s and subject = %s and user_id = %s"

# What else signs in: another identity, a password, a passkey, or a code that is mailed to a verified address.
_REMOVE = """
delete from transom.identities i where i.issuer = %(issuer)s and i.subject = %(subject)s and i.user_id = %(user)s and (
    exists (
        select 1 from transom.identities o
        where o.user_id = i.user_id and (o.issuer, o.subject) <> (i.issuer, i.subject)
    )
    or exists (select 1 from transom.passkeys p where p.user_id = i.user_id)
    or exists (
        select 1 from transom.users u
        where u.id = i.user_id and (u.password_hash is not null or (u.verified and u.email is not null))
    )
)
"""


class TokenUsed(Unauthenticated):
    """The ID token has done its service."""

    reason = "ID_TOKEN_USED"


@dataclass(frozen=True, slots=True)
class StoredIdentity:
    """An account elsewhere, and whose it is here."""

    issuer: str
    subject: str
    user_id: str
    email: str
    """As the issuer said it last."""
    create_time: datetime
    seen_time: datetime


@dataclass(frozen=True, slots=True)
class _User:
    user_id: str


def still(issuer: str, subject: str, user: str) -> Statement:
    """Finds a row where the identity signs in to the account `user`."""
    return _STILL, [issuer, subject, user]


class IdentityDeed(Deed):
    """One transaction over identities and the accounts they sign in to.

    Whoever holds several things holds the identity first, then the address,
    then the account: so nobody waits for somebody who waits for them.
    """

    async def hold_identity(self, issuer: str, subject: str) -> None:
        """Waits until no other deed holds this account elsewhere, and holds it."""
        await self.hold(f"{issuer} {subject}")  # no address has a space

    async def spend(self, token_hash: bytes, expire: float) -> None:
        """Marks an ID token as used until it expires by itself (Unix time); where the deed fails, it is not.

        Raises TokenUsed where it was used before.
        """
        done = await self._connection.execute(_SPEND, [token_hash, expire])
        if done.rowcount == 0:
            raise TokenUsed("The ID token was used before; ask the issuer for another.")

    async def seen(self, issuer: str, subject: str, email: str) -> StoredIdentity | None:
        """The identity, which signs in now."""
        return await self._maybe(StoredIdentity, _SEEN, [email, issuer, subject])

    async def add(self, issuer: str, subject: str, user: str, email: str) -> StoredIdentity | None:
        """Links an identity, which the deed must hold and must have found free, to the account `user`, which it must
        hold or have made; None where that has PER_ACCOUNT of them."""
        return await self._maybe(StoredIdentity, _ADD, [issuer, subject, user, email, user, PER_ACCOUNT])

    async def of_user(self, user: str) -> list[StoredIdentity]:
        """All identities of an account, oldest first."""
        async with self._connection.cursor(row_factory=class_row(StoredIdentity)) as cursor:
            await cursor.execute(_OF_USER, [user])
            return await cursor.fetchall()

    async def remove(self, identity: StoredIdentity) -> bool:
        """Parts it from its account, which the deed must hold; False where nobody could sign in to that without it."""
        values = {"issuer": identity.issuer, "subject": identity.subject, "user": identity.user_id}
        return (await self._connection.execute(_REMOVE, values)).rowcount > 0


class StoredIdentities:
    """Identities in Postgres."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def of_user(self, user: str) -> list[StoredIdentity]:
        """All identities of `user`, oldest first."""
        async with transaction(self._pool, StoredIdentity) as cursor:
            await cursor.execute(_OF_USER, [user])
            return await cursor.fetchall()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[IdentityDeed]:
        """A deed, which is done when the block ends without an error, and else never was."""
        async with transaction(self._pool, _User) as cursor:
            yield IdentityDeed(cursor.connection)
