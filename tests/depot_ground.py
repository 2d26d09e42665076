"""Where atomic writes are tested: the depot (tests/protos/depot), by a real server behind a real edge, over either road."""

from __future__ import annotations

import functools
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
from door_ground import Door, door
from edge_ground import eventually
from google.protobuf import json_format
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from identity_ground import Place
from library_ground import Database, database
from people_ground import Client, People, Refused

from deploy.native.stack import Stack
from server.schema.compilation import compile_app
from server.schema.model import Method, Schema
from server.schema.reading import read

APP = Path(__file__).parent / "protos" / "depot"
ROADS = ["REST", "gRPC"]
COMMIT = "/transom.data.v1.DataService/Commit"


@functools.cache
def schema() -> Schema:
    """The schema of the depot."""
    return read(compile_app(APP))


@functools.cache
def methods() -> Mapping[str, Method]:
    """Its methods, by name."""
    return {m.name: m for m in schema().methods() if m.full_name.startswith(("depot.", "transom.data."))}


@dataclass(frozen=True)
class Said(Refused):
    """A refusal, and its words."""

    message: str = ""

    __eq__ = Refused.__eq__
    __hash__ = None  # type: ignore[assignment]


def packed(type: str, **fields: Any) -> dict[str, Any]:
    """A resource of the depot in an Any, as JSON has it."""
    return {"@type": f"type.googleapis.com/depot.v1.{type}", **fields}


@dataclass(frozen=True)
class Depot:
    """The running depot."""

    at: Database
    door: Door
    people: People

    def ask(self, who: Client, road: str, method: str, **request: Any) -> Any:
        """The answer to a request, both as JSON has them; a Said where it was refused."""
        return (
            self._rest(who, methods()[method], request)
            if road == "REST"
            else self._grpc(who, methods()[method], request)
        )

    def commit(self, who: Client, *writes: Any, road: str = "gRPC", **more: Any) -> Any:
        """The results of a commit; a Said where it was refused."""
        answer = self.ask(who, road, "Commit", writes=list(writes), **more)
        return answer if isinstance(answer, Said) else answer.get("results", [])

    def store(self, who: Client, **fields: Any) -> str:
        """The name of a new store that `who` manages."""
        return str(
            self.ask(
                who,
                "gRPC",
                "CreateStore",
                storeId=f"s{secrets.token_hex(6)}",
                store={"title": "t", "manager": who.id} | fields,
            )["name"]
        )

    def item(self, who: Client, store: str, id: str = "", **fields: Any) -> Any:
        """A new item."""
        id = id or f"i{secrets.token_hex(6)}"
        return self.ask(who, "gRPC", "CreateItem", parent=store, itemId=id, item={"title": "t"} | fields)

    def supplier(self, who: Client, **fields: Any) -> str:
        """The name of a new supplier."""
        made = self.ask(who, "gRPC", "CreateSupplier", supplierId=f"p{secrets.token_hex(6)}", supplier=fields)
        return str(made["name"]) if isinstance(made, dict) else made

    def events(self, name: str) -> list[str]:
        """Verbs of a resource's events, in order."""
        return self.at.events(name)

    def until_waiting(self) -> None:
        """Returns once somebody waits for a lock of the depot's."""
        waiting = "select exists (select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database())"
        eventually(lambda: self.at.sql(waiting) == [(True,)])

    def _rest(self, who: Client, method: Method, request: Mapping[str, Any]) -> Any:
        left = dict(request)
        verb, template = method.http[0]

        def fill(match: re.Match[str]) -> str:
            holder: Any = left
            *way, last = [re.sub(r"_(.)", lambda m: m[1].upper(), part) for part in match[1].split(".")]
            for step in way:
                holder[step] = holder = dict(holder[step])
            return str(holder.pop(last, "stores/-"))

        path = re.sub(r"\{([\w.]+)=[^}]*\}", fill, template)
        field = {"CreateItem": "item", "UpdateItem": "item", "CreateStore": "store", "CreateOrder": "order"} | {
            "CreateSupplier": "supplier",
            "CreateBrand": "brand",
            "UpdateSupplier": "supplier",
        }
        body = None
        if verb in ("post", "patch"):
            body = left.pop(field[method.name]) if method.name in field else left
            left = left if method.name in field else {}
        headers = {"authorization": f"Bearer {who.token}"} if who.token else {}
        answer = httpx.request(
            verb.upper(), self.door.edge + path, json=body, params=left, headers=headers, timeout=20, trust_env=False,
            verify=False,
        )  # fmt: skip
        said = json.loads(answer.content)
        if answer.is_success:  # JSON of the edge has all fields
            reply = schema().message_class(method.response)()
            json_format.ParseDict(said, reply, descriptor_pool=schema().pool)
            return json_format.MessageToDict(reply, descriptor_pool=schema().pool)
        details = {d["@type"].rpartition(".")[2]: d for d in said["error"]["details"]}
        info = details["ErrorInfo"]
        fields = tuple(v["field"] for v in details.get("BadRequest", {}).get("fieldViolations", ()))
        told = tuple(sorted(info.get("metadata", {}).items()))
        return Said(said["error"]["status"], info["reason"], fields, told, said["error"]["message"])

    def _grpc(self, who: Client, method: Method, request: Mapping[str, Any]) -> Any:
        message = schema().message_class(method.request)()
        json_format.ParseDict(request, message, descriptor_pool=schema().pool)
        sent = [("authorization", f"Bearer {who.token}")] if who.token else []
        with grpc.insecure_channel(self.door.edge.removeprefix("http://")) as channel:
            try:
                data = channel.unary_unary(method.path)(message.SerializeToString(), metadata=sent, timeout=20)
            except grpc.RpcError as error:
                status, info, bad = Status(), ErrorInfo(), BadRequest()
                status.ParseFromString(dict(error.trailing_metadata() or ())["grpc-status-details-bin"])
                for detail in status.details:
                    detail.Unpack(info)
                    detail.Unpack(bad)
                fields = tuple(v.field for v in bad.field_violations)
                return Said(
                    error.code().name, info.reason, fields, tuple(sorted(info.metadata.items())), status.message
                )
        reply = schema().message_class(method.response).FromString(data)
        return json_format.MessageToDict(reply, descriptor_pool=schema().pool)


@contextmanager
def depot(components: Stack, folder: Path) -> Iterator[Depot]:
    """The depot, for as long as the block lasts."""
    with database(components, schema()) as at:
        place = Place(at.postgres, at.replica, at.redis, components.env["TRANSOM_S3_ENDPOINT"], components.env)
        unlimited = {"TRANSOM_LIMIT_ADDRESS": "", "TRANSOM_LIMIT_CALLER": "", "TRANSOM_PAGE_SIZE": "50"}
        with door(place, folder, unlimited, app=APP) as made:
            yield Depot(at, made, People(made))  # type: ignore[arg-type] - an edge and what processes are told is all they need
