"""Refusals → google.rpc.Status in the trailers (AIP-193), in this one place. What is not a refusal is our fault: the
log gets the cause, the caller gets INTERNAL and nothing else."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
import structlog

from server.errors import RATE_LIMITED, Exhausted, Internal, Refusal, Unimplemented
from server.interceptors.chain import Stream, Unary, drained
from server.services.current import current
from server.services.statuses import status_of

DETAILS = "grpc-status-details-bin"

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
