"""What tasks work with: the engine on the primary, files, addresses. Opened and closed together."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from transom.events.v1.event_pb2 import Event

from server.apps import Work
from server.caller import SYSTEM
from server.engine.files import Files
from server.engine.resources import Call, Resources
from server.schema.model import Schema
from server.settings import Settings
from server.store.accounts import StoredAccounts
from server.store.files import StoredFiles
from server.store.freshness import Freshness
from server.store.lane import Lane
from server.store.objects import Objects
from server.store.pooled import Pool
from server.store.records import Records

POOL = 16
"""Connections of a worker to Postgres at most, beside LANE."""
LANE = 2
"""Pipelined connections for reads."""


class Addresses:
    """The mail addresses of accounts."""

    def __init__(self, accounts: StoredAccounts) -> None:
        self._accounts = accounts

    async def email_of(self, user: str) -> str | None:
        """The address of the account called `user`; None where there is none."""
        collection, _, identity = user.partition("/")
        if collection != "users" or not identity:
            return None
        account = await self._accounts.by_id(identity)
        return account.email if account else None


class _NoMarks:
    """Marks say who must not read from a replica yet. A worker never does."""

    async def put(self, caller: str, lsn: int, seconds: int) -> None:
        """Nothing to keep."""

    async def get(self, callers: list[str]) -> list[int]:
        """Nothing is kept."""
        return [0] * len(callers)


@dataclass(frozen=True, slots=True)
class Workshop:
    """Makes a Work for each run."""

    pool: Pool
    files: Files
    _resources: Resources
    _addresses: Addresses

    def work(self, event: Event) -> Work:
        """A unit of work by the system, whose events carry on the request and trace of `event`."""
        call = Call(SYSTEM, event.request_id, event.traceparent)
        return Work(call, self._resources, self.files, self._addresses)


@asynccontextmanager
async def opened(settings: Settings, schema: Schema) -> AsyncIterator[Workshop]:
    """A workshop for as long as the block lasts. Postgres may be away when it opens."""
    dsn = settings.postgres.get_secret_value()
    name = f"transom-{settings.instance}"[:63]
    pool: Pool = AsyncConnectionPool(
        dsn,
        min_size=1,
        max_size=POOL,
        timeout=10,
        kwargs={"row_factory": dict_row, "application_name": name},
        check=AsyncConnectionPool.check_connection,
        open=False,
    )
    # Everything is read from the primary: a replica might not have the very change that the event is about.
    lane = Lane(dsn, name, LANE)
    objects = Objects(
        endpoint=settings.s3_endpoint,
        public_endpoint=settings.s3_public_endpoint,
        region=settings.s3_region,
        bucket=settings.s3_bucket,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key.get_secret_value(),
    )
    files = Files(StoredFiles(pool), objects, upload_bytes_max=settings.upload_bytes_max)
    records = Records(schema, lane, None, pool, Freshness(_NoMarks(), lane, None, settings.replica_lag_max))
    resources = Resources(schema, records, _micros, settings.page_size, settings.page_size_max)
    try:
        await pool.open()
        yield Workshop(pool, files, resources, Addresses(StoredAccounts(pool)))
    finally:
        objects.close()
        await lane.close()
        await pool.close()


def _micros() -> int:
    return time.time_ns() // 1000
