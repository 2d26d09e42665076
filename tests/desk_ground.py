"""Where writing is tested: the desk (tests/protos/desk), served by a real server behind a real edge, for real people."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
from door_ground import Door, door
from google.longrunning import operations_proto_pb2  # noqa: F401 - operations are unpacked by name
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from identity_ground import Place
from library_ground import Database, database
from people_ground import Client, People, Refused

from deploy.native.stack import Stack
from server.schema.compilation import compile_app
from server.schema.model import Schema
from server.schema.reading import read

APP = Path(__file__).parent / "protos" / "desk"
SERVICE = "/desk.v1.DeskService"


@functools.cache
def schema() -> Schema:
    """The schema of the desk."""
    return read(compile_app(APP))


@dataclass(frozen=True)
class Desk:
    """The running desk."""

    at: Database
    door: Door
    people: People

    def rest(self, who: Client, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The JSON answer to a call over REST, a Refused where it was. A body of bytes is sent as it is."""
        sent = {"authorization": f"Bearer {who.token}"} if who.token else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            sent.setdefault("content-type", "application/json")
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = httpx.request(
            method, f"{self.door.edge}/v1/{path}", content=body, headers=sent, timeout=20, trust_env=False, verify=False
        )
        said = json.loads(answer.content)
        if answer.is_success:
            return said
        details = {d["@type"].rpartition(".")[2]: d for d in said["error"]["details"]}
        fields = tuple(v["field"] for v in details.get("BadRequest", {}).get("fieldViolations", ()))
        return Refused(said["error"]["status"], details["ErrorInfo"]["reason"], fields)

    def grpc(self, who: Client, method: str, request: Mapping[str, Any] | Any, **metadata: str) -> Any:
        """The message that answers a call over gRPC, a Refused where it was. `method` is of the desk, or a whole path."""
        path = method if method.startswith("/") else f"{SERVICE}/{method}"
        found = next(m for m in schema().methods() if m.path == path)
        if isinstance(request, Mapping):
            request = schema().message_class(found.request)(**request)
        sent = [(name.replace("_", "-"), value) for name, value in metadata.items()]
        sent += [("authorization", f"Bearer {who.token}")] if who.token else []
        with grpc.insecure_channel(self.door.edge.removeprefix("http://")) as channel:
            try:
                data = channel.unary_unary(path)(request.SerializeToString(), metadata=sent, timeout=20)
            except grpc.RpcError as error:
                status, info, bad = Status(), ErrorInfo(), BadRequest()
                status.ParseFromString(dict(error.trailing_metadata() or ())["grpc-status-details-bin"])
                for detail in status.details:
                    detail.Unpack(info)
                    detail.Unpack(bad)
                return Refused(error.code().name, info.reason, tuple(v.field for v in bad.field_violations))
        return schema().message_class(found.response).FromString(data)

    def events(self, name: str) -> list[str]:
        """Verbs of a resource's events, in order."""
        return self.at.events(name)


@contextmanager
def desk(components: Stack, folder: Path, **settings: str) -> Iterator[Desk]:
    """The desk, for as long as the block lasts."""
    with database(components, schema()) as at:
        place = Place(at.postgres, at.replica, at.redis, components.env["TRANSOM_S3_ENDPOINT"], components.env)
        unlimited = {"TRANSOM_LIMIT_ADDRESS": "", "TRANSOM_LIMIT_CALLER": ""}
        with door(place, folder, unlimited | settings, app=APP) as made:
            yield Desk(at, made, People(made))  # type: ignore[arg-type] - an edge and what processes are told is all they need
