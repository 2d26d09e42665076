"""Rows of transom.words: what was mailed, or goes on with something begun. Of a word only its SHA-256 is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson
from psycopg import AsyncCursor

from server.store.pooled import Pool, Statement, transaction

_KEEP = """
insert into transom.words (token_hash, purpose, user_id, email, email_key, details, expire_time)
values (%(token_hash)s, %(purpose)s, %(user)s, %(email)s, %(email_key)s, %(details)s::jsonb,
        clock_timestamp() + %(lifetime)s)
returning expire_time
"""

_COLUMNS = "token_hash, purpose, user_id, email, email_key, details, attempts, expire_time"

LIVE = f"select {_COLUMNS} from transom.words where token_hash = %s and purpose = any(%s) and expire_time > clock_timestamp()"

# The row is locked by the update: of attempts at once each counts, and none is one too many.
ATTEMPT = f"""
update transom.words set attempts = attempts + 1
where token_hash = %s and purpose = any(%s) and expire_time > clock_timestamp() and attempts < %s
returning {_COLUMNS}
"""

# Of two that use one word at once, one gets the row.
USE = f"""
delete from transom.words where token_hash = %s and purpose = any(%s) and expire_time > clock_timestamp()
returning {_COLUMNS}
"""

# Those of the last hour are still counted, where mails to one address are.
_SWEEP = """
delete from transom.words where token_hash in (
    select token_hash from transom.words
    where expire_time <= now() and create_time <= now() - interval '1 hour' limit %s for update skip locked
)
"""


@dataclass(frozen=True, slots=True)
class NewWord:
    """What a word is kept with."""

    token_hash: bytes
    purpose: str
    lifetime: timedelta
    user: str | None = None
    email: str = ""
    email_key: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredWord:
    """A word as it is kept."""

    token_hash: bytes
    purpose: str
    user_id: str | None
    email: str
    email_key: str
    details: dict[str, Any]
    attempts: int
    expire_time: datetime


@dataclass(frozen=True, slots=True)
class _Kept:
    expire_time: datetime


class StoredWords:
    """Words in Postgres, each in a transaction of its own."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def keep(self, word: NewWord) -> datetime:
        """Keeps a word; when it ends."""
        async with transaction(self._pool, _Kept) as cursor:
            return await keep(cursor, word)

    async def live(self, token_hash: bytes, purpose: str) -> StoredWord | None:
        """The word, where it is still good; it stays so."""
        async with transaction(self._pool, StoredWord) as cursor:
            await cursor.execute(LIVE, [token_hash, [purpose]])
            return await cursor.fetchone()

    async def attempt(self, token_hash: bytes, purpose: str, most: int) -> StoredWord | None:
        """The word, where it is still good and was tried less than `most` times; this counts as a try."""
        async with transaction(self._pool, StoredWord) as cursor:
            await cursor.execute(ATTEMPT, [token_hash, [purpose], most])
            return await cursor.fetchone()

    async def use(self, token_hash: bytes, purpose: str) -> StoredWord | None:
        """The word, where it was still good; from now on it is not. Only one caller ever gets it."""
        async with transaction(self._pool, StoredWord) as cursor:
            await cursor.execute(USE, [token_hash, [purpose]])
            return await cursor.fetchone()

    async def sweep(self, limit: int = 1000) -> int:
        """Deletes at most `limit` words that have expired; how many it were."""
        async with transaction(self._pool, StoredWord) as cursor:
            await cursor.execute(_SWEEP, [limit])
            return cursor.rowcount


def using(token_hash: bytes, purpose: str) -> Statement:
    """Uses up a word in a transaction of somebody else's: finds a row where it was still good."""
    return USE, [token_hash, [purpose]]


async def keep(cursor: AsyncCursor[Any], word: NewWord) -> datetime:
    """Keeps a word in the cursor's transaction; when it ends. The cursor's rows must have an `expire_time`."""
    await cursor.execute(
        _KEEP,
        {
            "token_hash": word.token_hash,
            "purpose": word.purpose,
            "user": word.user,
            "email": word.email,
            "email_key": word.email_key,
            "details": orjson.dumps(dict(word.details)).decode(),
            "lifetime": word.lifetime,
        },
    )
    row = await cursor.fetchone()
    assert row is not None  # an insert without conflict clause returns its row
    return row.expire_time  # type: ignore[no-any-return]
