"""`python -m deploy.native.edge ADMIN_PORT CONFIG DESCRIPTOR ENVOY ...`: becomes Envoy, in place of one that runs.

Envoy's own hot restart: the new process takes over the listening socket, the old one ends its connections politely (GOAWAY,
`connection: close`) and then itself. Nobody is refused, and nobody's call is cut short that ends in DRAIN seconds.
https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/operations/hot_restart
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DRAIN, LEAVE = 5, 10
"""Seconds in which the old process ends its connections, and after which it ends itself, with what is left (streams)."""


def served(files: Iterable[Path]) -> str:
    """What tells that an Envoy serves what these files are now: it is told so as its node's id."""
    found = hashlib.sha256()
    for file in files:
        found.update(file.read_bytes() if file.exists() else b"")
    return found.hexdigest()[:16]


def running(admin_port: int) -> dict[str, Any]:
    """What the Envoy with that admin port says of itself; empty if there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/server_info", timeout=2) as reply:
            info: dict[str, Any] = json.load(reply)
    except (OSError, ValueError):
        return {}
    return info


def main(admin_port: int, files: list[Path], envoy: list[str]) -> None:
    """Does not return. The first of `files` is the configuration."""
    old = running(admin_port)
    epoch = int(old.get("command_line_options", {}).get("restart_epoch", 0)) + 1 if old else 0
    command = [
        *envoy,
        *("-c", str(files[0])),
        *("--base-id", str(admin_port), "--restart-epoch", str(epoch)),
        *("--drain-time-s", str(DRAIN), "--parent-shutdown-time-s", str(LEAVE), "--drain-strategy", "immediate"),
        *("--service-cluster", "edge", "--service-node", served(files)),
    ]
    os.execv(command[0], command)  # noqa: S606, no shell is wanted


if __name__ == "__main__":
    main(int(sys.argv[1]), [Path(sys.argv[2]), Path(sys.argv[3])], sys.argv[4:])
