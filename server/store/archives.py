"""ZIP files that are written piece by piece, in threads, to a temporary file that goes with the process."""

from __future__ import annotations

import tempfile
import time
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import IO, BinaryIO, cast

from server.errors import Precondition
from server.store.threads import Threads

WORKERS = 2
"""Archives written to at once."""

WAITING = 16
"""Calls that wait for their turn; above that one is refused."""

BYTES_MAX = 4 << 30
"""Bytes of one archive: what S3 takes in one piece, and a bound on the disk."""


class ArchiveFull(Precondition):
    """There is more to write than an archive may hold."""

    reason = "ARCHIVE_FULL"


class Archive:
    """One ZIP file. Entries come one after the other; not for use by several at once."""

    def __init__(self, file: BinaryIO, threads: Threads) -> None:
        self.file = file
        self._threads = threads
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED)
        self._entry: IO[bytes] | None = None

    @asynccontextmanager
    async def entry(self, name: str, *, packed: bool = True) -> AsyncIterator[None]:
        """An entry that `write` and `put` write to in this block; not `packed` where its bytes are packed already."""
        info = zipfile.ZipInfo(name, time.gmtime()[:6])
        info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
        info.external_attr = 0o644 << 16
        self._entry = entry = self._zip.open(info, "w", force_zip64=True)
        try:
            yield
        finally:
            self._entry = None
            await self._threads.run(entry.close)

    async def write(self, make: Callable[[], bytes]) -> None:
        """Writes what `make` returns, which is called in the thread, too. Raises ArchiveFull."""
        await self._threads.run(lambda: self.put(make()))

    def put(self, data: bytes) -> None:
        """Writes, from a thread. Raises ArchiveFull."""
        assert self._entry is not None, "there is no entry"
        if self.file.tell() + len(data) > BYTES_MAX:
            raise ArchiveFull("There is more than an archive may hold.")
        self._entry.write(data)

    async def finish(self) -> int:
        """The archive is whole; its size in bytes."""
        await self._threads.run(self._zip.close)
        return self.file.seek(0, 2)

    def drop(self) -> None:
        """Lets go of the file, whole or not."""
        # A thread may still write to an entry of an archive that was given up, or the disk be full.
        with suppress(ValueError, OSError):
            self._zip.close()


class Archives:
    """Makes archives. One per process."""

    def __init__(self) -> None:
        self._threads = Threads("archives", workers=WORKERS, waiting=WAITING, full="Too many archives at this moment.")

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Archive]:
        """An empty archive; its file is gone after the block."""
        with tempfile.TemporaryFile(prefix="transom-archive-") as file:
            archive = Archive(cast(BinaryIO, file), self._threads)
            try:
                yield archive
            finally:
                archive.drop()

    def close(self) -> None:
        """Ends the threads."""
        self._threads.close()
