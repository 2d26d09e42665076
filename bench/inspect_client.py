"""Clients of the inspect app at an edge: what each sends, over either protocol, and what it must be answered."""

from __future__ import annotations

import http.client
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.protobuf.json_format import ParseDict, ParseError

from server.schema.model import Schema

from .cells import Operation, Request, Wire, Wrong
from .findings import CHANGES, PAGE, PER_INSPECTION, finding

SITE = "sites/bench"
SERVICE = "inspect.v1.InspectionService"
METHODS = {
    Operation.GET: "GetFinding",
    Operation.LIST: "ListFindings",
    Operation.CREATE: "CreateFinding",
    Operation.UPDATE: "UpdateFinding",
}
CALL_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Account:
    """Who a client is. The token is never printed."""

    user: str
    token: str

    def __repr__(self) -> str:
        return f"Account({self.user})"


class InspectClients:
    """The clients, by number, at the edge `url`. Each is an account of its own with inspections of its own."""

    def __init__(self, url: str, schema: Schema, accounts: Sequence[Account]) -> None:
        self.url, self._schema, self._accounts = url, schema, accounts

    def at(self, url: str) -> InspectClients:
        """The same clients at another edge."""
        return InspectClients(url, self._schema, self._accounts)

    def read(self, client: int) -> str:
        """Where the client reads."""
        return f"{SITE}/inspections/read-{client}"

    def written(self, client: int) -> str:
        """Where the client creates, so that what is read stays as it is."""
        return f"{SITE}/inspections/written-{client}"

    def changed(self, client: int) -> str:
        """The finding that the client changes: not the one it reads, and beyond the first page."""
        return f"{self.read(client)}/findings/finding-{PER_INSPECTION - 1}"

    def request(self, operation: Operation, wire: Wire, client: int) -> Request:
        """What the client sends."""
        authorization = {"authorization": f"Bearer {self._accounts[client].token}"}
        if wire is Wire.GRPC:
            headers = authorization | {"content-type": "application/grpc", "te": "trailers"}
            body, *other = map(framed, self.messages(operation, client))
            return Request(f"{self.url}/{SERVICE}/{METHODS[operation]}", wire, headers, body, *other)
        parent = self.read(client)
        match operation:
            case Operation.GET:
                return Request(f"{self.url}/v1/{parent}/findings/finding-0", wire, authorization)
            case Operation.LIST:
                return Request(f"{self.url}/v1/{parent}/findings?pageSize={PAGE}", wire, authorization)
            case Operation.CREATE:
                body = json.dumps(finding(client)).encode()
                headers = authorization | {"content-type": "application/json"}
                return Request(f"{self.url}/v1/{self.written(client)}/findings", wire, headers, body)
            case Operation.UPDATE:
                headers = authorization | {"content-type": "application/json"}
                body, other = (json.dumps(change).encode() for change in CHANGES)
                url = f"{self.url}/v1/{self.changed(client)}?updateMask={','.join(CHANGES[0])}"
                return Request(url, wire, headers, body, other, "PATCH")

    def messages(self, operation: Operation, client: int) -> list[bytes]:
        """The request as a message; where several are sent in turns, all of them."""
        match operation:
            case Operation.GET:
                fields: list[dict[str, Any]] = [{"name": f"{self.read(client)}/findings/finding-0"}]
            case Operation.LIST:
                fields = [{"parent": self.read(client), "pageSize": PAGE}]
            case Operation.CREATE:
                fields = [{"parent": self.written(client), "finding": finding(client)}]
            case Operation.UPDATE:
                mask = ",".join(CHANGES[0])
                fields = [{"finding": {"name": self.changed(client)} | c, "updateMask": mask} for c in CHANGES]
        return [self.serialized(f"{METHODS[operation]}Request", one) for one in fields]

    def serialized(self, message: str, fields: dict[str, Any]) -> bytes:
        """The message of that name in inspect.v1 with these fields, given as JSON has them."""
        return bytes(ParseDict(fields, self._schema.message_class(f"inspect.v1.{message}")()).SerializeToString())

    def ask(self, operation: Operation, wire: Wire, client: int = 0) -> bytes:
        """What the client is answered, after a look at it. Raises Wrong where that is not what was asked for."""
        answer = self._ask(self.request(operation, wire, client), operation, client)
        kind = "ListFindingsResponse" if operation is Operation.LIST else "Finding"
        message = self._schema.message_class(f"inspect.v1.{kind}")()
        try:
            if wire is Wire.JSON:
                ParseDict(json.loads(answer), message)
            else:
                message.ParseFromString(answer)
        except (ValueError, ParseError) as fault:
            raise Wrong(f"{self.url}: {operation} over {wire}: the answer is no {kind}") from fault
        match operation:
            case Operation.GET:
                right = message.name == f"{self.read(client)}/findings/finding-0" and message.title
            case Operation.LIST:
                right = len(message.findings) == PAGE and all(i.title for i in message.findings)
            case Operation.CREATE:
                right = message.name.startswith(f"{self.written(client)}/") and message.title
            case Operation.UPDATE:
                right = message.name == self.changed(client) and message.description == CHANGES[0]["description"]
        if not right:
            raise Wrong(f"{self.url}: {operation} over {wire} is answered with something else")
        return answer

    def _ask(self, request: Request, operation: Operation, client: int) -> bytes:
        if request.wire is Wire.JSON:
            return over_http(request)
        metadata = (("authorization", request.headers["authorization"]),)
        with grpc.insecure_channel(urlsplit(self.url).netloc) as channel:
            call = channel.unary_unary(f"/{SERVICE}/{METHODS[operation]}")
            try:
                return bytes(call(self.messages(operation, client)[0], metadata=metadata, timeout=CALL_SECONDS))
            except grpc.RpcError as error:
                raise Wrong(f"{self.url}: {operation} over gRPC: {error.code()}: {error.details()}") from error


def framed(message: bytes) -> bytes:
    """A message as gRPC sends it: not compressed, its length before it."""
    return struct.pack(">BI", 0, len(message)) + message


def over_http(request: Request) -> bytes:
    """The body of the answer. Raises Wrong unless its status is 200."""
    parts = urlsplit(request.url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=CALL_SECONDS)
    try:
        path = request.url.removeprefix(f"{parts.scheme}://{parts.netloc}")
        connection.request(request.method, path, request.body, dict(request.headers))
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise Wrong(f"{path.partition('?')[0]}: HTTP status {answer.status}: {body[:300].decode(errors='replace')}")
    return body
