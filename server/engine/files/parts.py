"""Large files, uploaded in parts: several at once, resumed by those that are missing.

Each part is PUT to a signed URL that holds its size and, where the client gives one, its SHA-256: S3 refuses other bytes. Parts
are put together under `files/<id>` by CompleteUpload, and only by it; that nobody can read it before it was checked, the file's
row says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from server.caller import Caller
from server.engine import page_tokens
from server.engine.files.known import (
    HASHED_MAX,
    TYPE,
    File,
    content_type_fault,
    file_of,
    filename_fault,
    kept_key,
    missing,
    refuse,
    size_fault,
)
from server.engine.files.opening import require
from server.engine.files.uploads import UPLOAD_LIFE, Accepted, Uploads, mismatch, sha256_fault
from server.engine.tokens import new_id
from server.errors import Invalid, Precondition, Refusal, Violation
from server.store.file_remains import UNFINISHED
from server.store.file_rows import StoredFile
from server.store.file_uploads import NewFile
from server.store.objects import ObjectMissing, Part, SignedPut

PART_LEAST, PART_MOST = 5 << 20, 5 << 30
"""Bytes of a part, but for the last: S3's own limits."""
PART_USUAL = 16 << 20
"""Bytes of a part where nobody says: a part that fails is not much to send again."""
PARTS_MOST = 10_000
"""Parts of one file: S3's own limit."""
SIGNED_MOST = 100
"""Parts that one call signs."""
PAGE = 1000
"""Parts on one page of a list."""


@dataclass(frozen=True, slots=True)
class PartedUpload:
    """A file that was announced, and what its parts are to be."""

    file: File
    part_size_bytes: int
    part_count: int
    expire_time: datetime


class PartedUploads(Uploads):
    """Uploads in parts."""

    async def create_multipart_upload(
        self,
        caller: Caller,
        filename: str,
        content_type: str,
        size_bytes: int,
        part_size_bytes: int = 0,
        sha256: bytes = b"",
        *,
        public: bool = False,
    ) -> PartedUpload:
        """Announces a large file of the caller's, whose `sha256`, where it is given, is looked at when it is processed. Raises as
        create_upload."""
        require(caller, "create")
        wished = part_size_bytes == 0 or PART_LEAST <= part_size_bytes <= PART_MOST
        refuse(
            [
                filename_fault(filename),
                content_type_fault(content_type),
                size_fault(size_bytes, self._multipart_bytes_max),
                None if wished else Violation("part_size_bytes", "is not from 5 MiB to 5 GiB", "OUT_OF_RANGE"),
                sha256_fault(sha256) or _unhashed_fault(size_bytes if sha256 else 0),
            ]
        )
        size = part_size(size_bytes, part_size_bytes)
        hashed = sha256 or None
        new = NewFile(new_id(), caller.name, filename, content_type, size_bytes, hashed, public, part_size_bytes=size)
        stored = await self._files.announce(new, UNFINISHED, self._quota_of(caller))
        return PartedUpload(file_of(stored), size, count_of(stored), stored.create_time + UNFINISHED)

    async def sign_upload_parts(
        self, caller: Caller, name: str, parts: Sequence[tuple[int, bytes]]
    ) -> tuple[list[SignedPut], datetime]:
        """Where to PUT parts, each a number and a SHA-256 or nothing, and until when. Raises Precondition (NOT_MULTIPART,
        UPLOAD_COMPLETE)."""
        stored = await self._under_way(caller, name)
        count = count_of(stored)
        if not 1 <= len(parts) <= SIGNED_MOST:
            raise Invalid.field("parts", f"must be from 1 to {SIGNED_MOST}", "OUT_OF_RANGE")
        if len({number for number, _ in parts}) < len(parts):
            raise Invalid.field("parts", "has a number twice", "DUPLICATE")
        wrong = [
            Violation(f"parts[{i}].number", f"is not from 1 to {count}", "OUT_OF_RANGE")
            for i, (number, _) in enumerate(parts)
            if not 1 <= number <= count
        ]
        wrong += [
            Violation(f"parts[{i}].sha256", "is not 32 bytes", "LENGTH_INVALID")
            for i, (_, sha256) in enumerate(parts)
            if len(sha256) not in (0, 32)
        ]
        refuse(wrong)
        key, upload = kept_key(stored.id), stored.upload_key or await self._begun(stored, name)
        until = datetime.now(UTC) + UPLOAD_LIFE
        asked = [(number, length(stored, number), sha256 or None) for number, sha256 in parts]
        return await self._objects.signed_parts(key, upload, asked, UPLOAD_LIFE), until

    async def list_upload_parts(
        self, caller: Caller, name: str, page_size: int, page_token: str
    ) -> tuple[list[Part], str, int, int]:
        """A page of the parts that have arrived, the token of the next page, the bytes of a part and how many there are to be.
        Raises as sign_upload_parts."""
        stored = await self._under_way(caller, name)
        size, scope = page_tokens.size(page_size, PAGE, PAGE), f"parts of {name}"
        after = page_tokens.opened(page_token, scope)
        assert stored.part_size_bytes is not None  # it is under way
        if stored.upload_key is None:
            return [], "", stored.part_size_bytes, count_of(stored)
        try:
            found = await self._objects.parts(
                kept_key(stored.id), stored.upload_key, int(after[1]) if after else 0, size
            )
        except ObjectMissing:  # a CompleteUpload is putting them together
            found = []
        last = found[-1].number if found else 0
        more = len(found) == size and last < count_of(stored)
        following = page_tokens.sealed((stored.create_time, str(last)), scope) if more else ""
        return found, following, stored.part_size_bytes, count_of(stored)

    async def _accept(self, stored: StoredFile) -> Accepted:
        if stored.part_size_bytes is None:
            return await super()._accept(stored)
        return await self._assemble(stored)

    async def _assemble(self, stored: StoredFile) -> Accepted:
        """Puts the parts together and checks what came of it. Where that was begun before, goes on from there."""
        key, count = kept_key(stored.id), count_of(stored)
        if stored.upload_key is None:
            raise _parts_missing(stored, 0, count)
        with contextlib.suppress(ObjectMissing):  # put together already, by a call that did not end
            parts = await self._arrived(key, stored.upload_key)
            if [part.number for part in parts] != list(range(1, count + 1)):
                raise _parts_missing(stored, len(parts), count)
            for part in parts:
                if part.size_bytes != length(stored, part.number):
                    raise mismatch(
                        "SIZE_MISMATCH",
                        f"in part {part.number} bytes",
                        str(length(stored, part.number)),
                        str(part.size_bytes),
                    )
            await self._objects.finish_parts(key, stored.upload_key, parts)
        whole = await self._objects.look(key)
        self._check_size(stored, whole)
        await self._check_type(stored, key, whole.version)
        return Accepted(whole.size_bytes)

    async def _arrived(self, key: str, upload: str) -> list[Part]:
        parts: list[Part] = []
        while page := await self._objects.parts(key, upload, parts[-1].number if parts else 0, PAGE):
            parts += page
            if len(page) < PAGE:
                break
        return parts

    async def _begun(self, stored: StoredFile, name: str) -> str:
        """S3's id of the upload. Of several calls at once all answer the same one; what others began is given up."""
        key = kept_key(stored.id)
        begun = await self._objects.begin_parts(key, stored.content_type)
        noted = await self._files.in_parts(stored.id, begun)
        if noted is None or noted.upload_key != begun:
            with contextlib.suppress(Refusal):  # else the sweep does it
                await self._objects.abort_parts(key, begun)
        if noted is None or noted.upload_key is None:
            raise missing(name)
        return noted.upload_key

    async def _under_way(self, caller: Caller, name: str) -> StoredFile:
        stored = await self._own(caller, name, "create")
        if stored.part_size_bytes is None:
            raise Precondition("The file is not uploaded in parts.", reason="NOT_MULTIPART", resource=(TYPE, name))
        if stored.state != "PENDING":
            raise Precondition("The upload is complete.", reason="UPLOAD_COMPLETE", resource=(TYPE, name))
        return stored


def part_size(size_bytes: int, wished: int) -> int:
    """Bytes of each part: as it is wished, where that is not too many parts."""
    least = -(-size_bytes // PARTS_MOST)
    size = wished or PART_USUAL
    return size if size >= least else -(-least // (1 << 20)) * (1 << 20)


def count_of(stored: StoredFile) -> int:
    """How many parts there are to be."""
    assert stored.part_size_bytes is not None  # it is uploaded in parts
    return -(-stored.size_bytes // stored.part_size_bytes)


def length(stored: StoredFile, number: int) -> int:
    """Bytes of one part: the last has the rest."""
    assert stored.part_size_bytes is not None  # it is uploaded in parts
    before = (number - 1) * stored.part_size_bytes
    return min(stored.part_size_bytes, stored.size_bytes - before)


def _unhashed_fault(size_bytes: int) -> Violation | None:
    if size_bytes <= HASHED_MAX:
        return None
    return Violation("sha256", f"cannot be looked at above {HASHED_MAX >> 30} GiB: give each part's", "TOO_LARGE")


def _parts_missing(stored: StoredFile, arrived: int, count: int) -> Precondition:
    return Precondition(
        f"{arrived} of {count} parts have arrived.",
        reason="PARTS_MISSING",
        metadata={"arrived": str(arrived), "expected": str(count)},
        resource=(TYPE, f"files/{stored.id}"),
    )
