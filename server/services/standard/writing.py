"""Create, Update and Delete (AIP-133, AIP-134, AIP-135)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from server.engine.bodies import Body
from server.engine.decisions import Asked
from server.engine.resources import Call, Resources
from server.schema.model import Kind, Method
from server.services.current import current
from server.services.standard.parsing import Behavior, calling, parser

Write: TypeAlias = Callable[[Resources, Call, Any], Awaitable[bytes]]
"""Does what a request asks for, which is parsed, and gives the answer, serialized."""

SERVED = {
    Kind.CREATE: frozenset({"parent", "validate_only"}),
    Kind.UPDATE: frozenset({"update_mask", "etag", "allow_missing", "validate_only"}),
    Kind.DELETE: frozenset({"name", "etag", "force", "allow_missing", "validate_only"}),
}
"""The fields of requests that are served, beside the resource and its id."""


def create(resources: Resources, method: Method) -> Behavior:
    """Makes a resource and answers it."""
    parsed, write = parser(resources, method, SERVED[Kind.CREATE], checked=False), creation(method)

    async def behavior(data: bytes, _: Any) -> bytes:
        call = calling()
        return await write(resources, call, parsed(data))

    return behavior


def update(resources: Resources, method: Method) -> Behavior:
    """Changes a resource and answers it."""
    parsed = parser(resources, method, SERVED[Kind.UPDATE], checked=False)
    body = Body(resources.schema, method)

    def paths(request: Any) -> Sequence[str] | None:
        now = current()
        return body.mask(request, now.body, now.path)

    write = change(method, paths)

    async def behavior(data: bytes, _: Any) -> bytes:
        call = calling()
        return await write(resources, call, parsed(data))

    return behavior


def delete(resources: Resources, method: Method) -> Behavior:
    """Deletes a resource, and answers it where the method says so."""
    parsed, write = parser(resources, method, SERVED[Kind.DELETE], checked=True), deletion(method)

    async def behavior(data: bytes, _: Any) -> bytes:
        call = calling()
        return await write(resources, call, parsed(data))

    return behavior


def creation(method: Method) -> Write:
    """What the requests of a Create ask for."""
    resource, field, id_field = method.resource, method.resource_field, method.id_field
    assert resource is not None
    has = method.fields.__contains__

    def write(resources: Resources, call: Call, request: Any) -> Awaitable[bytes]:
        return resources.create(
            call,
            resource,
            request.parent if has("parent") else "",
            getattr(request, id_field) if id_field else "",
            getattr(request, field),
            asked=Asked(request, field),
            id_field=id_field or f"{field}.{resource.name_field}",
            validate_only=has("validate_only") and request.validate_only,
        )

    return write


def change(method: Method, paths: Callable[[Any], Sequence[str] | None]) -> Write:
    """What the requests of an Update ask for; `paths` tells which fields one of them speaks of, None for what is populated."""
    resource, field = method.resource, method.resource_field
    assert resource is not None
    has = method.fields.__contains__
    with_etag = "etag" in resource.managed

    def write(resources: Resources, call: Call, request: Any) -> Awaitable[bytes]:
        message = getattr(request, field)
        return resources.update(
            call,
            resource,
            message,
            paths(request),
            etag=(request.etag if has("etag") else "") or (message.etag if with_etag else ""),
            asked=Asked(request, field),
            allow_missing=has("allow_missing") and request.allow_missing,
            validate_only=has("validate_only") and request.validate_only,
        )

    return write


def deletion(method: Method, *, answered: bool = False) -> Write:
    """What the requests of a Delete ask for; `answered` where what is deleted is answered though the method does not say so."""
    resource = method.resource
    assert resource is not None
    has = method.fields.__contains__
    answered = answered or method.answer == resource.message

    def write(resources: Resources, call: Call, request: Any) -> Awaitable[bytes]:
        return resources.delete(
            call,
            resource,
            request.name,
            etag=request.etag if has("etag") else "",
            force=has("force") and request.force,
            allow_missing=has("allow_missing") and request.allow_missing,
            validate_only=has("validate_only") and request.validate_only,
            answered=answered,
        )

    return write
