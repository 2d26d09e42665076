"""Files: announced, uploaded straight to S3, checked, then readable.

Bytes arrive under `uploads/<id>`, where the signed URL leads. What was checked is copied, in S3 and by its version,
to `files/<id>`, where no URL allows writing: what was checked is what is read, also while the URL is still good.

A file's row is there before its bytes and goes after them, so bytes without a row do not come about, wherever the
process is killed; `sweep` finishes what was left unfinished.
"""

from __future__ import annotations

import contextlib
import hashlib
import mimetypes
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import BinaryIO
from urllib.parse import quote

from server.caller import ADMIN, Caller
from server.engine import content_types, page_tokens
from server.engine.text import line
from server.engine.tokens import new_id
from server.errors import Denied, Invalid, NotFound, Precondition, Refusal, Unauthenticated, Violation
from server.store.files import StoredFile, StoredFiles
from server.store.objects import ObjectChanged, ObjectMissing, Objects

UPLOAD_LIFE = timedelta(hours=1)
"""How long the URL of an upload is good."""

DOWNLOAD_LIFE = timedelta(minutes=15)
"""How long the URL of a download is good."""

FILENAME = 255
"""Characters of a file's name for people."""

SOURCE = 200
"""Characters of the word by which a task calls its file."""

READ_MOST = 32 << 20
"""Bytes of a file that is read into memory."""

SWEPT = 100
"""Files that one sweep looks after."""

_NAME = re.compile(r"files/([^/\x00]{1,64})")

FILE = "transom.files.v1.File"
EXPORT = "transom.accounts.v1.Export"
"""The messages that scopes name."""

# What a browser may show by itself; nothing that could run.
_SHOWN = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp", "image/avif", "application/pdf"})


@dataclass(frozen=True, slots=True)
class File:
    """What is known of a file; `name` is `files/{file}`. Its bytes can be read where it is `ready`."""

    name: str
    owner: str
    filename: str
    content_type: str
    size_bytes: int
    sha256: bytes | None
    ready: bool
    create_time: datetime
    complete_time: datetime | None


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that was announced, and where its bytes go until `expire_time`."""

    file: File
    url: str
    headers: dict[str, str]
    expire_time: datetime


class Files:
    """What callers, methods and tasks may do with files."""

    def __init__(
        self,
        files: StoredFiles,
        objects: Objects,
        *,
        upload_bytes_max: int = 100 << 20,
        page_size: int = 50,
        page_size_max: int = 1000,
    ) -> None:
        self._files = files
        self._objects = objects
        self._upload_bytes_max = upload_bytes_max
        self._page_size = page_size
        self._page_size_max = page_size_max

    async def create_upload(
        self, caller: Caller, filename: str, content_type: str, size_bytes: int, sha256: bytes = b""
    ) -> Upload:
        """Announces a file of the caller's. Raises Invalid, Exhausted where too many uploads are unfinished, and Denied
        (SCOPE_MISSING), as all below, where the caller is a key or an admin whose scopes do not hold it."""
        _require(caller, "create")
        wrong = [
            _filename(filename),
            _content_type(content_type),
            self._size(size_bytes),
            Violation("sha256", "is not 32 bytes", "LENGTH_INVALID") if len(sha256) not in (0, 32) else None,
        ]
        _refuse(wrong)
        stored = await self._files.announce(
            new_id(), caller.name, filename, content_type, size_bytes, sha256 or None, UPLOAD_LIFE
        )
        signed = self._objects.signed_put(_uploaded(stored.id), content_type, size_bytes, sha256 or None, UPLOAD_LIFE)
        return Upload(_file(stored), signed.url, signed.headers, stored.create_time + UPLOAD_LIFE)

    async def complete_upload(self, caller: Caller, name: str) -> File:
        """Checks what arrived and makes the file readable. Doing it again, or twice at once, does no harm.

        Raises Precondition where nothing, or something else, arrived.
        """
        stored = await self._own(caller, name, "create")
        if stored.state == "READY":
            return _file(stored)
        try:
            await self._accept(stored)
        except ObjectMissing:
            return await self._completed_by_another(stored.id, name)
        except ObjectChanged as changed:
            raise Precondition("Other bytes arrived at the same time; try again.", reason="UPLOAD_CHANGED") from changed
        ready = await self._files.complete(stored.id)
        if ready is None:
            return await self._completed_by_another(stored.id, name)
        with contextlib.suppress(Refusal):  # else the sweep does it
            await self._objects.delete(_uploaded(stored.id))
        return _file(ready)

    async def get(self, caller: Caller, name: str) -> File:
        """The file `name`, for whoever is known and knows its name: it cannot be guessed. A private one is for its owner
        and for admins who may get copies of accounts."""
        return _file(await self._open(caller, name))

    async def list(self, caller: Caller, page_size: int, page_token: str) -> tuple[Sequence[File], str]:
        """A page of the caller's own files, newest first, and the token of the next page; "" after the last."""
        _require(caller, "get")
        scope = f"files of {caller.name}"
        size = page_tokens.size(page_size, self._page_size, self._page_size_max)
        found = await self._files.page(caller.name, page_tokens.opened(page_token, scope), size + 1)
        shown = found[:size]
        following = page_tokens.sealed((shown[-1].create_time, shown[-1].id), scope) if len(found) > size else ""
        return [_file(stored) for stored in shown], following

    async def delete(self, caller: Caller, name: str) -> None:
        """Deletes a file. It is gone when this returns; its bytes are too, or will be when S3 is back."""
        stored = await self._own(caller, name, "delete")
        if not await self._files.delete(stored.id):
            raise _missing(name)
        with contextlib.suppress(Refusal):  # else the sweep does it
            await self._objects.delete(_kept(stored.id), _uploaded(stored.id))

    async def download_url(self, caller: Caller, name: str) -> tuple[str, datetime]:
        """A URL that anybody may read the bytes from, and until when; for whom `get` is. Raises Precondition before it is
        complete."""
        stored = await self._open(caller, name)
        _readable(stored, name)
        url = self._objects.signed_get(_kept(stored.id), stored.content_type, disposition(stored), DOWNLOAD_LIFE)
        return url, datetime.now(UTC) + DOWNLOAD_LIFE

    async def store(self, id: str, filename: str, content_type: str, data: bytes, owner: str) -> File:
        """Keeps bytes that a task made, READY at once. `id` is the task's own word for the file, e.g. an event's id:
        the same word is the same file, however often the task runs, and what was kept first stays.

        It is the system's where `owner` is an account that is gone or about to go.
        The file's name is another and cannot be guessed, as with every file. Nobody else's sweep or second run gets
        in between: the row is locked meanwhile.
        """
        _refuse([_filename(filename), _content_type(content_type), self._size(len(data)), _source(id)])
        async with self._files.claimed(new_id(), id, owner, filename, content_type) as (stored, claim):
            if stored.state == "READY":
                return _file(stored)
            await self._objects.write(_kept(stored.id), data, content_type)
            hashed = hashlib.sha256(data).digest()
            return _file(await claim.stored(stored.id, filename, content_type, len(data), hashed))

    async def read(self, name: str, most: int = READ_MOST) -> bytes:
        """The bytes of a file, for a method or task. Raises Precondition where they are more than `most`."""
        stored = await self._one(name)
        _readable(stored, name)
        if stored.size_bytes > most:
            raise Precondition(
                f"The file has {stored.size_bytes} bytes, more than the {most} that may be read at once.",
                reason="FILE_TOO_LARGE",
                resource=("transom.dev/File", name),
            )
        return await self._objects.read(_kept(stored.id), most)

    async def promise(self, user: str, filename: str, content_type: str) -> str | None:
        """The name of a private file of `users/{user}` whose bytes `keep` will bring; None where the account is gone or on
        its way out. What is not kept within a day is removed."""
        stored = await self._files.promise(new_id(), user, filename, content_type)
        return f"files/{stored.id}" if stored else None

    async def keep(self, name: str, data: BinaryIO, size_bytes: int) -> bool:
        """Keeps all that is in `data` as the promised file `name`, READY; False where that was deleted meanwhile."""
        id = name.removeprefix("files/")
        hashed = await self._objects.write_from(_kept(id), data, (await self._one(name)).content_type)
        if await self._files.kept(id, size_bytes, hashed) is not None:
            return True
        stored = await self._files.one(id)
        if stored is None:  # the row may have gone before the bytes came
            with contextlib.suppress(Refusal):
                await self._objects.delete(_kept(id))
        return stored is not None

    async def pour(self, name: str, into: Callable[[bytes], object]) -> None:
        """Gives all bytes of a file to `into`, piece by piece, in a thread. Raises NotFound, Precondition."""
        stored = await self._one(name)
        _readable(stored, name)
        await self._objects.pour(_kept(stored.id), into)

    async def discard(self, owner: str) -> int:
        """Deletes some files of `owner`, at most SWEPT; how many it were. Their bytes are gone, too, or will be when S3 is
        back."""
        ids = await self._files.discard(owner, SWEPT)
        with contextlib.suppress(Refusal):  # else the sweep does it
            await self._objects.delete(*(key for id in ids for key in (_kept(id), _uploaded(id))))
        return len(ids)

    async def sweep(self) -> int:
        """Removes some of what nobody finished and of what was deleted; how many files it were.

        To be called now and then, by anyone; several at once do no harm.
        Raises Unavailable where S3 is away: what is left then is found again.
        """
        abandoned = await self._files.abandon(SWEPT)
        remains = await self._files.remains(SWEPT)
        for remain in remains:
            keys = [_uploaded(remain.id)] if remain.state == "READY" else [_uploaded(remain.id), _kept(remain.id)]
            await self._objects.delete(*keys)
        if remains:
            await self._files.removed(remains)
        return abandoned + len(remains)

    async def _accept(self, stored: StoredFile) -> None:
        """Checks what arrived against what was announced, and copies it to where it is read."""
        key = _uploaded(stored.id)
        arrived = await self._objects.look(key)
        if arrived.size_bytes != stored.size_bytes:
            raise _mismatch("SIZE_MISMATCH", "bytes", str(stored.size_bytes), str(arrived.size_bytes))
        if stored.sha256 is not None and arrived.sha256 != stored.sha256:
            seen = arrived.sha256.hex() if arrived.sha256 else "unknown"
            raise _mismatch("CHECKSUM_MISMATCH", "SHA-256", stored.sha256.hex(), seen)
        first = await self._objects.beginning(key, arrived.version, content_types.SNIFFED)
        declared = content_types.media_type(stored.content_type) or content_types.ANYTHING
        seen_type = content_types.disagreement(declared, first)
        if seen_type is not None:
            raise _mismatch("CONTENT_TYPE_MISMATCH", "content type", declared, seen_type)
        await self._objects.copy(key, arrived.version, _kept(stored.id), stored.content_type)

    async def _completed_by_another(self, id: str, name: str) -> File:
        """The file, where another call completed it meanwhile."""
        stored = await self._files.one(id)
        if stored is None:  # deleted meanwhile: the copy must not stay
            with contextlib.suppress(Refusal):
                await self._objects.delete(_kept(id))
            raise _missing(name)
        if stored.state != "READY":
            raise Precondition("No bytes have arrived.", reason="UPLOAD_MISSING", resource=("transom.dev/File", name))
        return _file(stored)

    async def _one(self, name: str) -> StoredFile:
        match = _NAME.fullmatch(name)
        if match is None:
            raise Invalid.field("name", "is not files/{file}", "NAME_INVALID")
        stored = await self._files.one(match[1])
        if stored is None:
            raise _missing(name)
        return stored

    async def _open(self, caller: Caller, name: str) -> StoredFile:
        """The file, for who may read it. A private one is not for who acts as its owner, either."""
        stored = await self._found(caller, name, "get")
        own = stored.owner == caller.name and not caller.impersonator
        if stored.private and not own and not _copies(caller):
            raise _missing(name)
        return stored

    async def _own(self, caller: Caller, name: str, action: str) -> StoredFile:
        """The file, for its owner and for keys, admins and the system, whom every file is open to that is not private."""
        stored = await self._found(caller, name, action)
        theirs = _copies(caller) if stored.private else caller.trusted
        if stored.owner != caller.name and not theirs:
            raise _missing(name)
        return stored

    async def _found(self, caller: Caller, name: str, action: str) -> StoredFile:
        """The file, where the caller's scopes hold this. The copy of an account needs none: it is its owner's as a person,
        whatever they are as an admin, and who else may have it is said by the scopes of exports."""
        if not caller.account:
            _require(caller, action)
        stored = await self._one(name)
        if not stored.private:
            _require(caller, action)
        return stored

    def _size(self, size_bytes: int) -> Violation | None:
        if size_bytes <= 0:
            return Violation("size_bytes", "must be above 0", "EMPTY")
        if size_bytes > self._upload_bytes_max:
            return Violation("size_bytes", f"is above the limit of {self._upload_bytes_max}", "TOO_LARGE")
        return None


def disposition(stored: StoredFile) -> str:
    """The Content-Disposition of a download: RFC 6266, with the name in ASCII for old clients and in full."""
    kind = content_types.media_type(stored.content_type)
    name = stored.filename or stored.id + (mimetypes.guess_extension(kind or "") or "")
    plain = "".join(c if " " <= c <= "~" and c not in '"\\%' else "_" for c in name)
    how = "inline" if kind in _SHOWN else "attachment"
    return f"{how}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _uploaded(id: str) -> str:
    return f"uploads/{id}"


def _kept(id: str) -> str:
    return f"files/{id}"


def _file(stored: StoredFile) -> File:
    return File(
        f"files/{stored.id}",
        stored.owner,
        stored.filename,
        stored.content_type,
        stored.size_bytes,
        stored.sha256,
        stored.state == "READY",
        stored.create_time,
        stored.complete_time,
    )


def _require(caller: Caller, action: str) -> None:
    """Raises Unauthenticated for nobody, and Denied (SCOPE_MISSING)."""
    if not caller.known:
        raise Unauthenticated("Sign in first.")
    if caller.trusted and not caller.in_scope(FILE, action):
        raise Denied(
            "This is not in your scopes.",
            reason="SCOPE_MISSING",
            metadata={"resource": "transom.dev/File", "action": action},
        )


def _copies(caller: Caller) -> bool:
    """Whether the caller may read copies of accounts that are not its own: service keys never do."""
    return ADMIN in caller.roles and caller.in_scope(EXPORT, "get")


def _readable(stored: StoredFile, name: str) -> None:
    if stored.state != "READY":
        raise Precondition(
            "The upload is not complete.", reason="UPLOAD_INCOMPLETE", resource=("transom.dev/File", name)
        )


def _filename(filename: str) -> Violation | None:
    if any(c in "/\\" for c in filename) or filename in (".", ".."):
        return Violation("filename", "is a path", "PATH")
    return line("filename", filename, FILENAME)


def _content_type(content_type: str) -> Violation | None:
    if not content_type:
        return Violation("content_type", "is required", "REQUIRED")
    if content_types.media_type(content_type) is None:
        return Violation("content_type", "is not a media type", "MEDIA_TYPE_INVALID")
    return None


def _source(id: str) -> Violation | None:
    return line("id", id, SOURCE) if id else Violation("id", "is required", "REQUIRED")


def _refuse(violations: Sequence[Violation | None]) -> None:
    found = [violation for violation in violations if violation is not None]
    if found:
        raise Invalid.fields(found)


def _mismatch(reason: str, what: str, announced: str, arrived: str) -> Precondition:
    return Precondition(
        f"Announced was {what} {announced}, arrived is {arrived}.",
        reason=reason,
        metadata={"announced": announced, "arrived": arrived},
    )


def _missing(name: str) -> NotFound:
    return NotFound("There is no such file.", resource=("transom.dev/File", name))
