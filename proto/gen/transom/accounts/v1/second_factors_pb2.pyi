import datetime

from google.api import annotations_pb2 as _annotations_pb2
from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from transom.accounts.v1 import accounts_pb2 as _accounts_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SecondFactor(_message.Message):
    __slots__ = ("state", "confirm_time", "recovery_codes_left")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[SecondFactor.State]
        NONE: _ClassVar[SecondFactor.State]
        PENDING: _ClassVar[SecondFactor.State]
        ACTIVE: _ClassVar[SecondFactor.State]
    STATE_UNSPECIFIED: SecondFactor.State
    NONE: SecondFactor.State
    PENDING: SecondFactor.State
    ACTIVE: SecondFactor.State
    STATE_FIELD_NUMBER: _ClassVar[int]
    CONFIRM_TIME_FIELD_NUMBER: _ClassVar[int]
    RECOVERY_CODES_LEFT_FIELD_NUMBER: _ClassVar[int]
    state: SecondFactor.State
    confirm_time: _timestamp_pb2.Timestamp
    recovery_codes_left: int
    def __init__(self, state: _Optional[_Union[SecondFactor.State, str]] = ..., confirm_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., recovery_codes_left: _Optional[int] = ...) -> None: ...

class GetSecondFactorRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EnrollAuthenticatorRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EnrollAuthenticatorResponse(_message.Message):
    __slots__ = ("secret", "uri")
    SECRET_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    secret: str
    uri: str
    def __init__(self, secret: _Optional[str] = ..., uri: _Optional[str] = ...) -> None: ...

class ConfirmAuthenticatorRequest(_message.Message):
    __slots__ = ("code",)
    CODE_FIELD_NUMBER: _ClassVar[int]
    code: str
    def __init__(self, code: _Optional[str] = ...) -> None: ...

class ConfirmAuthenticatorResponse(_message.Message):
    __slots__ = ("recovery_codes", "token")
    RECOVERY_CODES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    recovery_codes: _containers.RepeatedScalarFieldContainer[str]
    token: str
    def __init__(self, recovery_codes: _Optional[_Iterable[str]] = ..., token: _Optional[str] = ...) -> None: ...

class RemoveAuthenticatorRequest(_message.Message):
    __slots__ = ("code", "recovery_code")
    CODE_FIELD_NUMBER: _ClassVar[int]
    RECOVERY_CODE_FIELD_NUMBER: _ClassVar[int]
    code: str
    recovery_code: str
    def __init__(self, code: _Optional[str] = ..., recovery_code: _Optional[str] = ...) -> None: ...

class RegenerateRecoveryCodesRequest(_message.Message):
    __slots__ = ("code", "recovery_code")
    CODE_FIELD_NUMBER: _ClassVar[int]
    RECOVERY_CODE_FIELD_NUMBER: _ClassVar[int]
    code: str
    recovery_code: str
    def __init__(self, code: _Optional[str] = ..., recovery_code: _Optional[str] = ...) -> None: ...

class RegenerateRecoveryCodesResponse(_message.Message):
    __slots__ = ("recovery_codes",)
    RECOVERY_CODES_FIELD_NUMBER: _ClassVar[int]
    recovery_codes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, recovery_codes: _Optional[_Iterable[str]] = ...) -> None: ...

class SignInWithSecondFactorRequest(_message.Message):
    __slots__ = ("challenge_token", "code", "recovery_code")
    CHALLENGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    RECOVERY_CODE_FIELD_NUMBER: _ClassVar[int]
    challenge_token: str
    code: str
    recovery_code: str
    def __init__(self, challenge_token: _Optional[str] = ..., code: _Optional[str] = ..., recovery_code: _Optional[str] = ...) -> None: ...
