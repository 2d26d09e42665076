"""Any method of a schema, called by its name and a request as ProtoJSON, over either road through the edge: native gRPC, and
REST as the schema's `google.api.http` has it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import grpc
import httpx
from google.api import annotations_pb2
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import MethodOptions
from google.rpc import error_details_pb2, status_pb2

from server.schema.model import Schema

_VARIABLE = re.compile(r"\{([\w.]+)(?:=[^}]*)?\}")


@dataclass(frozen=True)
class Answer:
    """What came back: `code` is OK with a message, or that of a refusal with its reason."""

    code: str
    message: Any = None
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


class Roads:
    """Both ways to the methods of a schema, which is served at the edge `url`. For several threads at once."""

    def __init__(self, url: str, schema: Schema) -> None:
        self._url, self._schema = url, schema
        self._http = httpx.Client(base_url=url, timeout=20, limits=httpx.Limits(max_connections=32))
        self._channel = grpc.insecure_channel(url.removeprefix("http://"), options=[("grpc.enable_retries", 0)])
        own = [m for s in schema.services if not s.own for m in s.methods]
        self.methods = {m.name: m for m in own if not m.server_streaming}
        self.by_path = {m.path: m for m in schema.methods()}

    def close(self) -> None:
        """Both connections end."""
        self._http.close()
        self._channel.close()

    def over_grpc(self, method: str, request: Mapping[str, Any], token: str = "") -> Answer:
        """The answer to the app's method of that name (or any method, by its path)."""
        called = self.by_path[method] if method.startswith("/") else self.methods[method]
        message = json_format.ParseDict(dict(request), self._schema.message_class(called.request)())
        answers = self._schema.message_class(called.response)
        call = self._channel.unary_unary(called.path)
        try:
            reply = call(message.SerializeToString(), timeout=20, metadata=_metadata(token))
        except grpc.RpcError as refusal:
            status = status_pb2.Status()
            trailers: dict[str, Any] = dict(refusal.trailing_metadata() or ())
            status.ParseFromString(trailers.get("grpc-status-details-bin", b""))
            info = error_details_pb2.ErrorInfo()
            for detail in status.details:
                detail.Unpack(info)
            return Answer(refusal.code().name, reason=info.reason, metadata=dict(info.metadata))
        return Answer("OK", answers.FromString(reply))

    def over_rest(self, method: str, request: Mapping[str, Any], token: str = "") -> Answer:
        """The same over REST."""
        called = self.by_path[method] if method.startswith("/") else self.methods[method]
        verb, path, body = self._placed(called.path, request)
        query = dict(request)
        if body == "*":
            sent: Any = {k: v for k, v in query.items() if k not in _top(called.http[0][1])}
            query = {}
        else:
            sent = query.pop(body, {}) if body else None
            query = {k: v for k, v in query.items() if k not in _top(called.http[0][1])}
        headers = dict(_metadata(token))
        told = self._http.request(verb, path, params=query, json=sent, headers=headers)
        if told.status_code == 200:
            message = self._schema.message_class(called.response)()
            return Answer("OK", json_format.Parse(told.text, message, descriptor_pool=self._schema.pool))
        error = told.json()["error"]
        [info] = [d for d in error["details"] if d["@type"].endswith("ErrorInfo")] or [{}]
        return Answer(error["status"], reason=info.get("reason", ""), metadata=info.get("metadata", {}))

    def _placed(self, path: str, request: Mapping[str, Any]) -> tuple[str, str, str]:
        """Verb, path with its variables filled in, and the field that is the body."""
        service, _, name = path[1:].rpartition("/")
        descriptor = self._schema.pool.FindServiceByName(service).methods_by_name[name]
        rule = MethodOptions.FromString(descriptor.GetOptions().SerializeToString()).Extensions[annotations_pb2.http]
        verb = rule.WhichOneof("pattern")

        def value(found: re.Match[str]) -> str:
            of: Any = request
            for part in found[1].split("."):
                of = of[part]
            return quote(of, safe="/")

        return verb.upper(), _VARIABLE.sub(value, getattr(rule, verb)), rule.body


def _top(template: str) -> set[str]:
    """Fields of the request that the path holds whole."""
    return {found[1] for found in _VARIABLE.finditer(template) if "." not in found[1]}


def _metadata(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token else ()
