"""Rows of transom.files on their way from UPLOADED to READY or REJECTED.

What is going to be written or removed in S3 is in the row before: wherever a process is killed, whoever comes after it, or
the sweep of deleted files, knows what may lie there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, LiteralString

from server.store.file_rows import FILE, StoredFile
from server.store.pooled import Pool, Statement, transaction

UPLOADED, READY, REJECTED = "uploaded", "ready", "rejected"
"""Verbs of the events."""

_TELL = f"""
insert into transom.events (resource_type, verb, name, payload, caller, owner)
select '{FILE}', '{{verb}}', 'files/' || id, '', 'system', owner from done
"""

_PLAN: LiteralString = "update transom.files set variants = %s::jsonb where id = %s and state = 'UPLOADED'"
_CONDEMN: LiteralString = """
update transom.files set rejection = coalesce(rejection, %s::jsonb) where id = %s and state = 'UPLOADED'
"""
_READY = f"""
with done as (
    update transom.files set state = 'READY', process_time = clock_timestamp(), size_bytes = %s, sha256 = %s,
        variants = %s::jsonb, metadata = %s::jsonb, attempt = %s
    where id = %s and state = 'UPLOADED' and rejection is null returning id, owner
) {_TELL.format(verb=READY)}
"""
_REJECTED = f"""
with done as (
    update transom.files set state = 'REJECTED', process_time = clock_timestamp(), variants = '[]'
    where id = %s and state = 'UPLOADED' and rejection is not null returning id, owner
) {_TELL.format(verb=REJECTED)}
"""
_STUCK = f"""
with done as (
    update transom.files set rejection = coalesce(rejection, %(rejection)s::jsonb) || jsonb_build_object('told', now())
    where id in (
        select id from transom.files
        where state = 'UPLOADED' and complete_time < now() - %(patience)s
          and (rejection->>'told' is null or (rejection->>'told')::timestamptz < now() - %(patience)s)
        order by complete_time limit %(limit)s for update skip locked
    ) returning id, owner
) {_TELL.format(verb=UPLOADED)}
"""


class StoredProcessing:
    """What is written down of processing."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def plan(self, id: str, variants: Sequence[Mapping[str, Any]]) -> bool:
        """Notes which variants are going to be written; False where the file does not wait to be processed (any more)."""
        return await self._changed(_PLAN, [json.dumps(variants), id])

    async def condemn(self, id: str, reason: str, message: str) -> bool:
        """Notes why the file is going to be refused, where that is not known yet; False as `plan`."""
        return await self._changed(_CONDEMN, [json.dumps({"reason": reason, "message": message}), id])

    async def give_up(self, patience: timedelta, reason: str, message: str, limit: int) -> int:
        """Has files refused that wait for longer than `patience`, at most `limit`; how many it were. Where nothing came of it,
        as while S3 was away for long, each is told again after as long."""
        parameters = {"rejection": json.dumps({"reason": reason, "message": message}), "patience": patience}
        async with transaction(self._pool, StoredFile) as cursor:
            await cursor.execute(_STUCK, {**parameters, "limit": limit})
            return cursor.rowcount

    async def _changed(self, statement: LiteralString, parameters: Sequence[object]) -> bool:
        async with transaction(self._pool, StoredFile) as cursor:
            await cursor.execute(statement, parameters)
            return cursor.rowcount > 0


def ready(
    id: str,
    size_bytes: int,
    sha256: bytes | None,
    variants: Sequence[Mapping[str, Any]],
    metadata: Mapping[str, Any],
    attempt: str,
) -> Statement:
    """The statement that makes a file READY with the bytes of that `attempt`, and tells so; it does nothing where the file does
    not wait for it (any more)."""
    return _READY, [size_bytes, sha256, json.dumps(variants), json.dumps(metadata), attempt, id]


def rejected(id: str) -> Statement:
    """The statement that makes a file REJECTED for what was noted, and tells so."""
    return _REJECTED, [id]
