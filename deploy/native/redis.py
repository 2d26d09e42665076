"""Redis: a cache with a bound; nothing in it is the only copy of a fact, so nothing of it is written to disk."""

from __future__ import annotations

import socket

from .files import replace
from .place import Place, Secrets
from .ports import Ports
from .program import Program
from .servers import Servers

SETTINGS = """\
bind 127.0.0.1
port {port}
requirepass {password}
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
        text = SETTINGS.format(port=self.port, password=self.password, folder=self.data)
        replace(self.data / "redis.conf", text, mode=0o600)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                return b"+OK" in connection.recv(100)
        except OSError:
            return False
