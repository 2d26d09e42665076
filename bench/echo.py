"""grpcio by itself, behind the same edge: servers that answer every call with prepared bytes and do nothing else.

What it costs is the price of the wire: Envoy, translation to JSON, and Python's gRPC. What Transom costs beyond it is
Transom's own. `python -m bench.echo PORT REPLIES` is one such server.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import uvloop

from deploy.native.product import healthy
from edge.rendering import render

from .cells import Operation, Request, Wire
from .children import free_ports, running, wait_until
from .inspect_client import METHODS, SERVICE, InspectClients
from .transom import Transom

HEALTH = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"
"""A HealthCheckResponse that says so."""


class Replies(grpc.GenericRpcHandler):
    """Answers each method with its reply, bytes as they are."""

    def __init__(self, replies: Mapping[str, bytes]) -> None:
        self._handlers = {
            path: grpc.unary_unary_rpc_method_handler(_answering(reply)) for path, reply in replies.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handlers.get(handler_call_details.method)


def _answering(reply: bytes) -> Any:
    async def answer(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return reply

    return answer


class Echo:
    """The bare servers, as a system under test."""

    name = "bare grpcio"
    wires: Sequence[Wire] = (Wire.JSON, Wire.GRPC)

    def __init__(self, clients: InspectClients, roles: Mapping[str, Sequence[int]]) -> None:
        self._clients, self._roles = clients, roles

    def request(self, operation: Operation, wire: Wire, client: int) -> Request:
        return self._clients.request(operation, wire, client)

    def probe(self, operation: Operation, wire: Wire) -> int:
        return len(self._clients.ask(operation, wire))

    def processes(self) -> Mapping[str, Sequence[int]]:
        return self._roles

    def calls(self, operation: Operation) -> Mapping[str, int]:
        return {}

    def settle(self) -> None:
        return


@contextmanager
def opened(folder: Path, transom: Transom) -> Iterator[Echo]:
    """As many servers as Transom has, started the same way, with its answers, behind an edge rendered the same way."""
    topology = transom.stack.topology
    replies = {f"/{SERVICE}/{METHODS[o]}": transom.clients.ask(o, Wire.GRPC) for o in Operation} | {HEALTH: SERVING}
    file, config = folder / "replies.json", folder / "echo-envoy.yaml"
    file.write_text(json.dumps({path: base64.b64encode(reply).decode() for path, reply in replies.items()}))
    edge, admin, *ports = free_ports(2 + len(topology.api_servers))
    api = topology.programs(("api-1",))[0]
    env = {name: api.env[name] for name in ("PATH", "GRPC_EXPERIMENTS") if name in api.env}
    [envoy] = topology.programs(("envoy",))
    descriptor = topology.place.descriptor
    servers = [("127.0.0.1", port) for port in ports]
    config.write_text(
        render(
            descriptor.read_bytes(),
            str(descriptor),
            edge_port=edge,
            edge_host="127.0.0.1",
            admin_port=admin,
            servers=servers,
        )
    )
    # The program behind the one that would take over from the Envoy that runs: that is Transom's.
    program, *words = envoy.command[envoy.command.index(str(descriptor)) + 1 :]
    command = [program, "-c", str(config), "--disable-hot-restart", *words]
    with ExitStack() as stack:
        pids = [
            stack.enter_context(
                running([sys.executable, "-m", "bench.echo", str(port), str(file)], folder / f"echo-{port}.log", env)
            )
            for port in ports
        ]
        door = stack.enter_context(running(command, folder / "echo-envoy.log", envoy.env))
        wait_until(lambda: len(healthy(admin)) >= len(ports), "the bare servers are healthy")
        clients = transom.clients.at(f"http://127.0.0.1:{edge}")
        yield Echo(clients, {"envoy": [door], "grpcio servers": pids})


async def _serve(port: int, replies: Mapping[str, bytes]) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Replies(replies),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    prepared = json.loads(Path(sys.argv[2]).read_text())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1]), {path: base64.b64decode(reply) for path, reply in prepared.items()}))
