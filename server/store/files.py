"""Rows of transom.files: what is known of each file. The bytes are in `server/store/objects.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import AsyncCursor

from server.errors import Exhausted
from server.store.pooled import Pool, transaction

PENDING_MOST = 1000
"""Uploads that one owner may have announced and not completed."""

UNFINISHED = timedelta(hours=24)
"""How long an upload may take from its announcement to its completion; then it is swept away."""

CLAIMS = 2
"""Claims at once in one process: each holds a connection of the pool while S3 works, and others need the pool too."""

SETTLED = timedelta(minutes=10)
"""How long a deleted file's row waits for calls that were still writing its bytes; longer than any of them takes."""

_COLUMNS = """id, owner, filename, content_type, size_bytes, sha256, state, create_time, complete_time, private"""

_ANNOUNCE = f"""
insert into transom.files
    (id, owner, filename, content_type, size_bytes, sha256, state, create_time, upload_expire_time)
select %(id)s, %(owner)s, %(filename)s, %(content_type)s, %(size_bytes)s, %(sha256)s, 'PENDING',
       now(), now() + %(lifetime)s
where (
    select count(*) from (
        select 1 from transom.files where owner = %(owner)s and state = 'PENDING' limit %(most)s
    ) as pending
) < %(most)s
returning {_COLUMNS}
"""

_ONE = f"select {_COLUMNS} from transom.files where id = %s and state <> 'DELETING'"

# Only what is still pending: a deletion that came in between wins.
_COMPLETE = f"""
update transom.files set state = 'READY', complete_time = clock_timestamp()
where id = %s and state = 'PENDING'
returning {_COLUMNS}
"""

_PAGE = f"""
select {_COLUMNS} from transom.files
where owner = %(owner)s and state <> 'DELETING'
  and (%(time)s::timestamptz is null or (create_time, id) < (%(time)s, %(id)s))
order by create_time desc, id desc limit %(limit)s
"""

# Its source is free again: a task that runs anew makes a new file.
_DELETING = """
update transom.files set state = 'DELETING', delete_time = clock_timestamp(), source = null
where id = %s and state <> 'DELETING'
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
_CLAIMED = f"select {_COLUMNS} from transom.files where source = %s for update"
_STORED = f"""
update transom.files set state = 'READY', complete_time = clock_timestamp(), filename = %(filename)s,
       content_type = %(content_type)s, size_bytes = %(size_bytes)s, sha256 = %(sha256)s
where id = %(id)s
returning {_COLUMNS}
"""

# Held while it is made: an account cannot go without its files.
_PROMISE = f"""
insert into transom.files (id, owner, filename, content_type, size_bytes, state, private)
select %(id)s, 'users/' || id, %(filename)s, %(content_type)s, 0, 'PENDING', true
from transom.users where id = %(user)s and delete_time is null for key share
returning {_COLUMNS}
"""
_KEPT = f"""
update transom.files set state = 'READY', complete_time = clock_timestamp(), size_bytes = %(size_bytes)s,
       sha256 = %(sha256)s
where id = %(id)s and state = 'PENDING'
returning {_COLUMNS}
"""

_DISCARD = """
update transom.files set state = 'DELETING', delete_time = clock_timestamp(), source = null
where id in (select id from transom.files where owner = %s and state <> 'DELETING' limit %s)
returning id
"""

_ABANDON = """
update transom.files set state = 'DELETING', delete_time = clock_timestamp(), source = null
where id in (
    select id from transom.files where state = 'PENDING' and create_time < now() - %(unfinished)s
    limit %(limit)s for update skip locked
)
"""

# A signed URL outlives its file: only when it is over can nothing arrive any more.
_REMAINS = """
(select id, state from transom.files
 where state = 'DELETING' and delete_time < now() - %(settled)s
   and (upload_expire_time is null or upload_expire_time < now() - %(settled)s)
 limit %(limit)s)
union all
(select id, state from transom.files
 where state = 'READY' and upload_expire_time < now() - %(settled)s
 limit %(limit)s)
"""
_GONE = "delete from transom.files where id = any(%s) and state = 'DELETING'"
_CLEARED = "update transom.files set upload_expire_time = null where id = any(%s) and state = 'READY'"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as it is kept. `state` is PENDING or READY."""

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


@dataclass(frozen=True, slots=True)
class Remains:
    """Bytes that may be left in S3: of a deleted file, or of a finished upload."""

    id: str
    state: str


@dataclass(frozen=True, slots=True)
class _Id:
    id: str


class StoredFiles:
    """Files in Postgres."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._claims = asyncio.Semaphore(CLAIMS)

    async def announce(
        self,
        id: str,
        owner: str,
        filename: str,
        content_type: str,
        size_bytes: int,
        sha256: bytes | None,
        lifetime: timedelta,
    ) -> StoredFile:
        """Keeps a PENDING file whose bytes may arrive during `lifetime`.

        Raises Exhausted where the owner has PENDING_MOST of them.
        """
        async with transaction(self._pool, StoredFile) as cursor:
            await cursor.execute(
                _ANNOUNCE,
                {
                    "id": id,
                    "owner": owner,
                    "filename": filename,
                    "content_type": content_type,
                    "size_bytes": size_bytes,
                    "sha256": sha256,
                    "lifetime": lifetime,
                    "most": PENDING_MOST,
                },
            )
            made = await cursor.fetchone()
        if made is None:
            raise Exhausted(
                f"There are {PENDING_MOST} uploads that were not completed; complete or delete some first.",
                reason="TOO_MANY_UPLOADS",
                retry_after=60,
            )
        return made

    async def one(self, id: str) -> StoredFile | None:
        """The file `id`."""
        async with transaction(self._pool, StoredFile) as cursor:
            await cursor.execute(_ONE, [id])
            return await cursor.fetchone()

    async def complete(self, id: str) -> StoredFile | None:
        """Makes a PENDING file READY; None where it is not PENDING (any more)."""
        async with transaction(self._pool, StoredFile) as cursor:
            await cursor.execute(_COMPLETE, [id])
            return await cursor.fetchone()

    async def page(self, owner: str, after: tuple[datetime, str] | None, limit: int) -> list[StoredFile]:
        """At most `limit` files of `owner`, newest first, that come after the one made then and named so."""
        time, id = after or (None, None)
        async with transaction(self._pool, StoredFile) as cursor:
            await cursor.execute(_PAGE, {"owner": owner, "time": time, "id": id, "limit": limit})
            return await cursor.fetchall()

    async def delete(self, id: str) -> bool:
        """Marks a file as deleted: from now on nobody sees it, and its bytes will go. False where there is none."""
        async with transaction(self._pool, StoredFile) as cursor:
            await cursor.execute(_DELETING, [id])
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
            await cursor.execute(_CLEARED, [[remain.id for remain in remains if remain.state == "READY"]])


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
