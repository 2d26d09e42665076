"""Undelete, Purge and Rollback (AIP-164, AIP-165, AIP-162)."""

from __future__ import annotations

from typing import Any

from server.engine.purges import purge as purged
from server.engine.resources import Resources
from server.engine.rollbacks import roll_back
from server.engine.undeletion import undelete as undeleted
from server.errors import Invalid
from server.schema.model import Kind, Method
from server.services.standard.parsing import Behavior, calling, parser


def undelete(resources: Resources, method: Method) -> Behavior:
    """Undeletes a resource and answers it."""
    parsed = parser(resources, method, {"name", "etag", "validate_only"}, checked=True)
    resource = method.resource
    assert resource is not None
    has = method.fields.__contains__
    asking = resources.access.rule_of(method) is None

    async def behavior(data: bytes, _: Any) -> bytes:
        call = calling()
        request = parsed(data)
        if asking:
            await resources.methods.check_each(resources.access, call, Kind.DELETE, resource, name=request.name)
        return await undeleted(
            resources,
            call,
            resource,
            request.name,
            etag=request.etag if has("etag") else "",
            validate_only=has("validate_only") and request.validate_only,
        )

    return behavior


def purge(resources: Resources, method: Method) -> Behavior:
    """Purges what a filter finds and answers how many there were; without `force`, how many there would be."""
    parsed = parser(resources, method, {"parent", "filter", "force", "validate_only"}, checked=True)
    resource, answer = method.resource, resources.schema.message_class(method.answer)
    assert resource is not None
    has = method.fields.__contains__
    asking = resources.access.rule_of(method) is None
    with_sample = "purge_sample" in answer.DESCRIPTOR.fields_by_name

    async def behavior(data: bytes, _: Any) -> bytes:
        call = calling()
        request = parsed(data)
        force = request.force and not (has("validate_only") and request.validate_only)
        parent = request.parent if has("parent") else ""
        found = await purged(resources, call, resource, parent, request.filter, force=force, asking=asking)
        reply = answer(purge_count=found.count)
        if with_sample:
            reply.purge_sample.extend(found.sample)
        return bytes(reply.SerializeToString())

    return behavior


def rollback(resources: Resources, method: Method) -> Behavior:
    """Makes a resource again what it was in one of its revisions. Answers it or, where the method says so, its new revision."""
    parsed = parser(resources, method, {"name", "revision_id", "etag", "validate_only"}, checked=True)
    resource = method.resource
    assert resource is not None
    has = method.fields.__contains__
    kind = next(r for r in resources.schema.resources.values() if r.snapshot_of == resource.message)
    named_by_id = "revision_id" in method.fields
    asking = resources.access.rule_of(method) is None

    async def behavior(data: bytes, _: Any) -> bytes:
        call = calling()
        request = parsed(data)
        name, revision = request.name, request.revision_id if named_by_id else ""
        if not named_by_id:
            resources.decisions.check_name(kind, name)
            name, _, revision = name.rpartition("/revisions/")
        elif not revision:
            raise Invalid.field("revision_id", "is required", "REQUIRED")
        shown, made = await roll_back(
            resources,
            call,
            resource,
            name,
            revision,
            etag=request.etag if has("etag") else "",
            validate_only=has("validate_only") and request.validate_only,
            asking=asking,
        )
        return shown if method.answer == resource.message else made

    return behavior
