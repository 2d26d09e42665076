"""Deletions and exports of accounts as handlers: what was asked for in a call is done here (server/engine/deletions.py,
server/engine/exports.py)."""

from __future__ import annotations

from collections.abc import Sequence

from transom.events.v1.event_pb2 import Event

from consumers.handlers import Handler, Statement, Work
from server.caller import SYSTEM
from server.engine.deletions import Deletions
from server.engine.exports import Exports
from server.store.account_data import ACCOUNT, CREATED, EXPORT, REQUESTED
from server.store.changes import Origin

DELETION, MAKING = "transom.account_deletion", "transom.account_export"
"""Names of the handlers."""

ADDRESSES = ((DELETION, f"{ACCOUNT}.{REQUESTED}"), (MAKING, f"{EXPORT}.{CREATED}"))
"""The handlers' names and routing keys."""

DELETION_SECONDS = 600.0
"""Seconds of one run of a deletion: Deletions.SLICE, and what was begun in it."""
EXPORT_SECONDS = 1500.0
"""Seconds of one run of an export: less than the half hour after which RabbitMQ takes a delivery for lost."""
RETRIES = 17
"""With the ladder's last rung of an hour, S3 or the database may be away for half a day."""


def handlers(deletions: Deletions, exports: Exports) -> list[Handler]:
    """As the runner wants them. Few at once: both can keep a database and a disk busy."""

    async def delete(event: Event, work: Work) -> Sequence[Statement]:
        return await deletions.work(event.name, _origin(event))

    async def export(event: Event, work: Work) -> Sequence[Statement]:
        return await exports.work(event.name, _origin(event))

    return [
        Handler(DELETION, ACCOUNT, REQUESTED, delete, RETRIES, DELETION_SECONDS, at_once=4),
        Handler(MAKING, EXPORT, CREATED, export, RETRIES, EXPORT_SECONDS, at_once=2),
    ]


def _origin(event: Event) -> Origin:
    return Origin(SYSTEM.name, event.request_id, event.traceparent)
