"""transom.tasks.v1: requests → engine → replies."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status
from transom.tasks.v1 import tasks_pb2 as pb
from transom.tasks.v1 import tasks_pb2_grpc

from server.caller import Caller
from server.engine import bounds
from server.engine.authentication import Authentication
from server.engine.task_enqueuing import Enqueuing, Wish
from server.engine.tasks import Tasks
from server.errors import Invalid
from server.services.current import caller, current
from server.services.rest_streams import ended_in_band
from server.services.standard.parsing import calling
from server.services.task_following import WAIT_MAX, Following
from server.services.task_messages import plain, task

SERVICE, WATCH = "transom.tasks.v1.TasksService", "WatchTask"


class TasksService(tasks_pb2_grpc.TasksServiceServicer):
    """What is to be done, and how far it is."""

    def __init__(self, tasks: Tasks, enqueuing: Enqueuing, following: Following, callers: Authentication) -> None:
        self._tasks = tasks
        self._enqueuing = enqueuing
        self._following = following
        self._callers = callers

    def handlers(self) -> grpc.GenericRpcHandler:
        """The method that answers bytes; to be added before the service."""
        handler = grpc.unary_stream_rpc_method_handler(self.watch)
        return grpc.method_handlers_generic_handler(SERVICE, {WATCH: handler})

    async def EnqueueTask(self, request: pb.EnqueueTaskRequest, context: Any) -> pb.Task:
        bounds.check(request, request.ByteSize())
        if request.HasField("delay") and request.HasField("run_time"):
            raise Invalid.field("run_time", "takes the place of delay")
        wish = Wish(
            request.handler,
            plain(request.payload) if request.HasField("payload") else None,
            _delay(request.delay),
            _moment(request.run_time) if request.HasField("run_time") else None,
            request.priority if request.HasField("priority") else None,
            request.unique_key,
        )
        return task(await self._enqueuing.enqueue(calling(), wish), caller())

    async def GetTask(self, request: pb.GetTaskRequest, context: Any) -> pb.Task:
        return task(await self._tasks.get(caller(), request.name), caller())

    async def ListTasks(self, request: pb.ListTasksRequest, context: Any) -> pb.ListTasksResponse:
        try:
            state = pb.Task.State.Name(request.state) if request.state else ""
        except ValueError as fault:
            raise Invalid.field("state", "is not a state of tasks") from fault
        rows, following = await self._tasks.list(
            caller(), state, request.handler, request.page_size, request.page_token
        )
        tasks = [task(row, caller(), whole=False) for row in rows]
        return pb.ListTasksResponse(tasks=tasks, next_page_token=following)

    async def CancelTask(self, request: pb.CancelTaskRequest, context: Any) -> pb.Task:
        return task(await self._tasks.cancel(caller(), request.name), caller())

    async def RetryTask(self, request: pb.RetryTaskRequest, context: Any) -> pb.Task:
        return task(await self._tasks.retry(caller(), request.name), caller())

    async def WaitTask(self, request: pb.WaitTaskRequest, context: Any) -> pb.Task:
        seconds = seconds_of(request.timeout) if request.HasField("timeout") else WAIT_MAX
        row = await self._following.wait(caller(), request.name, seconds, again(self._callers))
        return task(row, caller())

    async def watch(self, data: bytes, context: Any) -> AsyncGenerator[bytes, None]:
        """WatchTask."""
        try:
            request = pb.WatchTaskRequest.FromString(data)
        except DecodeError as fault:
            raise Invalid("The request cannot be decoded.", reason="MALFORMED_REQUEST") from fault

        async def told() -> AsyncGenerator[bytes, None]:
            following = self._following.follow(caller(), request.name, again(self._callers))
            async with aclosing(following) as rows:
                async for row in rows:
                    yield pb.WatchTaskResponse(task=task(row, caller())).SerializeToString()

        async with aclosing(ended_in_band(told(), _refused)) as messages:
            async for message in messages:
                yield message


def again(callers: Authentication) -> Any:
    """Asks anew who makes this call, with what it came with. Raises Unauthenticated where its session has ended."""
    call = current()
    authorization = call.authorization
    if authorization is None and (token := call.cookies.token(call.cookie)) is not None:
        authorization = f"Bearer {token}"
    address = call.address

    async def asked() -> Caller:
        return await callers.caller(authorization, address)

    return asked


def seconds_of(timeout: Any) -> float:
    """How long to wait. Raises Invalid; lowers what is too long."""
    return min(_delay(timeout, "timeout").total_seconds(), WAIT_MAX)


def _refused(status: bytes) -> bytes:
    message: bytes = pb.WatchTaskResponse(error=Status.FromString(status)).SerializeToString()
    return message


def _delay(value: Duration, field: str = "delay") -> timedelta:
    """Raises Invalid for what is no duration, or less than none."""
    try:
        delay = value.ToTimedelta()
    except (OverflowError, ValueError) as fault:
        raise Invalid.field(field, "is out of range") from fault
    if delay < timedelta(0):
        raise Invalid.field(field, "must not be negative", "NEGATIVE")
    return delay


def _moment(value: Timestamp) -> datetime:
    try:
        return value.ToDatetime(tzinfo=UTC)
    except (OverflowError, ValueError) as fault:
        raise Invalid.field("run_time", "is out of range") from fault
