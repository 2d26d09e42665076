"""Files that were uploaded and are looked at before anybody but their owner may read them.

Who looks, and how, is the workers' (`consumers/file_processing.py`); here is what follows from it. Every step may be done
again, and by two at once: what is written is the same, and the state changes once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from server.engine.files.known import kept_key, kept_prefix, variant_key
from server.engine.tokens import new_id
from server.store.file_rows import StoredFile
from server.store.files import StoredFiles
from server.store.objects import Objects
from server.store.pooled import Statement
from server.store.processing import StoredProcessing, ready, rejected

PATIENCE = timedelta(hours=24)
"""How long a file waits to be processed, whatever fails meanwhile; then it is refused."""
SWEPT = 100
"""Files that are given up at once."""
REASON = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
MESSAGE = 500
"""Characters of what is said of a file that is refused."""

Which = Literal["none", "media", "all"]

_DOCUMENTS = frozenset({"application/pdf"})


@dataclass(frozen=True, slots=True)
class Made:
    """A variant that was made: a file in a folder."""

    name: str
    content_type: str
    width: int
    height: int
    path: Path


def wanted(which: Which) -> Callable[[str], bool]:
    """Whether files of a content type, without parameters, are processed: none, pictures and PDF and sound and film, or all."""
    return {"none": lambda _: False, "media": _is_media, "all": lambda _: True}[which]


def _is_media(content_type: str) -> bool:
    kind = content_type.partition("/")[0]
    return (kind in ("image", "audio", "video") and content_type != "image/svg+xml") or content_type in _DOCUMENTS


class Processing:
    """What follows from looking at a file."""

    def __init__(self, files: StoredFiles, stored: StoredProcessing, objects: Objects) -> None:
        self._files = files
        self._stored = stored
        self._objects = objects

    async def waiting(self, name: str) -> StoredFile | None:
        """The file, where it waits to be processed."""
        stored = await self._files.one(name.removeprefix("files/"))
        return stored if stored is not None and stored.state == "UPLOADED" else None

    async def fetch(self, stored: StoredFile, into: Callable[[bytes], object]) -> None:
        """Gives the file's bytes to `into`, piece by piece, in a thread. Raises ObjectMissing, Unavailable."""
        await self._objects.pour(kept_key(stored.id, stored.attempt), into)

    async def accepted(
        self,
        stored: StoredFile,
        sha256: bytes | None,
        size_bytes: int,
        variants: Sequence[Made] = (),
        metadata: Mapping[str, Any] | None = None,
        rewritten: Path | None = None,
    ) -> Sequence[Statement]:
        """Writes the variants, and the bytes where they were `rewritten`; what is to be committed to make the file READY. The
        sweep removes those that were sent, when nobody can need them for another run.

        Raises Unavailable.
        """
        rows = [
            {"name": v.name, "content_type": v.content_type, "width": v.width, "height": v.height, "size_bytes": 0}
            for v in variants
        ]
        attempt = stored.attempt if rewritten is None else new_id()
        if (rows or rewritten is not None) and not await self._stored.plan(stored.id, rows):
            return ()
        for row, variant in zip(rows, variants, strict=True):
            with variant.path.open("rb") as opened:
                hashed = await self._objects.write_from(
                    variant_key(stored.id, variant.name), opened, variant.content_type
                )
            row |= {"size_bytes": variant.path.stat().st_size, "sha256": hashed.hex()}
        if rewritten is not None:
            with rewritten.open("rb") as opened:
                await self._objects.write_from(kept_key(stored.id, attempt), opened, stored.content_type)
        return [ready(stored.id, size_bytes, sha256, rows, metadata or {}, attempt)]

    async def refused(self, stored: StoredFile, reason: str, message: str) -> Sequence[Statement]:
        """Removes the bytes; what is to be committed to make the file REJECTED. What was said first stays.

        Raises Unavailable.
        """
        if not REASON.fullmatch(reason):
            reason = "REJECTED"
        if not await self._stored.condemn(stored.id, reason, message[:MESSAGE]):
            return ()
        keys = [kept_key(stored.id), *(variant_key(stored.id, one["name"]) for one in stored.variants)]
        await self._objects.delete(*keys)
        await self._objects.clear(kept_prefix(stored.id))
        return [rejected(stored.id)]

    async def sweep(self) -> int:
        """Has files refused that waited for too long; how many it were. To be called now and then, by anyone."""
        return await self._stored.give_up(
            PATIENCE, "PROCESSING_FAILED", "The file could not be processed within a day; upload it again.", SWEPT
        )
