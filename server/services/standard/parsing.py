"""Requests of standard methods: bytes → message, checked for what is served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError

from server.engine import bounds
from server.engine.behaviors import is_empty
from server.engine.resources import Call, Resources
from server.errors import Invalid
from server.schema.model import Method
from server.services.current import current

REQUEST_ID = "request_id"

Behavior = Callable[[bytes, Any], Awaitable[bytes]]


def calling() -> Call:
    """The current call, for the engine."""
    now = current()
    return Call(now.caller, now.request_id, now.traceparent)


def parser(resources: Resources, method: Method, served: Collection[str], *, checked: bool) -> Callable[[bytes], Any]:
    """Bytes → the request of `method`.

    `served` are the fields of such requests that are served, beside the resource and its id. Saying something in another one
    is refused, never ignored: a filter that does not filter is worse than none. `checked`: what the request requires and its
    constraints are looked at here, not by the engine.
    """
    message_class = resources.schema.message_class(method.request)
    parse = message_class.FromString
    check = resources.decisions.check_request
    known = {*served, method.resource_field, method.id_field, method.requests_field}
    if not method.safe:
        known.add(REQUEST_ID)  # server/services/standard/repeating.py
    refuse = refusing(message_class.DESCRIPTOR, known)

    def request(data: bytes) -> Any:
        try:
            message = parse(data)
        except DecodeError as fault:
            raise Invalid("The request cannot be decoded.", reason="MALFORMED_REQUEST") from fault
        bounds.check(message, len(data))
        refuse(message)
        if checked:
            check(message)
        return message

    return request


def refusing(descriptor: Descriptor, served: Collection[str]) -> Callable[..., None]:
    """Raises Invalid for a message that says something in a field that is not `served`; given also where it stands in the
    request, with a dot at the end."""
    refused = [f for f in descriptor.fields if f.name not in served]

    def refuse(message: Any, path: str = "") -> None:
        for field in refused:
            if not is_empty(message, field):
                raise Invalid.field(f"{path}{field.name}", "is not served; leave it empty", "FIELD_NOT_SUPPORTED")

    return refuse
