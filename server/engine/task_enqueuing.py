"""Tasks that are enqueued by a call: of handlers that workers have declared, by whom these let."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf import json_format

from server.engine.decisions import Decisions
from server.engine.resources import Call
from server.engine.tasks import KEY_CHARS, NAME, RESERVED, USERS, enqueue, require_known
from server.errors import Exhausted, Invalid, NotFound, Unavailable
from server.schema.model import Schema
from server.store.task_handlers import StoredHandlers
from server.store.tasks import StoredTask, StoredTasks

UNDER_WAY_MAX = 1000
"""Tasks under way of one caller who is bound by rules; calls at the same time may go beyond it by their number."""
CALLED_KEY_CHARS = 100
"""Of a unique key in a call: the caller's name is put in front of it."""
TRIES = 3
"""Times it is tried again when who had the unique key ended meanwhile."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a call asks for."""

    handler: str
    payload: Any
    delay: timedelta = timedelta(0)
    at: datetime | None = None
    priority: int | None = None
    unique_key: str = ""


class Enqueuing:
    """Enqueues for callers."""

    def __init__(
        self,
        stored: StoredTasks,
        handlers: StoredHandlers,
        schema: Schema,
        decisions: Decisions,
        clock: Callable[[], int],
    ) -> None:
        """`clock`: microseconds since 1970."""
        self._stored = stored
        self._handlers = handlers
        self._schema = schema
        self._decisions = decisions
        self._clock = clock

    async def enqueue(self, call: Call, wish: Wish) -> StoredTask:
        """The new task, or the one that has its unique key. Raises Invalid, NotFound (TASK_UNKNOWN), Exhausted (TASKS_EXCEEDED),
        Unavailable, and as `require_known`."""
        caller = call.caller
        require_known(caller, "create")
        may_be = NAME.fullmatch(wish.handler) and not wish.handler.startswith(RESERVED)
        handler = await self._handlers.find(wish.handler) if may_be else None
        if handler is None or not (caller.trusted or handler.callable_by == USERS):
            raise NotFound(
                f"There is no task called {wish.handler[:100]!r}.",
                reason="TASK_UNKNOWN",
                metadata={"handler": wish.handler[:100]},
            )
        if not caller.trusted and wish.priority is not None:
            raise Invalid.field("priority", "is for keys and admins to say")
        payload = self._told(handler.payload, wish.payload)
        key = self._key(call, wish.unique_key)
        if not caller.trusted and await self._stored.under_way(caller.name, UNDER_WAY_MAX) >= UNDER_WAY_MAX:
            raise Exhausted(
                f"You have {UNDER_WAY_MAX} tasks under way: let some of them end.",
                reason="TASKS_EXCEEDED",
                retry_after=10.0,
            )
        for _ in range(TRIES):
            name, statements = enqueue(
                datetime.fromtimestamp(self._clock() / 1e6, UTC),
                handler.name,
                payload,
                delay=wish.delay,
                at=wish.at,
                priority=wish.priority,
                unique_key=key,
                caller=caller.name,
                request_id=call.request_id,
                traceparent=call.traceparent,
            )
            row = await self._stored.enqueue(name.rpartition("/")[2], statements, handler.name, key)
            if row is not None:
                return row
        raise Unavailable("Tasks with this unique key come and go; retry.", reason="TASK_KEY_BUSY", retry_after=0.1)

    def _told(self, type: str, payload: Any) -> Any:
        """What the handler is told. Raises Invalid where that is not of its type."""
        if not type:
            return payload
        try:
            message = self._schema.message_class(type)()
        except KeyError as gone:  # the workers have another schema for the moment
            raise Unavailable("The app is being changed; retry.", reason="SCHEMA_CHANGING", retry_after=1.0) from gone
        try:
            json_format.ParseDict({} if payload is None else payload, message, descriptor_pool=self._schema.pool)
        except (json_format.ParseError, TypeError, ValueError, RecursionError) as fault:
            raise Invalid.field("payload", f"is not a {type}: {str(fault)[:200]}") from fault
        self._decisions.check_request(message)
        return json_format.MessageToDict(message, descriptor_pool=self._schema.pool)

    def _key(self, call: Call, key: str) -> str:
        """Whose keys may not be taken by others have their callers' names in front."""
        if call.caller.trusted or not key:
            return key
        if len(key) > CALLED_KEY_CHARS:
            raise Invalid.field("unique_key", f"must be at most {CALLED_KEY_CHARS} characters")
        return f"{call.caller.name}/{key}"[:KEY_CHARS]


def shown_key(row: StoredTask) -> str:
    """The unique key of a task as its caller gave it."""
    return row.unique_key.removeprefix(f"{row.caller}/")
