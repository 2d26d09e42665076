"""Uploads: announced, sent straight to S3 whole or by a browser's form, checked, then readable.

Bytes arrive under `uploads/<id>`, where the signed URL leads. What was checked is copied, in S3 and by its version, to a key that
is this attempt's alone, where no URL allows writing; the file's row says which attempt counts, and only the first can. So what
was checked is what is read, while the URL is still good, and whatever another completion, or its copy, does when.
Large files come in parts (`parts.py`) and need no copy: once all is put together, no part can be sent any more.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from server.caller import Caller
from server.engine import content_types
from server.engine.files.known import (
    TYPE,
    File,
    content_type_fault,
    file_of,
    filename_fault,
    kept_key,
    missing,
    refuse,
    size_fault,
    uploaded_key,
)
from server.engine.files.opening import Opening, require
from server.engine.tokens import new_id
from server.errors import Precondition, Refusal, Violation
from server.store.file_rows import StoredFile
from server.store.file_uploads import NewFile
from server.store.objects import Object, ObjectChanged, ObjectMissing

UPLOAD_LIFE = timedelta(hours=1)
"""How long the URL of an upload is good."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that was announced, and where its bytes go until `expire_time`."""

    file: File
    url: str
    headers: dict[str, str]
    expire_time: datetime


@dataclass(frozen=True, slots=True)
class Accepted:
    """What arrived and was checked, and the attempt under which it lies (`known.kept_key`)."""

    size_bytes: int
    attempt: str = ""


@dataclass(frozen=True, slots=True)
class Form:
    """A file that was announced, and the form that is to be posted until `expire_time`."""

    file: File
    url: str
    fields: dict[str, str]
    expire_time: datetime


class Uploads(Opening):
    """How files come to be."""

    async def create_upload(
        self,
        caller: Caller,
        filename: str,
        content_type: str,
        size_bytes: int,
        sha256: bytes = b"",
        *,
        public: bool = False,
    ) -> Upload:
        """Announces a file of the caller's. Raises Invalid, Exhausted where too many uploads are unfinished or the quota is
        used up, and Denied (SCOPE_MISSING), as all below, where the caller is a key or an admin whose scopes do not hold it."""
        require(caller, "create")
        self._check(filename, content_type, size_bytes, sha256)
        new = NewFile(new_id(), caller.name, filename, content_type, size_bytes, sha256 or None, public)
        stored = await self._files.announce(new, UPLOAD_LIFE, self._quota_of(caller))
        signed = self._objects.signed_put(
            uploaded_key(stored.id), content_type, size_bytes, sha256 or None, UPLOAD_LIFE
        )
        return Upload(file_of(stored), signed.url, signed.headers, stored.create_time + UPLOAD_LIFE)

    async def create_upload_form(
        self, caller: Caller, filename: str, content_type: str, size_bytes_max: int = 0, *, public: bool = False
    ) -> Form:
        """Announces a file that a browser's form posts: of at most so many bytes, 0 for what this installation takes. Raises as
        create_upload; against the quota the bound counts until the upload is complete."""
        require(caller, "create")
        most = size_bytes_max or self._upload_bytes_max
        refuse(
            [
                filename_fault(filename),
                content_type_fault(content_type),
                size_fault(most, self._upload_bytes_max, "size_bytes_max"),
            ]
        )
        new = NewFile(new_id(), caller.name, filename, content_type, most, public=public, bounded=True)
        stored = await self._files.announce(new, UPLOAD_LIFE, self._quota_of(caller))
        signed = self._objects.signed_post(uploaded_key(stored.id), content_type, most, UPLOAD_LIFE)
        return Form(file_of(stored), signed.url, signed.fields, stored.create_time + UPLOAD_LIFE)

    async def complete_upload(self, caller: Caller, name: str) -> File:
        """Checks what arrived and makes the file readable. Doing it again, or twice at once, does no harm.

        Raises Precondition where nothing, or something else, arrived.
        """
        stored = await self._own(caller, name, "create")
        if stored.state != "PENDING":
            return file_of(stored)
        try:
            accepted = await self._accept(stored)
        except ObjectMissing:
            return await self._completed_by_another(stored.id, name)
        except ObjectChanged as changed:
            raise Precondition("Other bytes arrived at the same time; try again.", reason="UPLOAD_CHANGED") from changed
        kind = content_types.media_type(stored.content_type) or content_types.ANYTHING
        # Of parts S3 knows only each by itself: whoever announced what the whole is has it read once more.
        whole = stored.part_size_bytes is not None and stored.sha256 is not None
        size, attempt = accepted.size_bytes, accepted.attempt
        looked_at = whole or self._processed(kind)
        done = await self._files.complete(stored.id, size, caller.name, processed=looked_at, attempt=attempt)
        if done is None:
            return await self._completed_by_another(stored.id, name, attempt)
        with contextlib.suppress(Refusal):  # else the sweep does it
            await self._objects.delete(uploaded_key(stored.id))
        return file_of(done)

    async def _accept(self, stored: StoredFile) -> Accepted:
        """Checks what arrived against what was announced, and copies it to where it is read."""
        key, attempt = uploaded_key(stored.id), new_id()
        arrived = await self._objects.look(key)
        self._check_size(stored, arrived)
        if stored.sha256 is not None and arrived.sha256 != stored.sha256:
            seen = arrived.sha256.hex() if arrived.sha256 else "unknown"
            raise mismatch("CHECKSUM_MISMATCH", "SHA-256", stored.sha256.hex(), seen)
        await self._check_type(stored, key, arrived.version)
        await self._objects.copy(key, arrived.version, kept_key(stored.id, attempt), stored.content_type)
        return Accepted(arrived.size_bytes, attempt)

    def _check_size(self, stored: StoredFile, arrived: Object) -> None:
        size, announced = arrived.size_bytes, stored.size_bytes
        if size > announced if stored.bounded else size != announced:
            raise mismatch("SIZE_MISMATCH", "bytes", str(announced), str(size))

    async def _check_type(self, stored: StoredFile, key: str, version: str) -> None:
        """Raises Precondition where the first bytes are of another type than was declared."""
        first = await self._objects.beginning(key, version, content_types.SNIFFED)
        declared = content_types.media_type(stored.content_type) or content_types.ANYTHING
        seen = content_types.disagreement(declared, first)
        if seen is not None:
            raise mismatch("CONTENT_TYPE_MISMATCH", "content type", declared, seen)

    async def _completed_by_another(self, id: str, name: str, attempt: str = "") -> File:
        """The file, where another call completed it meanwhile: what this one accepted does not count."""
        stored = await self._files.one(id)
        if stored is None or (attempt and stored.attempt != attempt):  # parts have none: what is there is one for all
            with contextlib.suppress(Refusal):  # else the sweep does it
                await self._objects.delete(kept_key(id, attempt))
        if stored is None:
            raise missing(name)
        if stored.state == "PENDING":
            raise Precondition("No bytes have arrived.", reason="UPLOAD_MISSING", resource=(TYPE, name))
        return file_of(stored)

    def _check(self, filename: str, content_type: str, size_bytes: int, sha256: bytes = b"") -> None:
        """Raises Invalid for a file that cannot be announced."""
        refuse(
            [
                filename_fault(filename),
                content_type_fault(content_type),
                size_fault(size_bytes, self._upload_bytes_max),
                sha256_fault(sha256),
            ]
        )


def sha256_fault(sha256: bytes) -> Violation | None:
    """What is wrong with a checksum that is announced, or none."""
    return Violation("sha256", "is not 32 bytes", "LENGTH_INVALID") if len(sha256) not in (0, 32) else None


def mismatch(reason: str, what: str, announced: str, arrived: str) -> Precondition:
    """The refusal of bytes that are not what was announced."""
    return Precondition(
        f"Announced was {what} {announced}, arrived is {arrived}.",
        reason=reason,
        metadata={"announced": announced, "arrived": arrived},
    )
