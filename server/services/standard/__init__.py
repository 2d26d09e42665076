"""The standard methods: bytes → request → engine → bytes. One behaviour per method, made at start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError

from server.engine import bounds
from server.engine.resources import Resources
from server.errors import Invalid
from server.schema.model import Kind, Method
from server.services.standard.batches import batch_get, batch_write
from server.services.standard.lifecycle import purge, rollback, undelete
from server.services.standard.parsing import Behavior, calling
from server.services.standard.reading import get, list_, search
from server.services.standard.repeating import Repeating
from server.services.standard.writing import create, delete, update

__all__ = ["Behavior", "StandardMethods", "calling"]

MAKERS: Mapping[Kind, Callable[[Resources, Method], Behavior]] = {
    Kind.GET: get,
    Kind.LIST: list_,
    Kind.SEARCH: search,
    Kind.CREATE: create,
    Kind.UPDATE: update,
    Kind.DELETE: delete,
    Kind.BATCH_GET: batch_get,
    Kind.BATCH_CREATE: batch_write,
    Kind.BATCH_UPDATE: batch_write,
    Kind.BATCH_DELETE: batch_write,
    Kind.UNDELETE: undelete,
    Kind.PURGE: purge,
    Kind.ROLLBACK: rollback,
}
"""What makes the behaviour of each kind of method."""


def _make(method: Method, resources: Resources) -> Behavior:
    return MAKERS[method.kind](resources, method)


class StandardMethods:
    """The behaviours of the standard methods of a schema."""

    def __init__(self, resources: Resources, repeating: Repeating | None = None) -> None:
        """Without `repeating`, requests have no ids, and methods that answer operations are not served."""
        self._resources = resources
        self._repeating = repeating

    def serves(self, method: Method) -> bool:
        """Whether the engine serves it."""
        return method.kind in MAKERS and (method.operation is None or self._repeating is not None)

    def behavior(self, method: Method) -> Behavior:
        """What serves `method`, which is one that the engine serves."""
        make = partial(_make, method)
        behavior = self._repeating.behavior(method, make) if self._repeating else make(self._resources)
        access = self._resources.access
        if access.rule_of(method) is None:
            return behavior  # the resource's rules alone decide
        parse = self._resources.schema.message_class(method.request).FromString

        async def judged(data: bytes, context: Any) -> bytes:
            call = calling()
            try:
                request = parse(data)
            except DecodeError as fault:
                raise Invalid("The request cannot be decoded.", reason="MALFORMED_REQUEST") from fault
            bounds.check(request, len(data))
            if not call.caller.trusted:  # their scopes are asked by the engine: the resource and the action
                await access.call(call, method, request)
            return await behavior(data, context)

        return judged
