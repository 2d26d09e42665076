"""What is known of files, where their bytes lie, and the refusals that files have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

from server.engine import content_types
from server.engine.text import line
from server.errors import Invalid, NotFound, Precondition, Violation
from server.store.file_rows import StoredFile

FILENAME = 255
"""Characters of a file's name for people."""

HASHED_MAX = 16 << 30
"""Bytes of a file that is read only to know its SHA-256."""

TYPE = "transom.dev/File"
"""The resource type of files."""

NAME = re.compile(r"files/([^/\x00]{1,64})")


@dataclass(frozen=True, slots=True)
class Variant:
    """The same content in another form."""

    name: str
    content_type: str
    size_bytes: int
    width: int
    height: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class File:
    """What is known of a file; `name` is `files/{file}`, `state` one of PENDING, UPLOADED, READY, REJECTED."""

    name: str
    owner: str
    filename: str
    content_type: str
    size_bytes: int
    sha256: bytes | None
    state: str
    create_time: datetime
    complete_time: datetime | None
    public: bool = False
    rejection: tuple[str, str] | None = None
    """Reason and message."""
    variants: Sequence[Variant] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Fields of File.Metadata, `duration` in seconds."""
    process_time: datetime | None = None

    @property
    def ready(self) -> bool:
        """Whether whoever may read it can."""
        return self.state == "READY"

    @property
    def public_path(self) -> str:
        """Where everybody reads it at the edge; empty where it is not public."""
        if not self.public:
            return ""
        tail = quote(self.filename, safe="") if self.filename else "file"
        return f"/{self.name}/{tail}"


def file_of(stored: StoredFile) -> File:
    """The file of a row."""
    rejection = stored.rejection
    return File(
        f"files/{stored.id}",
        stored.owner,
        stored.filename,
        stored.content_type,
        stored.size_bytes,
        stored.sha256,
        stored.state,
        stored.create_time,
        stored.complete_time,
        stored.public,
        # What is planned while it is processed is in the row before it is so.
        (rejection["reason"], rejection["message"]) if rejection and stored.state == "REJECTED" else None,
        [variant_of(one) for one in stored.variants] if stored.state == "READY" else [],
        stored.metadata,
        stored.process_time,
    )


def variant_of(kept: Mapping[str, Any]) -> Variant:
    """A variant as it is kept in a row."""
    return Variant(
        kept["name"],
        kept["content_type"],
        kept["size_bytes"],
        kept.get("width", 0),
        kept.get("height", 0),
        bytes.fromhex(kept.get("sha256", "")),
    )


def uploaded_key(id: str) -> str:
    """Where bytes lie that were not checked yet."""
    return f"uploads/{id}"


def kept_key(id: str, attempt: str = "") -> str:
    """Where bytes lie that were checked, as the file's row says which `attempt` counts.

    Bytes that could be written by two, or twice, are written under an attempt of their own each time: a writing that comes
    late, even one that S3 carries out when whoever asked for it is gone, then changes nothing that is read.
    """
    return f"{kept_prefix(id)}{attempt}" if attempt else f"files/{id}"


def kept_prefix(id: str) -> str:
    """How the keys of all attempts begin."""
    return f"files/{id}."


def variant_key(id: str, variant: str) -> str:
    """Where a variant lies."""
    return f"variants/{id}/{variant}"


def keys_of(id: str, variants: Sequence[Mapping[str, Any]]) -> list[str]:
    """Wherever bytes of a file may lie, but for attempts."""
    return [kept_key(id), uploaded_key(id), *(variant_key(id, one["name"]) for one in variants)]


def filename_fault(filename: str) -> Violation | None:
    """What is wrong with a file's name for people."""
    if any(c in "/\\" for c in filename) or filename in (".", ".."):
        return Violation("filename", "is a path", "PATH")
    return line("filename", filename, FILENAME)


def content_type_fault(content_type: str) -> Violation | None:
    """What is wrong with a declared type."""
    if not content_type:
        return Violation("content_type", "is required", "REQUIRED")
    if content_types.media_type(content_type) is None:
        return Violation("content_type", "is not a media type", "MEDIA_TYPE_INVALID")
    return None


def size_fault(size_bytes: int, most: int, field: str = "size_bytes") -> Violation | None:
    """What is wrong with a size."""
    if size_bytes <= 0:
        return Violation(field, "must be above 0", "EMPTY")
    if size_bytes > most:
        return Violation(field, f"is above the limit of {most}", "TOO_LARGE")
    return None


def refuse(violations: Sequence[Violation | None]) -> None:
    """Raises Invalid where there are any."""
    found = [violation for violation in violations if violation is not None]
    if found:
        raise Invalid.fields(found)


def check_readable(stored: StoredFile, name: str, *, own: bool = False) -> None:
    """Raises Precondition where the bytes cannot be read; `own` ones can before they are processed."""
    if stored.state == "PENDING":
        raise Precondition("The upload is not complete.", reason="UPLOAD_INCOMPLETE", resource=(TYPE, name))
    if stored.state == "REJECTED":
        told = {"rejection": stored.rejection["reason"]} if stored.rejection else {}
        raise Precondition("The file was rejected.", reason="FILE_REJECTED", metadata=told, resource=(TYPE, name))
    if stored.state == "UPLOADED" and not own:
        raise Precondition("The file is being processed.", reason="FILE_PROCESSING", resource=(TYPE, name))


def missing(name: str) -> NotFound:
    """The refusal of a file that is not there, or not for this caller."""
    return NotFound("There is no such file.", resource=(TYPE, name))
