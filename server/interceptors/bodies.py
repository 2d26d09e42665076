"""Refuses JSON bodies with names that the schema does not know: the edge's translation to gRPC would drop them in silence."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc

from server.engine.bodies import Body
from server.interceptors.chain import Stream, Unary, drained
from server.schema.model import Schema
from server.services.current import current


class Bodies:
    """The layer that looks at the names in a body; only calls that came as REST, and have one, have any."""

    def __init__(self, schema: Schema) -> None:
        self._bodies = {method.path: Body(schema, method) for method in schema.methods() if method.http}

    def unary(self, method: str, inner: Unary) -> Unary:
        body = self._bodies.get(method)
        if body is None:
            return inner

        def checked(request: Any, context: grpc.aio.ServicerContext) -> Awaitable[Any]:
            if (told := current().body) is not None:
                body.check(told)
            return inner(request, context)

        return checked

    def stream(self, method: str, inner: Stream) -> Stream:
        body = self._bodies.get(method)
        if body is None:
            return inner

        async def checked(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            if (told := current().body) is not None:
                body.check(told)
            async for answer in drained(inner, request, context):
                yield answer

        return checked
