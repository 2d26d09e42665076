"""Questions to the operating system: who runs us, which process is which, who may walk where."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class User:
    """An account of the machine that a server is started as."""

    uid: int
    gid: int

    def owns(self, path: Path) -> None:
        """Gives `path` to this user, not following links."""
        os.chown(path, self.uid, self.gid, follow_symlinks=False)


def cores() -> int:
    """How many the machine has, whatever this very process may use of them: all processes of a stack agree on it."""
    return os.cpu_count() or 1


def unprivileged() -> User | None:
    """Whom root becomes for servers that refuse root; None for everybody else, who stays who they are."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return User(nobody.pw_uid, nobody.pw_gid)


def reachable(path: Path, user: User | None) -> bool:
    """Whether `user` may walk down to `path`, through every folder above it that exists."""
    if user is None:
        return True
    for folder in [path.absolute(), *path.absolute().parents]:
        try:
            found = folder.stat()
        except FileNotFoundError:
            continue
        if found.st_uid == user.uid:
            needed = stat.S_IXUSR
        elif found.st_gid == user.gid:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not found.st_mode & needed:
            return False
    return True


def birth(pid: int) -> str | None:
    """When process `pid` was born, exact enough to tell it from a later one with the same number; None if it is gone.

    A zombie is gone: nothing of it runs any more.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self").exists() else _birth_without_proc(pid)
    fields = text.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return f"{_boot()}/{fields[19]}"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _birth_without_proc(pid: int) -> str | None:
    run = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return run.stdout.strip() or None


def ancestors(pid: int) -> Iterator[int]:
    """The process itself, its parent, and so on up; Linux only."""
    while pid > 0:
        yield pid
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            return


def marked(mark: str) -> Iterator[int]:
    """Process ids whose environment holds the entry `mark` ("NAME=value"), as far as this user may see; Linux only."""
    wanted = mark.encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)
        except OSError:
            continue
