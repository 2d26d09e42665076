"""Uploaded files: fetched, looked at by the app's own checks, processed apart, and then READY or REJECTED."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import structlog
from prometheus_client import Histogram
from transom.events.v1.event_pb2 import Event

from consumers.handlers import Handler, Statement, Work
from consumers.processing import isolation
from consumers.processing.contents import CONTENT, Job, Metadata, Result
from consumers.processing.folders import folder
from server.apps.uploads import Check, Rejected, Upload
from server.engine.content_types import ANYTHING, media_type
from server.engine.processing import Made, Processing, wanted
from server.schema.compilation import SchemaError
from server.settings import Settings
from server.store.file_metrics import CHANGES
from server.store.file_rows import FILE, StoredFile
from server.store.objects import ObjectMissing
from server.store.processing import READY, REJECTED, UPLOADED

NAME = "transom.file_processing"
ADDRESS = (NAME, f"{FILE}.{UPLOADED}")
"""The handler's name and routing key."""

SECONDS = 480.0
"""Seconds of one run; less than a deleted file's row waits for whoever still writes its bytes (store.file_remains.SETTLED)."""
RETRIES = 17
"""With the ladder's last rung of an hour, S3 may be away for half a day."""
AT_ONCE = 2
"""Files at one time in one worker: each may keep a core and a gibibyte of memory busy."""
BYTES_MAX = 512 << 20
"""Bytes of a file that is fetched. A larger one is READY as it is; it is refused where an app's check or everybody's eyes ask
for more than that."""

SECONDS_OF = Histogram(
    "transom_file_processing_seconds",
    "Time of one run over an uploaded file, by its kind (image, audio, video, text, application) and what came of it: ready,"
    " rejected, or failed, which is tried again.",
    ["kind", "outcome"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 480),
)

log = structlog.get_logger("files")

Process = Callable[[Path, Job], Awaitable[Result]]


class FileProcessing:
    """Processes files as their events come."""

    def __init__(
        self,
        processing: Processing,
        checks: Sequence[Check],
        settings: Settings,
        process: Process = isolation.processed,
    ) -> None:
        """Raises SchemaError where the app has checks and not every file would be shown to them."""
        if checks and settings.files_processed != "all":
            raise SchemaError(
                f"tasks.py: {checks[0].name} looks at every uploaded file: set TRANSOM_FILES_PROCESSED=all for all processes"
            )
        self._processing = processing
        self._checks = checks
        self._wanted = wanted(settings.files_processed)
        self._process = process

    @property
    def handler(self) -> Handler:
        """As the runner wants it."""
        return Handler(NAME, FILE, UPLOADED, self._run, RETRIES, SECONDS, at_once=AT_ONCE)

    async def _run(self, event: Event, work: Work) -> Sequence[Statement]:
        stored = await self._processing.waiting(event.name)
        if stored is None:
            return ()  # deleted, or done by another run
        start, outcome = time.monotonic(), "failed"
        try:
            statements, outcome = await self._processed(event, stored)
        finally:
            SECONDS_OF.labels(_kind(stored), outcome).observe(time.monotonic() - start)
        if statements:
            CHANGES.labels(outcome).inc()
        return statements

    async def _processed(self, event: Event, stored: StoredFile) -> tuple[Sequence[Statement], str]:
        """What is to be committed, and the verb of it."""
        if stored.rejection is not None:
            why = stored.rejection
            return await self._processing.refused(stored, why["reason"], why["message"]), REJECTED
        try:
            if stored.size_bytes > BYTES_MAX or not self._wanted(media_type(stored.content_type) or ANYTHING):
                return await self._unseen(stored), READY
            with folder() as path:
                return await self._looked_at(stored, Path(path)), READY
        except Rejected as rejected:
            log.info("a file was rejected", file=event.name, reason=rejected.reason)
            return await self._processing.refused(stored, rejected.reason, rejected.message), REJECTED
        except ObjectMissing:
            if await self._processing.waiting(event.name) is None:
                return (), REJECTED  # deleted meanwhile
            told = "The file's bytes are gone."
            return await self._processing.refused(stored, "BYTES_MISSING", told), REJECTED

    async def _looked_at(self, stored: StoredFile, folder: Path) -> Sequence[Statement]:
        content = folder / CONTENT
        hashed, size = await self._fetched(stored, content)
        _check_sum(stored, hashed)
        kind = media_type(stored.content_type) or ANYTHING
        upload = Upload(f"files/{stored.id}", stored.owner, stored.filename, kind, size, hashed, stored.public, content)
        for check in self._checks:
            await _called(check, upload)
        result = await self._process(folder, Job(kind, stored.public))
        if result.reason:
            raise Rejected(result.reason, result.message)
        if result.rewritten:
            hashed, size = await asyncio.to_thread(_hashed, content)
        return await self._processing.accepted(
            stored,
            hashed,
            size,
            [Made(v.name, v.content_type, v.width, v.height, folder / v.name) for v in result.variants],
            _told(result.metadata),
            content if result.rewritten else None,
        )

    async def _fetched(self, stored: StoredFile, into: Path) -> tuple[bytes, int]:
        """SHA-256 and number of the file's bytes, which are in `into` then."""
        hashed = hashlib.sha256()
        with into.open("wb") as written:

            def piece(data: bytes) -> None:
                if written.tell() + len(data) > BYTES_MAX:
                    raise ValueError("more bytes than were counted")
                hashed.update(data)
                written.write(data)

            await self._processing.fetch(stored, piece)
            size = written.tell()
        return hashed.digest(), size

    async def _unseen(self, stored: StoredFile) -> Sequence[Statement]:
        """A file too large to be looked at, or of no type that is: only an announced checksum is. Raises Rejected."""
        kind = media_type(stored.content_type) or ANYTHING
        if self._wanted(kind) and (self._checks or stored.public):
            message = f"The file has more than {BYTES_MAX >> 20} MiB, which is too much to look at all of it."
            raise Rejected("TOO_LARGE_TO_PROCESS", message)
        if stored.sha256 is not None:
            _check_sum(stored, await self._summed(stored))
        return await self._processing.accepted(stored, stored.sha256, stored.size_bytes)

    async def _summed(self, stored: StoredFile) -> bytes:
        """SHA-256 of the file's bytes, which are kept nowhere."""
        hashed, until = hashlib.sha256(), time.monotonic() + SECONDS

        def piece(data: bytes) -> None:
            if time.monotonic() > until:
                raise TimeoutError  # nobody waits for it any more
            hashed.update(data)

        await self._processing.fetch(stored, piece)
        return hashed.digest()


def _check_sum(stored: StoredFile, hashed: bytes) -> None:
    """Raises Rejected where other bytes were announced."""
    if stored.sha256 is not None and stored.sha256 != hashed:
        told = f"Announced was SHA-256 {stored.sha256.hex()}, arrived is {hashed.hex()}."
        raise Rejected("CHECKSUM_MISMATCH", told)


def _kind(stored: StoredFile) -> str:
    """What the metrics call a file's type: few words, whatever clients declare."""
    kind = (media_type(stored.content_type) or ANYTHING).partition("/")[0]
    return kind if kind in ("image", "audio", "video", "text") else "application"


async def _called(check: Check, upload: Upload) -> None:
    if inspect.iscoroutinefunction(check.function):
        await check.function(upload)
    else:
        await asyncio.to_thread(check.function, upload)


def _hashed(content: Path) -> tuple[bytes, int]:
    with content.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest(), content.stat().st_size


def _told(metadata: Metadata) -> dict[str, object]:
    """What was found, without what does not apply."""
    return {name: value for name, value in asdict(metadata).items() if value}
