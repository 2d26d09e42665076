"""Redis: a cache with a bound; nothing in it is the only copy of a fact, so nothing of it is written to disk."""

from __future__ import annotations

import socket
from pathlib import Path

from .files import replace
from .place import Place, Secrets
from .ports import Ports
from .process import Process
from .program import Program
from .servers import Servers

SETTINGS = """\
bind 127.0.0.1
port {port}
{socket}requirepass {password}
dir {folder}
save ""
appendonly no
maxmemory 256mb
maxmemory-policy allkeys-lru
"""


class Redis:
    """The server, as a program."""

    def __init__(self, place: Place, ports: Ports, secrets: Secrets, servers: Servers) -> None:
        self.port, self.password = ports["redis"], secrets.redis
        self.binary, self.env = servers.redis, servers.env()
        self.place, self.data = place, place.data("redis")

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def nearby(self) -> str:
        """As `url`, for processes on this machine: by its socket, at less cost; by its port where it runs without one."""
        if self.socket is None or (Process.found("redis", self.place) and not self.socket.exists()):
            return self.url
        return f"unix://:{self.password}@{self.socket}?db=0"

    @property
    def socket(self) -> Path | None:
        """Its Unix socket, if it has one."""
        return self.place.socket(self.data, "redis.sock")

    def programs(self) -> list[Program]:
        return [
            Program(
                name="redis",
                command=[str(self.binary), str(self.data / "redis.conf")],
                env=self.env,
                address=f"127.0.0.1:{self.port}",
                prepare=self._prepare,
                ready=self._answers,
                outlives=True,
            )
        ]

    def _prepare(self) -> None:
        self.place.make_data("redis")
        socket = f"unixsocket {self.socket}\nunixsocketperm 700\n" if self.socket else ""
        text = SETTINGS.format(port=self.port, socket=socket, password=self.password, folder=self.data)
        replace(self.data / "redis.conf", text, mode=0o600)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                return b"+OK" in connection.recv(100)
        except OSError:
            return False
