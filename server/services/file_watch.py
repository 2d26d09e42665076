"""transom.files.v1's WatchFile: request → stream of the engine → messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from transom.files.v1 import files_pb2 as pb

from server.engine import bounds
from server.engine.file_watching import FileStream, FileStreams
from server.errors import Invalid
from server.services.files import file_message
from server.services.rest_streams import ended_in_band, last_event
from server.services.watching import Watches

SERVICE, METHOD = "transom.files.v1.FilesService", "WatchFile"


class FileWatch:
    """The method, which answers bytes; the others of its service are in files.py."""

    def __init__(self, watches: Watches, streams: FileStreams) -> None:
        self._watches = watches
        self._streams = streams

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a server takes; to be added before the service."""
        handler = grpc.unary_stream_rpc_method_handler(self.watch)
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler})

    async def watch(self, data: bytes, context: Any) -> AsyncGenerator[bytes, None]:
        """Tells what the file is, and what becomes of it."""
        try:
            request = pb.WatchFileRequest.FromString(data)
        except DecodeError as fault:
            raise Invalid("The request cannot be decoded.", reason="MALFORMED_REQUEST") from fault
        bounds.check(request, len(data))
        token = last_event(context) or request.resume_token
        stream = self._streams.open(request.name, self._watches.watcher(), token)
        async with aclosing(ended_in_band(_messages(request.name, stream), _refused)) as messages:
            async for message in messages:
                yield message


async def _messages(name: str, stream: FileStream) -> AsyncGenerator[bytes, None]:
    async with aclosing(stream.told()) as all_told:
        async for told in all_told:
            message = pb.WatchFileResponse(
                change=told.change,
                name=name if told.change else "",
                file=file_message(told.file) if told.file is not None else None,
                resume_token=stream.token,
                synced=told.synced,
            )
            yield message.SerializeToString()


def _refused(status: bytes) -> bytes:
    message: bytes = pb.WatchFileResponse(error=Status.FromString(status)).SerializeToString()
    return message
