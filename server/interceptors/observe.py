"""Sees every call: numbers for the metrics, a line for the log, and the ids that follow the call everywhere."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from prometheus_client import Counter, Gauge, Histogram

from server.interceptors.chain import Stream, Unary, drained
from server.interceptors.lines import Lines
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
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

ADDRESS = 64
"""Characters of an address that are kept; none has so many."""

CALLS = Counter("transom_calls_total", "Calls by method and status.", ["method", "code"])
SECONDS = Histogram("transom_call_seconds", "Duration of calls.", ["method"], buckets=_BUCKETS)
IN_FLIGHT = Gauge("transom_calls_in_flight", "Calls being served.")


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
    """What is kept ready per method: looking a metric's label up costs more than counting."""

    def __init__(self, method: str, lines: Lines) -> None:
        self._method = method
        self._lines = lines
        self._seconds = SECONDS.labels(method)
        self._codes: dict[grpc.StatusCode, Any] = {}
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
        IN_FLIGHT.inc()
        return call

    @staticmethod
    def fails(call: Current, fault: BaseException) -> None:
        if call.code is grpc.StatusCode.OK:  # nobody below said how: the caller went away, or a service of grpc's own
            aborted = isinstance(fault, grpc.aio.AbortError)
            call.code = grpc.StatusCode.UNKNOWN if aborted else grpc.StatusCode.CANCELLED

    def ends(self, call: Current, start: float) -> None:
        took = time.perf_counter() - start
        IN_FLIGHT.dec()
        self._seconds.observe(took)
        counter = self._codes.get(call.code)
        if counter is None:
            counter = self._codes[call.code] = CALLS.labels(self._method, call.code.name)
        counter.inc()
        if self._quiet:
            return
        self._lines.write(
            {
                "event": "call",
                "method": self._method,
                "code": call.code.name,
                "reason": call.reason,
                "ms": round(took * 1000, 3),
                "caller": call.caller.name,
                "request_id": call.request_id,
                "traceparent": call.traceparent,
            }
        )


def _peer(peer: str) -> str:
    """`ipv4:10.0.0.1:5000`, `ipv6:[::1]:5000` or `ipv6:%5B::1%5D:5000` → the address alone; "" for what has none."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    return rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")[:ADDRESS]
