"""Get and List (AIP-131, AIP-132)."""

from __future__ import annotations

from typing import Any

from server.engine.resources import Resources
from server.query.pages import frame, varint
from server.schema.model import Method
from server.services.standard.parsing import Behavior, calling, parser


def get(resources: Resources, method: Method) -> Behavior:
    """Answers a resource by its name."""
    resource, parsed = method.resource, parser(resources, method, {"name"}, checked=True)
    assert resource is not None

    async def behavior(data: bytes, _: Any) -> bytes:
        call = calling()
        return await resources.get(call, resource, parsed(data).name)

    return behavior


def list_(resources: Resources, method: Method) -> Behavior:
    """Answers a page of a collection."""
    resource = method.resource
    parsed = parser(resources, method, {"parent", "page_size", "page_token"}, checked=True)
    assert resource is not None
    reply = resources.schema.message_class(method.response).DESCRIPTOR
    key = varint(reply.fields_by_name[method.items_field].number << 3 | 2)
    token_number = reply.fields_by_name["next_page_token"].number
    with_parent = "parent" in method.fields

    async def behavior(data: bytes, _: Any) -> bytes:
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

    return behavior
