"""nghttp2's load generator (nghttp2.org/documentation/h2load.1.html): the machine's, or Debian's package, unpacked."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.native import debian
from deploy.native.files import folder, remove
from deploy.native.place import shared_root
from deploy.native.stack import HOME


@dataclass(frozen=True, slots=True)
class Generator:
    """The program, and the environment it runs in."""

    program: Path
    env: dict[str, str]


def generator(progress: Callable[[str], None]) -> Generator:
    """The program to use, brought below .transom/root where this machine lacks it.

    Raises debian.PackageError where it cannot be had.
    """
    if found := shutil.which("h2load"):
        return Generator(Path(found), dict(os.environ))
    root = shared_root(folder(HOME, mode=0o755))
    program = root / "usr/bin/h2load"
    with (HOME / "servers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a stack that starts may be unpacking its servers
        if not program.exists():
            _bring(root, HOME / "apt-bench", progress)
    libraries = os.pathsep.join(map(str, debian.libraries(root)))
    return Generator(program, {**os.environ, "LD_LIBRARY_PATH": libraries})


def _bring(root: Path, work: Path, progress: Callable[[str], None]) -> None:
    if not debian.usable():
        raise debian.PackageError("h2load is missing: install nghttp2 (Debian, Ubuntu: apt install nghttp2-client)")
    try:
        progress("reading package lists, for the load generator")
        debian.refresh(work)
        debian.unpack(["nghttp2-client"], root, work, progress)
    finally:
        remove(work)
