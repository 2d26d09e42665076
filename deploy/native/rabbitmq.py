"""RabbitMQ on one node, with an epmd (Erlang's port mapper) of its own, both on loopback only."""

from __future__ import annotations

import socket

from .files import folder, replace
from .place import Place, Secrets
from .ports import Ports, listening
from .program import Program
from .servers import Servers

SETTINGS = """\
listeners.tcp.1 = 127.0.0.1:{amqp}
default_user = transom
default_pass = {password}
loopback_users = none
log.console = true
log.console.level = warning
log.file = false
prometheus.tcp.ip = 127.0.0.1
prometheus.tcp.port = {metrics}
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 512MB
"""


class RabbitMQ:
    """Server and port mapper, as programs."""

    def __init__(self, place: Place, ports: Ports, secrets: Secrets, servers: Servers) -> None:
        self.ports, self.secrets, self.servers = ports, secrets, servers
        self.place, self.data = place, place.data("rabbitmq")

    @property
    def url(self) -> str:
        return f"amqp://transom:{self.secrets.amqp}@127.0.0.1:{self.ports['amqp']}/%2F"

    def programs(self) -> list[Program]:
        epmd = self.ports["epmd"]
        return [
            Program(
                name="epmd",
                command=[str(self.servers.epmd), "-port", str(epmd), "-address", "127.0.0.1"],
                env=self.servers.env(),
                address=f"127.0.0.1:{epmd}",
                ready=lambda: listening(epmd),
                outlives=True,
                grace=3,
            ),
            Program(
                name="rabbitmq",
                command=[str(self.servers.rabbitmq)],
                env=self._env(),
                needs=("epmd",),
                address=f"127.0.0.1:{self.ports['amqp']}",
                prepare=self._prepare,
                ready=self._greets,
                outlives=True,
                grace=15,
                patience=180,
            ),
        ]

    def _env(self) -> dict[str, str]:
        data = self.data
        return self.servers.env(self.servers.erlang) | {
            "HOME": str(data / "home"),
            "RABBITMQ_CONF_ENV_FILE": str(data / "rabbitmq-env.conf"),  # else the machine's own is read
            "RABBITMQ_CONFIG_FILE": str(data / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(data / "conf.d"),  # as above
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(data / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(data / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(data / "mnesia"),
            "RABBITMQ_LOG_BASE": str(data / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_SCHEMA_DIR": str(data / "schema"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(data / "schema"),
            "RABBITMQ_NODENAME": "transom@localhost",
            "RABBITMQ_NODE_PORT": str(self.ports["amqp"]),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self.ports["amqp-dist"]),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false",
            "ERL_EPMD_PORT": str(self.ports["epmd"]),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_INETRC": str(data / "inetrc"),
            # The start script then becomes the server, instead of a parent that leaves it behind when killed.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _prepare(self) -> None:
        self.place.make_data("rabbitmq")
        for name in ("home", "mnesia", "log", "schema", "conf.d"):
            folder(self.data / name)
        text = SETTINGS.format(
            amqp=self.ports["amqp"], metrics=self.ports["rabbitmq-metrics"], password=self.secrets.amqp
        )
        replace(self.data / "rabbitmq.conf", text, mode=0o600)
        replace(self.data / "rabbitmq-env.conf", "")
        replace(self.data / "plugins", "[rabbitmq_prometheus].\n")
        # No name server is asked: the node's name is this machine's loopback.
        replace(self.data / "inetrc", '{lookup,[file,native]}.\n{host,{127,0,0,1},["localhost"]}.\n')
        replace(self.data / "home" / ".erlang.cookie", self.secrets.cookie, mode=0o400)

    def _greets(self) -> bool:
        """Whether it opens the conversation with Connection.Start, as the protocol has it (AMQP 0-9-1, 2.2.4)."""
        try:
            with socket.create_connection(("127.0.0.1", self.ports["amqp"]), 2) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(1) == b"\x01"
        except OSError:
            return False
