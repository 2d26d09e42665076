"""Tasks: what may be enqueued, and what admins may see and do."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from server.caller import Caller
from server.engine.audit import Audit
from server.engine.granting import require_scope
from server.engine.identity import fresh_id
from server.errors import Invalid, NotFound, Precondition
from server.query import pages
from server.store.pooled import Statement
from server.store.tasks import StoredTask, StoredTasks, enqueued

TASK = "transom.tasks.v1.Task"
"""What scopes call it."""
COLLECTION = "tasks"
STATES = ("QUEUED", "RUNNING", "FAILED", "SUCCEEDED", "DEAD", "CANCELLED", "DISCARDED")
PAYLOAD_BYTES, KEY_CHARS = 64 << 10, 200
"""Bounds of what a task is told, as JSON, and of its unique key."""
PRIORITY_MAX = 100
"""Priorities go from its negative to this."""
DELAY_MAX = timedelta(days=366)
"""A task may wait so long."""
KEPT_DAYS = 30
"""Days for which a task is kept that has ended."""
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}")
_ID = re.compile(r"[a-z0-9]{1,40}")


def enqueue(
    now: datetime,
    handler: str,
    payload: Any = None,
    *,
    delay: timedelta = timedelta(0),
    at: datetime | None = None,
    priority: int = 0,
    unique_key: str = "",
    caller: str = "",
    request_id: str = "",
    traceparent: str = "",
) -> tuple[str, Sequence[Statement]]:
    """The name of a new task, and the statements that enqueue it in the transaction they are run in.

    `payload` is what JSON can say. With a `unique_key` that a task of this handler has which has not ended, there is no new
    task, and none of that name. Raises Invalid.
    """
    if not NAME.fullmatch(handler):
        raise Invalid.field("handler", "is 1 to 100 letters, digits, '_', '.', '-', a letter first")
    try:
        told = json.dumps({} if payload is None else payload, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as fault:
        raise Invalid.field("payload", "must be what JSON can say") from fault
    if len(told.encode()) > PAYLOAD_BYTES:
        raise Invalid.field("payload", f"must be at most {PAYLOAD_BYTES} bytes as JSON")
    if not -PRIORITY_MAX <= priority <= PRIORITY_MAX:
        raise Invalid.field("priority", f"must be from {-PRIORITY_MAX} to {PRIORITY_MAX}")
    if len(unique_key) > KEY_CHARS or "\0" in unique_key:
        raise Invalid.field("unique_key", f"must be at most {KEY_CHARS} characters, none of them NUL")
    if at is not None and at.tzinfo is None:
        raise Invalid.field("at", "must have a time zone")
    if not timedelta(0) <= delay <= DELAY_MAX or (at is not None and at - now > DELAY_MAX):
        raise Invalid.field("delay", f"must be at most {DELAY_MAX.days} days")
    id = fresh_id(int(now.timestamp() * 1e6))
    statement = enqueued(
        id,
        handler,
        told,
        priority=priority,
        unique_key=unique_key,
        at=at,
        delay=delay,
        caller=caller,
        request_id=request_id,
        traceparent=traceparent,
    )
    return f"{COLLECTION}/{id}", [statement]


class Tasks:
    """What admins may do."""

    def __init__(self, stored: StoredTasks, audit: Audit, *, page_size: int = 50, page_size_max: int = 1000) -> None:
        self._stored = stored
        self._audit = audit
        self._page_size, self._page_size_max = page_size, page_size_max

    async def get(self, caller: Caller, name: str) -> StoredTask:
        """One of them. Raises Invalid, NotFound, and as `require_scope`."""
        require_scope(caller, TASK, "get")
        return _found(await self._stored.find(_id(name)), name)

    async def list(
        self, caller: Caller, state: str, handler: str, size: int, token: str
    ) -> tuple[Sequence[StoredTask], str]:
        """A page of them, the newest first, and the next page's token. Raises Invalid, and as `require_scope`."""
        require_scope(caller, TASK, "list")
        if state and state not in STATES:
            raise Invalid.field("state", f"is one of {', '.join(STATES)}")
        scope = f"{COLLECTION} {state} {handler}"
        size = pages.size_of(size, self._page_size, self._page_size_max)
        rows = await self._stored.list(state, handler, None, pages.opened(token, scope), size + 1)
        return rows[:size], pages.sealed(scope, rows[size - 1].id) if len(rows) > size else ""

    async def cancel(self, caller: Caller, name: str) -> StoredTask:
        """Cancels one that waits; where it runs, its worker is told. Raises Invalid, NotFound, Precondition (TASK_ENDED), and
        as `require_scope`."""
        require_scope(caller, TASK, "cancel")
        note = self._audit.statement("task_cancelled", actor=caller.name, target=name)
        return await self._changed(
            name, await self._stored.cancel(_id(name), note), "It has ended already.", "TASK_ENDED"
        )

    async def retry(self, caller: Caller, name: str) -> StoredTask:
        """Runs one again that has ended, not well, with all its attempts. Raises Invalid, NotFound, AlreadyExists where another
        one has its unique key by now, Precondition (TASK_NOT_FAILED), and as `require_scope`."""
        require_scope(caller, TASK, "retry")
        note = self._audit.statement("task_retried", actor=caller.name, target=name)
        changed = await self._stored.retry(_id(name), note)
        return await self._changed(name, changed, "It has not failed.", "TASK_NOT_FAILED")

    async def sweep(self) -> int:
        """Forgets what ended KEPT_DAYS ago; how many it were."""
        return await self._stored.sweep(KEPT_DAYS)

    async def _changed(self, name: str, row: StoredTask | None, why: str, reason: str) -> StoredTask:
        if row is None:
            _found(await self._stored.find(_id(name)), name)
            raise Precondition(why, reason=reason)
        return row


def _id(name: str) -> str:
    collection, _, id = name.partition("/")
    if collection != COLLECTION or not _ID.fullmatch(id):
        raise Invalid.field("name", "must be tasks/{task}", "INVALID_NAME")
    return id


def _found(row: StoredTask | None, name: str) -> StoredTask:
    if row is None:
        raise NotFound("There is no such task.", resource=("transom.dev/Task", name))
    return row
