"""One call that is being served."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, NoReturn, Protocol

import grpc
import structlog
from grpc._cython import cygrpc

Metadata = Sequence[tuple[str, str | bytes]]

# An operation holds what the core works on: each is for one batch of one call.
_Receive, _Close = cygrpc.ReceiveMessageOperation, cygrpc.ReceiveCloseOnServerOperation
_Headers, _Message = cygrpc.SendInitialMetadataOperation, cygrpc.SendMessageOperation
_Status = cygrpc.SendStatusFromServerOperation
_FOREVER = 10 * 365 * 86_400
"""Seconds beyond which a deadline is none."""

log = structlog.get_logger("wire")


class Kind:
    """How the calls of one method are served: what a handler says, looked at once."""

    __slots__ = ("behavior", "parse", "serialize", "streams", "takes_stream", "yields")

    def __init__(self, handler: grpc.RpcMethodHandler) -> None:
        self.takes_stream = bool(handler.request_streaming)
        self.streams = bool(handler.response_streaming)
        kind = f"{'stream' if self.takes_stream else 'unary'}_{'stream' if self.streams else 'unary'}"
        self.behavior: Callable[[Any, Any], Any] = getattr(handler, kind)
        self.yields = inspect.isasyncgenfunction(self.behavior)
        self.parse: Callable[[bytes], Any] | None = handler.request_deserializer
        self.serialize: Callable[[Any], bytes] | None = handler.response_serializer


class Calls(Protocol):
    """Who is told of a call's end, and has the queue looked at."""

    def ended(self, call: Call) -> None: ...
    def look(self) -> None: ...


class Call:
    """A call, and what its behaviour sees of it: as much of grpc.aio.ServicerContext as our layers and grpcio's own
    servicers ask for."""

    __slots__ = (
        "_calls",
        "_cancelled",
        "_closed",
        "_core",
        "_deadline",
        "_finished",
        "_headers",
        "_kind",
        "_metadata",
        "_opened",
        "_request",
        "_task",
        "_trailing",
    )

    def __init__(self, event: Any, kind: Kind, calls: Calls) -> None:
        self._core = event.call
        self._metadata: Metadata = event.invocation_metadata
        self._deadline: float = event.call_details.deadline
        self._kind = kind
        self._calls = calls
        self._task: asyncio.Task[None] | None = None
        self._headers: Metadata = ()
        self._trailing: Metadata = ()
        self._opened = self._finished = self._closed = self._cancelled = False
        self._request: bytes | None = None

    # ── As the server sees it ──────────────────────────────────────────────────────────────────────────────────────

    def begin(self) -> None:
        """Has its request received and then answered."""
        self._core.start_server_batch((_Close(0),), self._gone)
        if self._kind.takes_stream:
            self._run(self._serve(self._requests()))
        else:
            self._core.start_server_batch((_Receive(0),), self._received)

    def cancel(self) -> None:
        """Ends it, as if the client had gone."""
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    def refuse(self, code: grpc.StatusCode, details: str) -> None:
        """Ends it before it began."""
        self._core.start_server_batch((_Close(0),), self._gone)
        self._status(code, details, ())

    def _gone(self, event: Any) -> None:
        """The client went away, the deadline is over, or all is said."""
        self._closed = True
        if event.batch_operations[0].cancelled() and not self._finished:
            self.cancel()
        if self._task is None:
            self._calls.ended(self)

    def _received(self, event: Any) -> None:
        message = event.batch_operations[0].message()
        if message is not None:
            self._run(self._serve(message))
        elif not self._closed:
            self._status(grpc.StatusCode.INTERNAL, "The request holds no message.", ())

    def _run(self, serving: Awaitable[None]) -> None:
        if self._cancelled:
            serving.close()  # type: ignore[attr-defined]
            return
        self._task = asyncio.get_running_loop().create_task(serving)  # type: ignore[arg-type]
        self._task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.error("a call broke off", exc_info=fault)
        if not self._finished:  # cancelled, or broken: whoever still listens is told
            code = grpc.StatusCode.CANCELLED if task.cancelled() else grpc.StatusCode.UNKNOWN
            self._status(code, "", ())
        if self._closed:
            self._calls.ended(self)

    async def _serve(self, request: Any) -> None:
        kind = self._kind
        try:
            if kind.parse is not None and not kind.takes_stream:
                request = kind.parse(request)
            if kind.yields:
                async with aclosing(kind.behavior(request, self)) as answers:
                    async for answer in answers:
                        await self.write(answer)
            else:
                answer = await kind.behavior(request, self)
                if not kind.streams:
                    self._answer(answer if kind.serialize is None else kind.serialize(answer))
                    return
        except grpc.aio.AbortError:  # its status has been sent
            return
        self._ok()

    async def _requests(self) -> AsyncIterator[Any]:
        parse = self._kind.parse
        while (message := (await self._begun((_Receive(0),))).batch_operations[0].message()) is not None:
            yield message if parse is None else parse(message)

    def _answer(self, message: bytes) -> None:
        if self._finished:
            return
        self._finished = True
        sent, status = _Message(message, 0), self._ending(cygrpc.StatusCode.ok, b"")
        self._send((sent, status) if self._opened else (_Headers(tuple(self._headers), 0), sent, status))

    def _ok(self) -> None:
        self._status(grpc.StatusCode.OK, "", self._trailing)

    def _status(self, code: grpc.StatusCode, details: str, trailing: Metadata) -> None:
        if self._finished:
            return
        self._finished, self._trailing = True, trailing
        status = self._ending(code.value[0], details.encode())
        self._send((status,) if self._opened else (_Headers(tuple(self._headers), 0), status))

    def _ending(self, code: int, details: bytes) -> Any:
        return _Status(tuple(self._trailing), code, details, 0)

    def _send(self, operations: tuple[Any, ...]) -> None:
        self._core.start_server_batch(operations, None)
        self._calls.look()

    async def _begun(self, operations: tuple[Any, ...]) -> Any:
        """The event of these operations, once they are carried out."""
        done = asyncio.get_running_loop().create_future()
        self._core.start_server_batch(operations, lambda event: None if done.done() else done.set_result(event))
        self._calls.look()
        return await done

    # ── As its behaviour sees it ───────────────────────────────────────────────────────────────────────────────────

    def invocation_metadata(self) -> Metadata:
        """The headers it came with."""
        return self._metadata

    def peer(self) -> str:
        """Where it comes from, e.g. `ipv4:127.0.0.1:40000`."""
        told = self._core.peer()
        return told.decode() if isinstance(told, bytes) else str(told)

    def time_remaining(self) -> float | None:
        """Seconds until its deadline; None without one."""
        remaining = self._deadline - time.time()
        return None if remaining > _FOREVER else max(0.0, remaining)

    def cancelled(self) -> bool:
        """Whether the client has gone, or its deadline."""
        return self._cancelled

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """What goes after the last message, where the call succeeds."""
        self._trailing = metadata

    async def send_initial_metadata(self, metadata: Metadata) -> None:
        """What goes before the first message: of a stream at once, and once."""
        if self._opened or self._finished:
            raise RuntimeError("the headers are sent already")
        if self._kind.streams:
            self._opened = True
            self._send((_Headers(tuple(metadata), 0),))
        else:
            self._headers = metadata  # they go with the one message

    async def write(self, message: Any) -> None:
        """Sends one message of a stream; returns when the core takes the next. Raises CancelledError where nobody
        listens any more."""
        if self._finished:
            raise RuntimeError("the call is over")
        serialize = self._kind.serialize
        sent = _Message(message if serialize is None else serialize(message), 0)
        operations = (sent,) if self._opened else (_Headers(tuple(self._headers), 0), sent)
        self._opened = True
        if not (await self._begun(operations)).success:
            raise asyncio.CancelledError

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """Ends the call with this status and raises grpc.aio.AbortError, which must pass."""
        self._status(code, details, trailing_metadata)
        raise grpc.aio.AbortError("aborted")
