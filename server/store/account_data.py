"""Accounts on their way out, and the copies of what belongs to them: rows of transom.users and transom.exports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row, tuple_row

from server.schema.model import Resource
from server.store.changes import Row
from server.store.pooled import Pool, transaction

Statement = tuple[LiteralString, Sequence[object]]

ACCOUNT, REQUESTED, DELETED = "transom.accounts.v1.Account", "deletion_requested", "deleted"
EXPORT, CREATED = "transom.accounts.v1.Export", "created"
"""Types and verbs of the events."""

SETTLED = timedelta(minutes=5)
"""How long after its data were removed they are looked for once more. Whoever called as the account when it was asked
for is heard on no server a second later (announcements.SILENCE); what was under way then has 30 seconds at the edge,
and statements in Postgres have 10."""

BITE = 500
"""Rows of the audit log that are changed at once."""

RUNNING_MOST = timedelta(hours=24)
"""How long an export may take, its retries included, until it is given up."""

FETCHED = 50
"""Rows that an export reads at once; each may be as large as a request."""
LISTED = 500
"""Files that it looks at at once."""

_EVENT: LiteralString = """
insert into transom.events (resource_type, verb, name, payload, caller, request_id, traceparent)
values (%s, %s, %s, '', %s, %s, %s)
"""

_CONDEMN: LiteralString = """
update transom.users set delete_time = clock_timestamp(), purge_time = %s, purged = false
where id = %s and delete_time is null
"""
_SPARE: LiteralString = """
update transom.users set delete_time = null, purge_time = null where id = %s and purge_time is not null and not purged
"""
_STATE = "select id, email, email_key, delete_time, purge_time, purged from transom.users where id = %s"

# What it is woken by is written with it: there is no moment in which it would neither wait nor be worked on.
_BEGIN = f"""
with due as (
    select id from transom.users where purge_time <= clock_timestamp() order by purge_time
    limit %s for update skip locked
), begun as (
    update transom.users u set purge_time = null from due where u.id = due.id returning u.id
)
insert into transom.events (resource_type, verb, name, payload, caller)
select '{ACCOUNT}', '{REQUESTED}', 'users/' || id, '', 'system' from begun
"""
_LATER: LiteralString = """
update transom.users set purged = true, purge_time = clock_timestamp() + %s
where id = %s and delete_time is not null and purge_time is null
"""

_WORDS: LiteralString = "delete from transom.words where user_id = %s or (email_key = %s and email_key <> '')"
_MAILS: LiteralString = "delete from transom.mails where lower(recipient) = any(%s)"
_RECIPIENTS: LiteralString = "delete from transom.mail_recipients where lower(address) = any(%s)"
_SUPPRESSIONS: LiteralString = "delete from transom.mail_suppressions where address = any(%s)"
_REQUESTS: LiteralString = "delete from transom.requests where caller = %s"
_OPERATIONS: LiteralString = "delete from transom.operations where caller = %s"
_GONE: LiteralString = "delete from transom.users where id = %s and delete_time is not null"

# Only what the account did itself, or nobody known did to it, tells of its own devices; the rest tells of admins'.
_AUDIT_OWN = """
update transom.audit set address = '', device = '', details = '{}'
where id in (
    select id from transom.audit
    where (actor = %(name)s or (target = %(name)s and actor = '') or impersonator = %(name)s)
      and (address <> '' or device <> '' or details <> '{}')
    limit %(limit)s
)
"""
_AUDIT_OTHERS = """
update transom.audit set details = '{}'
where id in (select id from transom.audit where target = %(name)s and details <> '{}' limit %(limit)s)
"""

_EXPORT_COLUMNS = "id, user_id, state, file, create_time, complete_time, expire_time"
_EXPORTS = f"""
select {_EXPORT_COLUMNS} from transom.exports where user_id = %s order by create_time desc, id desc
"""
_EXPORT_ONE = f"select {_EXPORT_COLUMNS} from transom.exports where id = %s"
_EXPORT_NEW: LiteralString = "insert into transom.exports (id, user_id) values (%s, %s)"
_EXPORT_FILE = """
update transom.exports e set file = %(file)s
from (select id, file as before from transom.exports where id = %(id)s and state = 'RUNNING' for update) as old
where e.id = old.id returning old.before
"""
_EXPORT_READY: LiteralString = """
update transom.exports set state = 'READY', complete_time = clock_timestamp(), expire_time = clock_timestamp() + %s
where id = %s and state = 'RUNNING' and file = %s
"""
_EXPORT_FAILED: LiteralString = """
update transom.exports set state = 'FAILED', complete_time = clock_timestamp(), expire_time = clock_timestamp() + %s
where id = %s and state = 'RUNNING'
"""
_EXPORTS_STUCK = """
update transom.exports set state = 'FAILED', complete_time = clock_timestamp(), expire_time = clock_timestamp() + %s
where state = 'RUNNING' and create_time < clock_timestamp() - %s
"""
_EXPORTS_OVER = f"select {_EXPORT_COLUMNS} from transom.exports where expire_time <= clock_timestamp() limit %s"
_EXPORT_GONE = "delete from transom.exports where id = any(%s)"

# One moment for all that is read. A large account takes minutes of it, a fetch seconds.
_SNAPSHOT: tuple[LiteralString, ...] = (
    "set transaction isolation level repeatable read, read only",
    "set local statement_timeout = '60s'",
    "set local idle_in_transaction_session_timeout = '300s'",
)
_OWNED = sql.SQL("select name, _payload, _version, _owner from {} where _owner = %s order by name")
_ACCOUNT = """
select id, email, display_name, create_time, verified, anonymous, roles, password_hash is not null as password_set,
       exists (select from transom.authenticators a where a.user_id = u.id and confirm_time is not null) as second_factor
from transom.users u where id = %s
"""
_SESSIONS = """
select 'sessions/' || id as name, device, proof, web, create_time, seen_time, expire_time, address
from transom.sessions where user_id = %s and impersonator = '' order by create_time, id
"""
_IDENTITIES = """
select issuer, subject, email, create_time, seen_time from transom.identities where user_id = %s order by create_time
"""
_PASSKEYS = """
select 'passkeys/' || id as name, title, transports, backed_up, create_time, seen_time
from transom.passkeys where user_id = %s order by create_time, id
"""
# As when the account goes: what tells of somebody else's devices is theirs.
_AUDIT = """
select time, actor, action, target, outcome, impersonator,
       case when own then address else '' end as address, case when own then device else '' end as device,
       case when own then details else '{}' end as details
from (
    select *, impersonator = '' and actor in (%(name)s, '') as own from transom.audit
    where actor = %(name)s or target = %(name)s
) as noted
order by id
"""
_FILES = """
select 'files/' || id as name, filename, content_type, size_bytes, encode(sha256, 'hex') as sha256, state, create_time
from transom.files
where owner = %(name)s and state <> 'DELETING'
  and 'files/' || id not in (select file from transom.exports where user_id = %(id)s)
  and (%(time)s::timestamptz is null or (create_time, id) > (%(time)s, substr(%(after)s, 7)))
order by create_time, id limit %(limit)s
"""


@dataclass(frozen=True, slots=True)
class Condemned:
    """An account, as far as its end is concerned."""

    id: str
    email: str | None
    email_key: str | None
    delete_time: datetime | None
    """Since when nobody can sign in to it; None where it lives."""
    purge_time: datetime | None
    """Until when nothing is done; None while it is worked on."""
    purged: bool
    """Whether its data were removed once."""

    @property
    def name(self) -> str:
        """`users/{user}`."""
        return f"users/{self.id}"


@dataclass(frozen=True, slots=True)
class StoredExport:
    """A copy of what belongs to an account, or the making of one."""

    id: str
    user_id: str
    state: str
    file: str
    """Where it is RUNNING, the file that it is being written to, if it has come so far."""
    create_time: datetime
    complete_time: datetime | None
    expire_time: datetime | None


@dataclass(frozen=True, slots=True)
class _Before:
    before: str


def noted(type: str, verb: str, name: str, caller: str = "", request_id: str = "", traceparent: str = "") -> Statement:
    """The event that wakes the consumer."""
    return _EVENT, [type, verb, name, caller, request_id, traceparent]


def condemned(user: str, purge_time: datetime | None) -> Statement:
    """From now on nobody can sign in to the account; its data are removed at `purge_time`, or as soon as the event of
    this transaction is heard where that is None."""
    return _CONDEMN, [purge_time, user]


def spared(user: str) -> Statement:
    """The account lives, if it still waits."""
    return _SPARE, [user]


def looked_for_later(user: str) -> Statement:
    """Its data were removed; what was under way is looked for when that is surely over."""
    return _LATER, [SETTLED, user]


def gone(account: Condemned) -> list[Statement]:
    """Removes the account itself and what goes with its row."""
    return [*_cleaned(account), (_GONE, [account.id])]


def export_begun(id: str, user: str) -> Statement:
    """Keeps an export. Fails where one is under way."""
    return _EXPORT_NEW, [id, user]


def export_ready(id: str, file: str, life: timedelta) -> Statement:
    """The export's file is whole."""
    return _EXPORT_READY, [life, id, file]


def export_failed(id: str, life: timedelta) -> Statement:
    """There will be no file."""
    return _EXPORT_FAILED, [life, id]


def _cleaned(account: Condemned) -> list[Statement]:
    spellings = {spelling.lower() for spelling in (account.email, account.email_key) if spelling}
    return [
        (_WORDS, [account.id, account.email_key or ""]),
        (_MAILS, [sorted(spellings)]),
        (_RECIPIENTS, [sorted(spellings)]),
        (_SUPPRESSIONS, [sorted(spellings)]),
        (_REQUESTS, [account.name]),
        (_OPERATIONS, [account.name]),
    ]


class StoredAccountData:
    """Postgres' side of deletions and exports. `pool` is one whose connections may be kept for minutes."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def state(self, user: str) -> Condemned | None:
        """How far the account's deletion is; None where there is no such account."""
        async with transaction(self._pool, Condemned) as cursor:
            await cursor.execute(_STATE, [user])
            return await cursor.fetchone()

    async def begin(self, limit: int = 100) -> int:
        """Has accounts worked on whose time has come, at most `limit`; how many it were."""
        async with transaction(self._pool, Condemned) as cursor:
            await cursor.execute(_BEGIN, [limit])
            return cursor.rowcount

    async def clean(self, account: Condemned) -> None:
        """Removes words and mails of an account, and what it was answered."""
        async with transaction(self._pool, Condemned) as cursor:
            for statement, parameters in _cleaned(account):
                await cursor.execute(statement, parameters)

    async def forget_places(self, user: str) -> int:
        """Takes addresses, devices and details out of some entries of the audit log that are about an account; of how
        many."""
        changed = 0
        for statement in (_AUDIT_OWN, _AUDIT_OTHERS):
            async with transaction(self._pool, Condemned) as cursor:
                await cursor.execute(statement, {"name": user, "limit": BITE})
                changed += cursor.rowcount
        return changed

    async def export(self, id: str) -> StoredExport | None:
        """The export `id`."""
        async with transaction(self._pool, StoredExport) as cursor:
            await cursor.execute(_EXPORT_ONE, [id])
            return await cursor.fetchone()

    async def exports(self, user: str) -> list[StoredExport]:
        """All exports of an account, newest first."""
        async with transaction(self._pool, StoredExport) as cursor:
            await cursor.execute(_EXPORTS, [user])
            return await cursor.fetchall()

    async def write_to(self, id: str, file: str) -> str | None:
        """Notes which file an export under way is written to; the one before, "" where there was none. None where the
        export is not, or no longer, under way."""
        async with transaction(self._pool, _Before) as cursor:
            await cursor.execute(_EXPORT_FILE, {"id": id, "file": file})
            found = await cursor.fetchone()
            return None if found is None else found.before

    async def give_up(self, life: timedelta) -> int:
        """Gives up exports that took too long; how many it were."""
        async with transaction(self._pool, StoredExport) as cursor:
            await cursor.execute(_EXPORTS_STUCK, [life, RUNNING_MOST])
            return cursor.rowcount

    async def over(self, limit: int = 100) -> list[StoredExport]:
        """Exports whose time is over, at most `limit`."""
        async with transaction(self._pool, StoredExport) as cursor:
            await cursor.execute(_EXPORTS_OVER, [limit])
            return await cursor.fetchall()

    async def remove(self, exports: Sequence[str]) -> None:
        """Removes exports; their files must be gone."""
        async with transaction(self._pool, StoredExport) as cursor:
            await cursor.execute(_EXPORT_GONE, [list(exports)])

    async def files(self, user: str) -> AsyncIterator[list[dict[str, Any]]]:
        """An account's files but for exports, oldest first, a page at a time, as they are when it comes to them."""
        time, after = None, ""
        while True:
            async with transaction(self._pool, Condemned) as cursor:
                raw = cursor.connection.cursor(row_factory=dict_row)
                given = {"id": user, "name": f"users/{user}", "time": time, "after": after, "limit": LISTED}
                await raw.execute(_FILES, given)
                rows = await raw.fetchall()
            if rows:
                time, after = rows[-1]["create_time"], rows[-1]["name"]
                yield rows
            if len(rows) < LISTED:
                return

    @asynccontextmanager
    async def snapshot(self, user: str) -> AsyncIterator[Snapshot]:
        """All that belongs to an account but its files, as it is at this moment, for as long as the block lasts."""
        async with transaction(self._pool, Condemned) as cursor:
            for statement in _SNAPSHOT:
                await cursor.execute(statement)
            yield Snapshot(cursor.connection, user)


class Snapshot:
    """What belonged to an account at one moment. Rows come in bites, however many they are."""

    def __init__(self, connection: AsyncConnection[Any], user: str) -> None:
        self._connection = connection
        self._given = {"id": user, "name": f"users/{user}"}

    async def account(self) -> dict[str, Any] | None:
        """The account; None where it is gone."""
        async with self._connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_ACCOUNT, [self._given["id"]])
            return await cursor.fetchone()

    def sessions(self) -> AsyncIterator[list[dict[str, Any]]]:
        """Where it is signed in."""
        return self._rows(_SESSIONS, [self._given["id"]])

    def identities(self) -> AsyncIterator[list[dict[str, Any]]]:
        """Its accounts elsewhere."""
        return self._rows(_IDENTITIES, [self._given["id"]])

    def passkeys(self) -> AsyncIterator[list[dict[str, Any]]]:
        """Its passkeys, without their keys."""
        return self._rows(_PASSKEYS, [self._given["id"]])

    def audit(self) -> AsyncIterator[list[dict[str, Any]]]:
        """What it did, and what was done to it, in order."""
        return self._rows(_AUDIT, self._given)

    async def resources(self, resource: Resource) -> AsyncIterator[list[Row]]:
        """The resources of one kind that it owns, in order of their names."""
        table = sql.Identifier(resource.table_schema, resource.table_name)
        async with self._connection.cursor(name="owned", row_factory=tuple_row) as cursor:
            await cursor.execute(_OWNED.format(table), [self._given["name"]])
            while rows := await cursor.fetchmany(FETCHED):
                yield [Row(*row) for row in rows]

    async def _rows(self, statement: str, parameters: Any) -> AsyncIterator[list[dict[str, Any]]]:
        async with self._connection.cursor(name="rows", row_factory=dict_row) as cursor:
            await cursor.execute(statement.encode(), parameters)
            while rows := await cursor.fetchmany(FETCHED):
                yield rows
