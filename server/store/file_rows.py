"""A row of transom.files, and the events that tell of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from server.store.pooled import Pool

COLUMNS = """id, owner, filename, content_type, size_bytes, sha256, state, create_time, complete_time, private, public,
    bounded, upload_key, part_size_bytes, variants, metadata, rejection, process_time, attempt"""
"""Of a StoredFile."""

FILE = "transom.files.v1.File"
"""The type of events of files. Their verbs: uploaded, ready, rejected, deleted. They have no payload: the row is read."""

TELL_DELETED: LiteralString = f"""
insert into transom.events (resource_type, verb, name, payload, caller, owner)
select '{FILE}', 'deleted', 'files/' || id, '', {{caller}}, owner from gone
"""
"""Tells that `caller` deleted files: those that a `with gone` before it returns, with `id` and `owner`."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as it is kept. `state` is PENDING, UPLOADED, READY or REJECTED."""

    id: str
    owner: str
    filename: str
    content_type: str
    size_bytes: int
    sha256: bytes | None
    state: str
    create_time: datetime
    complete_time: datetime | None
    private: bool
    """Whether nobody but its owner may read it."""
    public: bool
    """Whether everybody may."""
    bounded: bool
    """Whether, before it is complete, `size_bytes` is only a bound."""
    upload_key: str | None
    """S3's id of its upload in parts."""
    part_size_bytes: int | None
    """Bytes of each part but the last; None where it is not uploaded in parts."""
    variants: list[dict[str, Any]]
    """Each with `name`, `content_type`, `size_bytes`, `width`, `height` and `sha256` (hex); see the proto."""
    metadata: dict[str, Any]
    """Fields of File.Metadata, `duration` in seconds."""
    rejection: dict[str, str] | None
    """`reason` and `message`; `told`, when the event was last told again, where it was."""
    process_time: datetime | None
    attempt: str
    """Which writing of its bytes counts; see `server.engine.files.known.kept_key`."""


class FileRows:
    """What all that is done with rows of files needs."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
