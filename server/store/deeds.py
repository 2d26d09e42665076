"""Deeds: what changes of an account together with its words, its mails and what is noted of it, commits together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from psycopg import AsyncConnection
from psycopg.rows import class_row

from server.store import accounts, known_networks, mails, words
from server.store.accounts import NewAccount, StoredAccount
from server.store.pooled import Pool, transaction
from server.store.words import NewWord, StoredWord

Row = TypeVar("Row")
Parameters = Sequence[object] | Mapping[str, object]

# Two who do something with one address wait for each other, whether or not it has an account: what is counted or looked
# for afterwards stays so until the deed is done.
_HOLD = "select pg_advisory_xact_lock(hashtextextended('transom.address:' || %s, 0))"

_RECENT = f"""
with known as (
    select n.network from transom.known_networks n join transom.users u on u.id = n.user_id
    where u.email_key = %(key)s and n.seen_time > now() - interval '{known_networks.DAYS} days'
), asked as (
    select coalesce(details ->> 'network', '') as network from transom.words
    where email_key = %(key)s and purpose = %(purpose)s and create_time > clock_timestamp() - %(within)s
)
select (select count(*)::int from asked where network = %(network)s) as here,
       (select count(*)::int from asked where network not in (select network from known)) as strangers,
       exists (select from known where network = %(network)s) as known
"""

_ASKED = """
select count(*)::int as number from transom.words
where user_id = %s and purpose = %s and create_time > clock_timestamp() - %s
"""

_BY_ID = f"select {accounts.COLUMNS} from transom.users where id = %s for no key update"
_PASSWORD = "update transom.users set password_hash = %s where id = %s"  # noqa: S105 - SQL
_VERIFY = "update transom.users set verified = true where id = %s and not verified"
_ADDRESS = "update transom.users set email = %s, email_key = %s, verified = %s where id = %s"
_KNOWN = "update transom.users set anonymous = false where id = %s and anonymous"
_NAME = "update transom.users set display_name = %s where id = %s"
_ROLES = "update transom.users set roles = %s where id = %s"
_RIGHTS = """
select roles, scopes from transom.users
where %(kind)s = 'users' and id = %(id)s and disabled_time is null and delete_time is null
union all
select array[role], scopes from transom.keys where %(kind)s = 'keys' and id = %(id)s
"""
_DROP = "delete from transom.words where user_id = %s and purpose = any(%s)"
_SESSION = "select 1 from transom.sessions where id = %s and user_id = %s and expire_time > now()"
_FORGET = "delete from transom.known_networks where user_id = %s and network <> %s"
# With those in which it acts, as an admin, in the name of others.
_END = """
delete from transom.sessions
where (user_id = %(user)s or impersonator = 'users/' || %(user)s) and id <> %(keep)s returning token_hash
"""

# All that signs in beside the password.
_WAYS = (
    "delete from transom.identities where user_id = %s",
    "delete from transom.passkeys where user_id = %s",
    "delete from transom.authenticators where user_id = %s",
    "delete from transom.recovery_codes where user_id = %s",
)


@dataclass(frozen=True, slots=True)
class _Number:
    number: int


@dataclass(frozen=True, slots=True)
class Recent:
    """Words that were made for an address lately and were not used."""

    here: int
    """Those that were asked for from the network in question."""
    strangers: int
    """Those from networks from which the account of the address did not prove itself."""
    known: bool
    """Whether it did so from the network in question."""


@dataclass(frozen=True, slots=True)
class _Expire:
    expire_time: datetime


@dataclass(frozen=True, slots=True)
class _Token:
    token_hash: bytes


@dataclass(frozen=True, slots=True)
class StoredRights:
    """What somebody may do: of an admin, what is in `scopes`, or everything."""

    roles: list[str]
    scopes: list[str] | None


class Deed:
    """One transaction over accounts. Not for use after its block has ended."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection

    async def hold(self, email_key: str) -> None:
        """Waits until no other deed holds this address, and holds it."""
        await self._connection.execute(_HOLD, [email_key])

    async def recent(self, email_key: str, purpose: str, within: timedelta, network: str) -> Recent:
        """How many words of this purpose were made for the address within that time and were not used. The `network`
        that asked for a word is in its details."""
        values = {"key": email_key, "purpose": purpose, "within": within, "network": network}
        return await self._one(Recent, _RECENT, values)

    async def asked(self, user: str, purpose: str, within: timedelta) -> int:
        """How many words of this purpose were made for the account within that time and were not used."""
        return (await self._one(_Number, _ASKED, [user, purpose, within])).number

    async def keep(self, word: NewWord) -> datetime:
        """Keeps a word; when it ends."""
        async with self._connection.cursor(row_factory=class_row(_Expire)) as cursor:
            return await words.keep(cursor, word)

    async def use(self, token_hash: bytes, *purposes: str) -> StoredWord | None:
        """As StoredWords.use, for any of these purposes; where the deed fails, the word is as good as before."""
        return await self._maybe(StoredWord, words.USE, [token_hash, list(purposes)])

    async def attempt(self, token_hash: bytes, purpose: str, most: int) -> StoredWord | None:
        """As StoredWords.attempt."""
        return await self._maybe(StoredWord, words.ATTEMPT, [token_hash, [purpose], most])

    async def drop(self, user: str, purposes: Iterable[str]) -> None:
        """Takes back all words of an account with these purposes."""
        await self._connection.execute(_DROP, [user, list(purposes)])

    async def by_email(self, key: str) -> StoredAccount | None:
        """The account of an address."""
        return await self._maybe(StoredAccount, accounts.BY_KEY, [key])

    async def by_id(self, id: str) -> StoredAccount | None:
        """The account `id`; nobody else changes it, or signs in to it, until the deed is done."""
        return await self._maybe(StoredAccount, _BY_ID, [id])

    async def create(self, account: NewAccount) -> bool:
        """Keeps a new account; False where the address has one."""
        return (await self._connection.execute(accounts.CREATE, accounts.parameters(account))).rowcount > 0

    async def set_password(self, user: str, password_hash: str | None) -> None:
        """Keeps another password, or none."""
        await self._connection.execute(_PASSWORD, [password_hash, user])

    async def set_address(self, user: str, email: str, email_key: str, *, verified: bool) -> None:
        """Keeps another address, which the deed must hold and must have found free."""
        await self._connection.execute(_ADDRESS, [email, email_key, verified, user])

    async def set_display_name(self, user: str, display_name: str) -> None:
        """Keeps another name to show."""
        await self._connection.execute(_NAME, [display_name, user])

    async def set_roles(self, user: str, roles: Sequence[str]) -> None:
        """Keeps other roles."""
        await self._connection.execute(_ROLES, [list(roles), user])

    async def rights(self, name: str) -> StoredRights | None:
        """What the account or key with this resource name may do now; None where it is gone or disabled."""
        kind, _, id = name.partition("/")
        async with self._connection.cursor(row_factory=class_row(StoredRights)) as cursor:
            await cursor.execute(_RIGHTS, {"kind": kind, "id": id})
            return await cursor.fetchone()

    async def verify(self, user: str) -> bool:
        """Keeps that the address is the account's own; whether that is news."""
        return (await self._connection.execute(_VERIFY, [user])).rowcount > 0

    async def make_known(self, user: str) -> bool:
        """Makes an anonymous account an ordinary one; False where it is."""
        return (await self._connection.execute(_KNOWN, [user])).rowcount > 0

    async def signed_in(self, session: str, user: str) -> bool:
        """Whether the session with this id still is one of the account's."""
        return (await self._connection.execute(_SESSION, [session, user])).rowcount > 0

    async def end_sessions(self, user: str, *, keep: str = "") -> Sequence[bytes]:
        """Ends an account's sessions but the one with the id `keep`, and those in which it acts as others; the hashes of
        their tokens."""
        async with self._connection.cursor(row_factory=class_row(_Token)) as cursor:
            await cursor.execute(_END, {"user": user, "keep": keep})
            return [ended.token_hash for ended in await cursor.fetchall()]

    async def forget_networks(self, user: str, *, keep: str) -> None:
        """Makes all networks from which the account proved itself a stranger's but `keep`."""
        await self._connection.execute(_FORGET, [user, keep])

    async def remove_ways(self, user: str) -> None:
        """Removes all ways to sign in beside the password, and the second factor."""
        for statement in _WAYS:
            await self._connection.execute(statement, [user])

    async def also(self, statements: Iterable[tuple[str, Sequence[object]]]) -> None:
        """Does something else in the same transaction."""
        for statement, parameters in statements:
            await self._connection.execute(statement, parameters)

    async def _maybe(self, row: type[Row], statement: str, parameters: Parameters) -> Row | None:
        async with self._connection.cursor(row_factory=class_row(row)) as cursor:
            await cursor.execute(statement, parameters)
            return await cursor.fetchone()

    async def _one(self, row: type[Row], statement: str, parameters: Parameters) -> Row:
        found = await self._maybe(row, statement, parameters)
        assert found is not None  # a count answers a row
        return found


class Deeds:
    """Begins deeds."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Deed]:
        """A deed, which is done when the block ends without an error, and else never was."""
        async with transaction(self._pool, _Number) as cursor:
            yield Deed(cursor.connection)

    async def sweep_mails(self, limit: int = 1000) -> int:
        """Deletes at most `limit` mails with words that are long over; how many it were."""
        async with transaction(self._pool, _Number) as cursor:
            await cursor.execute(mails.SWEEP, [limit])
            return cursor.rowcount
