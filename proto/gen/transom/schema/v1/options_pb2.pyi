import datetime

from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OnDelete(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_DELETE_UNSPECIFIED: _ClassVar[OnDelete]
    RESTRICT: _ClassVar[OnDelete]
    CASCADE: _ClassVar[OnDelete]
    CLEAR: _ClassVar[OnDelete]
ON_DELETE_UNSPECIFIED: OnDelete
RESTRICT: OnDelete
CASCADE: OnDelete
CLEAR: OnDelete
TERMS_FIELD_NUMBER: _ClassVar[int]
terms: _descriptor.FieldDescriptor
RESOURCE_FIELD_NUMBER: _ClassVar[int]
resource: _descriptor.FieldDescriptor
FIELD_FIELD_NUMBER: _ClassVar[int]
field: _descriptor.FieldDescriptor
METHOD_FIELD_NUMBER: _ClassVar[int]
method: _descriptor.FieldDescriptor

class Term(_message.Message):
    __slots__ = ("name", "means")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEANS_FIELD_NUMBER: _ClassVar[int]
    name: str
    means: str
    def __init__(self, name: _Optional[str] = ..., means: _Optional[str] = ...) -> None: ...

class ResourceRules(_message.Message):
    __slots__ = ("read", "write", "get", "list", "create", "update", "delete", "watch", "outlives_owner", "index", "retention", "revisions", "hot", "expires")
    READ_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    GET_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    CREATE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    WATCH_FIELD_NUMBER: _ClassVar[int]
    OUTLIVES_OWNER_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    HOT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    read: str
    write: str
    get: str
    list: str
    create: str
    update: str
    delete: str
    watch: str
    outlives_owner: bool
    index: _containers.RepeatedCompositeFieldContainer[Index]
    retention: _duration_pb2.Duration
    revisions: int
    hot: bool
    expires: bool
    def __init__(self, read: _Optional[str] = ..., write: _Optional[str] = ..., get: _Optional[str] = ..., list: _Optional[str] = ..., create: _Optional[str] = ..., update: _Optional[str] = ..., delete: _Optional[str] = ..., watch: _Optional[str] = ..., outlives_owner: _Optional[bool] = ..., index: _Optional[_Iterable[_Union[Index, _Mapping]]] = ..., retention: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., revisions: _Optional[int] = ..., hot: _Optional[bool] = ..., expires: _Optional[bool] = ...) -> None: ...

class Index(_message.Message):
    __slots__ = ("fields", "unique", "everywhere")
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    UNIQUE_FIELD_NUMBER: _ClassVar[int]
    EVERYWHERE_FIELD_NUMBER: _ClassVar[int]
    fields: str
    unique: bool
    everywhere: bool
    def __init__(self, fields: _Optional[str] = ..., unique: _Optional[bool] = ..., everywhere: _Optional[bool] = ...) -> None: ...

class FieldRules(_message.Message):
    __slots__ = ("initial", "read", "write", "index", "unique", "search", "on_delete", "file")
    INITIAL_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    UNIQUE_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    ON_DELETE_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    initial: str
    read: str
    write: str
    index: bool
    unique: bool
    search: bool
    on_delete: OnDelete
    file: FileRules
    def __init__(self, initial: _Optional[str] = ..., read: _Optional[str] = ..., write: _Optional[str] = ..., index: _Optional[bool] = ..., unique: _Optional[bool] = ..., search: _Optional[bool] = ..., on_delete: _Optional[_Union[OnDelete, str]] = ..., file: _Optional[_Union[FileRules, _Mapping]] = ...) -> None: ...

class FileRules(_message.Message):
    __slots__ = ("content_types", "size_bytes_max")
    CONTENT_TYPES_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    content_types: _containers.RepeatedScalarFieldContainer[str]
    size_bytes_max: int
    def __init__(self, content_types: _Optional[_Iterable[str]] = ..., size_bytes_max: _Optional[int] = ...) -> None: ...

class MethodRules(_message.Message):
    __slots__ = ("allow", "role", "rule")
    class Audience(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        AUDIENCE_UNSPECIFIED: _ClassVar[MethodRules.Audience]
        PUBLIC: _ClassVar[MethodRules.Audience]
        SIGNED_IN: _ClassVar[MethodRules.Audience]
    AUDIENCE_UNSPECIFIED: MethodRules.Audience
    PUBLIC: MethodRules.Audience
    SIGNED_IN: MethodRules.Audience
    ALLOW_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    allow: MethodRules.Audience
    role: str
    rule: str
    def __init__(self, allow: _Optional[_Union[MethodRules.Audience, str]] = ..., role: _Optional[str] = ..., rule: _Optional[str] = ...) -> None: ...
