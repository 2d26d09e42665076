"""Around the behaviours of methods that write: request ids (AIP-155) and operations (AIP-151)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from server.engine.bodies import Body
from server.engine.operations import Operations
from server.engine.packed import canonical
from server.engine.requests import Requests
from server.engine.resources import Resources
from server.engine.retelling import Retelling, deleted
from server.errors import Invalid
from server.query.pages import varint
from server.schema.model import Kind, Method
from server.services.current import current
from server.services.standard.parsing import REQUEST_ID, Behavior, calling

Make = Callable[[Resources], Behavior]
"""Makes a behaviour over some resources."""


class Repeating:
    """What stands around those behaviours."""

    def __init__(self, resources: Resources, requests: Requests, operations: Operations) -> None:
        self._resources = resources
        self._requests = requests
        self._operations = operations
        self._retelling = Retelling(resources)

    def behavior(self, method: Method, make: Make) -> Behavior:
        """The behaviour that `make` makes; but what answers an operation answers one that is done by it, and a request with an
        id is carried out once, however often it comes.

        A purge does not wait for that: each of its bites is committed by itself. Whoever dies on the way has purged so much
        and kept no answer; the same request goes on from there.
        """
        if method.kind is Kind.PURGE:
            make = _alone(make(self._resources))
        if method.operation is not None:
            make = self._operating(method, make)
        if self._repeats(method):
            make = self._repeatable(method, make)
        return make(self._resources)

    def _repeats(self, method: Method) -> bool:
        field = self._resources.schema.message_class(method.request).DESCRIPTOR.fields_by_name.get(REQUEST_ID)
        return (
            not method.safe
            and field is not None
            and field.type == FieldDescriptor.TYPE_STRING
            and not field.is_repeated
        )

    def _repeatable(self, method: Method, make: Make) -> Make:
        schema, requests, retelling = self._resources.schema, self._requests, self._retelling
        kind, answer = schema.message_class(method.request), schema.message_class(method.response)
        tag = varint(kind.DESCRIPTOR.fields_by_name[REQUEST_ID].number << 3 | 2)
        validates = _validating(method)
        body = Body(schema, method)

        def made(over: Resources) -> Behavior:
            plain = make(over)

            async def behavior(data: bytes, context: Any) -> bytes:
                if tag not in data:  # nearly always there is none, and this is quick to see
                    return await plain(data, context)
                request = _parsed(kind, data)
                if not request.request_id or validates(request):
                    return await plain(data, context)
                call = calling()

                async def shown(reply: bytes) -> bytes:
                    message = answer.FromString(reply)
                    await retelling.shown(call, message, judged=method.kind.standard, gone=deleted(method, request))
                    return bytes(message.SerializeToString(deterministic=True))

                asked = [method.path.encode(), canonical(schema, request)]
                if method.kind in (Kind.UPDATE, Kind.BATCH_UPDATE) and (told := current().body) is not None:
                    asked.append(body.known(told))  # that something is null is said nowhere else
                return await requests.answer(
                    over, call, request.request_id, b"\n".join(asked), lambda joined: make(joined)(data, context), shown
                )

            return behavior

        return made

    def _operating(self, method: Method, make: Make) -> Make:
        kind, operations = self._resources.schema.message_class(method.request), self._operations
        validates = _validating(method)

        def made(over: Resources) -> Behavior:
            async def behavior(data: bytes, context: Any) -> bytes:
                request = _parsed(kind, data)
                return await operations.carried_out(
                    over,
                    calling(),
                    method,
                    request,
                    lambda joined: make(joined)(data, context),
                    validate_only=validates(request),
                )

            return behavior

        return made


def _alone(behavior: Behavior) -> Make:
    """Makes that behaviour, whose writes join nothing."""
    return lambda _: behavior


def _validating(method: Method) -> Callable[[Any], bool]:
    """Whether a request asks for nothing to be kept (AIP-163): it, or those that it is a batch of."""
    itself = "validate_only" in method.fields
    each = method.requests_field if method.each is not None and "validate_only" in method.each.fields else ""

    def validates(request: Any) -> bool:
        if itself and request.validate_only:
            return True
        return bool(each) and any(one.validate_only for one in getattr(request, each))

    return validates


def _parsed(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as fault:
        raise Invalid("The request cannot be decoded.", reason="MALFORMED_REQUEST") from fault
