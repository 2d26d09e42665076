"""Constraints written in the schema (protovalidate)."""

from __future__ import annotations

from typing import Any

import protovalidate
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from server.errors import VIOLATIONS_MAX, Violation

EXTENSION = 1159
"""The number of buf.validate's options of fields, messages and oneofs alike (buf/validate/validate.proto)."""
ALL_BYTES = 64 << 10
"""Of a larger message only the first violation is told: one message may hold as many as it has bytes."""


class Validation:
    """The constraints of one schema. One per process: compiled constraints are kept."""

    def __init__(self) -> None:
        self._validator = protovalidate.Validator()
        self._constrained: dict[Any, bool] = {}

    def violations(self, message: Message) -> list[Violation]:
        """What the message violates, with paths from `message`; empty where nothing."""
        constrained = self._constrained.get(message.DESCRIPTOR)
        if constrained is None:
            constrained = self._constrained[message.DESCRIPTOR] = _constrained(message.DESCRIPTOR, set())
        if not constrained:  # most requests: asking the validator costs more than all else that is checked of them
            return []
        found = self._validator.collect_violations(message, fail_fast=message.ByteSize() > ALL_BYTES)
        return [
            Violation(_path(v.proto.field), v.proto.message, _reason(v.proto.rule_id)) for v in found[:VIOLATIONS_MAX]
        ]


def _constrained(descriptor: Any, seen: set[Any]) -> bool:
    """Whether anything in such a message, however deep, has a constraint."""
    if descriptor in seen:
        return False
    seen.add(descriptor)
    if any(map(_says, (descriptor, *descriptor.fields, *descriptor.oneofs))):
        return True
    return any(f.message_type is not None and _constrained(f.message_type, seen) for f in descriptor.fields)


def _says(declared: Any) -> bool:
    # The schema's own pool may know the options by its own classes, or not at all: in bytes all are alike.
    options = UnknownFieldSet(Empty.FromString(declared.GetOptions().SerializeToString()))
    return any(options[i].field_number == EXTENSION for i in range(len(options)))


def _path(path: Any) -> str:
    out = ""
    for element in path.elements if path else ():
        out += ("." if out else "") + element.field_name
        subscript = element.subscript
        if subscript is not None:
            out += f"[{subscript.value}]"
    return out


def _reason(rule: str) -> str:
    """UPPER_SNAKE_CASE, as AIP-193 wants reasons: `string.min_len` → `STRING_MIN_LEN`; at most 63 characters."""
    return "".join(c if c.isalnum() else "_" for c in rule.upper())[:63].strip("_") or "CONSTRAINT"
