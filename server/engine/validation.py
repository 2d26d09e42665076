"""Constraints written in the schema (protovalidate)."""

from __future__ import annotations

from typing import Any

import protovalidate
from google.protobuf.message import Message

from server.errors import VIOLATIONS_MAX, Violation

ALL_BYTES = 64 << 10
"""Of a larger message only the first violation is told: one message may hold as many as it has bytes."""


class Validation:
    """The constraints of one schema. One per process: compiled constraints are kept."""

    def __init__(self) -> None:
        self._validator = protovalidate.Validator()

    def violations(self, message: Message) -> list[Violation]:
        """What the message violates, with paths from `message`; empty where nothing."""
        found = self._validator.collect_violations(message, fail_fast=message.ByteSize() > ALL_BYTES)
        return [
            Violation(_path(v.proto.field), v.proto.message, _reason(v.proto.rule_id)) for v in found[:VIOLATIONS_MAX]
        ]


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
