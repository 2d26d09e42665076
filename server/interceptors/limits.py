"""Refuses who calls too often."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from server.engine.limits import Limits as CallLimits
from server.interceptors.chain import Stream, Unary, drained
from server.services.current import current


class Limits:
    """The layer that counts calls, below the one that says whose they are. A stream is one call."""

    def __init__(self, rules: CallLimits) -> None:
        self._rules = rules

    def unary(self, method: str, inner: Unary) -> Unary:
        limits = self._rules.of(method)
        if limits is None:
            return inner

        async def limited(request: Any, context: grpc.aio.ServicerContext) -> Any:
            call = current()
            asked = limits.admit(call.caller, call.address)
            if asked is not None:
                await limits.ask(asked)
            return await inner(request, context)

        return limited

    def stream(self, method: str, inner: Stream) -> Stream:
        limits = self._rules.of(method)
        if limits is None:
            return inner

        async def limited(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            call = current()
            asked = limits.admit(call.caller, call.address)
            if asked is not None:
                await limits.ask(asked)
            async for answer in drained(inner, request, context):
                yield answer

        return limited
