"""Refusals → google.rpc.Status in the trailers (AIP-193), in this one place. What is not a refusal is our fault: the
log gets the cause, the caller gets INTERNAL and nothing else."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from server.errors import DOMAIN, RATE_LIMITED, Exhausted, Internal, Refusal, Unimplemented
from server.interceptors.chain import Stream, Unary, drained
from server.services.current import current

DETAILS = "grpc-status-details-bin"
MESSAGE_BYTES, VIOLATIONS_BYTES, TEXT_BYTES = 600, 3000, 1024
"""Bounds of a status: it travels in headers (the message with up to three characters a byte), of which clients accept
8 KiB unless told otherwise."""

log = structlog.get_logger("errors")


class Errors:
    """The layer above everyone who may refuse."""

    def unary(self, method: str, inner: Unary) -> Unary:
        async def answering(request: Any, context: grpc.aio.ServicerContext) -> Any:
            try:
                return await inner(request, context)
            except Refusal as refusal:
                await _refuse(context, refusal)
            except grpc.aio.BaseError:  # an abort that is under way
                raise
            except NotImplementedError:
                await _refuse(context, Unimplemented("This method is not implemented."))
            except Exception as fault:
                await _refuse(context, _internal(method, fault))

        return answering

    def stream(self, method: str, inner: Stream) -> Stream:
        async def answering(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            try:
                async for answer in drained(inner, request, context):
                    yield answer
            except Refusal as refusal:
                await _refuse(context, refusal)
            except grpc.aio.BaseError:
                raise
            except NotImplementedError:
                await _refuse(context, Unimplemented("This method is not implemented."))
            except Exception as fault:
                await _refuse(context, _internal(method, fault))

        return answering


def _internal(method: str, fault: Exception) -> Internal:
    log.error("failure", method=method, request_id=current().request_id, exc_info=fault)
    return Internal("Internal error.")


async def _refuse(context: grpc.aio.ServicerContext, refusal: Refusal) -> NoReturn:
    call = current()
    call.code, call.reason = refusal.code, refusal.reason
    if refusal.__cause__ is not None:
        log.warning(
            "refused",
            method=call.method,
            code=refusal.code.name,
            reason=refusal.reason,
            request_id=call.request_id,
            cause=_said(refusal.__cause__),
        )
    status = status_of(refusal, call.request_id)
    await context.abort(
        refusal.code, status.message, ((DETAILS, status.SerializeToString()), *_headers(refusal).items())
    )
    raise AssertionError("abort returned")


def _headers(refusal: Refusal) -> dict[str, str]:
    """What HTTP clients look for: the edge hands trailers of a refusal on as headers."""
    if refusal.retry_after is None:
        return {}
    seconds = math.ceil(refusal.retry_after)
    found = {"retry-after": str(seconds)}
    if isinstance(refusal, Exhausted) and refusal.reason == RATE_LIMITED:  # draft-ietf-httpapi-ratelimit-headers
        told = refusal.metadata
        found["ratelimit-policy"] = f'"{told["scope"]}";q={told["limit"]};w={told["window"].rstrip("s")}'
        found["ratelimit"] = f'"{told["scope"]}";r=0;t={seconds}'
    return found


def _said(cause: BaseException) -> str:
    # The first line: a database goes on with the row's own contents, which are nobody's to read in a log.
    return f"{type(cause).__name__}: {str(cause).partition(chr(10))[0][:300]}"


def status_of(refusal: Refusal, request_id: str = "") -> status_pb2.Status:
    """The status of a refusal: always an ErrorInfo, and BadRequest, ResourceInfo, RetryInfo where they help."""
    status = status_pb2.Status(code=refusal.code.value[0], message=_cut(refusal.message, MESSAGE_BYTES))
    metadata = {key: _cut(value, TEXT_BYTES) for key, value in refusal.metadata.items()}
    _add(status, error_details_pb2.ErrorInfo(reason=refusal.reason, domain=DOMAIN, metadata=metadata))
    if refusal.violations:
        bad = error_details_pb2.BadRequest()
        for v in refusal.violations:
            field, description = _cut(v.field, MESSAGE_BYTES), _cut(v.description, MESSAGE_BYTES)
            bad.field_violations.add(field=field, description=description, reason=v.reason)
            if bad.ByteSize() > VIOLATIONS_BYTES:  # those who made so many learn of the rest when these are mended
                del bad.field_violations[-1]
                break
        _add(status, bad)
    if refusal.resource is not None:
        kind, name = refusal.resource
        _add(status, error_details_pb2.ResourceInfo(resource_type=kind, resource_name=_cut(name, TEXT_BYTES)))
    if refusal.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(int(refusal.retry_after * 1000))
        _add(status, error_details_pb2.RetryInfo(retry_delay=delay))
    if request_id:
        _add(status, error_details_pb2.RequestInfo(request_id=request_id))
    return status


def _add(status: status_pb2.Status, detail: Any) -> None:
    status.details.add().Pack(detail)


def _cut(text: str, most: int) -> str:
    """The text, or as much of it as `most` bytes of UTF-8 hold."""
    return text.encode()[:most].decode(errors="ignore")
