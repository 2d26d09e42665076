from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class Change(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHANGE_UNSPECIFIED: _ClassVar[Change]
    CURRENT: _ClassVar[Change]
    CREATED: _ClassVar[Change]
    UPDATED: _ClassVar[Change]
    DELETED: _ClassVar[Change]
    REMOVED: _ClassVar[Change]
    RESET: _ClassVar[Change]
CHANGE_UNSPECIFIED: Change
CURRENT: Change
CREATED: Change
UPDATED: Change
DELETED: Change
REMOVED: Change
RESET: Change
