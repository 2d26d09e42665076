"""How a stack is, asked of the servers themselves and not only of their supervisor."""

from __future__ import annotations

import re
import time
import urllib.request
from dataclasses import asdict, dataclass, field
from typing import Any

from .ports import Ports
from .postgres import NODES, Replication, replication
from .product import healthy
from .reads import Reads, reads
from .stack import Stack

UNDER_WAY = ("waiting", "starting", "restarting", "failed")
"""What a program without a process may be; any other is stopped."""


@dataclass(frozen=True)
class ProcessHealth:
    """One process. `health` is ready, starting, restarting, failed, stopped, or unhealthy: it runs, but the edge does
    not send it calls."""

    name: str
    address: str
    health: str
    pid: int | None
    uptime: float | None
    """Seconds."""
    restarts: int


@dataclass(frozen=True)
class QueueHealth:
    """One queue of RabbitMQ."""

    name: str
    messages: int
    consumers: int


@dataclass(frozen=True)
class Health:
    """A whole stack."""

    phase: str
    """starting, ready, stopping, stopped, failed, or abandoned: processes run, but nobody watches over them."""
    edge: str
    app: str
    state: str
    error: str = ""
    processes: list[ProcessHealth] = field(default_factory=list)
    replication: Replication | None = None
    """What the primary says of its replica; None where no primary answers."""
    queues: list[QueueHealth] = field(default_factory=list)
    reads: Reads | None = None
    """None where no API server runs."""

    @property
    def good(self) -> bool:
        """Whether everything runs."""
        return self.phase == "ready" and all(p.health == "ready" for p in self.processes)

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return {"healthy": self.good, **asdict(self)}


def examine(stack: Stack) -> Health:
    """The health of a stack now; each question has a short deadline."""
    status = stack.status()
    runs = {p["name"]: p for p in status["processes"] if p["pid"]}
    ports = stack.ports if runs else None
    served = healthy(ports["envoy-admin"]) if ports and "envoy" in runs else None
    processes = []
    for told in status["processes"]:
        if told["step"]:
            continue
        health = told["state"] if told["pid"] or told["state"] in UNDER_WAY else "stopped"
        if (
            health == "ready"
            and told["name"].startswith("api-")
            and served is not None
            and told["address"] not in served
        ):
            health = "unhealthy"
        uptime = round(time.time() - told["started"], 1) if told["pid"] else None
        processes.append(ProcessHealth(told["name"], told["address"], health, told["pid"], uptime, told["restarts"]))
    return Health(
        phase=status["phase"],
        edge=status.get("edge", ""),
        app=status.get("app", ""),
        state=str(stack.place.state),
        error=status["error"],
        processes=processes,
        replication=replication(stack.env["TRANSOM_POSTGRES"]) if {*NODES} & {*runs} else None,
        queues=queues(ports) if ports and "rabbitmq" in runs else [],
        reads=reads(ports, sorted(name for name in runs if name.startswith("api-"))) if ports else None,
    )


def queues(ports: Ports) -> list[QueueHealth]:
    """RabbitMQ's queues, by name; none if it does not answer."""
    url = f"http://127.0.0.1:{ports['rabbitmq-metrics']}/metrics/detailed?family=queue_coarse_metrics&family=queue_consumer_count"
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            text = reply.read().decode()
    except OSError:
        return []
    found: dict[str, dict[str, int]] = {}
    for metric, labels, value in re.findall(
        r"^rabbitmq_detailed_queue_(messages|consumers)\{(.*?)\} (\S+)$", text, re.MULTILINE
    ):
        if name := re.search(r'queue="([^"]*)"', labels):
            found.setdefault(name[1], {})[metric] = int(float(value))
    return [
        QueueHealth(name, counts.get("messages", 0), counts.get("consumers", 0))
        for name, counts in sorted(found.items())
    ]
