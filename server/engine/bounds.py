"""How much a request may hold beyond its size in bytes: a megabyte of empty messages is half a million of them, and each is
looked at several times."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.message import Message

from server.errors import Invalid
from server.schema.columns import is_map

LOOKED_AT_BYTES = 16 << 10
"""A smaller request cannot hold too many messages to be looked at one by one."""

MESSAGES_MAX = 5_000
"""Messages within one request, at any depth."""


def check(message: Message, size: int) -> None:
    """Raises Invalid for a request of `size` bytes that holds too many messages."""
    check_all([message], size)


def check_all(messages: Iterable[Message], size: int) -> None:
    """Raises Invalid where the messages of a request of `size` bytes hold too many messages, all together."""
    if size <= LOOKED_AT_BYTES:
        return
    left = MESSAGES_MAX
    for message in messages:
        left = _left(message, left)
        if left < 0:
            raise Invalid(f"The request holds more than {MESSAGES_MAX} messages.", reason="TOO_MANY_MESSAGES")


def _left(message: Any, budget: int) -> int:
    """The budget after the messages within `message`; below zero, and no longer counted, once it is used up."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if is_map(field):
            if field.message_type.fields_by_name["value"].message_type is None:
                continue
            children = value.values()
        else:
            children = value if field.is_repeated else (value,)
        for child in children:
            budget -= 1
            if budget < 0:
                return budget
            budget = _left(child, budget)
            if budget < 0:
                return budget
    return budget
