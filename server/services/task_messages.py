"""Stored tasks → messages, with what the caller may see of them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from transom.tasks.v1 import tasks_pb2 as pb

from server.caller import ADMIN, Caller, Kind
from server.engine.task_enqueuing import shown_key
from server.engine.tasks import COLLECTION
from server.store.tasks import StoredTask


def task(row: StoredTask, caller: Caller, *, whole: bool = True) -> pb.Task:
    """The message; of a list it is not `whole`."""
    operator = caller.kind is Kind.SYSTEM or ADMIN in caller.roles
    return pb.Task(
        name=f"{COLLECTION}/{row.id}",
        handler=row.handler,
        payload=value(row.payload),
        state=pb.Task.State.Value(row.state),
        priority=row.priority,
        unique_key=shown_key(row),
        attempts=row.attempts,
        progress=row.progress,
        progress_text=row.progress_text,
        result=value(row.result) if row.result and row.state == "SUCCEEDED" else None,
        cancelling=row.cancelling,
        caller=row.caller,
        error=row.error if caller.trusted else "",
        traceback=row.traceback if operator and whole else "",
        create_time=_time(row.create_time),
        run_time=_time(row.run_time),
        start_time=_time(row.start_time),
        end_time=_time(row.end_time),
    )


def value(text: str) -> Value:
    """JSON as a message."""
    return json_format.ParseDict(json.loads(text), Value())


def plain(value: Value) -> Any:
    """What a message of JSON says."""
    return json_format.MessageToDict(value)


def _time(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
