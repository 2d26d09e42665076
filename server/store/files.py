"""Rows of transom.files: what is known of each file. The bytes are in `server/store/objects.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

from psycopg import AsyncCursor
from psycopg.rows import class_row

from server.errors import Exhausted
from server.store.file_metrics import BYTES, CHANGES
from server.store.pooled import Pool, transaction

PENDING_MOST = 1000
"""Uploads that one owner may have announced and not completed."""

UNFINISHED = timedelta(hours=24)
"""How long an upload may take from its announcement to its completion; then it is swept away."""

CLAIMS = 2
"""Claims at once in one process: each holds a connection of the pool while S3 works, and others need the pool too."""

SETTLED = timedelta(minutes=10)
"""How long a deleted file's row waits for calls that were still writing its bytes; longer than any of them takes."""

COLUMNS = """id, owner, filename, content_type, size_bytes, sha256, state, create_time, complete_time, private, public,
    bounded, upload_key, part_size_bytes, variants, metadata, rejection, process_time"""
"""Of a StoredFile."""

FILE = "transom.files.v1.File"
"""The type of events of files. Their verbs: uploaded, ready, rejected, deleted. They have no payload: the row is read."""

TELL_DELETED: LiteralString = f"""
insert into transom.events (resource_type, verb, name, payload, caller, owner)
select '{FILE}', 'deleted', 'files/' || id, '', {{caller}}, owner from gone
"""
"""Tells that `caller` deleted files: those that a `with gone` before it returns, with `id` and `owner`."""

# Two announcements of one owner wait for each other: what is counted stays so until the second has counted, too.
_ANNOUNCING = "select pg_advisory_xact_lock(hashtextextended('transom.files:' || %s, 0))"
_HAS = """
select coalesce(max(files), 0)::bigint as files, coalesce(max(bytes), 0)::bigint as bytes, (
    select count(*) from (
        select 1 from transom.files where owner = %(owner)s and state = 'PENDING' limit %(most)s
    ) as pending
) as pending
from transom.file_usage where owner = %(owner)s
"""
_ANNOUNCE = f"""
insert into transom.files
    (id, owner, filename, content_type, size_bytes, sha256, state, create_time, upload_expire_time, public, bounded,
     part_size_bytes)
values (%(id)s, %(owner)s, %(filename)s, %(content_type)s, %(size_bytes)s, %(sha256)s, 'PENDING',
       now(), now() + %(lifetime)s, %(public)s, %(bounded)s, %(part_size_bytes)s)
returning {COLUMNS}
"""

# The first stays: parts may have been sent there.
_IN_PARTS = f"""
update transom.files set upload_key = coalesce(upload_key, %s) where id = %s and state = 'PENDING'
returning {COLUMNS}
"""

_ONE = f"select {COLUMNS} from transom.files where id = %s and state <> 'DELETING'"

# Only what is still pending: a deletion that came in between wins.
_COMPLETE = f"""
with completed as (
    update transom.files set state = %(state)s, complete_time = clock_timestamp(), size_bytes = %(size_bytes)s,
        process_time = case when %(state)s = 'READY' then clock_timestamp() end
    where id = %(id)s and state = 'PENDING'
    returning {COLUMNS}
), told as (
    insert into transom.events (resource_type, verb, name, payload, caller, owner)
    select '{FILE}', case when %(state)s = 'READY' then 'ready' else 'uploaded' end, 'files/' || id, '', %(caller)s, owner
    from completed
)
select * from completed
"""

_PAGE = f"""
select {COLUMNS} from transom.files
where owner = %(owner)s and state <> 'DELETING'
  and (%(time)s::timestamptz is null or (create_time, id) < (%(time)s, %(id)s))
order by create_time desc, id desc limit %(limit)s
"""

_NEWEST = f"""
select {COLUMNS} from transom.files
where state <> 'DELETING' and (%(owner)s = '' or owner = %(owner)s) and (%(state)s = '' or state = %(state)s)
order by create_time desc, id desc limit %(limit)s
"""

# Its source is free again: a task that runs anew makes a new file.
_DELETING = f"""
with gone as (
    update transom.files set state = 'DELETING', delete_time = clock_timestamp(), source = null
    where id = %s and state <> 'DELETING' returning id, owner
) {TELL_DELETED.format(caller="%s")}
"""

# What is made for an account that is gone, or on its way out, must not outlive it as its own: it is the system's.
_CLAIM = """
insert into transom.files (id, owner, filename, content_type, size_bytes, state, source)
select %(id)s, case when %(owner)s like 'users/%%' and not exists (
                        select from transom.users where id = substr(%(owner)s, 7) and delete_time is null
                    ) then 'system' else %(owner)s end,
       %(filename)s, %(content_type)s, 0, 'PENDING', %(source)s
on conflict (source) do nothing
"""
_CLAIMED = f"select {COLUMNS} from transom.files where source = %s for update"
_STORED = f"""
update transom.files set state = 'READY', complete_time = clock_timestamp(), filename = %(filename)s,
       content_type = %(content_type)s, size_bytes = %(size_bytes)s, sha256 = %(sha256)s
where id = %(id)s
returning {COLUMNS}
"""

# Held while it is made: an account cannot go without its files.
_PROMISE = f"""
insert into transom.files (id, owner, filename, content_type, size_bytes, state, private)
select %(id)s, 'users/' || id, %(filename)s, %(content_type)s, 0, 'PENDING', true
from transom.users where id = %(user)s and delete_time is null for key share
returning {COLUMNS}
"""
_KEPT = f"""
update transom.files set state = 'READY', complete_time = clock_timestamp(), size_bytes = %(size_bytes)s,
       sha256 = %(sha256)s
where id = %(id)s and state = 'PENDING'
returning {COLUMNS}
"""

_DISCARD = f"""
with gone as (
    update transom.files set state = 'DELETING', delete_time = clock_timestamp(), source = null
    where id in (select id from transom.files where owner = %s and state <> 'DELETING' limit %s)
    returning id, owner
), told as ({TELL_DELETED.format(caller="'system'")})
select id from gone
"""

# An upload in parts is of a row that has its id; one that lost the race to be noted is of none.
_KNOWN = """
select id from transom.files where id = any(%(ids)s)
union all
select upload_key as id from transom.files where id = any(%(ids)s) and upload_key = any(%(uploads)s)
"""

_ABANDON = f"""
with gone as (
    update transom.files set state = 'DELETING', delete_time = clock_timestamp(), source = null
    where id in (
        select id from transom.files where state = 'PENDING' and create_time < now() - %(unfinished)s
        limit %(limit)s for update skip locked
    ) returning id, owner
) {TELL_DELETED.format(caller="'system'")}
"""

# A signed URL outlives its file: only when it is over can nothing arrive any more.
_REMAINS = """
(select id, state, upload_key, variants from transom.files
 where state = 'DELETING' and delete_time < now() - %(settled)s
   and (upload_expire_time is null or upload_expire_time < now() - %(settled)s)
 limit %(limit)s)
union all
(select id, state, upload_key, variants from transom.files
 where state in ('UPLOADED', 'READY', 'REJECTED') and upload_expire_time < now() - %(settled)s
 limit %(limit)s)
"""
_GONE = "delete from transom.files where id = any(%s) and state = 'DELETING'"
_CLEARED = "update transom.files set upload_expire_time = null where id = any(%s) and state <> 'DELETING'"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as it is kept. `state` is PENDING, UPLOADED, READY or REJECTED."""

    id: str
    owner: str
    filename: str
    content_type: str
    size_bytes: int
    sha256: bytes | None
    state: str
    create_time: datetime
    complete_time: datetime | None
    private: bool
    """Whether nobody but its owner may read it."""
    public: bool
    """Whether everybody may."""
    bounded: bool
    """Whether, before it is complete, `size_bytes` is only a bound."""
    upload_key: str | None
    """S3's id of its upload in parts."""
    part_size_bytes: int | None
    """Bytes of each part but the last; None where it is not uploaded in parts."""
    variants: list[dict[str, Any]]
    """Each with `name`, `content_type`, `size_bytes`, `width`, `height` and `sha256` (hex); see the proto."""
    metadata: dict[str, Any]
    """Fields of File.Metadata, `duration` in seconds."""
    rejection: dict[str, str] | None
    """`reason` and `message`; `told`, when the event was last told again, where it was."""
    process_time: datetime | None


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that is announced."""

    id: str
    owner: str
    filename: str
    content_type: str
    size_bytes: int
    sha256: bytes | None = None
    public: bool = False
    bounded: bool = False
    part_size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Quota:
    """What one owner may have at most, announced uploads included; 0 for as much as they want."""

    files: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Has:
    files: int
    bytes: int
    pending: int


@dataclass(frozen=True, slots=True)
class Remains:
    """Bytes that may be left in S3: of a deleted file, or of a finished upload."""

    id: str
    state: str
    upload_key: str | None
    variants: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Id:
    id: str


class StoredFiles:
    """Files in Postgres."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._claims = asyncio.Semaphore(CLAIMS)

    async def announce(self, file: NewFile, lifetime: timedelta, quota: Quota) -> StoredFile:
        """Keeps a PENDING file whose bytes may arrive during `lifetime`.

        Raises Exhausted where the owner has PENDING_MOST of them, or with it more than the quota.
        """
        async with transaction(self._pool, StoredFile) as cursor:
            await cursor.execute(_ANNOUNCING, [file.owner])
            async with cursor.connection.cursor(row_factory=class_row(_Has)) as counting:
                await counting.execute(_HAS, {"owner": file.owner, "most": PENDING_MOST})
                has = await counting.fetchone()
            assert has is not None  # an aggregate
            _check(has, file, quota)
            await cursor.execute(
                _ANNOUNCE,
                {
                    "id": file.id,
                    "owner": file.owner,
                    "filename": file.filename,
                    "content_type": file.content_type,
                    "size_bytes": file.size_bytes,
                    "sha256": file.sha256,
                    "public": file.public,
                    "bounded": file.bounded,
                    "part_size_bytes": file.part_size_bytes,
                    "lifetime": lifetime,
                },
            )
            made = await cursor.fetchone()
        assert made is not None  # it was inserted
        CHANGES.labels("announced").inc()
        return made

    async def in_parts(self, id: str, upload_key: str) -> StoredFile | None:
        """Notes S3's id of the upload in parts where there is none yet; None where the file is not PENDING (any more)."""
        async with transaction(self._pool, StoredFile) as cursor:
            await cursor.execute(_IN_PARTS, [upload_key, id])
            return await cursor.fetchone()

    async def one(self, id: str) -> StoredFile | None:
        """The file `id`."""
        async with transaction(self._pool, StoredFile) as cursor:
            await cursor.execute(_ONE, [id])
            return await cursor.fetchone()

    async def complete(self, id: str, size_bytes: int, caller: str, *, processed: bool) -> StoredFile | None:
        """Makes a PENDING file READY, or UPLOADED where it is to be `processed`, and tells so by an event of `caller`; None where
        it is not PENDING (any more)."""
        async with transaction(self._pool, StoredFile) as cursor:
            state = "UPLOADED" if processed else "READY"
            await cursor.execute(_COMPLETE, {"id": id, "size_bytes": size_bytes, "state": state, "caller": caller})
            completed = await cursor.fetchone()
        if completed is not None:
            CHANGES.labels(state.lower()).inc()
            BYTES.inc(size_bytes)
        return completed

    async def page(self, owner: str, after: tuple[datetime, str] | None, limit: int) -> list[StoredFile]:
        """At most `limit` files of `owner`, newest first, that come after the one made then and named so."""
        time, id = after or (None, None)
        async with transaction(self._pool, StoredFile) as cursor:
            await cursor.execute(_PAGE, {"owner": owner, "time": time, "id": id, "limit": limit})
            return await cursor.fetchall()

    async def newest(self, owner: str, state: str, limit: int) -> list[StoredFile]:
        """At most `limit` files, newest first, of that owner and in that state where these are not empty. For operators: without
        an owner all rows are looked at."""
        async with transaction(self._pool, StoredFile) as cursor:
            await cursor.execute(_NEWEST, {"owner": owner, "state": state, "limit": limit})
            return await cursor.fetchall()

    async def delete(self, id: str, caller: str) -> bool:
        """Marks a file as deleted by `caller`: from now on nobody sees it, and its bytes will go. False where there is none."""
        async with transaction(self._pool, StoredFile) as cursor:
            await cursor.execute(_DELETING, [id, caller])
            return cursor.rowcount > 0

    async def promise(self, id: str, user: str, filename: str, content_type: str) -> StoredFile | None:
        """Keeps a PENDING private file of the account `user`, for bytes that are made here; None where the account is gone or on
        its way out. What is not `kept` is swept away like an upload."""
        async with transaction(self._pool, StoredFile) as cursor:
            await cursor.execute(_PROMISE, {"id": id, "user": user, "filename": filename, "content_type": content_type})
            return await cursor.fetchone()

    async def kept(self, id: str, size_bytes: int, sha256: bytes) -> StoredFile | None:
        """Makes a promised file READY; None where it is not PENDING (any more)."""
        async with transaction(self._pool, StoredFile) as cursor:
            await cursor.execute(_KEPT, {"id": id, "size_bytes": size_bytes, "sha256": sha256})
            return await cursor.fetchone()

    async def discard(self, owner: str, limit: int) -> list[str]:
        """Marks at most `limit` files of `owner` as deleted; their ids."""
        async with transaction(self._pool, _Id) as cursor:
            await cursor.execute(_DISCARD, [owner, limit])
            return [row.id for row in await cursor.fetchall()]

    @asynccontextmanager
    async def claimed(
        self, id: str, source: str, owner: str, filename: str, content_type: str
    ) -> AsyncIterator[tuple[StoredFile, Claim]]:
        """The file that `source` names, made with `id` where there is none; in the block, nobody else works on it.

        It is the system's where `owner` is an account that is gone or on its way out.
        """
        async with self._claims, transaction(self._pool, StoredFile) as cursor:
            await cursor.execute(
                _CLAIM,
                {"id": id, "source": source, "owner": owner, "filename": filename, "content_type": content_type},
            )
            await cursor.connection.commit()  # the row is there before the bytes are: what is killed now is swept later
            await cursor.execute(_CLAIMED, [source])
            file = await cursor.fetchone()
            if file is None:
                raise Exhausted("The file was deleted at the same time; try again.", reason="BUSY")
            yield file, Claim(cursor)

    async def known(self, ids: Sequence[str], uploads: Sequence[str]) -> set[str]:
        """Those ids of files, and of uploads in parts, that there are rows of, deleted ones too."""
        async with transaction(self._pool, _Id) as cursor:
            await cursor.execute(_KNOWN, {"ids": list(ids), "uploads": list(uploads)})
            return {row.id for row in await cursor.fetchall()}

    async def abandon(self, limit: int) -> int:
        """Marks uploads that nobody finished as deleted, at most `limit`; how many it were."""
        async with transaction(self._pool, StoredFile) as cursor:
            await cursor.execute(_ABANDON, {"unfinished": UNFINISHED, "limit": limit})
            return cursor.rowcount

    async def remains(self, limit: int) -> list[Remains]:
        """Files whose bytes are to be removed from S3 for good, at most `limit` of each state."""
        async with transaction(self._pool, Remains) as cursor:
            await cursor.execute(_REMAINS, {"settled": SETTLED, "limit": limit})
            return await cursor.fetchall()

    async def removed(self, remains: list[Remains]) -> None:
        """Writes down that nothing is left of these in S3."""
        async with transaction(self._pool, StoredFile) as cursor:
            await cursor.execute(_GONE, [[remain.id for remain in remains if remain.state == "DELETING"]])
            await cursor.execute(_CLEARED, [[remain.id for remain in remains if remain.state != "DELETING"]])


def _check(has: _Has, file: NewFile, quota: Quota) -> None:
    """Raises Exhausted."""
    if has.pending >= PENDING_MOST:
        raise Exhausted(
            f"There are {PENDING_MOST} uploads that were not completed; complete or delete some first.",
            reason="TOO_MANY_UPLOADS",
            retry_after=60,
        )
    for what, had, more, most in (
        ("files", has.files, 1, quota.files),
        ("bytes", has.bytes, file.size_bytes, quota.bytes),
    ):
        if most and had + more > most:
            raise Exhausted(
                f"Your files would be more than {most} {what}; delete some first.",
                reason="FILE_QUOTA_EXCEEDED",
                metadata={"quota": what, "limit": str(most), "used": str(had)},
            )


class Claim:
    """A file's row, locked."""

    def __init__(self, cursor: AsyncCursor[StoredFile]) -> None:
        self._cursor = cursor

    async def stored(self, id: str, filename: str, content_type: str, size_bytes: int, sha256: bytes) -> StoredFile:
        """Makes the file READY, with these bytes."""
        await self._cursor.execute(
            _STORED,
            {
                "id": id,
                "filename": filename,
                "content_type": content_type,
                "size_bytes": size_bytes,
                "sha256": sha256,
            },
        )
        made = await self._cursor.fetchone()
        assert made is not None  # the row is locked: it is there
        return made
