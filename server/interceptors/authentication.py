"""Says who calls. What they may do is for the rules."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from server.engine.authentication import Authentication as Callers
from server.interceptors.chain import Stream, Unary, drained
from server.services.current import current

ANYBODY = (
    "/transom.accounts.v1.AccountsService/SignUp",
    "/transom.accounts.v1.AccountsService/SignIn",
    "/grpc.health.",
    "/grpc.reflection.",
)
"""Beginnings of methods that are served whoever calls: a token is not even looked at, so that a client whose token has
run out can sign in without forgetting it first."""


class Authentication:
    """The layer that tells callers by their tokens."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers

    def unary(self, method: str, inner: Unary) -> Unary:
        if method.startswith(ANYBODY):
            return inner

        async def authenticated(request: Any, context: grpc.aio.ServicerContext) -> Any:
            call = current()
            call.caller = self._callers.cached(call.authorization) or await self._callers.caller(call.authorization)
            return await inner(request, context)

        return authenticated

    def stream(self, method: str, inner: Stream) -> Stream:
        if method.startswith(ANYBODY):
            return inner

        async def authenticated(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            call = current()
            call.caller = self._callers.cached(call.authorization) or await self._callers.caller(call.authorization)
            async for answer in drained(inner, request, context):
                yield answer

        return authenticated
