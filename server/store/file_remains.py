"""Rows of transom.files whose bytes are to go: uploads that nobody completed, files that were deleted, what uploads left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from server.store.file_rows import TELL_DELETED, FileRows, StoredFile
from server.store.pooled import transaction

UNFINISHED = timedelta(hours=24)
"""How long an upload may take from its announcement to its completion; then it is swept away."""

SETTLED = timedelta(minutes=10)
"""How long the row of a file that is deleted, or done with, waits for calls that were still writing its bytes; longer than any of
them takes."""

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

# A signed URL outlives its file: only when it is over can nothing arrive any more. Which attempt counts is final in these states.
_REMAINS = """
(select id, state, upload_key, variants, attempt from transom.files
 where state = 'DELETING' and delete_time < now() - %(settled)s
   and (upload_expire_time is null or upload_expire_time < now() - %(settled)s)
 limit %(limit)s)
union all
(select id, state, upload_key, variants, attempt from transom.files
 where state in ('READY', 'REJECTED') and upload_expire_time < now() - %(settled)s
   and coalesce(process_time, complete_time) < now() - %(settled)s
 limit %(limit)s)
"""
_SEARCHED = "select look, key, upload from transom.orphan_search"
_SEARCH_FROM = "update transom.orphan_search set look = %s, key = %s, upload = %s"
_GONE = "delete from transom.files where id = any(%s) and state = 'DELETING'"
_CLEARED = "update transom.files set upload_expire_time = null where id = any(%s) and state <> 'DELETING'"


@dataclass(frozen=True, slots=True)
class Remains:
    """Bytes that may be left in S3: of a deleted file, or of a finished upload, which keeps those of one `attempt`."""

    id: str
    state: str
    upload_key: str | None
    variants: list[dict[str, Any]]
    attempt: str


@dataclass(frozen=True, slots=True)
class Searched:
    """How far the look for bytes that no row knows of has come."""

    look: int
    """Which of its looks it is at."""
    key: str
    """After which it goes on; empty where the look begins."""
    upload: str
    """The same of uploads in parts, as S3 says it."""


@dataclass(frozen=True, slots=True)
class _Id:
    id: str


class FileRemains(FileRows):
    """What is to be removed, as Postgres knows it."""

    async def known(self, ids: Sequence[str], uploads: Sequence[str]) -> set[str]:
        """Those ids of files, and of uploads in parts, that there are rows of, deleted ones too."""
        async with transaction(self._pool, _Id) as cursor:
            await cursor.execute(_KNOWN, {"ids": list(ids), "uploads": list(uploads)})
            return {row.id for row in await cursor.fetchall()}

    async def searched(self) -> Searched:
        """Where the look for bytes that no row knows of is to go on."""
        async with transaction(self._pool, Searched) as cursor:
            await cursor.execute(_SEARCHED)
            return await cursor.fetchone() or Searched(0, "", "")

    async def search_from(self, place: Searched) -> None:
        """Notes where it goes on next."""
        async with transaction(self._pool, Searched) as cursor:
            await cursor.execute(_SEARCH_FROM, [place.look, place.key, place.upload])

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
