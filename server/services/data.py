"""transom.data.v1: requests → engine → replies."""

from __future__ import annotations

from typing import Any

from transom.data.v1 import commit_pb2 as commit_pb
from transom.data.v1 import data_pb2 as pb
from transom.data.v1 import data_pb2_grpc

from server.engine import bounds
from server.engine.aggregates import Aggregates
from server.engine.bodies import Body
from server.engine.commits import Commits, Update
from server.engine.packed import canonical
from server.engine.requests import Requests
from server.engine.resources import Resources
from server.engine.retelling import Retelling
from server.services import aggregate_messages, commit_messages
from server.services.current import current
from server.services.standard.parsing import calling

COMMIT = "/transom.data.v1.DataService/Commit"


class DataService(data_pb2_grpc.DataServiceServicer):
    """Aggregate and Commit."""

    def __init__(self, aggregates: Aggregates, resources: Resources, commits: Commits, requests: Requests) -> None:
        self._aggregates = aggregates
        self._resources = resources
        self._commits = commits
        self._requests = requests
        self._retelling = Retelling(resources)
        method = next(m for m in resources.schema.methods() if m.path == COMMIT)
        self._body = Body(resources.schema, method)

    async def Commit(self, request: commit_pb.CommitRequest, context: Any) -> commit_pb.CommitResponse:
        call = calling()
        bounds.check(request, request.ByteSize())
        told = current().body
        parts = self._body.parts(told, "writes", len(request.writes)) if told is not None else None
        writes = commit_messages.writes(self._resources.schema, request, parts)
        if not request.request_id or request.validate_only:
            written = await self._commits.commit(call, writes, validate_only=request.validate_only)
            return commit_messages.response(written)

        async def do(joined: Resources) -> bytes:
            return bytes(
                commit_messages.response(await self._commits.over(joined).commit(call, writes)).SerializeToString()
            )

        async def shown(reply: bytes) -> bytes:
            response = commit_pb.CommitResponse.FromString(reply)
            deleted = {one.delete.name for one in request.writes if one.WhichOneof("act") == "delete"}
            await self._retelling.shown(call, response, gone=deleted)
            return bytes(response.SerializeToString())

        asked = b"\n".join([COMMIT.encode(), canonical(self._resources.schema, request)])
        for i, one in enumerate(writes):
            if isinstance(one, Update) and one.paths and not request.writes[i].update.update_mask.paths:
                asked += f"\n{i} {one.paths}".encode()  # what is named and not populated is said nowhere else
        return commit_pb.CommitResponse.FromString(
            await self._requests.answer(self._resources, call, request.request_id, asked, do, shown)
        )

    async def Aggregate(self, request: pb.AggregateRequest, context: Any) -> pb.AggregateResponse:
        bounds.check(request, request.ByteSize())
        return aggregate_messages.response(await self._aggregates.page(calling(), aggregate_messages.question(request)))
