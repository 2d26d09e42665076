"""Tasks: what may be enqueued, and what callers may see and do."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from server.caller import Caller
from server.engine.audit import Audit
from server.engine.identity import fresh_id
from server.errors import Denied, Invalid, NotFound, Precondition, Unauthenticated
from server.query import pages
from server.store.pooled import Statement
from server.store.task_handlers import StoredHandlers
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
NOBODY, USERS = CALLABLE_BY = ("nobody", "users")
"""Who may enqueue tasks of a handler by a call, beside keys and admins in scope."""
RESERVED = "schedule."
"""Names that begin so are those of the app's schedules: their ticks alone enqueue them, and operators."""
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}")
_ID = re.compile(r"[a-z0-9]{1,40}")


def enqueue(
    now: datetime,
    handler: str,
    payload: Any = None,
    *,
    delay: timedelta = timedelta(0),
    at: datetime | None = None,
    priority: int | None = None,
    unique_key: str = "",
    caller: str = "",
    request_id: str = "",
    traceparent: str = "",
) -> tuple[str, Sequence[Statement]]:
    """The name of a new task, and the statements that enqueue it in the transaction they are run in.

    `payload` is what JSON can say. Without a `priority` it has its handler's. With a `unique_key` that a task of this handler
    has which has not ended, there is no new task, and none of that name: who tells the name to others looks first, and has the
    transaction fail where that does not hold any more (`key_required`). Raises Invalid.
    """
    if not NAME.fullmatch(handler):
        raise Invalid.field("handler", "is 1 to 100 letters, digits, '_', '.', '-', a letter first")
    try:
        told = json.dumps({} if payload is None else payload, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as fault:
        raise Invalid.field("payload", "must be what JSON can say") from fault
    if len(told.encode()) > PAYLOAD_BYTES:
        raise Invalid.field("payload", f"must be at most {PAYLOAD_BYTES} bytes as JSON")
    if priority is not None and not -PRIORITY_MAX <= priority <= PRIORITY_MAX:
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
    """What callers may see and do: keys and admins with every task, as their scopes say; others with their own."""

    def __init__(
        self,
        stored: StoredTasks,
        audit: Audit,
        handlers: StoredHandlers | None = None,
        *,
        page_size: int = 50,
        page_size_max: int = 1000,
    ) -> None:
        """Without `handlers` nobody may change a task but keys and admins."""
        self._stored = stored
        self._handlers = handlers
        self._audit = audit
        self._page_size, self._page_size_max = page_size, page_size_max

    async def get(self, caller: Caller, name: str) -> StoredTask:
        """One that the caller may see. Raises Invalid, NotFound, and as `require_known`."""
        return await self._own(caller, name, "get")

    async def list(
        self, caller: Caller, state: str, handler: str, size: int, token: str
    ) -> tuple[Sequence[StoredTask], str]:
        """A page of those that the caller may see, the newest first, and the next page's token. Raises Invalid, and as
        `require_known`."""
        require_known(caller, "list")
        if state and state not in STATES:
            raise Invalid.field("state", f"is one of {', '.join(STATES)}")
        if handler and not NAME.fullmatch(handler):
            raise Invalid.field("handler", "is not the name of a handler")
        whose = None if caller.trusted else caller.name
        scope = f"{COLLECTION} {state} {handler} {whose or ''}"
        size = pages.size_of(size, self._page_size, self._page_size_max)
        rows = await self._stored.list(state, handler, whose, pages.opened(token, scope), size + 1)
        return rows[:size], pages.sealed(scope, rows[size - 1].id) if len(rows) > size else ""

    async def cancel(self, caller: Caller, name: str) -> StoredTask:
        """Cancels one that waits; where it runs, its worker is told. Raises Invalid, NotFound, Denied (TASK_NOT_CALLABLE),
        Precondition (TASK_ENDED), and as `require_known`."""
        await self._changeable(caller, name, "cancel")
        note = self._audit.statement("task_cancelled", actor=caller.name, target=name)
        return await self._changed(
            name, await self._stored.cancel(_id(name), note), "It has ended already.", "TASK_ENDED"
        )

    async def retry(self, caller: Caller, name: str) -> StoredTask:
        """Runs one again that has ended, not well, with all its attempts. Raises Invalid, NotFound, Denied (TASK_NOT_CALLABLE),
        AlreadyExists where another one has its unique key by now, Precondition (TASK_NOT_FAILED), and as `require_known`."""
        await self._changeable(caller, name, "retry")
        note = self._audit.statement("task_retried", actor=caller.name, target=name)
        changed = await self._stored.retry(_id(name), note)
        return await self._changed(name, changed, "It has not failed.", "TASK_NOT_FAILED")

    async def _own(self, caller: Caller, name: str, action: str) -> StoredTask:
        require_known(caller, action)
        row = await self._stored.find(_id(name))
        if row is not None and not caller.trusted and row.caller != caller.name:
            row = None  # that there is one is nobody else's business
        return _found(row, name)

    async def _changeable(self, caller: Caller, name: str, action: str) -> None:
        row = await self._own(caller, name, action)
        if caller.trusted:
            return
        handler = await self._handlers.find(row.handler) if self._handlers is not None else None
        if handler is None or handler.callable_by != USERS:
            raise Denied("The app alone decides about this task.", reason="TASK_NOT_CALLABLE")

    async def holding(self, handler: str, unique_key: str) -> str:
        """The name of the task of that handler that has the key and has not ended; empty where there is none."""
        row = await self._stored.holding(handler, unique_key)
        return f"{COLLECTION}/{row.id}" if row else ""

    async def sweep(self) -> int:
        """Forgets what ended KEPT_DAYS ago; how many it were."""
        return await self._stored.sweep(KEPT_DAYS)

    async def _changed(self, name: str, row: StoredTask | None, why: str, reason: str) -> StoredTask:
        if row is None:
            _found(await self._stored.find(_id(name)), name)
            raise Precondition(why, reason=reason)
        return row


def require_known(caller: Caller, action: str) -> None:
    """Lets accounts pass, and keys and admins who may do `action` with tasks. Raises Unauthenticated, Denied (SCOPE_REQUIRED,
    IMPERSONATED)."""
    if not caller.known:
        raise Unauthenticated("Tasks are their callers' own: sign in first.")
    if caller.trusted and caller.impersonator:
        raise Denied("Who acts as somebody else may not do this.", reason="IMPERSONATED")
    if caller.trusted and not caller.in_scope(TASK, action):
        scope = f"{TASK}:{action}"
        raise Denied(f"This needs the scope {scope}.", reason="SCOPE_REQUIRED", metadata={"scope": scope})


def _id(name: str) -> str:
    collection, _, id = name.partition("/")
    if collection != COLLECTION or not _ID.fullmatch(id):
        raise Invalid.field("name", "must be tasks/{task}", "INVALID_NAME")
    return id


def _found(row: StoredTask | None, name: str) -> StoredTask:
    if row is None:
        raise NotFound("There is no such task.", resource=("transom.dev/Task", name))
    return row
