"""The whole stack as programs, and what each must know of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .mail import Mail
from .place import Place
from .ports import Ports
from .postgres import Postgres
from .product import Product
from .program import Program
from .rabbitmq import RabbitMQ
from .redis import Redis
from .s3 import BUCKET, REGION, S3
from .servers import Servers
from .told import told

COMPONENTS = ("postgres", "redis", "epmd", "rabbitmq", "s3", "mail")
PRODUCT = ("schema", "migrate", "seed", "api", "relay", "work", "envoy")
EVERYTHING = (*COMPONENTS, *PRODUCT)
API_SERVERS = 3
"""How many API servers a stack has: while one is replaced, another may fail."""


@dataclass(frozen=True)
class Topology:
    """One stack: where it lies, on which ports, with which app."""

    place: Place
    ports: Ports
    app: Path
    servers: Servers
    edge_host: str = "127.0.0.1"

    @property
    def api_servers(self) -> tuple[str, ...]:
        """The names of the API servers."""
        return tuple(f"api-{i + 1}" for i in range(API_SERVERS))

    def programs(self, parts: Sequence[str] = EVERYTHING) -> list[Program]:
        """The programs of the parts named."""
        secrets = self.place.secrets()
        built = [
            *self.postgres.programs(),
            *Redis(self.place, self.ports, secrets, self.servers).programs(),
            *RabbitMQ(self.place, self.ports, secrets, self.servers).programs(),
            *S3(self.place, self.ports, secrets, self.servers).programs(),
            *Mail(self.place, self.ports).programs(),
            *self._product().programs(),
        ]
        return [p for p in built if p.name in parts or p.name.rpartition("-")[0] in parts]

    @property
    def postgres(self) -> Postgres:
        """The two database servers."""
        return Postgres(self.place, self.ports, self.place.secrets(), self.servers)

    def rehearsal(self, parts: Sequence[str] = EVERYTHING) -> list[Program]:
        """Steps that tell whether the product would start, and change nothing that a running one minds."""
        return [p for p in self._product().rehearsal() if p.name in parts]

    def settling(self, parts: Sequence[str] = EVERYTHING) -> list[Program]:
        """Steps that come when nothing of what ran before runs any more."""
        return [p for p in self._product().settling() if p.name in parts]

    def _product(self) -> Product:
        return Product(
            self.place,
            self.ports,
            self.servers,
            self.app,
            self.env() | self.nearby(),
            edge_host=self.edge_host,
            api_servers=self.api_servers,
        )

    def nearby(self) -> dict[str, str]:
        """What the product's own processes are told otherwise, being on the same machine."""
        redis = Redis(self.place, self.ports, self.place.secrets(), self.servers)
        return {
            "TRANSOM_POSTGRES": self.postgres.nearby("primary"),
            "TRANSOM_REPLICA": self.postgres.nearby("replica"),
            "TRANSOM_REDIS": redis.nearby,
        }

    def env(self) -> dict[str, str]:
        """TRANSOM_* for every process of the product. Holds passwords: never print it. Raises ToldError."""
        secrets = self.place.secrets()
        s3 = S3(self.place, self.ports, secrets, self.servers)
        ours = {
            "TRANSOM_APP": str(self.app),
            "TRANSOM_DESCRIPTOR": str(self.place.descriptor),
            "TRANSOM_HOST": "127.0.0.1",
            "TRANSOM_METRICS_HOST": "127.0.0.1",
            "TRANSOM_POSTGRES": self.postgres.url("primary"),
            "TRANSOM_REPLICA": self.postgres.url("replica"),
            "TRANSOM_REDIS": Redis(self.place, self.ports, secrets, self.servers).url,
            "TRANSOM_AMQP": RabbitMQ(self.place, self.ports, secrets, self.servers).url,
            "TRANSOM_S3_ENDPOINT": s3.endpoint,
            "TRANSOM_S3_REGION": REGION,
            "TRANSOM_S3_BUCKET": BUCKET,
            "TRANSOM_S3_ACCESS_KEY": secrets.s3_access_key,
            "TRANSOM_S3_SECRET_KEY": secrets.s3_secret_key,
            "TRANSOM_SMTP": Mail(self.place, self.ports).smtp,
            "TRANSOM_MAILBOX": Mail(self.place, self.ports).url,
            "TRANSOM_SECRET": secrets.secret,
        }
        usual = {
            # Everybody here calls from one address, and a load generator is no attack: the limits are there, and far.
            "TRANSOM_LIMIT_CALLER": "3000000/60s",
            "TRANSOM_LIMIT_KEY": "3000000/60s",
            "TRANSOM_LIMIT_ADDRESS": "6000000/60s",
            # Who tries webhooks has the receiver on the same machine.
            "TRANSOM_WEBHOOK_NETWORKS": "127.0.0.0/8",
            "TRANSOM_LIMIT_METHODS": "",
            "TRANSOM_ATTEMPTS_ADDRESS": "100000/1h",
            # What an app may do with accounts without an address can be tried here.
            "TRANSOM_ANONYMOUS": "true",
            # There is no TLS here, and not every browser takes localhost for as good.
            "TRANSOM_COOKIE_SECURE": "false",
            "TRANSOM_PUBLIC_URL": f"http://localhost:{self.ports['edge']}",
            "TRANSOM_RELYING_PARTY_ORIGINS": f"http://localhost:{self.ports['edge']}",
        }
        return usual | told(self.app) | ours
