"""Small files whose bytes go through the server, for clients that cannot reach S3."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass

from server.caller import Caller
from server.engine import content_types
from server.engine.files.downloads import IMMUTABLE, Downloads, disposition, variant_filename
from server.engine.files.known import TYPE, File, check_readable, file_of, kept_key, missing, variant_key, variant_of
from server.engine.files.opening import require
from server.engine.files.uploads import UPLOAD_LIFE, Uploads, mismatch
from server.engine.tokens import new_id
from server.errors import NotFound, Precondition, Refusal
from server.store.file_uploads import NewFile

DIRECT_BYTES_MAX = 16 << 20
"""Bytes of a file that goes through the server: it is in its memory as a whole."""


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a file, how they are called, and what a browser is told of them."""

    data: bytes
    content_type: str
    disposition: str
    caching: str = ""
    """Cache-Control; empty where other bytes may be read soon."""
    sha256: bytes = b""
    """Of the bytes, where it is known."""


class Direct(Uploads, Downloads):
    """Files in one step."""

    async def upload_direct(
        self,
        caller: Caller,
        filename: str,
        content_type: str,
        data: bytes,
        sha256: bytes = b"",
        *,
        public: bool = False,
    ) -> File:
        """Keeps a file of the caller's. Raises as create_upload, and Precondition where its bytes are not what is said."""
        require(caller, "create")
        self._check(filename, content_type, len(data), sha256)
        hashed = hashlib.sha256(data).digest()
        if sha256 and sha256 != hashed:
            raise mismatch("CHECKSUM_MISMATCH", "SHA-256", sha256.hex(), hashed.hex())
        kind = content_types.media_type(content_type) or content_types.ANYTHING
        seen = content_types.disagreement(kind, data[: content_types.SNIFFED])
        if seen is not None:
            raise mismatch("CONTENT_TYPE_MISMATCH", "content type", kind, seen)
        new = NewFile(new_id(), caller.name, filename, content_type, len(data), hashed, public)
        stored = await self._files.announce(new, UPLOAD_LIFE, self._quota_of(caller))
        try:
            await self._objects.write(kept_key(stored.id), data, content_type)
        except Refusal:
            with contextlib.suppress(Refusal):  # nobody knows its name; else the sweep does it
                await self._files.delete(stored.id, stored.owner)
            raise
        done = await self._files.complete(stored.id, len(data), caller.name, processed=self._processed(kind))
        if done is None:
            raise missing(f"files/{stored.id}")
        return file_of(done)

    async def download_direct(self, caller: Caller, name: str, variant: str = "") -> Content:
        """The bytes of a file, for whom `download_url` is, and refused as there; Precondition, too, above DIRECT_BYTES_MAX."""
        stored = await self._open(caller, name)
        check_readable(stored, name, own=stored.owner == caller.name)
        key, hashed = kept_key(stored.id, stored.attempt), stored.sha256 or b""
        content_type, filename, size = stored.content_type, stored.filename, stored.size_bytes
        if variant:
            found = next((v for v in map(variant_of, stored.variants) if v.name == variant), None)
            if found is None:
                raise NotFound(
                    "The file has no such variant.",
                    reason="VARIANT_MISSING",
                    metadata={"variant": variant[:63]},
                    resource=(TYPE, name),
                )
            key, content_type, size = variant_key(stored.id, variant), found.content_type, found.size_bytes
            hashed = found.sha256
            filename = variant_filename(filename, variant, content_type)
        if size > DIRECT_BYTES_MAX:
            raise Precondition(
                f"The file has {size} bytes, more than the {DIRECT_BYTES_MAX} that come this way: use GetDownloadUrl.",
                reason="FILE_TOO_LARGE",
                resource=(TYPE, name),
            )
        data = await self._objects.read(key, DIRECT_BYTES_MAX)
        told = disposition(filename, stored.id, content_type)
        # What everybody shall read loses something while it is processed.
        lasting = (IMMUTABLE, hashed) if stored.state == "READY" else ("", b"")
        return Content(data, content_type, told, *lasting)
