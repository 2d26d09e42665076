from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
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
    __slots__ = ("read", "write", "get", "list", "create", "update", "delete", "watch", "outlives_owner")
    READ_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    GET_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    CREATE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    WATCH_FIELD_NUMBER: _ClassVar[int]
    OUTLIVES_OWNER_FIELD_NUMBER: _ClassVar[int]
    read: str
    write: str
    get: str
    list: str
    create: str
    update: str
    delete: str
    watch: str
    outlives_owner: bool
    def __init__(self, read: _Optional[str] = ..., write: _Optional[str] = ..., get: _Optional[str] = ..., list: _Optional[str] = ..., create: _Optional[str] = ..., update: _Optional[str] = ..., delete: _Optional[str] = ..., watch: _Optional[str] = ..., outlives_owner: _Optional[bool] = ...) -> None: ...

class FieldRules(_message.Message):
    __slots__ = ("initial", "read", "write")
    INITIAL_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    initial: str
    read: str
    write: str
    def __init__(self, initial: _Optional[str] = ..., read: _Optional[str] = ..., write: _Optional[str] = ...) -> None: ...

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
