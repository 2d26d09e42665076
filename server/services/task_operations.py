"""Tasks as google.longrunning.Operation: `operations/tasks/{task}`, for callers who wait by that service, where an app has it.

The metadata is the task (transom.tasks.v1.Task), the response what it came to (google.protobuf.Value).
"""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.struct_pb2 import Value

from server.caller import Caller
from server.engine.authentication import Authentication
from server.engine.operations import OPERATION
from server.engine.tasks import COLLECTION, Tasks
from server.errors import Invalid, Precondition
from server.schema.model import Schema
from server.services.current import caller
from server.services.task_following import WAIT_MAX, Following
from server.services.task_messages import task, value
from server.services.tasks import again, seconds_of
from server.store.tasks import StoredTask

PREFIX = f"operations/{COLLECTION}/"
_CODES = {
    "CANCELLED": (grpc.StatusCode.CANCELLED, "The task was cancelled."),
    "DISCARDED": (grpc.StatusCode.FAILED_PRECONDITION, "There was nothing to do."),
    "DEAD": (grpc.StatusCode.ABORTED, "The task failed, and has no attempts left."),
}
_TYPE = "type.googleapis.com/"


class TaskOperations:
    """Those of tasks, as TasksService would have them seen."""

    def __init__(self, schema: Schema, tasks: Tasks, following: Following, callers: Authentication) -> None:
        self._schema = schema
        self._tasks = tasks
        self._following = following
        self._callers = callers

    @staticmethod
    def has(name: str) -> bool:
        """Whether an operation of that name is a task's."""
        return name.startswith(PREFIX)

    async def get(self, name: str) -> Any:
        """As GetTask."""
        return self._told(await self._tasks.get(caller(), _task(name)), caller())

    async def wait(self, request: Any) -> Any:
        """As WaitTask."""
        seconds = seconds_of(request.timeout) if request.HasField("timeout") else WAIT_MAX
        row = await self._following.wait(caller(), _task(request.name), seconds, again(self._callers))
        return self._told(row, caller())

    async def cancel(self, name: str) -> None:
        """As CancelTask; what has ended stays so, which is no error."""
        try:
            await self._tasks.cancel(caller(), _task(name))
        except Precondition as ended:
            if ended.reason != "TASK_ENDED":
                raise

    async def delete(self, name: str) -> None:
        """Raises Precondition: tasks are kept for those who look after them."""
        await self._tasks.get(caller(), _task(name))
        raise Precondition("Tasks are kept until they are old.", reason="TASK_KEPT")

    def _told(self, row: StoredTask, who: Caller) -> Any:
        operation = self._schema.message_class(OPERATION)(name=f"{PREFIX}{row.id}", done=row.end_time is not None)
        message = task(row, who)
        operation.metadata.type_url = _TYPE + message.DESCRIPTOR.full_name
        operation.metadata.value = message.SerializeToString()
        if row.state == "SUCCEEDED":
            result = value(row.result) if row.result else Value(null_value=0)  # type: ignore[arg-type]
            operation.response.type_url = _TYPE + Value.DESCRIPTOR.full_name
            operation.response.value = result.SerializeToString()
        elif row.state in _CODES:
            code, operation.error.message = _CODES[row.state]
            operation.error.code = code.value[0]
        return operation


def _task(name: str) -> str:
    id = name.removeprefix(PREFIX)
    if "/" in id or not id:
        raise Invalid.field("name", f"must look like {PREFIX}{{task}}", "INVALID_NAME")
    return f"{COLLECTION}/{id}"
