"""Where the life of resources is tested: the club (tests/protos/club), served by a real server behind a real edge, and swept
by the same code that workers run."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from desk_ground import Desk
from door_ground import door
from google.protobuf import json_format
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from identity_ground import Place
from library_ground import database, engine
from people_ground import Client, People, Refused

from deploy.native.stack import Stack
from server.engine.endings import Endings
from server.schema.compilation import compile_app
from server.schema.model import Schema
from server.schema.reading import read

APP = Path(__file__).parent / "protos" / "club"


@functools.cache
def schema() -> Schema:
    """The schema of the club."""
    return read(compile_app(APP))


@dataclass(frozen=True)
class Club(Desk):
    """The running club."""

    def call(self, who: Client, method: str, **request: Any) -> Any:
        """What a method answers over gRPC, as ProtoJSON has it; a Refused where it was."""
        found = next(m for m in schema().methods() if method in (m.name, m.path))
        message = json_format.ParseDict(request, schema().message_class(found.request)())
        metadata = [("authorization", f"Bearer {who.token}")] if who.token else []
        with grpc.insecure_channel(self.door.edge.removeprefix("http://")) as channel:
            try:
                data = channel.unary_unary(found.path)(message.SerializeToString(), metadata=metadata, timeout=20)
            except grpc.RpcError as error:
                status, info, bad = Status(), ErrorInfo(), BadRequest()
                status.ParseFromString(dict(error.trailing_metadata() or ())["grpc-status-details-bin"])
                for detail in status.details:
                    detail.Unpack(info)
                    detail.Unpack(bad)
                return Refused(error.code().name, info.reason, tuple(v.field for v in bad.field_violations))
        answer = schema().message_class(found.response).FromString(data)
        return json_format.MessageToDict(answer, descriptor_pool=schema().pool)

    def rest(self, who: Client, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """As of the desk, but without what is empty."""
        return _full(super().rest(who, method, path, body, **headers))

    def team(self, who: Client, id: str, **fields: Any) -> str:
        """The name of a new team."""
        return str(self.call(who, "CreateTeam", teamId=id, team=fields)["name"])

    def swept(self, times: int = 1) -> int:
        """How much so many sweeps at once remove."""

        async def sweep() -> int:
            async with engine(self.at, schema=schema()) as on:
                endings = Endings(on.schema, on.decisions, on.records)
                return sum(await asyncio.gather(*(endings.sweep() for _ in range(times))))

        return asyncio.run(asyncio.wait_for(sweep(), 30))

    def aged(self, table: str, name: str) -> None:
        """Its time has come."""
        self.at.sql(f"update club_v1.{table} set _expire_time = now() - interval '1 second' where name = %s", name)

    def names(self, table: str, below: str = "") -> list[str]:
        """Names of all that is stored below a name."""
        return [
            n for (n,) in self.at.sql(f"select name from club_v1.{table} where name like %s order by 1", f"{below}%")
        ]


def _full(said: Any) -> Any:
    if isinstance(said, dict):
        return {key: _full(value) for key, value in said.items() if value not in ("", 0, False, [], None)}
    return [_full(one) for one in said] if isinstance(said, list) else said


@contextmanager
def club(components: Stack, folder: Path) -> Iterator[Club]:
    """The club, for as long as the block lasts."""
    with database(components, schema()) as at:
        place = Place(at.postgres, at.replica, at.redis, components.env["TRANSOM_S3_ENDPOINT"], components.env)
        unlimited = {"TRANSOM_LIMIT_ADDRESS": "", "TRANSOM_LIMIT_CALLER": ""}
        with door(place, folder, unlimited, app=APP) as made:
            yield Club(at, made, People(made))  # type: ignore[arg-type] - an edge and what processes are told is all they need
