"""Files that an app looks at before anybody but their owner may read them: a virus scan, a rule of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from server.apps.declarations import marked
from server.store.file_rows import FILE

__all__ = ["FILE", "FILE_VERBS", "Check", "Rejected", "Upload", "on_upload"]

FILE_VERBS = ("uploaded", "ready", "rejected", "deleted")
"""Verbs of the events of files, which a task may be on."""

F = TypeVar("F", bound=Callable[..., Any])


class Rejected(Exception):
    """The file is refused: `reason` is UPPER_SNAKE_CASE, at most 63 characters, `message` for people, at most 500."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that was uploaded, before it is READY."""

    name: str
    """`files/{file}`."""
    owner: str
    filename: str
    content_type: str
    size_bytes: int
    sha256: bytes
    public: bool
    path: Path
    """Its bytes, on this machine, until the function returns. They are not to be changed."""


@dataclass(frozen=True, slots=True)
class Check:
    """The function looks at every file that was uploaded."""

    name: str
    function: Callable[[Upload], Any]


def on_upload(function: F) -> F:
    """Looks at every uploaded file before it is READY: `async def f(upload: Upload) -> None`, or a plain `def`, which runs in a
    thread. Where it raises `Rejected`, the file is REJECTED and its bytes are removed; any other error is tried again.

    It may run more than once for one file. Files that must be looked at wait until it can be: TRANSOM_FILES_PROCESSED must be
    `all`.
    """
    return marked(function, Check(function.__name__, function))
