"""transom.data.v1's Watch: of resources of any type, whether or not the schema has a method that watches them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from transom.data.v1 import data_pb2 as pb

from server.engine import bounds
from server.engine.aggregates import typed
from server.engine.resources import Call
from server.engine.watch_views import Asked
from server.errors import Invalid
from server.schema.model import Kind
from server.services.watching import Form, Watches

SERVICE, METHOD = "transom.data.v1.DataService", "Watch"


class DataWatch:
    """The method, which answers bytes; the others of its service are in data.py."""

    def __init__(self, watches: Watches) -> None:
        self._watches = watches
        self._form = Form(pb.WatchResponse.DESCRIPTOR, "resource", packed=True)

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a server takes; to be added before the service."""
        handler = grpc.unary_stream_rpc_method_handler(self.watch)
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler})

    async def watch(self, data: bytes, context: Any) -> AsyncGenerator[bytes, None]:
        """Tells what there is, and what changes."""
        resources = self._watches.resources
        try:
            request = pb.WatchRequest.FromString(data)
        except DecodeError as fault:
            raise Invalid("The request cannot be decoded.", reason="MALFORMED_REQUEST") from fault
        bounds.check(request, len(data))
        resource = typed(resources.schema, request.type)
        # Nobody watches what nobody was meant to watch, or else to list or to get.
        own = Kind.GET if request.name else Kind.LIST
        kind = Kind.WATCH if resources.methods.has(Kind.WATCH, resource) else own
        said = {"parent": request.parent, "name": request.name, "filter": request.filter}

        async def entry(call: Call) -> None:
            await resources.methods.check(resources.access, call, kind, resource, **said)

        asked = Asked(resource, request.parent, request.name, request.filter, request.show_deleted)
        async with aclosing(
            self._watches.messages(context, asked, METHOD, request.resume_token, self._form, entry=entry)
        ) as messages:
            async for message in messages:
                yield message
