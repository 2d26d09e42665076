"""transom.data.v1: requests → engine → replies."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from transom.data.v1 import commit_pb2 as commit_pb
from transom.data.v1 import data_pb2 as pb
from transom.data.v1 import data_pb2_grpc

from server.engine import bounds
from server.engine.aggregates import Aggregates, Question
from server.engine.commits import Commits
from server.engine.requests import Requests
from server.engine.resources import Resources
from server.engine.retelling import Retelling
from server.errors import Invalid
from server.query.filters.constants import is_single, single
from server.query.groups import Asked, Column, Function
from server.schema.kinds import Kind
from server.services import commit_messages
from server.services.standard.parsing import calling

COMMIT = b"/transom.data.v1.DataService/Commit\n"
"""What a request id is bound to, beside the request."""

_INT64 = (-(1 << 63), (1 << 63) - 1)


class DataService(data_pb2_grpc.DataServiceServicer):
    """Aggregate and Commit."""

    def __init__(self, aggregates: Aggregates, resources: Resources, requests: Requests) -> None:
        self._aggregates = aggregates
        self._resources = resources
        self._requests = requests
        self._retelling = Retelling(resources)

    async def Commit(self, request: commit_pb.CommitRequest, context: Any) -> commit_pb.CommitResponse:
        call = calling()
        bounds.check(request, request.ByteSize())
        writes = commit_messages.writes(self._resources.schema, request)
        if not request.request_id or request.validate_only:
            written = await Commits(self._resources).commit(call, writes, validate_only=request.validate_only)
            return commit_messages.response(written)

        async def do(joined: Resources) -> bytes:
            return bytes(commit_messages.response(await Commits(joined).commit(call, writes)).SerializeToString())

        async def shown(reply: bytes) -> bytes:
            response = commit_pb.CommitResponse.FromString(reply)
            await self._retelling.shown(call, response)
            return bytes(response.SerializeToString())

        asked = COMMIT + request.SerializeToString(deterministic=True)
        return commit_pb.CommitResponse.FromString(
            await self._requests.answer(self._resources, call, request.request_id, asked, do, shown)
        )

    async def Aggregate(self, request: pb.AggregateRequest, context: Any) -> pb.AggregateResponse:
        answer = await self._aggregates.page(
            calling(),
            Question(
                request.type,
                request.parent,
                request.filter,
                tuple(request.group_by),
                tuple(_asked(one, i) for i, one in enumerate(request.aggregations)),
                request.order_by,
                request.page_size,
                request.page_token,
                request.show_deleted,
            ),
        )
        groups, columns = len(answer.grouping.groups), answer.grouping.columns
        rows = []
        for row in answer.rows:
            values = [(column.name, _value(column, text)) for column, text in zip(columns, row, strict=True)]
            rows.append(pb.AggregateRow(group=dict(values[:groups]), values=dict(values[groups:])))
        return pb.AggregateResponse(rows=rows, next_page_token=answer.next_page_token)


def _asked(one: pb.Aggregation, at: int) -> Asked:
    function = pb.Aggregation.Function.Name(one.function) if one.function in pb.Aggregation.Function.values() else ""
    if function not in Function.__members__:
        raise Invalid.field(f"aggregations[{at}].function", "is required", "REQUIRED")
    return Asked(Function[function], one.path, one.alias)


def _value(column: Column, text: str | None) -> pb.AggregateValue:
    """A value, of the text that Postgres has of it."""
    if text is None:
        return pb.AggregateValue()
    match column.kind:
        case Kind.BOOL:
            return pb.AggregateValue(bool_value=text == "true")
        case Kind.INT:
            least, most = _INT64
            digits = text.partition(".")[0]
            if least <= int(digits) <= most:
                return pb.AggregateValue(int64_value=int(digits))
            return pb.AggregateValue(decimal_value=digits)
        case Kind.DOUBLE:
            return pb.AggregateValue(double_value=_double(column, text))
        case Kind.ENUM:
            assert column.enum is not None
            found = column.enum.values_by_number.get(int(text))
            return pb.AggregateValue(string_value=found.name if found is not None else text)
        case Kind.TIMESTAMP:
            return pb.AggregateValue(timestamp_value=_time(text))
        case Kind.DURATION:
            value = pb.AggregateValue()
            value.duration_value.FromMicroseconds(int(Decimal(text).to_integral_value()))
            return value
    return pb.AggregateValue(string_value=text)


def _double(column: Column, text: str) -> float:
    number = float(text)
    stored = column.function in (None, Function.MIN, Function.MAX) and math.isfinite(number)
    return single(number) if stored and column.key is not None and is_single(column.key.path) else number


def _time(text: str) -> Timestamp:
    """A time: microseconds since 1970, or as it is within JSON, in UTC."""
    stamp = Timestamp()
    if "T" in text:
        stamp.FromDatetime(datetime.fromisoformat(text).replace(tzinfo=UTC))
    else:
        stamp.FromMicroseconds(int(text.partition(".")[0]))
    return stamp
