"""google.longrunning.Operations: requests → engine → replies."""

from __future__ import annotations

from typing import Any

import grpc

from server.engine.operations import Operations
from server.schema.model import Schema
from server.services.standard.parsing import calling
from server.services.task_operations import TaskOperations

SERVICE = "google.longrunning.Operations"


class OperationsService:
    """The service as the schema of the app has it: what is packed in its answers is of that schema, too."""

    def __init__(self, schema: Schema, operations: Operations, tasks: TaskOperations) -> None:
        self._schema = schema
        self._tasks = tasks
        self._operations = operations

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a grpc.aio server takes."""
        [service] = [service for service in self._schema.services if service.name == SERVICE]
        handlers = {
            method.name: grpc.unary_unary_rpc_method_handler(
                getattr(self, method.name),
                request_deserializer=self._schema.message_class(method.request).FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )
            for method in service.methods
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def GetOperation(self, request: Any, context: Any) -> Any:
        if self._tasks.has(request.name):
            return await self._tasks.get(request.name)
        return await self._operations.get(calling(), request.name)

    async def WaitOperation(self, request: Any, context: Any) -> Any:
        """A task's, once it has ended or the time is up. Others are done when they are answered."""
        if self._tasks.has(request.name):
            return await self._tasks.wait(request)
        return await self._operations.get(calling(), request.name)

    async def ListOperations(self, request: Any, context: Any) -> Any:
        operations, token = await self._operations.list(
            calling(), request.name, request.filter, request.page_size, request.page_token
        )
        reply = self._schema.message_class("google.longrunning.ListOperationsResponse")
        return reply(operations=operations, next_page_token=token)

    async def CancelOperation(self, request: Any, context: Any) -> Any:
        if self._tasks.has(request.name):
            await self._tasks.cancel(request.name)
        else:
            await self._operations.cancel(calling(), request.name)
        return self._schema.message_class("google.protobuf.Empty")()

    async def DeleteOperation(self, request: Any, context: Any) -> Any:
        if self._tasks.has(request.name):
            await self._tasks.delete(request.name)
        await self._operations.delete(calling(), request.name)
        return self._schema.message_class("google.protobuf.Empty")()
