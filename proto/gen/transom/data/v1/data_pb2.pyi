import datetime

from google.api import annotations_pb2 as _annotations_pb2
from google.api import client_pb2 as _client_pb2
from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf import any_pb2 as _any_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from transom.data.v1 import commit_pb2 as _commit_pb2
from transom.events.v1 import change_pb2 as _change_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchRequest(_message.Message):
    __slots__ = ("type", "parent", "name", "filter", "show_deleted", "resume_token")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    SHOW_DELETED_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    type: str
    parent: str
    name: str
    filter: str
    show_deleted: bool
    resume_token: str
    def __init__(self, type: _Optional[str] = ..., parent: _Optional[str] = ..., name: _Optional[str] = ..., filter: _Optional[str] = ..., show_deleted: _Optional[bool] = ..., resume_token: _Optional[str] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("change", "name", "resource", "resume_token", "synced", "verb", "change_time", "error")
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SYNCED_FIELD_NUMBER: _ClassVar[int]
    VERB_FIELD_NUMBER: _ClassVar[int]
    CHANGE_TIME_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    change: _change_pb2.Change
    name: str
    resource: _any_pb2.Any
    resume_token: str
    synced: bool
    verb: str
    change_time: _timestamp_pb2.Timestamp
    error: _status_pb2.Status
    def __init__(self, change: _Optional[_Union[_change_pb2.Change, str]] = ..., name: _Optional[str] = ..., resource: _Optional[_Union[_any_pb2.Any, _Mapping]] = ..., resume_token: _Optional[str] = ..., synced: _Optional[bool] = ..., verb: _Optional[str] = ..., change_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class AggregateRequest(_message.Message):
    __slots__ = ("type", "parent", "filter", "group_by", "aggregations", "order_by", "page_size", "page_token", "show_deleted")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    GROUP_BY_FIELD_NUMBER: _ClassVar[int]
    AGGREGATIONS_FIELD_NUMBER: _ClassVar[int]
    ORDER_BY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SHOW_DELETED_FIELD_NUMBER: _ClassVar[int]
    type: str
    parent: str
    filter: str
    group_by: _containers.RepeatedScalarFieldContainer[str]
    aggregations: _containers.RepeatedCompositeFieldContainer[Aggregation]
    order_by: str
    page_size: int
    page_token: str
    show_deleted: bool
    def __init__(self, type: _Optional[str] = ..., parent: _Optional[str] = ..., filter: _Optional[str] = ..., group_by: _Optional[_Iterable[str]] = ..., aggregations: _Optional[_Iterable[_Union[Aggregation, _Mapping]]] = ..., order_by: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., show_deleted: _Optional[bool] = ...) -> None: ...

class Aggregation(_message.Message):
    __slots__ = ("alias", "function", "path")
    class Function(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        FUNCTION_UNSPECIFIED: _ClassVar[Aggregation.Function]
        COUNT: _ClassVar[Aggregation.Function]
        SUM: _ClassVar[Aggregation.Function]
        AVG: _ClassVar[Aggregation.Function]
        MIN: _ClassVar[Aggregation.Function]
        MAX: _ClassVar[Aggregation.Function]
    FUNCTION_UNSPECIFIED: Aggregation.Function
    COUNT: Aggregation.Function
    SUM: Aggregation.Function
    AVG: Aggregation.Function
    MIN: Aggregation.Function
    MAX: Aggregation.Function
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    alias: str
    function: Aggregation.Function
    path: str
    def __init__(self, alias: _Optional[str] = ..., function: _Optional[_Union[Aggregation.Function, str]] = ..., path: _Optional[str] = ...) -> None: ...

class AggregateResponse(_message.Message):
    __slots__ = ("rows", "next_page_token")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[AggregateRow]
    next_page_token: str
    def __init__(self, rows: _Optional[_Iterable[_Union[AggregateRow, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class AggregateRow(_message.Message):
    __slots__ = ("group", "values")
    class GroupEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: AggregateValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[AggregateValue, _Mapping]] = ...) -> None: ...
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: AggregateValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[AggregateValue, _Mapping]] = ...) -> None: ...
    GROUP_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    group: _containers.MessageMap[str, AggregateValue]
    values: _containers.MessageMap[str, AggregateValue]
    def __init__(self, group: _Optional[_Mapping[str, AggregateValue]] = ..., values: _Optional[_Mapping[str, AggregateValue]] = ...) -> None: ...

class AggregateValue(_message.Message):
    __slots__ = ("bool_value", "int64_value", "double_value", "string_value", "timestamp_value", "duration_value", "decimal_value")
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT64_VALUE_FIELD_NUMBER: _ClassVar[int]
    DOUBLE_VALUE_FIELD_NUMBER: _ClassVar[int]
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_VALUE_FIELD_NUMBER: _ClassVar[int]
    DURATION_VALUE_FIELD_NUMBER: _ClassVar[int]
    DECIMAL_VALUE_FIELD_NUMBER: _ClassVar[int]
    bool_value: bool
    int64_value: int
    double_value: float
    string_value: str
    timestamp_value: _timestamp_pb2.Timestamp
    duration_value: _duration_pb2.Duration
    decimal_value: str
    def __init__(self, bool_value: _Optional[bool] = ..., int64_value: _Optional[int] = ..., double_value: _Optional[float] = ..., string_value: _Optional[str] = ..., timestamp_value: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., duration_value: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., decimal_value: _Optional[str] = ...) -> None: ...
