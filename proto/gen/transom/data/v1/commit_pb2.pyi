from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf import any_pb2 as _any_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CommitRequest(_message.Message):
    __slots__ = ("writes", "request_id", "validate_only")
    WRITES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    writes: _containers.RepeatedCompositeFieldContainer[Write]
    request_id: str
    validate_only: bool
    def __init__(self, writes: _Optional[_Iterable[_Union[Write, _Mapping]]] = ..., request_id: _Optional[str] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class CommitResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[WriteResult]
    def __init__(self, results: _Optional[_Iterable[_Union[WriteResult, _Mapping]]] = ...) -> None: ...

class Write(_message.Message):
    __slots__ = ("create", "update", "delete", "verify", "undelete")
    CREATE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    UNDELETE_FIELD_NUMBER: _ClassVar[int]
    create: CreateWrite
    update: UpdateWrite
    delete: DeleteWrite
    verify: Verification
    undelete: UndeleteWrite
    def __init__(self, create: _Optional[_Union[CreateWrite, _Mapping]] = ..., update: _Optional[_Union[UpdateWrite, _Mapping]] = ..., delete: _Optional[_Union[DeleteWrite, _Mapping]] = ..., verify: _Optional[_Union[Verification, _Mapping]] = ..., undelete: _Optional[_Union[UndeleteWrite, _Mapping]] = ...) -> None: ...

class CreateWrite(_message.Message):
    __slots__ = ("parent", "id", "resource")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    parent: str
    id: str
    resource: _any_pb2.Any
    def __init__(self, parent: _Optional[str] = ..., id: _Optional[str] = ..., resource: _Optional[_Union[_any_pb2.Any, _Mapping]] = ...) -> None: ...

class UpdateWrite(_message.Message):
    __slots__ = ("resource", "update_mask", "allow_missing", "etag", "transforms")
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    ALLOW_MISSING_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    TRANSFORMS_FIELD_NUMBER: _ClassVar[int]
    resource: _any_pb2.Any
    update_mask: _field_mask_pb2.FieldMask
    allow_missing: bool
    etag: str
    transforms: _containers.RepeatedCompositeFieldContainer[FieldTransform]
    def __init__(self, resource: _Optional[_Union[_any_pb2.Any, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., allow_missing: _Optional[bool] = ..., etag: _Optional[str] = ..., transforms: _Optional[_Iterable[_Union[FieldTransform, _Mapping]]] = ...) -> None: ...

class DeleteWrite(_message.Message):
    __slots__ = ("name", "etag", "force", "allow_missing")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    ALLOW_MISSING_FIELD_NUMBER: _ClassVar[int]
    name: str
    etag: str
    force: bool
    allow_missing: bool
    def __init__(self, name: _Optional[str] = ..., etag: _Optional[str] = ..., force: _Optional[bool] = ..., allow_missing: _Optional[bool] = ...) -> None: ...

class UndeleteWrite(_message.Message):
    __slots__ = ("name", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    etag: str
    def __init__(self, name: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class Verification(_message.Message):
    __slots__ = ("name", "exists", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXISTS_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    exists: bool
    etag: str
    def __init__(self, name: _Optional[str] = ..., exists: _Optional[bool] = ..., etag: _Optional[str] = ...) -> None: ...

class FieldTransform(_message.Message):
    __slots__ = ("field", "increment", "maximum", "minimum", "append_missing_elements", "remove_all_from_array", "set_to_server_value")
    class ServerValue(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SERVER_VALUE_UNSPECIFIED: _ClassVar[FieldTransform.ServerValue]
        COMMIT_TIME: _ClassVar[FieldTransform.ServerValue]
    SERVER_VALUE_UNSPECIFIED: FieldTransform.ServerValue
    COMMIT_TIME: FieldTransform.ServerValue
    FIELD_FIELD_NUMBER: _ClassVar[int]
    INCREMENT_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    APPEND_MISSING_ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    REMOVE_ALL_FROM_ARRAY_FIELD_NUMBER: _ClassVar[int]
    SET_TO_SERVER_VALUE_FIELD_NUMBER: _ClassVar[int]
    field: str
    increment: _struct_pb2.Value
    maximum: _struct_pb2.Value
    minimum: _struct_pb2.Value
    append_missing_elements: _struct_pb2.ListValue
    remove_all_from_array: _struct_pb2.ListValue
    set_to_server_value: FieldTransform.ServerValue
    def __init__(self, field: _Optional[str] = ..., increment: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., maximum: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., minimum: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., append_missing_elements: _Optional[_Union[_struct_pb2.ListValue, _Mapping]] = ..., remove_all_from_array: _Optional[_Union[_struct_pb2.ListValue, _Mapping]] = ..., set_to_server_value: _Optional[_Union[FieldTransform.ServerValue, str]] = ...) -> None: ...

class WriteResult(_message.Message):
    __slots__ = ("resource", "etag")
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    resource: _any_pb2.Any
    etag: str
    def __init__(self, resource: _Optional[_Union[_any_pb2.Any, _Mapping]] = ..., etag: _Optional[str] = ...) -> None: ...
