"""The standard methods: bytes → request → engine → bytes. One behaviour per method, made at start."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import DecodeError

from server.engine import bounds
from server.engine.behaviors import is_empty
from server.engine.decisions import Asked
from server.engine.resources import Call, Resources
from server.errors import Invalid
from server.query.pages import frame, varint
from server.schema.model import Kind, Method
from server.services.current import current

Behavior = Callable[[bytes, Any], Awaitable[bytes]]

UNDERSTOOD = {
    Kind.GET: {"name"},
    Kind.LIST: {"parent", "page_size", "page_token"},
    Kind.CREATE: {"parent", "validate_only"},
    Kind.UPDATE: {"update_mask", "etag", "allow_missing", "validate_only"},
    Kind.DELETE: {"name", "etag", "force", "allow_missing", "validate_only"},
}
"""Fields of standard requests that are served, beside the resource and its id. Saying something in another one is refused,
never ignored: a filter that does not filter is worse than none."""

_EMPTY = b""


def calling() -> Call:
    """The current call, for the engine."""
    now = current()
    return Call(now.caller, now.request_id, now.traceparent)


class StandardMethods:
    """The behaviours of the standard methods of a schema."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._make: dict[Kind, Callable[[Method], Behavior]] = {
            Kind.GET: self._get,
            Kind.LIST: self._list,
            Kind.CREATE: self._create,
            Kind.UPDATE: self._update,
            Kind.DELETE: self._delete,
        }

    def behavior(self, method: Method) -> Behavior:
        """What serves `method`, which is a standard one."""
        behavior = self._make[method.kind](method)
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

    def _parser(self, method: Method, *, checked: bool) -> Callable[[bytes], Any]:
        """Bytes → the request. `checked`: what it requires and its constraints are looked at here, not by the engine."""
        message_class = self._resources.schema.message_class(method.request)
        parse = message_class.FromString
        check = self._resources.decisions.check_request
        served = UNDERSTOOD[method.kind] | {method.resource_field, method.id_field}
        refused = [f for f in message_class.DESCRIPTOR.fields if f.name not in served]

        def request(data: bytes) -> Any:
            try:
                message = parse(data)
            except DecodeError as fault:
                raise Invalid("The request cannot be decoded.", reason="MALFORMED_REQUEST") from fault
            bounds.check(message, len(data))
            for field in refused:
                if not is_empty(message, field):
                    raise Invalid.field(field.name, "is not served; leave it empty", "FIELD_NOT_SUPPORTED")
            if checked:
                check(message)
            return message

        return request

    def _get(self, method: Method) -> Behavior:
        resource, parsed, resources = method.resource, self._parser(method, checked=True), self._resources
        assert resource is not None

        async def get(data: bytes, _: Any) -> bytes:
            call = calling()
            return await resources.get(call, resource, parsed(data).name)

        return get

    def _list(self, method: Method) -> Behavior:
        resource, parsed, resources = method.resource, self._parser(method, checked=True), self._resources
        assert resource is not None
        reply = resources.schema.message_class(method.response).DESCRIPTOR
        key = varint(reply.fields_by_name[method.items_field].number << 3 | 2)
        token_number = reply.fields_by_name["next_page_token"].number
        with_parent = "parent" in method.fields

        async def list_(data: bytes, _: Any) -> bytes:
            call = calling()
            request = parsed(data)
            page = await resources.list(
                call,
                resource,
                request.parent if with_parent else "",
                request.page_size,
                request.page_token,
                method.path,
            )
            # The stored bytes are the reply's: nothing is parsed and nothing is built.
            out: list[bytes] = []
            for row in page.rows:
                out += (key, varint(len(row.payload)), row.payload)
            if page.next_page_token:
                out.append(frame(token_number, page.next_page_token.encode()))
            return b"".join(out)

        return list_

    def _create(self, method: Method) -> Behavior:
        resource, parsed, resources = method.resource, self._parser(method, checked=False), self._resources
        assert resource is not None
        field, id_field = method.resource_field, method.id_field
        with_parent, with_validate = "parent" in method.fields, "validate_only" in method.fields

        async def create(data: bytes, _: Any) -> bytes:
            call = calling()
            request = parsed(data)
            return await resources.create(
                call,
                resource,
                request.parent if with_parent else "",
                getattr(request, id_field) if id_field else "",
                getattr(request, field),
                asked=Asked(request, field),
                id_field=id_field or f"{field}.{resource.name_field}",
                validate_only=with_validate and request.validate_only,
            )

        return create

    def _update(self, method: Method) -> Behavior:
        resource, parsed, resources = method.resource, self._parser(method, checked=False), self._resources
        assert resource is not None
        field = method.resource_field
        has = method.fields.__contains__
        with_etag = "etag" in resource.managed

        async def update(data: bytes, _: Any) -> bytes:
            call = calling()
            request = parsed(data)
            message = getattr(request, field)
            masked = has("update_mask") and request.update_mask.paths
            return await resources.update(
                call,
                resource,
                message,
                list(request.update_mask.paths) if masked else None,
                etag=(request.etag if has("etag") else "") or (message.etag if with_etag else ""),
                asked=Asked(request, field),
                allow_missing=has("allow_missing") and request.allow_missing,
                validate_only=has("validate_only") and request.validate_only,
            )

        return update

    def _delete(self, method: Method) -> Behavior:
        resource, parsed, resources = method.resource, self._parser(method, checked=True), self._resources
        assert resource is not None
        has = method.fields.__contains__

        async def delete(data: bytes, _: Any) -> bytes:
            call = calling()
            request = parsed(data)
            await resources.delete(
                call,
                resource,
                request.name,
                etag=request.etag if has("etag") else "",
                force=has("force") and request.force,
                allow_missing=has("allow_missing") and request.allow_missing,
                validate_only=has("validate_only") and request.validate_only,
            )
            return _EMPTY

        return delete
