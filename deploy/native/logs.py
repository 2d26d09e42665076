"""Log files of the stack's processes: one each, bounded in size."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

SIZE_MAX = 8 << 20
"""Bytes of a log file; one older file of the same size is kept beside it."""


def rotate(folder: Path) -> None:
    """Moves the content of every log that has grown too large into `<name>.log.1`.

    The file itself stays and is emptied: a process goes on appending to it and needs no signal, whoever started it.
    What is written between copy and cut is lost; that is the price, and it is small.
    """
    for log in folder.glob("*.log"):
        if log.stat().st_size > SIZE_MAX:
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)


def size(log: Path) -> int:
    """Bytes in a log; none if there is no such file."""
    return log.stat().st_size if log.exists() else 0


def tail(log: Path, count: int, since: int = 0) -> list[str]:
    """The last `count` lines of a log, none from before byte `since`; none if there is no such file."""
    try:
        with log.open("rb") as file:
            end = log.stat().st_size
            file.seek(max(since if since <= end else 0, end - 64 * 1024))  # smaller than that: it was emptied since
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return lines[-count:] if count else []
