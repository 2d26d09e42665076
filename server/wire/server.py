"""The server: takes calls from the core and has them served."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import grpc
from grpc._cython import cygrpc

from server.wire.calls import Call, Kind
from server.wire.queue import Queue

AWAITED = 128
"""Calls that the core may hand over before it is asked for more."""

LOOK = 0.01
"""Seconds between two looks at the queue while the server stops."""


class Asked(NamedTuple):
    """What a handler is looked up by (grpc.HandlerCallDetails)."""

    method: str
    invocation_metadata: Any


class Server:
    """As much of grpc.aio.Server as is asked for, on the loop it is started on. The one of its process."""

    def __init__(self, options: Sequence[tuple[str, Any]], maximum_concurrent_rpcs: int) -> None:
        """Raises queue.Unpollable."""
        self._queue = Queue()
        self._core = cygrpc.Server([(name.encode(), value) for name, value in options], False)
        self._core.register_completion_queue(self._queue.core)
        self._most = maximum_concurrent_rpcs
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._kinds: dict[grpc.RpcMethodHandler, Kind] = {}
        self._calls: set[Call] = set()
        self._stopping = False
        self._closed, self._empty = asyncio.Event(), asyncio.Event()
        """Whether the core has ended all calls and connections, and whether all that served them has ended, too."""

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """As grpc.aio.Server's."""
        self._handlers += generic_rpc_handlers

    def add_insecure_port(self, address: str) -> int:
        """The port that is listened on. Raises RuntimeError where it cannot be."""
        port = int(self._core.add_http2_port(address.encode()))
        if not port:
            raise RuntimeError(f"cannot listen on {address}")
        return port

    async def start(self) -> None:
        """Takes calls from now on."""
        self._core.start()
        self._queue.open()
        for _ in range(AWAITED):
            self._await_call()

    async def stop(self, grace: float) -> None:
        """Takes no more calls, gives those under way `grace` seconds, ends the rest."""
        self._stopping = True
        self._core.shutdown(self._queue.core, lambda event: self._closed.set())
        try:
            async with asyncio.timeout(grace):
                await self._until(self._closed)
        except TimeoutError:
            for call in tuple(self._calls):
                call.cancel()
            await asyncio.sleep(0)  # their statuses are on the way before the connections are cut
            self._core.cancel_all_calls()
            await self._until(self._closed)
        if self._calls:
            await self._until(self._empty)
        self._queue.close()

    async def _until(self, event: asyncio.Event) -> None:
        """Waits for what comes of closing connections, which gives no sign."""
        while not event.is_set():
            self._queue.look()
            await asyncio.sleep(LOOK)

    def look(self) -> None:
        """Has the queue looked at soon."""
        self._queue.look()

    def ended(self, call: Call) -> None:
        """Nothing more is to be done for it."""
        self._calls.discard(call)
        if self._stopping and not self._calls:
            self._empty.set()

    def _await_call(self) -> None:
        self._core.request_call(self._queue.core, self._queue.core, self._arrived)

    def _arrived(self, event: Any) -> None:
        if self._stopping or not event.success:
            return
        self._await_call()
        asked = Asked(event.call_details.method.decode(errors="replace"), event.invocation_metadata)
        handler = next(filter(None, (one.service(asked) for one in self._handlers)))
        kind = self._kinds.get(handler)
        if kind is None:
            kind = self._kinds[handler] = Kind(handler)
        call = Call(event, kind, self)
        self._calls.add(call)
        if len(self._calls) > self._most:
            call.refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many calls at once.")
        else:
            call.begin()
