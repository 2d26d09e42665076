"""BatchGet, BatchCreate, BatchUpdate and BatchDelete (AIP-231, AIP-233, AIP-234, AIP-235): all of it or nothing.

Each request of a batch is what the single method's would be. What the batch says itself of a field that its requests have,
too, holds for all of them; one that says otherwise is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from google.protobuf.message import Message

from server.engine import batches, views
from server.engine.behaviors import copy_field, is_empty
from server.engine.bodies import Body, masked, within
from server.engine.resources import Call, Resources
from server.engine.units import WRITES_MAX, Unit, Units
from server.errors import Invalid
from server.query.pages import varint
from server.schema.model import Kind, Method, Resource
from server.schema.names import name_fault
from server.services.current import current
from server.services.standard.parsing import Behavior, calling, parser, refusing
from server.services.standard.writing import SERVED, Write, change, creation, deletion

_OF_ALL = frozenset({"parent", "validate_only"})
_BY_NAME = frozenset({"force", "allow_missing"})
"""What a BatchDelete of names may say of all of them."""


def batch_get(resources: Resources, method: Method) -> Behavior:
    """Answers resources by their names, in the order of these."""
    resource, field = method.resource, method.requests_field
    assert resource is not None
    shaping = views.shaping(resources.schema, method)
    shaped = views.served(resources.schema.message_class(method.request).DESCRIPTOR)
    parsed = parser(resources, method, {"parent", *shaped}, checked=True)
    answered = _answering(resources, method)
    with_parent = "parent" in method.fields
    asking = resources.access.rule_of(method) is None

    async def behavior(data: bytes, _: Any) -> bytes:
        call = calling()
        request = parsed(data)
        shape = shaping(request) if shaped else None
        names = list(getattr(request, field))
        parent = request.parent if with_parent else ""
        if asking:
            for name in names:
                await resources.methods.check_each(resources.access, call, Kind.GET, resource, name=name)
        found = await batches.get_all(resources, call, resource, parent, names, field)
        return answered([shape(payload) for payload in found] if shape else found)

    return behavior


def batch_write(resources: Resources, method: Method) -> Behavior:
    """Makes, changes or deletes several resources and answers them, in the order of the requests."""
    each = method.each
    served = _OF_ALL | (_BY_NAME if each is None else SERVED[each.kind] & each.fields)
    parsed = parser(resources, method, served, checked=False)
    write = batch(resources, method)

    async def behavior(data: bytes, _: Any) -> bytes:
        call = calling()
        return await write(resources, call, parsed(data))

    return behavior


def batch(resources: Resources, method: Method) -> Write:
    """What the requests of a BatchCreate, a BatchUpdate or a BatchDelete ask for."""
    resource, field = method.resource, method.requests_field
    assert resource is not None
    answered = _answering(resources, method)
    several = _names(resources, method) if method.each is None else _requests(resources, method, method.each)
    has = method.fields.__contains__

    async def write(resources: Resources, call: Call, request: Any) -> bytes:
        resources.decisions.check_batch(request, field)
        batches.check_count(field, len(getattr(request, field)), WRITES_MAX)
        rehearsal, names, writes = several(call, request)
        rehearsal = rehearsal or (has("validate_only") and request.validate_only)
        known = [(resource, name) for name in names if resource.pattern_of(name) and name_fault(name) is None]
        parts = [(f"{field}[{i}]", one) for i, one in enumerate(writes)]
        return answered(await Units(resources).each(known, parts, rehearsal=rehearsal))

    return write


_Several = tuple[bool, Sequence[str], Sequence[Callable[[Unit], Awaitable[bytes]]]]
"""Whether nothing is to be kept; the names of what there is, as far as the request tells them; and the writes."""


def _requests(resources: Resources, method: Method, each: Method) -> Callable[[Call, Any], _Several]:
    """Of a batch of requests."""
    resource, field = each.resource, method.requests_field
    assert resource is not None
    write = _asking(resources, method, each.kind, _WRITES[each.kind](each))
    descriptor = resources.schema.message_class(each.request).DESCRIPTOR
    refuse = refusing(descriptor, {*SERVED[each.kind], each.resource_field, each.id_field})
    shared = [
        f
        for f in resources.schema.message_class(method.request).DESCRIPTOR.fields
        if f.name not in (field, "parent")
        and (same := descriptor.fields_by_name.get(f.name)) is not None
        and (same.type, same.message_type, same.is_repeated) == (f.type, f.message_type, f.is_repeated)
    ]
    with_validate, with_parent = "validate_only" in each.fields, "parent" in method.fields
    updates = each.kind is Kind.UPDATE and "update_mask" in each.fields
    body = Body(resources.schema, method)

    def mask_each(requests: Sequence[Any], told: str) -> None:
        """What a request speaks of over REST is its mask, where it has none."""
        holder = descriptor.fields_by_name[each.resource_field]
        for i, (one, tree) in enumerate(zip(requests, body.parts(told, field, len(requests)), strict=True)):
            names = None if tree is None else within(tree, holder)
            given, message = list(one.update_mask.paths), getattr(one, holder.name)
            mask = masked(given, names, message, f"{field}[{i}].update_mask")
            if not given:
                one.update_mask.paths.extend(path for path in mask if path != resource.name_field)

    def several(call: Call, request: Any) -> _Several:
        names: list[str] = []
        writes: list[Callable[[Unit], Awaitable[bytes]]] = []
        rehearsals: set[bool] = set()
        for i, one in enumerate(getattr(request, field)):
            refuse(one, f"{field}[{i}].")
            for f in shared:
                if not is_empty(request, f):
                    if is_empty(one, f):
                        copy_field(one, request, f)
                    elif getattr(one, f.name) != getattr(request, f.name):
                        raise Invalid.field(f"{field}[{i}].{f.name}", "must be empty or as in the batch", "DIFFERS")
        if updates and (told := current().body) is not None:
            mask_each(getattr(request, field), told)
        for i, one in enumerate(getattr(request, field)):
            name = "" if each.kind is Kind.CREATE else _name(each, resource, one)
            if with_parent and request.parent:
                _check_parent(each, resource, one, name, request.parent, f"{field}[{i}]")
            if with_validate:
                rehearsals.add(one.validate_only)
                one.validate_only = False
            if name:
                names.append(name)
            writes.append(_once_more(write, call, one))
        if len(rehearsals) > 1:
            raise Invalid.field(f"{field}.validate_only", "must be the same in all", "DIFFERS")
        return True in rehearsals, names, writes

    return several


def _names(resources: Resources, method: Method) -> Callable[[Call, Any], _Several]:
    """Of a batch of names to delete."""
    resource, field = method.resource, method.requests_field
    assert resource is not None
    write = _asking(resources, method, Kind.DELETE, deletion(method, answered=bool(method.items_field)))
    with_parent = "parent" in method.fields

    def several(call: Call, request: Any) -> _Several:
        names = list(getattr(request, field))
        parent = request.parent if with_parent else ""
        for i, name in enumerate(names):
            if parent and not batches.lies_below(resource, name, parent):
                raise Invalid.field(f"{field}[{i}]", f"is not below {parent}", "OTHER_PARENT")
        return False, names, [_once_more(write, call, _Named(method, request, name)) for name in names]

    return several


class _Named:
    """The request that deletes one of the names of a batch."""

    def __init__(self, method: Method, batch: Any, name: str) -> None:
        self.name = name
        self.etag = ""
        self.validate_only = False
        self.force = "force" in method.fields and batch.force
        self.allow_missing = "allow_missing" in method.fields and batch.allow_missing


_WRITES: dict[Kind, Callable[[Method], Write]] = {
    Kind.CREATE: creation,
    Kind.UPDATE: lambda each: change(each, lambda request: _paths(each, request)),
    Kind.DELETE: deletion,
}


def _asking(resources: Resources, method: Method, kind: Kind, write: Write) -> Write:
    """The write of a batch; where that has no rule of its own, by that of the method which does it to one alone."""
    resource = method.resource
    assert resource is not None
    if resources.access.rule_of(method) is not None:
        return write

    async def asking(resources: Resources, call: Call, request: Any) -> bytes:
        if isinstance(request, Message):
            await resources.methods.check_each(resources.access, call, kind, resource, request)
        else:
            await resources.methods.check_each(resources.access, call, kind, resource, **vars(request))
        return await write(resources, call, request)

    return asking


def _paths(each: Method, request: Any) -> list[str] | None:
    return (list(request.update_mask.paths) or None) if "update_mask" in each.fields else None


def _name(each: Method, resource: Resource, request: Any) -> str:
    return str(
        getattr(getattr(request, each.resource_field), resource.name_field) if each.resource_field else request.name
    )


def _check_parent(each: Method, resource: Resource, one: Any, name: str, parent: str, where: str) -> None:
    """What the batch says of the parent holds for this request; one that makes something need not say it again."""
    if each.kind is not Kind.CREATE:
        if not batches.lies_below(resource, name, parent):
            raise Invalid.field(where, f"is not below {parent}", "OTHER_PARENT")
    elif "parent" in each.fields:
        if not one.parent and "-" not in parent.split("/"):
            one.parent = parent
        elif not batches.fits(one.parent, parent):
            raise Invalid.field(f"{where}.parent", f"must be empty or {parent}, as in the batch", "OTHER_PARENT")


def _once_more(write: Write, call: Call, request: Any) -> Callable[[Unit], Awaitable[bytes]]:
    """The write of a request that is asked as it came each time: what decides it may change it."""

    def one(unit: Unit) -> Awaitable[bytes]:
        if not isinstance(request, Message):
            return write(unit.resources, call, request)
        fresh = type(request)()
        fresh.CopyFrom(request)
        return write(unit.resources, call, fresh)

    return one


def _answering(resources: Resources, method: Method) -> Callable[[Sequence[bytes]], bytes]:
    """What makes resources the reply; nothing where the reply has no place for them."""
    if not method.items_field:
        return lambda _: b""
    reply = resources.schema.message_class(method.answer).DESCRIPTOR
    key = varint(reply.fields_by_name[method.items_field].number << 3 | 2)
    return lambda found: b"".join(part for payload in found for part in (key, varint(len(payload)), payload))
