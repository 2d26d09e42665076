"""What the methods of a schema let callers do, for what is asked in another way: nobody writes by a Commit, or counts by an
Aggregate, what no method is there for, nor what a method's own rule denies them, nor past a function of the app that stands
in a method's place. What a method of the schema does for several at once, or the other way round, and has no rule of its own
for, is denied to whom the method is that does it for one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from server.engine.access import Access, Asked
from server.engine.behaviors import copy_field, is_empty
from server.engine.refusals import refused
from server.errors import Refusal
from server.schema.model import Kind, Method, Resource, Schema

_ACTIONS = {
    Kind.GET: "get",
    Kind.LIST: "list",
    Kind.CREATE: "create",
    Kind.UPDATE: "update",
    Kind.DELETE: "delete",
    Kind.UNDELETE: "delete",
    Kind.WATCH: "watch",
}
"""What refusals call what the methods do."""

_FLAGS = ("force", "allow_missing")
"""What can be asked for only where the request has a field for it."""


class MethodRules:
    """The standard methods of a schema, by resource and kind."""

    def __init__(self, schema: Schema, replaced: Collection[str] = ()) -> None:
        """`replaced` are full names of methods in whose place the app has functions of its own."""
        self._schema = schema
        self._replaced = frozenset(replaced)
        self._methods: dict[tuple[str, Kind], list[Method]] = {}
        for method in schema.methods():
            if method.kind in _ACTIONS and method.resource is not None:
                self._methods.setdefault((method.resource.message, method.kind), []).append(method)

    def has(self, kind: Kind, resource: Resource) -> bool:
        """Whether the schema has a method of that kind for the resource."""
        return (resource.message, kind) in self._methods

    async def check(
        self,
        access: Access,
        call: Asked,
        kind: Kind,
        resource: Resource,
        message: Message | None = None,
        **said: Any,
    ) -> None:
        """Raises the refusal of who could not ask a method of that kind for the same: with the resource as `message`, and what
        else is `said` by name (`id` is what the method calls it). Keys and admins need no method."""
        if not call.caller.trusted:
            flags = {flag for flag in _FLAGS if said.get(flag)}
            able = [method for method in self._methods.get((resource.message, kind), ()) if flags <= method.fields]
            await self._check(access, call, kind, resource, able, lambda method: self._request(method, message, said))

    async def check_each(
        self,
        access: Access,
        call: Asked,
        kind: Kind,
        resource: Resource,
        request: Message | None = None,
        *,
        message: Message | None = None,
        **said: Any,
    ) -> None:
        """As check, for a method of the schema that does the same to several, or in another way, and has no rule of its own:
        what there is no method of that kind for is its own to do. `request` is what such a method is asked, where it is known;
        else it is made of the rest."""
        methods = self._methods.get((resource.message, kind), ())
        if methods and not call.caller.trusted:

            def asked(method: Method) -> Any:
                return self._request(method, message, said) if request is None else self._same(method, request)

            await self._check(access, call, kind, resource, methods, asked)

    async def _check(
        self,
        access: Access,
        call: Asked,
        kind: Kind,
        resource: Resource,
        methods: Iterable[Method],
        asked: Callable[[Method], Any],
    ) -> None:
        why: Refusal = refused(call.caller, resource, _ACTIONS[kind])
        for method in methods:
            if method.full_name in self._replaced:
                continue
            try:
                if access.rule_of(method) is not None:
                    await access.call(call, method, asked(method))
                return
            except Refusal as refusal:
                why = refusal
        raise why

    def _same(self, method: Method, request: Message) -> Any:
        """A request of another method, as one of this."""
        there: Any = request.DESCRIPTOR
        if there.full_name == method.request:
            return request
        fresh = self._schema.message_class(method.request)()
        for field in fresh.DESCRIPTOR.fields:
            same = there.fields_by_name.get(field.name)
            if same is not None and _type(same) == _type(field) and not is_empty(request, same):
                copy_field(fresh, request, same)
        return fresh

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


def _type(field: FieldDescriptor) -> tuple[Any, ...]:
    return field.type, field.message_type, field.is_repeated
