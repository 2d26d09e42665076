"""Folders of files that are being processed, each named for the process that works in it, and those that one left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "transom-file-"


def folder() -> tempfile.TemporaryDirectory[str]:
    """A new one, there for as long as its block lasts, or for as long as nobody sweeps where this process is killed."""
    return tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", ignore_cleanup_errors=True)


def swept() -> int:
    """Removes those whose process is over; how many it were. For a process that has none of its own yet: in a container its
    forerunner had the same number."""
    left = [path for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*") if _is_left(path)]
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return len(left)


def _is_left(path: Path) -> bool:
    number = path.name.removeprefix(PREFIX).partition("-")[0]
    try:
        if not (number.isdecimal() and path.lstat().st_uid == os.geteuid()):
            return False
        if int(number) != os.getpid():
            os.kill(int(number), 0)
            return False
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another's, or gone by now
        return False
    return True
