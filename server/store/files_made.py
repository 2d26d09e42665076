"""Rows of transom.files whose bytes are made here: by tasks and methods, and as copies of accounts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg import AsyncCursor

from server.errors import Exhausted
from server.store.file_rows import COLUMNS, FileRows, StoredFile
from server.store.pooled import Pool, transaction

CLAIMS = 2
"""Claims at once in one process: each holds a connection of the pool while S3 works, and others need the pool too."""

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
       content_type = %(content_type)s, size_bytes = %(size_bytes)s, sha256 = %(sha256)s, attempt = %(attempt)s
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
       sha256 = %(sha256)s, attempt = %(attempt)s
where id = %(id)s and state = 'PENDING'
returning {COLUMNS}
"""


class MadeFiles(FileRows):
    """Files that are made here, in Postgres."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self._claims = asyncio.Semaphore(CLAIMS)

    async def promise(self, id: str, user: str, filename: str, content_type: str) -> StoredFile | None:
        """Keeps a PENDING private file of the account `user`, for bytes that are made here; None where the account is gone or on
        its way out. What is not `kept` is swept away like an upload."""
        async with transaction(self._pool, StoredFile) as cursor:
            await cursor.execute(_PROMISE, {"id": id, "user": user, "filename": filename, "content_type": content_type})
            return await cursor.fetchone()

    async def kept(self, id: str, size_bytes: int, sha256: bytes, attempt: str) -> StoredFile | None:
        """Makes a promised file READY, with the bytes of that `attempt`; None where it is not PENDING (any more)."""
        async with transaction(self._pool, StoredFile) as cursor:
            given = {"id": id, "size_bytes": size_bytes, "sha256": sha256, "attempt": attempt}
            await cursor.execute(_KEPT, given)
            return await cursor.fetchone()

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


class Claim:
    """A file's row, locked."""

    def __init__(self, cursor: AsyncCursor[StoredFile]) -> None:
        self._cursor = cursor

    async def stored(
        self, id: str, filename: str, content_type: str, size_bytes: int, sha256: bytes, attempt: str
    ) -> StoredFile:
        """Makes the file READY, with the bytes of that `attempt`."""
        await self._cursor.execute(
            _STORED,
            {
                "id": id,
                "filename": filename,
                "content_type": content_type,
                "size_bytes": size_bytes,
                "sha256": sha256,
                "attempt": attempt,
            },
        )
        made = await self._cursor.fetchone()
        assert made is not None  # the row is locked: it is there
        return made
