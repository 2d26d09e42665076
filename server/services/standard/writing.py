"""Create, Update and Delete (AIP-133, AIP-134, AIP-135)."""

from __future__ import annotations

from typing import Any

from server.engine.bodies import Body
from server.engine.decisions import Asked
from server.engine.resources import Resources
from server.schema.model import Method
from server.services.current import current
from server.services.standard.parsing import Behavior, calling, parser

_EMPTY = b""


def create(resources: Resources, method: Method) -> Behavior:
    """Makes a resource and answers it."""
    resource, parsed = method.resource, parser(resources, method, {"parent", "validate_only"}, checked=False)
    assert resource is not None
    field, id_field = method.resource_field, method.id_field
    with_parent, with_validate = "parent" in method.fields, "validate_only" in method.fields

    async def behavior(data: bytes, _: Any) -> bytes:
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

    return behavior


def update(resources: Resources, method: Method) -> Behavior:
    """Changes a resource and answers it."""
    served = {"update_mask", "etag", "allow_missing", "validate_only"}
    resource, parsed = method.resource, parser(resources, method, served, checked=False)
    assert resource is not None
    field = method.resource_field
    has = method.fields.__contains__
    with_etag = "etag" in resource.managed
    body = Body(resources.schema, method)

    async def behavior(data: bytes, _: Any) -> bytes:
        call, now = calling(), current()
        request = parsed(data)
        message = getattr(request, field)
        return await resources.update(
            call,
            resource,
            message,
            body.mask(request, now.body, now.path),
            etag=(request.etag if has("etag") else "") or (message.etag if with_etag else ""),
            asked=Asked(request, field),
            allow_missing=has("allow_missing") and request.allow_missing,
            validate_only=has("validate_only") and request.validate_only,
        )

    return behavior


def delete(resources: Resources, method: Method) -> Behavior:
    """Deletes a resource."""
    served = {"name", "etag", "force", "allow_missing", "validate_only"}
    resource, parsed = method.resource, parser(resources, method, served, checked=True)
    assert resource is not None
    has = method.fields.__contains__

    async def behavior(data: bytes, _: Any) -> bytes:
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

    return behavior
