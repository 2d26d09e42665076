"""What the methods of a schema let callers do, for what is asked in another way: nobody writes by a Commit what no method
is there for, nor what a method's own rule denies them, nor past a function of the app that stands in a method's place."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from google.protobuf.message import Message

from server.engine.access import refused
from server.engine.resources import Call, Resources
from server.errors import Refusal
from server.schema.model import Kind, Method, Resource, Schema

_ACTIONS = {
    Kind.GET: "get",
    Kind.CREATE: "create",
    Kind.UPDATE: "update",
    Kind.DELETE: "delete",
    Kind.UNDELETE: "delete",
}
"""What refusals call what the methods do."""

_FLAGS = ("force", "allow_missing")
"""What can be asked for only where the request has a field for it."""


class MethodRules:
    """The standard methods of a schema, by resource and kind."""

    def __init__(self, schema: Schema, replaced: Collection[str] = ()) -> None:
        """`replaced` are full names of methods in whose place the app has functions of its own."""
        self._schema = schema
        self._methods: dict[tuple[str, Kind], list[Method]] = {}
        for method in schema.methods():
            if method.kind in _ACTIONS and method.resource is not None and method.full_name not in replaced:
                self._methods.setdefault((method.resource.message, method.kind), []).append(method)

    async def check(
        self,
        resources: Resources,
        call: Call,
        kind: Kind,
        resource: Resource,
        message: Message | None = None,
        **said: Any,
    ) -> None:
        """Raises the refusal of who could not ask a method of that kind for the same: with the resource as `message`, and what
        else is `said` by name (`id` is what the method calls it). Keys and admins need no method."""
        if call.caller.trusted:
            return
        why: Refusal = refused(call.caller, resource, _ACTIONS[kind])
        for method in self._methods.get((resource.message, kind), ()):
            if any(said.get(flag) and flag not in method.fields for flag in _FLAGS):
                continue
            try:
                if resources.access.rule_of(method) is not None:
                    await resources.access.call(call, method, self._request(method, message, said))
                return
            except Refusal as refusal:
                why = refusal
        raise why

    def _request(self, method: Method, message: Message | None, said: dict[str, Any]) -> Any:
        request = self._schema.message_class(method.request)()
        if message is not None:
            getattr(request, method.resource_field).CopyFrom(message)
        for name, value in said.items():
            field = method.id_field if name == "id" else name
            if not value or field not in method.fields:
                continue
            if field == "update_mask":
                request.update_mask.paths.extend(value)
            else:
                setattr(request, field, value)
        return request
