"""Rows of transom.files while their bytes arrive: announced, within bounds and quotas, and completed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from psycopg.rows import class_row

from server.errors import Exhausted
from server.store.file_metrics import BYTES, CHANGES
from server.store.file_rows import COLUMNS, FILE, FileRows, StoredFile
from server.store.pooled import transaction

PENDING_MOST = 1000
"""Uploads that one owner may have announced and not completed."""

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

# Only what is still pending: a deletion that came in between wins.
_COMPLETE = f"""
with completed as (
    update transom.files set state = %(state)s, complete_time = clock_timestamp(), size_bytes = %(size_bytes)s,
        attempt = %(attempt)s, process_time = case when %(state)s = 'READY' then clock_timestamp() end
    where id = %(id)s and state = 'PENDING'
    returning {COLUMNS}
), told as (
    insert into transom.events (resource_type, verb, name, payload, caller, owner)
    select '{FILE}', case when %(state)s = 'READY' then 'ready' else 'uploaded' end, 'files/' || id, '', %(caller)s, owner
    from completed
)
select * from completed
"""


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


class StoredUploads(FileRows):
    """Uploads in Postgres."""

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

    async def complete(
        self, id: str, size_bytes: int, caller: str, *, processed: bool, attempt: str = ""
    ) -> StoredFile | None:
        """Makes a PENDING file READY, or UPLOADED where it is to be `processed`, with the bytes of that `attempt`, and tells so
        by an event of `caller`; None where it is not PENDING (any more)."""
        async with transaction(self._pool, StoredFile) as cursor:
            state = "UPLOADED" if processed else "READY"
            given = {"id": id, "size_bytes": size_bytes, "state": state, "caller": caller, "attempt": attempt}
            await cursor.execute(_COMPLETE, given)
            completed = await cursor.fetchone()
        if completed is not None:
            CHANGES.labels(state.lower()).inc()
            BYTES.inc(size_bytes)
        return completed


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
