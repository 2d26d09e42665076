"""transom.files.v1's small files through the server: pieces → engine → pieces."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from google.api.httpbody_pb2 import HttpBody
from transom.files.v1 import direct_pb2 as pb
from transom.files.v1 import direct_pb2_grpc, files_pb2

from server.engine.files import Files
from server.engine.files.direct import DIRECT_BYTES_MAX
from server.errors import Exhausted, Invalid, Unauthenticated
from server.services.current import caller, current
from server.services.files import file_message, public

AT_ONCE = 8
"""Files that go through one server at one time; each is in its memory."""
A_CALLER = 2
"""Of these, files of one caller."""
SECONDS = 60.0
"""How long a file may take to arrive."""
PIECE = 256 << 10
"""Bytes of a piece of a file that is sent."""


class DirectFilesService(direct_pb2_grpc.DirectFilesServiceServicer):
    """Upload and download in one call."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._under_way: Counter[str] = Counter()
        """Files by whose they are."""

    async def UploadFile(self, requests: AsyncIterator[pb.UploadFileRequest], context: Any) -> files_pb2.File:
        who = self._enter()
        try:
            first, data = await self._arrived(requests)
            file = await self._files.upload_direct(
                caller(),
                first.filename,
                first.content.content_type,
                data,
                first.sha256,
                public=public(first.visibility),
            )
        finally:
            self._leave(who)
        return file_message(file)

    async def DownloadFile(self, request: pb.DownloadFileRequest, context: Any) -> AsyncIterator[HttpBody]:
        who = self._enter()
        try:
            content = await self._files.download_direct(caller(), request.name, request.variant)
            kind = content.content_type
            if current().rest:
                # It comes from where the app's own pages may come from: nothing that could run is shown there.
                headers = {"content-disposition": content.disposition}
                if not kind.startswith("application/pdf"):  # which browsers would not show at all then
                    headers["content-security-policy"] = "sandbox"
                if content.caching:
                    headers["cache-control"] = content.caching
                if content.sha256:
                    headers["etag"] = f'"{content.sha256.hex()}"'
                await context.send_initial_metadata(tuple(headers.items()))
                kind = kind if content.disposition.startswith("inline") else "application/octet-stream"
            for at in range(0, len(content.data), PIECE):
                yield HttpBody(content_type=kind, data=content.data[at : at + PIECE])
        finally:
            self._leave(who)

    def _enter(self) -> str:
        """Whose place is taken. Raises Unauthenticated for nobody, before anything of theirs is kept, and Exhausted."""
        if not caller().known:
            raise Unauthenticated("Sign in first.")
        who = caller().name
        if self._under_way[who] >= A_CALLER:
            raise Exhausted(
                f"{A_CALLER} of your files go through this server at this moment; wait for one to end.",
                reason="TOO_MANY_TRANSFERS",
                retry_after=1.0,
            )
        if self._under_way.total() >= AT_ONCE:
            raise Exhausted(
                "Too many files go through this server at this moment.", reason="TOO_MANY_TRANSFERS", retry_after=1.0
            )
        self._under_way[who] += 1
        return who

    def _leave(self, who: str) -> None:
        self._under_way[who] -= 1
        if not self._under_way[who]:
            del self._under_way[who]

    async def _arrived(self, requests: AsyncIterator[pb.UploadFileRequest]) -> tuple[pb.UploadFileRequest, bytes]:
        """The first message, and all of the content."""
        first, data = None, bytearray()
        try:
            async with asyncio.timeout(SECONDS):
                async for request in requests:
                    first = request if first is None else first
                    data += request.content.data
                    if len(data) > DIRECT_BYTES_MAX:
                        raise Invalid.field("content", f"is above the limit of {DIRECT_BYTES_MAX} bytes", "TOO_LARGE")
        except TimeoutError as late:
            raise Exhausted(
                f"The content did not arrive within {SECONDS:g} seconds.", reason="UPLOAD_TOO_SLOW", retry_after=1.0
            ) from late
        if first is None:
            raise Invalid.field("content", "is required", "REQUIRED")
        return first, bytes(data)
