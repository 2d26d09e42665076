"""`python -m bench.watch_bare PORT`: a server of grpc.aio that sends what it is told to all its streams, no more."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop

STREAM, TELL = "/bench.Bare/Stream", "/bench.Bare/Tell"


class Bare(grpc.GenericRpcHandler):
    """The server's two methods."""

    def __init__(self) -> None:
        self._streams: set[asyncio.Queue[bytes]] = set()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if handler_call_details.method == STREAM:
            return grpc.unary_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(self._tell)

    async def _stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        told: asyncio.Queue[bytes] = asyncio.Queue()
        self._streams.add(told)
        try:
            yield b"ready"
            while True:
                yield await told.get()
        finally:
            self._streams.discard(told)

    async def _tell(self, request: bytes, context: Any) -> bytes:
        for told in self._streams:
            told.put_nowait(request)
        return b""


async def _serve(port: int) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Bare(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))
