"""Transom itself on this machine: schema, tables and seed as steps, then API servers, consumers and the edge.

Only commands are known here; nothing of the product is imported.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from . import edge
from .machine import cores
from .place import Place
from .ports import Ports, listening
from .postgres import NODES
from .program import Program
from .servers import Servers


class Product:
    """The processes of the product, as programs."""

    def __init__(
        self,
        place: Place,
        ports: Ports,
        servers: Servers,
        app: Path,
        env: Mapping[str, str],
        *,
        edge_host: str,
        api_servers: Sequence[str],
    ) -> None:
        self.place, self.ports, self.servers, self.app = place, ports, servers, app
        self.names = tuple(api_servers)
        self.edge_host = edge_host
        path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"])
        self.env = {**env, "PATH": path, "LANG": "C.UTF-8", "HOME": str(place.state), "PYTHONUNBUFFERED": "1"}

    def programs(self) -> list[Program]:
        """Steps, servers, consumers, edge."""
        # Only what a start would fail without: the rest may come up meanwhile.
        tables = ("migrate", "seed")
        return [
            self._schema(self.place.descriptor, self.place.envoy),
            self._step("migrate", ["migrate"], ("schema", *NODES)),
            self._seed(),
            *(self._api(name, (*tables, *NODES, "redis")) for name in self.names),
            self._consumer("relay", tables),
            self._consumer("work", (*tables, "redis")),
            self._envoy(),
        ]

    def rehearsal(self) -> list[Program]:
        """The first steps of a start, with files of their own: whether they succeed tells whether a start would. The tables
        become such that the servers of both schemas can work on them."""
        descriptor = self.place.descriptor.with_suffix(".next")
        migrate = self._step("migrate", ["migrate"], ())
        return [
            self._schema(descriptor, self.place.envoy.with_suffix(".next")),
            replace(migrate, env={**migrate.env, "TRANSOM_DESCRIPTOR": str(descriptor)}),
        ]

    def settling(self) -> list[Program]:
        """What is left of a change of schema until no server of the schema before runs."""
        return [self._step("migrate", ["migrate"], ())]

    def _schema(self, descriptor: Path, envoy: Path) -> Program:
        words = ["build", "--descriptor", str(descriptor), "--envoy", str(envoy), *self._edge()]
        return self._step("schema", words, ())

    def _transom(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "server.cli", *words]

    def _step(self, name: str, words: list[str], needs: tuple[str, ...]) -> Program:
        return Program(name=name, command=self._transom(*words), env=self.env, needs=needs, once=True)

    def _seed(self) -> Program:
        """Loads the seed once in the life of the state folder; nothing to do is a step, too."""
        seeded = self.place.seeded
        wanted = not seeded.exists() and (self.app / "seed").is_dir()
        return Program(
            name="seed",
            command=self._transom("seed") if wanted else ["/bin/true"],
            env=self.env,
            needs=("migrate", "redis", "s3") if wanted else ("migrate",),
            after=seeded.touch,
            once=True,
        )

    def _api(self, name: str, needs: tuple[str, ...]) -> Program:
        port = self.ports[name]
        env = self.env | {
            "TRANSOM_INSTANCE": name,
            "TRANSOM_PORT": str(port),
            "TRANSOM_METRICS_PORT": str(self.ports[f"{name}-metrics"]),
            # Half of grpc's own cost on this many cores is its event engine: the poller it replaces is cheaper.
            "GRPC_EXPERIMENTS": "-event_engine_listener,-event_engine_client",
        }
        return Program(
            name=name,
            command=[sys.executable, "-m", "server"],
            env=env,
            needs=needs,
            address=f"127.0.0.1:{port}",
            ready=lambda: listening(port),
            in_turn=True,
            follows=self.names[: self.names.index(name)][-1:],
            settled=lambda: f"127.0.0.1:{port}" in healthy(self.ports["envoy-admin"]),
            grace=20,  # it says that it leaves, waits for the edge to notice, and lets calls finish
        )

    def _consumer(self, name: str, needs: tuple[str, ...]) -> Program:
        port = self.ports[f"{name}-metrics"]
        return Program(
            name=name,
            command=[sys.executable, "-m", "consumers", name],
            env=self.env | {"TRANSOM_INSTANCE": name, "TRANSOM_METRICS_PORT": str(port)},
            needs=needs,
            address=f"127.0.0.1:{port}/metrics",
            ready=lambda: listening(port),
            in_turn=True,
            grace=15,
        )

    def _edge(self) -> list[str]:
        servers = [part for name in self.names for part in ("--server", f"127.0.0.1:{self.ports[name]}")]
        ports = [
            "--edge-host",
            self.edge_host,
            "--edge-port",
            str(self.ports["edge"]),
            "--admin-port",
            str(self.ports["envoy-admin"]),
        ]
        return [*ports, *servers]

    def _envoy(self) -> Program:
        files = (self.place.envoy, self.place.descriptor)
        admin = self.ports["envoy-admin"]
        # Half the machine: what it calls runs on it, too, and few threads with much each cost less than many with little.
        threads = max(1, cores() // 2)
        envoy = [str(self.servers.envoy), "--concurrency", str(threads), "-l", "warning"]
        return Program(
            name="envoy",
            command=[sys.executable, "-m", "deploy.native.edge", str(admin), *map(str, files), *envoy],
            env=self.servers.env(),
            needs=("schema", *self.names),
            address=f"http://127.0.0.1:{self.ports['edge']}",
            ready=lambda: (
                edge.running(admin).get("node", {}).get("id") == edge.served(files)
                and healthy(admin) >= set(self._addresses())
            ),
            in_turn=True,
            outlives=True,
            succeeds=edge.LEAVE + 5.0,
            files=files,
            grace=5,
        )

    def _addresses(self) -> list[str]:
        return [f"127.0.0.1:{self.ports[name]}" for name in self.names]


def healthy(admin_port: int) -> set[str]:
    """Addresses (host:port) of the servers that the edge sends calls to; none if the edge does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/clusters?format=json", timeout=2) as reply:
            clusters = json.load(reply)["cluster_statuses"]
    except (OSError, ValueError, KeyError):
        return set()
    found = set()
    for cluster in clusters:
        for host in cluster.get("host_statuses", []):
            address = host["address"].get("socket_address", {})
            status = host["health_status"]
            bad = [name for name, value in status.items() if name.startswith("failed") and value]
            if status.get("eds_health_status") == "HEALTHY" and not bad:
                found.add(f"{address.get('address')}:{address.get('port_value')}")
    return found
