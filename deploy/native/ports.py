"""Ports of one stack: a block of neighbours, remembered, held against every other stack of the machine."""

from __future__ import annotations

import json
import socket
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .files import replace

NAMES = (
    "claim",  # bound by the supervisor for as long as it lives: no other stack takes this block
    "edge",  # used only where no port was asked for
    "envoy-admin",
    *("postgres-1", "postgres-2", "redis", "amqp", "amqp-dist", "epmd", "rabbitmq-metrics"),
    *("s3", "s3-grpc", "s3-master", "s3-master-grpc", "s3-volume", "s3-volume-grpc", "s3-filer", "s3-filer-grpc"),
    *("smtp", "mailbox"),
    *("relay-metrics", "work-metrics"),
    *(f"api-{i}" for i in range(1, 10)),
    *(f"api-{i}-metrics" for i in range(1, 10)),
)
BLOCK = 48
FIRST, LAST = 20_000, 29_999
"""Below what systems hand out to outgoing connections, so that none of those sits on a remembered port."""


class PortsError(Exception):
    """No free block, or the edge's port is taken; the text says which."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of a stack, by the names of NAMES."""

    edge: int
    base: int

    def __getitem__(self, name: str) -> int:
        return self.edge if name == "edge" else self.base + NAMES.index(name)


def free(port: int) -> bool:
    """Whether nobody listens on `port` on loopback, nor on all addresses."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError:
            return False
    return True


def listening(port: int) -> bool:
    """Whether somebody accepts connections on `port`."""
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True


def remembered(file: Path) -> Ports | None:
    """The ports written down in `file`, if there are any."""
    try:
        found = json.loads(file.read_text())
        return Ports(int(found["edge"]), int(found["base"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def claim(
    file: Path, edge_port: int, running: bool, fits: Callable[[Ports], bool] = lambda _: True
) -> tuple[Ports, socket.socket]:
    """The ports of the stack whose memory is `file`, and the socket that holds them: close it to let go.

    The remembered block is taken again where it can be. With `running`, servers of this very stack are alive on
    it, so that its other ports are rightly taken. A block that does not `fit` is passed over. An `edge_port` of 0
    means one out of the block. Raises PortsError.
    """
    if not running:
        refuse_taken(edge_port)
    before = remembered(file)
    blocks = list(_blocks(str(file)))
    if before:
        blocks.insert(0, before.base)
    taken = {
        p.base for other in file.parent.parent.glob(f"*/{file.name}") if other != file and (p := remembered(other))
    }
    for base in blocks:
        if base in taken:
            continue
        held = _hold(base)
        if held is None:
            continue
        mine = before is not None and base == before.base
        ports = Ports(edge_port or base + NAMES.index("edge"), base)
        if (mine and running) or (fits(ports) and all(free(base + i) for i in range(1, len(NAMES)))):
            replace(file, json.dumps({"edge": ports.edge, "base": ports.base}))
            return ports, held
        held.close()
    raise PortsError(f"no {BLOCK} free neighbouring ports between {FIRST} and {LAST}")


def refuse_taken(edge_port: int) -> None:
    """Raises PortsError where the port asked for is not to be had; 0 always is."""
    if edge_port and not free(edge_port):
        raise PortsError(f"port {edge_port} is taken by another program; choose one with --port (make up PORT=…)")


def _blocks(seed: str) -> Iterator[int]:
    # Where the search begins differs from stack to stack, so that two that start together seldom meet.
    count = (LAST - FIRST + 1) // BLOCK
    start = zlib.crc32(seed.encode()) % count
    for i in range(count):
        yield FIRST + (start + i) % count * BLOCK


def _hold(port: int) -> socket.socket | None:
    held = socket.socket()
    try:
        held.bind(("127.0.0.1", port))
        held.listen(1)
    except OSError:
        held.close()
        return None
    return held
