"""Rows of transom.files: what is known of each file. The bytes are in `server/store/objects.py`.

How they come to be is in `file_uploads.py` and `files_made.py`, how their bytes go in `file_remains.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from server.store.file_remains import FileRemains
from server.store.file_rows import COLUMNS, TELL_DELETED, StoredFile
from server.store.file_uploads import StoredUploads
from server.store.files_made import MadeFiles
from server.store.pooled import transaction

_ONE = f"select {COLUMNS} from transom.files where id = %s and state <> 'DELETING'"

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

_DISCARD = f"""
with gone as (
    update transom.files set state = 'DELETING', delete_time = clock_timestamp(), source = null
    where id in (select id from transom.files where owner = %s and state <> 'DELETING' limit %s)
    returning id, owner
), told as ({TELL_DELETED.format(caller="'system'")})
select id from gone
"""


@dataclass(frozen=True, slots=True)
class _Id:
    id: str


class StoredFiles(StoredUploads, MadeFiles, FileRemains):
    """Files in Postgres."""

    async def one(self, id: str) -> StoredFile | None:
        """The file `id`."""
        async with transaction(self._pool, StoredFile) as cursor:
            await cursor.execute(_ONE, [id])
            return await cursor.fetchone()

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

    async def discard(self, owner: str, limit: int) -> list[str]:
        """Marks at most `limit` files of `owner` as deleted; their ids."""
        async with transaction(self._pool, _Id) as cursor:
            await cursor.execute(_DISCARD, [owner, limit])
            return [row.id for row in await cursor.fetchall()]
