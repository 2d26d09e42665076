"""What is said of a refusal: google.rpc.Status, in trailers or, where a call has none that are read, in a message."""

from __future__ import annotations

from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from server.errors import DOMAIN, Refusal

MESSAGE_BYTES, VIOLATIONS_BYTES, TEXT_BYTES = 600, 3000, 1024
"""Bounds of a status: it travels in headers (the message with up to three characters a byte), of which clients accept
8 KiB unless told otherwise."""


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
