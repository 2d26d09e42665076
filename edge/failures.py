"""What the edge answers when it fails by itself, without a server having spoken.

A failure reads alike on every road: over REST as JSON in the shape of AIP-193, over gRPC and gRPC-Web the same code,
message and details as trailers. In Envoy's words this is a list of `local_reply_config.mappers`, of which the first
that fits is taken; it is made here from one table, so that the roads cannot drift apart.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from google.protobuf import any_pb2, json_format
from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from edge.yaml_text import Alias, Anchored, yaml_text

DOMAIN = "transom.dev"
"""Of every ErrorInfo, the servers' and the edge's own."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One way the edge fails: how it shows inside Envoy, and what the caller is told."""

    reason: str
    code: int
    """Canonical code (google.rpc.Code)."""
    message: str
    """For developers; plain text without quotes, since it goes into a header as it is."""
    http: tuple[str, int] = ("EQ", 0)
    """The HTTP status that tells this failure: Envoy's comparison and its operand."""
    flags: tuple[str, ...] = ()
    """Envoy's response flags, any of which tells it, where the status does not."""
    explained: bool = False
    """Whether Envoy's own text says more, of the request alone, and takes the message's place over REST."""
    retry_after: int = 0
    """Seconds after which to try again; 0 where that would not help."""

    def status(self) -> Status:
        """The google.rpc.Status that every road carries, each in its own form."""
        details = [ErrorInfo(reason=self.reason, domain=DOMAIN)]
        status = Status(code=self.code, message=self.message, details=[_packed(d) for d in details])
        if self.retry_after:
            status.details.append(_packed(RetryInfo(retry_delay=Duration(seconds=self.retry_after))))
        return status


FAILURES = (
    # The caller's doing.
    Failure("MALFORMED_REQUEST", Code.INVALID_ARGUMENT, "The request is malformed.", ("EQ", 400), explained=True),
    Failure("UNKNOWN_PATH", Code.NOT_FOUND, "No method of this API has this HTTP method and path.", ("EQ", 404)),
    Failure("REQUEST_TOO_LARGE", Code.RESOURCE_EXHAUSTED, "The request is too large.", ("EQ", 413)),
    Failure("UNSUPPORTED_CONTENT_TYPE", Code.INVALID_ARGUMENT, "Send content-type: application/json.", ("EQ", 415)),
    Failure("HEADERS_TOO_LARGE", Code.INVALID_ARGUMENT, "The request headers are too large.", ("EQ", 431)),
    Failure("REQUEST_TOO_SLOW", Code.DEADLINE_EXCEEDED, "The request did not arrive in time.", ("EQ", 408)),
    # Nobody's doing, or the servers'. A call that may have had its effect says so.
    Failure("OVERLOADED", Code.UNAVAILABLE, "Too many requests at once.", flags=("UO", "OM"), retry_after=1),
    Failure("NO_SERVER", Code.UNAVAILABLE, "No server is ready to answer.", flags=("UH", "UF"), retry_after=1),
    Failure("DEADLINE_EXCEEDED", Code.DEADLINE_EXCEEDED, "No answer in time; a write may have happened.", ("EQ", 504)),
    Failure("SERVER_LOST", Code.UNAVAILABLE, "The server was lost; a write may have happened.", ("GE", 502)),
    # What else there may be.
    Failure("EDGE_FAILURE", Code.INTERNAL, "The edge could not carry this call.", ("GE", 500)),
    Failure("BAD_REQUEST", Code.INVALID_ARGUMENT, "The request cannot be served.", ("GE", 400), explained=True),
)


def mappers() -> str:
    """YAML of Envoy's `local_reply_config.mappers`: for each failure one for gRPC and gRPC-Web, and one for REST."""
    text = ""
    over_grpc: Anchored | Alias = Anchored("over_grpc", _OVER_GRPC)
    no_body: Anchored | Alias = Anchored("no_body", _NO_BODY)
    for failure in FAILURES:
        text += f"# {failure.reason}\n" + yaml_text([_over_grpc(failure, over_grpc, no_body), _over_rest(failure)])
        over_grpc, no_body = Alias("over_grpc"), Alias("no_body")
    return text


_OVER_GRPC = {
    "and_filter": {
        "filters": [
            {"header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}},
            # What came as REST is already gRPC inside, but carries the path it came by.
            {
                "header_filter": {
                    "header": {"name": "x-envoy-original-path", "present_match": True, "invert_match": True}
                }
            },
        ]
    }
}
_NO_BODY = {"text_format_source": {"inline_string": ""}}


def _over_grpc(failure: Failure, over_grpc: Anchored | Alias, no_body: Anchored | Alias) -> dict[str, Any]:
    return {
        "filter": {"and_filter": {"filters": [over_grpc, _told_by(failure)]}},
        # On any other HTTP status Envoy tells a gRPC-Web client a status of its own choice.
        "status_code": 200,
        "headers_to_add": [
            _header("grpc-status", str(failure.code)),
            _header("grpc-message", failure.message),
            _header("grpc-status-details-bin", base64.b64encode(failure.status().SerializeToString()).decode()),
        ],
        "body_format_override": no_body,
    }


def _over_rest(failure: Failure) -> dict[str, Any]:
    error = {
        "code": "%RESPONSE_CODE%",
        "message": "%LOCAL_REPLY_BODY%" if failure.explained else failure.message,
        "status": Code.Name(failure.code),
        "details": [json_format.MessageToDict(detail) for detail in failure.status().details],
    }
    mapper: dict[str, Any] = {"filter": _told_by(failure)}
    if failure.retry_after:
        mapper["headers_to_add"] = [_header("retry-after", str(failure.retry_after))]
    mapper["body_format_override"] = {"content_type": "application/json", "json_format": {"error": error}}
    return mapper


def _told_by(failure: Failure) -> dict[str, Any]:
    if failure.flags:
        return {"response_flag_filter": {"flags": list(failure.flags)}}
    comparison, status = failure.http
    value = {"default_value": status, "runtime_key": "edge.never_set"}
    return {"status_code_filter": {"comparison": {"op": comparison, "value": value}}}


def _header(name: str, value: str) -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _packed(message: ErrorInfo | RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
