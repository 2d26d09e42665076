"""Interceptors as layers around a method's behaviour.

grpc.aio hands an interceptor the look-up of a method, not the call, and walks through all of them at every call. So they are
no interceptors of grpc.aio's: each layer wraps the behaviour itself, once per method, and the wrapped handler is kept.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError

from server.errors import Invalid, Unimplemented

Unary = Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]
"""A behaviour that answers once, or writes its stream into the context."""
Stream = Callable[[Any, grpc.aio.ServicerContext], AsyncIterator[Any]]
"""A behaviour that yields its answers."""


class Layer(Protocol):
    """One interceptor."""

    def unary(self, method: str, inner: Unary) -> Unary:
        """`inner` with this layer around it, for the method with that path."""

    def stream(self, method: str, inner: Stream) -> Stream:
        """As unary, for a behaviour that yields. `inner`'s generator must be closed before the layer returns."""


class Chain(grpc.GenericRpcHandler):
    """All handlers of a server, each with the layers around it, outermost first.

    Handlers are added to it as to a server, by what `add_…Servicer_to_server` calls; it is itself the one handler of the
    server. A method that nobody handles is answered from within the layers, too.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = tuple(layers)
        self._within: list[grpc.GenericRpcHandler] = []
        self._handlers: dict[str, grpc.RpcMethodHandler] = {}
        self._unknown = self._wrapped("unknown", grpc.unary_unary_rpc_method_handler(_unknown))

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """As grpc.aio.Server's."""
        self._within += generic_rpc_handlers

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        """As grpc.aio.Server's: generated code names the methods a second time, for servers that look them up so."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """The wrapped handler of the method that is called."""
        method = handler_call_details.method
        handler = self._handlers.get(method)
        if handler is None:
            found = next(filter(None, (one.service(handler_call_details) for one in self._within)), None)
            if found is None:
                return self._unknown
            handler = self._handlers[method] = self._wrapped(method, found)
        return handler

    def _wrapped(self, method: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        kind = ("stream" if handler.request_streaming else "unary", "stream" if handler.response_streaming else "unary")
        behavior = getattr(handler, "_".join(kind))
        yields = inspect.isasyncgenfunction(behavior)
        parse = handler.request_deserializer
        if parse is not None and not handler.request_streaming:
            # grpc.aio answers UNKNOWN where a deserializer fails: the behaviour gets the bytes and parses them itself.
            behavior, parse = (_parsing_stream if yields else _parsing)(behavior, parse), None
        for layer in reversed(self._layers):
            behavior = layer.stream(method, behavior) if yields else layer.unary(method, behavior)
        make = getattr(grpc, f"{kind[0]}_{kind[1]}_rpc_method_handler")
        wrapped: grpc.RpcMethodHandler = make(
            behavior, request_deserializer=parse, response_serializer=handler.response_serializer
        )
        return wrapped


def _parsing(inner: Unary, parse: Callable[[bytes], Any]) -> Unary:
    async def parsing(request: bytes, context: grpc.aio.ServicerContext) -> Any:
        return await inner(_parsed(parse, request), context)

    return parsing


def _parsing_stream(inner: Stream, parse: Callable[[bytes], Any]) -> Stream:
    async def parsing(request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async for answer in drained(inner, _parsed(parse, request), context):
            yield answer

    return parsing


def _parsed(parse: Callable[[bytes], Any], request: bytes) -> Any:
    try:
        return parse(request)
    except DecodeError as fault:
        raise Invalid("The request cannot be decoded.", reason="MALFORMED_REQUEST") from fault


async def _unknown(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    raise Unimplemented("There is no such method.", reason="METHOD_UNKNOWN")


async def drained(inner: Stream, request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
    """What `inner` yields; its generator is closed when the reader goes."""
    async with aclosing(inner(request, context)) as answers:  # type: ignore[type-var]
        async for answer in answers:
            yield answer
