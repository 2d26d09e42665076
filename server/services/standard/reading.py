"""Get, List and Search (AIP-131, AIP-132, AIP-136)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from server.engine import views
from server.engine.lists import Listing, Wanted
from server.engine.resources import Resources
from server.query.pages import frame, varint
from server.schema.model import Kind, Method
from server.services.standard.parsing import Behavior, calling, parser

_ASKED = {
    "filter": ("filter", FieldDescriptor.TYPE_STRING),
    "order_by": ("order_by", FieldDescriptor.TYPE_STRING),
    "skip": ("skip", FieldDescriptor.TYPE_INT32),
    "show_deleted": ("deleted", FieldDescriptor.TYPE_BOOL),
    "query": ("words", FieldDescriptor.TYPE_STRING),
}
"""Fields of requests for lists, beside those of every page: what they are in Wanted, and their types."""

_PAGED = {"parent", "page_size", "page_token"}


def get(resources: Resources, method: Method) -> Behavior:
    """Answers a resource by its name."""
    resource = method.resource
    assert resource is not None
    shaping, shaped = views.shaping(resources.schema, method), views.served(_message(resources, method.request))
    parsed = parser(resources, method, {"name", *shaped}, checked=True)

    async def behavior(data: bytes, _: Any) -> bytes:
        call = calling()
        request = parsed(data)
        shape = shaping(request) if shaped else None
        payload = await resources.get(call, resource, request.name)
        return shape(payload) if shape else payload

    return behavior


def list_(resources: Resources, method: Method) -> Behavior:
    """Answers a page of a collection."""
    return _paged(resources, method, ("filter", "order_by", "skip", "show_deleted"), everywhere=False)


def search(resources: Resources, method: Method) -> Behavior:
    """Answers a page of what is found; without a parent, among all of the resource's type."""
    return _paged(resources, method, tuple(_ASKED), everywhere=True)


def _paged(resources: Resources, method: Method, asked: tuple[str, ...], *, everywhere: bool) -> Behavior:
    resource, request_type = method.resource, _message(resources, method.request)
    assert resource is not None
    reply = _message(resources, method.response)
    served = [(name, _ASKED[name][0]) for name in asked if _is(request_type, name, _ASKED[name][1])]
    shaping, shaped = views.shaping(resources.schema, method), views.served(request_type)
    parsed = parser(resources, method, {*_PAGED, *shaped, *(name for name, _ in served)}, checked=True)
    answered = _answering(reply, method.items_field)
    with_parent = "parent" in method.fields
    asking = method.kind is Kind.SEARCH and resources.access.rule_of(method) is None
    total = _total(reply) is not None

    async def behavior(data: bytes, _: Any) -> bytes:
        call = calling()
        request = parsed(data)
        shape = shaping(request) if shaped else None
        more = {key: value for name, key in served if (value := getattr(request, name))}
        wanted = Wanted(
            request.parent if with_parent else "",
            request.page_size,
            request.page_token,
            method.path,
            everywhere=everywhere,
            total=total,
            **more,
        )
        if asking:
            await resources.methods.check_each(resources.access, call, Kind.LIST, resource, parent=wanted.parent)
        page = await resources.lists.page(call, resource, wanted)
        return answered(page, shape)

    return behavior


def _answering(reply: Descriptor, items: str) -> Callable[[Listing, views.Shape | None], bytes]:
    """What makes a page the reply."""
    key = varint(reply.fields_by_name[items].number << 3 | 2)
    token_number = reply.fields_by_name["next_page_token"].number
    total_number = _total(reply)

    def answered(page: Listing, shape: views.Shape | None) -> bytes:
        # The stored bytes are the reply's: nothing is parsed and nothing is built.
        out: list[bytes] = []
        for row in page.rows:
            payload = shape(row.payload) if shape else row.payload
            out += (key, varint(len(payload)), payload)
        if page.next_page_token:
            out.append(frame(token_number, page.next_page_token.encode()))
        if page.total and total_number is not None:
            out.append(varint(total_number << 3) + varint(page.total))
        return b"".join(out)

    return answered


def _total(reply: Descriptor) -> int | None:
    """The number of the field that says how many there are on all pages (AIP-158), where the reply has it."""
    field = reply.fields_by_name.get("total_size")
    counts = (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64)
    return int(field.number) if field is not None and field.type in counts and not field.is_repeated else None


def _is(message: Descriptor, name: str, kind: int) -> bool:
    field = message.fields_by_name.get(name)
    return field is not None and field.type == kind and not field.is_repeated


def _message(resources: Resources, name: str) -> Descriptor:
    descriptor: Descriptor = resources.schema.message_class(name).DESCRIPTOR
    return descriptor
