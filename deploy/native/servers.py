"""The servers' binaries as found or unpacked, and how to run them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Servers:
    """Where the binaries are. `libraries` are folders of shared libraries that unpacked ones need."""

    postgres: Path
    """Folder with postgres, initdb and pg_basebackup."""
    redis: Path
    """redis-server itself."""
    rabbitmq: Path
    """The script rabbitmq-server below rabbitmq_server-*/sbin."""
    erlang: Path
    """Folder with erl."""
    epmd: Path
    weed: Path
    envoy: Path
    libraries: tuple[Path, ...] = ()

    def env(self, *path: Path) -> dict[str, str]:
        """Environment of a server: nothing of ours but a way to find programs and libraries."""
        folders = [*map(str, path), "/usr/local/bin", "/usr/bin", "/bin"]
        env = {"PATH": os.pathsep.join(folders), "LANG": "C.UTF-8", "HOME": "/"}
        if self.libraries:
            env["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, self.libraries))
        return env
