import datetime

from google.api import annotations_pb2 as _annotations_pb2
from google.api import client_pb2 as _client_pb2
from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.api import resource_pb2 as _resource_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from transom.events.v1 import change_pb2 as _change_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class File(_message.Message):
    __slots__ = ("name", "owner", "filename", "content_type", "size_bytes", "sha256", "state", "create_time", "complete_time", "visibility", "rejection", "variants", "metadata", "public_path", "process_time")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[File.State]
        PENDING: _ClassVar[File.State]
        READY: _ClassVar[File.State]
        UPLOADED: _ClassVar[File.State]
        REJECTED: _ClassVar[File.State]
    STATE_UNSPECIFIED: File.State
    PENDING: File.State
    READY: File.State
    UPLOADED: File.State
    REJECTED: File.State
    class Visibility(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VISIBILITY_UNSPECIFIED: _ClassVar[File.Visibility]
        PRIVATE: _ClassVar[File.Visibility]
        PUBLIC: _ClassVar[File.Visibility]
    VISIBILITY_UNSPECIFIED: File.Visibility
    PRIVATE: File.Visibility
    PUBLIC: File.Visibility
    class Rejection(_message.Message):
        __slots__ = ("reason", "message")
        REASON_FIELD_NUMBER: _ClassVar[int]
        MESSAGE_FIELD_NUMBER: _ClassVar[int]
        reason: str
        message: str
        def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
    class Variant(_message.Message):
        __slots__ = ("name", "content_type", "size_bytes", "width", "height", "sha256")
        NAME_FIELD_NUMBER: _ClassVar[int]
        CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
        SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
        WIDTH_FIELD_NUMBER: _ClassVar[int]
        HEIGHT_FIELD_NUMBER: _ClassVar[int]
        SHA256_FIELD_NUMBER: _ClassVar[int]
        name: str
        content_type: str
        size_bytes: int
        width: int
        height: int
        sha256: bytes
        def __init__(self, name: _Optional[str] = ..., content_type: _Optional[str] = ..., size_bytes: _Optional[int] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...
    class Metadata(_message.Message):
        __slots__ = ("width", "height", "duration", "pages", "detected_content_type", "codecs", "title", "sample_rate", "channels", "frame_rate", "frames")
        WIDTH_FIELD_NUMBER: _ClassVar[int]
        HEIGHT_FIELD_NUMBER: _ClassVar[int]
        DURATION_FIELD_NUMBER: _ClassVar[int]
        PAGES_FIELD_NUMBER: _ClassVar[int]
        DETECTED_CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
        CODECS_FIELD_NUMBER: _ClassVar[int]
        TITLE_FIELD_NUMBER: _ClassVar[int]
        SAMPLE_RATE_FIELD_NUMBER: _ClassVar[int]
        CHANNELS_FIELD_NUMBER: _ClassVar[int]
        FRAME_RATE_FIELD_NUMBER: _ClassVar[int]
        FRAMES_FIELD_NUMBER: _ClassVar[int]
        width: int
        height: int
        duration: _duration_pb2.Duration
        pages: int
        detected_content_type: str
        codecs: _containers.RepeatedScalarFieldContainer[str]
        title: str
        sample_rate: int
        channels: int
        frame_rate: float
        frames: int
        def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., pages: _Optional[int] = ..., detected_content_type: _Optional[str] = ..., codecs: _Optional[_Iterable[str]] = ..., title: _Optional[str] = ..., sample_rate: _Optional[int] = ..., channels: _Optional[int] = ..., frame_rate: _Optional[float] = ..., frames: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_TIME_FIELD_NUMBER: _ClassVar[int]
    VISIBILITY_FIELD_NUMBER: _ClassVar[int]
    REJECTION_FIELD_NUMBER: _ClassVar[int]
    VARIANTS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_PATH_FIELD_NUMBER: _ClassVar[int]
    PROCESS_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    owner: str
    filename: str
    content_type: str
    size_bytes: int
    sha256: bytes
    state: File.State
    create_time: _timestamp_pb2.Timestamp
    complete_time: _timestamp_pb2.Timestamp
    visibility: File.Visibility
    rejection: File.Rejection
    variants: _containers.RepeatedCompositeFieldContainer[File.Variant]
    metadata: File.Metadata
    public_path: str
    process_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., owner: _Optional[str] = ..., filename: _Optional[str] = ..., content_type: _Optional[str] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ..., state: _Optional[_Union[File.State, str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., complete_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., visibility: _Optional[_Union[File.Visibility, str]] = ..., rejection: _Optional[_Union[File.Rejection, _Mapping]] = ..., variants: _Optional[_Iterable[_Union[File.Variant, _Mapping]]] = ..., metadata: _Optional[_Union[File.Metadata, _Mapping]] = ..., public_path: _Optional[str] = ..., process_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CreateUploadRequest(_message.Message):
    __slots__ = ("filename", "content_type", "size_bytes", "sha256", "visibility")
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    VISIBILITY_FIELD_NUMBER: _ClassVar[int]
    filename: str
    content_type: str
    size_bytes: int
    sha256: bytes
    visibility: File.Visibility
    def __init__(self, filename: _Optional[str] = ..., content_type: _Optional[str] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ..., visibility: _Optional[_Union[File.Visibility, str]] = ...) -> None: ...

class CreateUploadResponse(_message.Message):
    __slots__ = ("file", "upload_url", "upload_headers", "expire_time")
    class UploadHeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    FILE_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_URL_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_HEADERS_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    file: File
    upload_url: str
    upload_headers: _containers.ScalarMap[str, str]
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, file: _Optional[_Union[File, _Mapping]] = ..., upload_url: _Optional[str] = ..., upload_headers: _Optional[_Mapping[str, str]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CreateUploadFormRequest(_message.Message):
    __slots__ = ("filename", "content_type", "size_bytes_max", "visibility")
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    VISIBILITY_FIELD_NUMBER: _ClassVar[int]
    filename: str
    content_type: str
    size_bytes_max: int
    visibility: File.Visibility
    def __init__(self, filename: _Optional[str] = ..., content_type: _Optional[str] = ..., size_bytes_max: _Optional[int] = ..., visibility: _Optional[_Union[File.Visibility, str]] = ...) -> None: ...

class CreateUploadFormResponse(_message.Message):
    __slots__ = ("file", "form_url", "form_fields", "expire_time")
    class FormFieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    FILE_FIELD_NUMBER: _ClassVar[int]
    FORM_URL_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELDS_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    file: File
    form_url: str
    form_fields: _containers.ScalarMap[str, str]
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, file: _Optional[_Union[File, _Mapping]] = ..., form_url: _Optional[str] = ..., form_fields: _Optional[_Mapping[str, str]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CreateMultipartUploadRequest(_message.Message):
    __slots__ = ("filename", "content_type", "size_bytes", "visibility", "part_size_bytes", "sha256")
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    VISIBILITY_FIELD_NUMBER: _ClassVar[int]
    PART_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    filename: str
    content_type: str
    size_bytes: int
    visibility: File.Visibility
    part_size_bytes: int
    sha256: bytes
    def __init__(self, filename: _Optional[str] = ..., content_type: _Optional[str] = ..., size_bytes: _Optional[int] = ..., visibility: _Optional[_Union[File.Visibility, str]] = ..., part_size_bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class CreateMultipartUploadResponse(_message.Message):
    __slots__ = ("file", "part_size_bytes", "part_count", "expire_time")
    FILE_FIELD_NUMBER: _ClassVar[int]
    PART_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PART_COUNT_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    file: File
    part_size_bytes: int
    part_count: int
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, file: _Optional[_Union[File, _Mapping]] = ..., part_size_bytes: _Optional[int] = ..., part_count: _Optional[int] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class SignUploadPartsRequest(_message.Message):
    __slots__ = ("name", "parts")
    class Part(_message.Message):
        __slots__ = ("number", "sha256")
        NUMBER_FIELD_NUMBER: _ClassVar[int]
        SHA256_FIELD_NUMBER: _ClassVar[int]
        number: int
        sha256: bytes
        def __init__(self, number: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    parts: _containers.RepeatedCompositeFieldContainer[SignUploadPartsRequest.Part]
    def __init__(self, name: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[SignUploadPartsRequest.Part, _Mapping]]] = ...) -> None: ...

class SignUploadPartsResponse(_message.Message):
    __slots__ = ("parts", "expire_time")
    class Part(_message.Message):
        __slots__ = ("number", "upload_url", "upload_headers")
        class UploadHeadersEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: str
            def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
        NUMBER_FIELD_NUMBER: _ClassVar[int]
        UPLOAD_URL_FIELD_NUMBER: _ClassVar[int]
        UPLOAD_HEADERS_FIELD_NUMBER: _ClassVar[int]
        number: int
        upload_url: str
        upload_headers: _containers.ScalarMap[str, str]
        def __init__(self, number: _Optional[int] = ..., upload_url: _Optional[str] = ..., upload_headers: _Optional[_Mapping[str, str]] = ...) -> None: ...
    PARTS_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[SignUploadPartsResponse.Part]
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, parts: _Optional[_Iterable[_Union[SignUploadPartsResponse.Part, _Mapping]]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListUploadPartsRequest(_message.Message):
    __slots__ = ("name", "page_size", "page_token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    page_size: int
    page_token: str
    def __init__(self, name: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListUploadPartsResponse(_message.Message):
    __slots__ = ("parts", "next_page_token", "part_size_bytes", "part_count")
    class Part(_message.Message):
        __slots__ = ("number", "size_bytes", "etag")
        NUMBER_FIELD_NUMBER: _ClassVar[int]
        SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
        ETAG_FIELD_NUMBER: _ClassVar[int]
        number: int
        size_bytes: int
        etag: str
        def __init__(self, number: _Optional[int] = ..., size_bytes: _Optional[int] = ..., etag: _Optional[str] = ...) -> None: ...
    PARTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PART_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PART_COUNT_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[ListUploadPartsResponse.Part]
    next_page_token: str
    part_size_bytes: int
    part_count: int
    def __init__(self, parts: _Optional[_Iterable[_Union[ListUploadPartsResponse.Part, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., part_size_bytes: _Optional[int] = ..., part_count: _Optional[int] = ...) -> None: ...

class CompleteUploadRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetFileRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListFilesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListFilesResponse(_message.Message):
    __slots__ = ("files", "next_page_token")
    FILES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[File]
    next_page_token: str
    def __init__(self, files: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteFileRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetDownloadUrlRequest(_message.Message):
    __slots__ = ("name", "variant", "disposition")
    class Disposition(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        DISPOSITION_UNSPECIFIED: _ClassVar[GetDownloadUrlRequest.Disposition]
        INLINE: _ClassVar[GetDownloadUrlRequest.Disposition]
        ATTACHMENT: _ClassVar[GetDownloadUrlRequest.Disposition]
    DISPOSITION_UNSPECIFIED: GetDownloadUrlRequest.Disposition
    INLINE: GetDownloadUrlRequest.Disposition
    ATTACHMENT: GetDownloadUrlRequest.Disposition
    NAME_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    DISPOSITION_FIELD_NUMBER: _ClassVar[int]
    name: str
    variant: str
    disposition: GetDownloadUrlRequest.Disposition
    def __init__(self, name: _Optional[str] = ..., variant: _Optional[str] = ..., disposition: _Optional[_Union[GetDownloadUrlRequest.Disposition, str]] = ...) -> None: ...

class GetPublicFileRequest(_message.Message):
    __slots__ = ("file", "variant", "filename", "head")
    FILE_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    file: str
    variant: str
    filename: str
    head: bool
    def __init__(self, file: _Optional[str] = ..., variant: _Optional[str] = ..., filename: _Optional[str] = ..., head: _Optional[bool] = ...) -> None: ...

class GetDownloadUrlResponse(_message.Message):
    __slots__ = ("url", "expire_time")
    URL_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    url: str
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, url: _Optional[str] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class WatchFileRequest(_message.Message):
    __slots__ = ("name", "resume_token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    resume_token: str
    def __init__(self, name: _Optional[str] = ..., resume_token: _Optional[str] = ...) -> None: ...

class WatchFileResponse(_message.Message):
    __slots__ = ("change", "name", "file", "resume_token", "synced", "error")
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SYNCED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    change: _change_pb2.Change
    name: str
    file: File
    resume_token: str
    synced: bool
    error: _status_pb2.Status
    def __init__(self, change: _Optional[_Union[_change_pb2.Change, str]] = ..., name: _Optional[str] = ..., file: _Optional[_Union[File, _Mapping]] = ..., resume_token: _Optional[str] = ..., synced: _Optional[bool] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...
