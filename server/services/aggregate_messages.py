"""Aggregates as `transom.data.v1` has them, and as the engine does."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal

from google.protobuf.timestamp_pb2 import Timestamp
from transom.data.v1 import data_pb2 as pb

from server.engine.aggregates import Answer, Question
from server.errors import Invalid
from server.query.filters.constants import is_single, single
from server.query.groups import Asked, Column, Function
from server.schema.kinds import Kind

_INT64 = (-(1 << 63), (1 << 63) - 1)


def question(request: pb.AggregateRequest) -> Question:
    """What a request asks. Raises Invalid for a function that there is not."""
    return Question(
        request.type,
        request.parent,
        request.filter,
        tuple(request.group_by),
        tuple(_asked(one, i) for i, one in enumerate(request.aggregations)),
        request.order_by,
        request.page_size,
        request.page_token,
        request.show_deleted,
    )


def response(answer: Answer) -> pb.AggregateResponse:
    """The reply."""
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
