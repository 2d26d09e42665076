"""Consistency tokens in the headers: what a call must be shown at least, and what shows all that it wrote."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

import grpc

from server.interceptors.chain import Stream, Unary, drained
from server.services.current import current
from server.store.consistency import HEADER


class Tokens(Protocol):
    """Positions and their text; see server/store/freshness.py."""

    def token(self, position: int) -> str: ...
    def position(self, tokens: str) -> int: ...


class Consistency:
    """The layer that reads the tokens of a request, and gives the answer to what wrote its token: in the trailing metadata,
    which cost nothing, and over REST, which knows no trailers, in the headers."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def unary(self, method: str, inner: Unary) -> Unary:
        tokens = self._tokens

        async def carrying(request: Any, context: grpc.aio.ServicerContext) -> Any:
            call = current()
            if call.consistency:
                call.after = tokens.position(call.consistency)
            answer = await inner(request, context)
            if call.wrote and (token := tokens.token(call.wrote)):
                if call.rest:
                    await context.send_initial_metadata(((HEADER, token),))
                else:
                    context.set_trailing_metadata(((HEADER, token),))
            return answer

        return carrying

    def stream(self, method: str, inner: Stream) -> Stream:
        async def carrying(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            call = current()
            if call.consistency:
                call.after = self._tokens.position(call.consistency)
            async for answer in drained(inner, request, context):
                yield answer

        return carrying
