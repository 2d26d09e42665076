"""Sees every call: numbers for the metrics, a line for the log, and the ids that follow the call everywhere."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from server.interceptors.chain import Stream, Unary, drained
from server.interceptors.lines import Lines
from server.interceptors.tallies import TALLIES
from server.services.current import CURRENT, Current

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_READ = frozenset(
    (
        "authorization",
        "x-request-id",
        "traceparent",
        "x-envoy-external-address",
        "cookie",
        "origin",
        "sec-fetch-site",
        "x-transom-csrf",
        "x-transom-consistency",
        "x-envoy-original-path",
        "x-transom-body",
    )
)
"""The headers that are looked at, so that the many others cost one look-up each."""

ADDRESS = 64
"""Characters of an address that are kept; none has so many."""


class Observe:
    """The outermost layer: it sees the final status of everything below."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def unary(self, method: str, inner: Unary) -> Unary:
        seen = _Seen(method, self._lines)

        async def observed(request: Any, context: grpc.aio.ServicerContext) -> Any:
            call, start = seen.begins(context), time.perf_counter()
            try:
                return await inner(request, context)
            except BaseException as fault:
                seen.fails(call, fault)
                raise
            finally:
                seen.ends(call, start)

        return observed

    def stream(self, method: str, inner: Stream) -> Stream:
        seen = _Seen(method, self._lines)

        async def observed(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            call, start = seen.begins(context), time.perf_counter()
            try:
                async for answer in drained(inner, request, context):
                    yield answer
            except BaseException as fault:
                seen.fails(call, fault)
                raise
            finally:
                seen.ends(call, start)

        return observed


class _Seen:
    """What is kept ready per method."""

    def __init__(self, method: str, lines: Lines) -> None:
        self._method = method
        self._lines = lines
        self._tally = TALLIES.of(method)
        self._quiet = method.startswith("/grpc.health.")  # asked twice a second: counted, but no line

    def begins(self, context: grpc.aio.ServicerContext) -> Current:
        call = Current(self._method)
        for key, value in context.invocation_metadata() or ():
            if key not in _READ:
                continue
            if key == "authorization":
                call.authorization = str(value)
            elif key == "x-request-id" and _REQUEST_ID.fullmatch(value):
                call.request_id = str(value)
            elif key == "traceparent" and _TRACEPARENT.fullmatch(value):
                call.traceparent = str(value)
            elif key == "x-envoy-external-address":
                call.address = str(value)[:ADDRESS]
            elif key == "cookie":  # HTTP/2 allows one for each
                call.cookie = f"{call.cookie}; {value}" if call.cookie else str(value)
            elif key == "origin":
                call.origin = str(value)
            elif key == "sec-fetch-site":
                call.site = str(value)
            elif key == "x-transom-csrf":
                call.csrf = str(value)
            elif key == "x-envoy-original-path":
                call.rest, call.path = True, str(value)
            elif key == "x-transom-consistency":
                call.consistency = f"{call.consistency},{value}" if call.consistency else str(value)
            elif key == "x-transom-body":
                call.body = str(value)
        if not call.address:  # nobody's edge is in between
            call.address = _peer(context.peer())
        if not call.request_id:
            call.request_id = secrets.token_hex(16)
        CURRENT.set(call)
        self._tally.under_way += 1
        return call

    @staticmethod
    def fails(call: Current, fault: BaseException) -> None:
        if call.code is grpc.StatusCode.OK:  # nobody below said how: the caller went away, or a service of grpc's own
            aborted = isinstance(fault, grpc.aio.AbortError)
            call.code = grpc.StatusCode.UNKNOWN if aborted else grpc.StatusCode.CANCELLED

    def ends(self, call: Current, start: float) -> None:
        took = time.perf_counter() - start
        self._tally.ended(call.code, took)
        if self._quiet:
            return
        line = {
            "event": "call",
            "method": self._method,
            "code": call.code.name,
            "ms": round(took * 1000, 3),
            "request_id": call.request_id,
        }
        if call.reason:
            line["reason"] = call.reason
        if call.caller.name:
            line["caller"] = call.caller.name
        if call.traceparent:
            line["traceparent"] = call.traceparent
        self._lines.write(line)


def _peer(peer: str) -> str:
    """`ipv4:10.0.0.1:5000`, `ipv6:[::1]:5000` or `ipv6:%5B::1%5D:5000` → the address alone; "" for what has none."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    return rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")[:ADDRESS]
