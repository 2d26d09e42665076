"""`python -m tests.wire_server GRACE TICK`: server/wire in a process of its own, which its queue asks for, with
the GRPC_EXPERIMENTS of server/wire/experiments.py in its environment. Prints its port; stops when its standard input ends, and
then prints `stopped`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import uvloop

from server.wire import queue
from server.wire.calls import Call
from server.wire.server import Server

CALLS = 8
MESSAGE_BYTES = 2 << 20

NOTES: list[str] = []
"""What became of calls, for the client to ask."""


async def echo(request: bytes, call: Call) -> bytes:
    return request


async def notes(request: bytes, call: Call) -> bytes:
    told = "\n".join(NOTES)
    NOTES.clear()
    return told.encode()


async def headers(request: bytes, call: Call) -> bytes:
    await call.send_initial_metadata((("x-first", "1"),))
    call.set_trailing_metadata((("x-last", "2"), ("x-bytes-bin", b"\x00\xff")))
    got = dict(call.invocation_metadata())
    return f"{got['x-mine']!s} {got['x-mine-bin']!r} {call.peer().split(':')[0]}".encode()


async def refuses(request: bytes, call: Call) -> bytes:
    await call.abort(grpc.StatusCode.NOT_FOUND, "größer: nothing", (("x-why-bin", b"\x01"),))


async def breaks(request: bytes, call: Call) -> bytes:
    raise ZeroDivisionError("a secret")


async def waits(request: bytes, call: Call) -> bytes:
    remaining = call.time_remaining()
    NOTES.append("began with a deadline" if remaining is not None else "began without a deadline")
    try:
        await asyncio.sleep(float(request or b"60"))
    except asyncio.CancelledError:
        NOTES.append(f"ended early, cancelled: {call.cancelled()}")
        raise
    return b"waited"


async def counts(request: bytes, call: Call) -> AsyncIterator[bytes]:
    for number in range(int(request)):
        yield str(number).encode()


async def counts_then_refuses(request: bytes, call: Call) -> AsyncIterator[bytes]:
    yield b"0"
    await call.abort(grpc.StatusCode.ABORTED, "enough")


async def floods(request: bytes, call: Call) -> AsyncIterator[bytes]:
    sent = 0
    try:
        while True:
            sent += 1
            yield bytes(1 << 16)
    finally:
        NOTES.append(f"flood ended after {'few' if sent < 1000 else 'many'}")


async def writes(request: bytes, call: Call) -> None:
    await call.write(b"a")
    await call.write(b"b")


async def joins(requests: AsyncIterator[bytes], call: Call) -> bytes:
    return b"+".join([request async for request in requests])


async def shouts(requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request.upper()


UNARY = (echo, notes, headers, refuses, breaks, waits)
STREAMS = (counts, counts_then_refuses, floods, writes)


class Handlers(grpc.GenericRpcHandler):
    """The functions above, each by its name."""

    def __init__(self) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler] = {
            **{_path(one): grpc.unary_unary_rpc_method_handler(one) for one in UNARY},
            **{_path(one): grpc.unary_stream_rpc_method_handler(one) for one in STREAMS},
            _path(joins): grpc.stream_unary_rpc_method_handler(joins),
            _path(shouts): grpc.stream_stream_rpc_method_handler(shouts, bytes, bytes),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handlers.get(handler_call_details.method)


def _path(function: Callable[..., Any]) -> str:
    return f"/wire.Wire/{function.__name__}"


async def _main(grace: float, tick: float) -> None:
    queue.TICK = tick
    queue.NEW = queue.FETCHED  # where no tick counts the descriptors again
    server = Server([("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MESSAGE_BYTES)], CALLS)
    server.add_generic_rpc_handlers((Handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(grace)
    print("stopped", flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(float(sys.argv[1]), float(sys.argv[2])))
