"""Files that are either the old or the new whole, whenever the writer dies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .machine import User


def replace(path: Path, text: str, *, mode: int = 0o644, owner: User | None = None) -> None:
    """Writes `text` to `path` in one step."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
    if owner:
        owner.owns(new)
    os.replace(new, path)


def folder(path: Path, *, mode: int = 0o700, owner: User | None = None) -> Path:
    """`path`, made where it is missing, with this mode and owner."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    if owner:
        owner.owns(path)
    return path


def clear(state: Path) -> None:
    """Removes a folder and, of links directly in it, what they lead to."""
    for path in state.iterdir():
        remove(path)
    state.rmdir()


def remove(path: Path) -> None:
    """Removes a file or a whole folder, if it is there; of a link to a folder, both."""
    if path.is_symlink():
        shutil.rmtree(path.resolve(), ignore_errors=True)  # the link last: it is the only way to find the folder
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
