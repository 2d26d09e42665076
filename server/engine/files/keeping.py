"""Files that are made here: by tasks and methods, and as copies of accounts."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from typing import BinaryIO

from server.engine.files.known import (
    TYPE,
    File,
    check_readable,
    content_type_fault,
    file_of,
    filename_fault,
    kept_key,
    refuse,
    size_fault,
    variant_key,
)
from server.engine.files.opening import Opening
from server.engine.text import line
from server.engine.tokens import new_id
from server.errors import Precondition, Refusal, Violation

SOURCE = 200
"""Characters of the word by which a task calls its file."""

READ_MOST = 32 << 20
"""Bytes of a file that is read into memory."""


class Keeping(Opening):
    """What methods and tasks do with files."""

    async def store(self, id: str, filename: str, content_type: str, data: bytes, owner: str) -> File:
        """Keeps bytes that a task made, READY at once. `id` is the task's own word for the file, e.g. an event's id:
        the same word is the same file, however often the task runs, and what was kept first stays.

        It is the system's where `owner` is an account that is gone or about to go.
        The file's name is another and cannot be guessed, as with every file. Nobody else's sweep or second run gets
        in between: the row is locked meanwhile.
        """
        refuse(
            [
                filename_fault(filename),
                content_type_fault(content_type),
                size_fault(len(data), self._upload_bytes_max),
                _source(id),
            ]
        )
        async with self._files.claimed(new_id(), id, owner, filename, content_type) as (stored, claim):
            if stored.state == "READY":
                return file_of(stored)
            attempt, hashed = new_id(), hashlib.sha256(data).digest()
            await self._objects.write(kept_key(stored.id, attempt), data, content_type)
            return file_of(await claim.stored(stored.id, filename, content_type, len(data), hashed, attempt))

    async def read(self, name: str, most: int = READ_MOST, *, variant: str = "") -> bytes:
        """The bytes of a file, for a method or task: of its `variant` where it is READY and has that, else its own. Raises
        Precondition where they are more than `most`."""
        stored = await self._one(name)
        check_readable(stored, name, own=True)
        made = next((v for v in file_of(stored).variants if v.name == variant), None) if variant else None
        size = made.size_bytes if made else stored.size_bytes
        if size > most:
            raise Precondition(
                f"The file has {size} bytes, more than the {most} that may be read at once.",
                reason="FILE_TOO_LARGE",
                resource=(TYPE, name),
            )
        key = variant_key(stored.id, variant) if made else kept_key(stored.id, stored.attempt)
        return await self._objects.read(key, most)

    async def promise(self, user: str, filename: str, content_type: str) -> str | None:
        """The name of a private file of `users/{user}` whose bytes `keep` will bring; None where the account is gone or on
        its way out. What is not kept within a day is removed."""
        stored = await self._files.promise(new_id(), user, filename, content_type)
        return f"files/{stored.id}" if stored else None

    async def keep(self, name: str, data: BinaryIO, size_bytes: int) -> bool:
        """Keeps all that is in `data` as the promised file `name`, READY; False where that was deleted meanwhile."""
        id, attempt = name.removeprefix("files/"), new_id()
        key = kept_key(id, attempt)
        hashed = await self._objects.write_from(key, data, (await self._one(name)).content_type)
        if await self._files.kept(id, size_bytes, hashed, attempt) is not None:
            return True
        with contextlib.suppress(Refusal):  # kept by another, or the row went before the bytes came
            await self._objects.delete(key)
        return await self._files.one(id) is not None

    async def pour(self, name: str, into: Callable[[bytes], object]) -> None:
        """Gives all bytes of a file to `into`, piece by piece, in a thread. Raises NotFound, Precondition."""
        stored = await self._one(name)
        check_readable(stored, name, own=True)
        await self._objects.pour(kept_key(stored.id, stored.attempt), into)


def _source(id: str) -> Violation | None:
    return line("id", id, SOURCE) if id else Violation("id", "is required", "REQUIRED")
