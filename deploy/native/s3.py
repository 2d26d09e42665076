"""SeaweedFS as S3 server: one process, objects under the stack's state, a bucket that browsers may use."""

from __future__ import annotations

import json
import os
import tempfile
import time
import urllib.request
from pathlib import Path

from .files import replace
from .place import Place, Secrets
from .ports import Ports
from .program import Program
from .servers import Servers

BUCKET = "transom"
REGION = "us-east-1"
CORS = {
    "CORSRules": [
        {
            "AllowedOrigins": ["*"],  # what may be done with an object is in the signed URL, not in the page's origin
            "AllowedMethods": ["GET", "PUT", "POST", "HEAD"],
            "AllowedHeaders": ["*"],
            "ExposeHeaders": ["ETag"],
            "MaxAgeSeconds": 3600,
        }
    ]
}


def sockets(ports: Ports) -> list[Path]:
    """Sockets that the server makes at places of its own choosing. It waits for ever where a stale one is in its way."""
    names = {"master": "s3-master-grpc", "volume": "s3-volume-grpc", "filer": "s3-filer-grpc", "s3": "s3-grpc"}
    return [Path(f"/tmp/seaweedfs-{part}-grpc-{ports[name]}.sock") for part, name in names.items()]  # noqa: S108


def unobstructed(ports: Ports) -> bool:
    """Whether no other user's stale socket stands in the way of a server on these ports."""
    return os.geteuid() == 0 or not any(s.exists() and s.stat().st_uid != os.geteuid() for s in sockets(ports))


class S3:
    """The server, as a program."""

    def __init__(self, place: Place, ports: Ports, secrets: Secrets, servers: Servers) -> None:
        self.ports, self.secrets, self.servers = ports, secrets, servers
        self.place, self.data = place, place.data("s3")
        # Its socket's path must be short (108 bytes), wherever the state lies.
        self.sockets = Path(tempfile.gettempdir())

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3']}"

    def programs(self) -> list[Program]:
        return [
            Program(
                name="s3",
                command=self._command(),
                env=self.servers.env() | {"GOMEMLIMIT": "256MiB", "HOME": str(self.data)},
                address=self.endpoint,
                prepare=self._prepare,
                ready=self._answers,
                outlives=True,
                after=self._make_bucket,
                tidy=self._tidy,
                # It takes 15 s to leave its own cluster. What it acknowledged is in the operating system's hands.
                grace=1.5,
            )
        ]

    def _command(self) -> list[str]:
        p = self.ports
        return [
            str(self.servers.weed),
            "-logtostderr=true",
            "server",
            f"-dir={self.data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-master.port={p['s3-master']}",
            f"-master.port.grpc={p['s3-master-grpc']}",
            "-master.telemetry=false",  # on by default
            "-master.electionTimeout=1s",
            "-master.volumeSizeLimitMB=512",
            f"-volume.port={p['s3-volume']}",
            f"-volume.port.grpc={p['s3-volume-grpc']}",
            "-volume.preStopSeconds=0",
            "-volume.max=20",
            "-filer",
            f"-filer.port={p['s3-filer']}",
            f"-filer.port.grpc={p['s3-filer-grpc']}",
            "-filer.disableHttp=true",  # else objects are served there without any authorization
            f"-filer.localSocket={self._socket('s3-filer')}",
            "-s3",
            f"-s3.port={p['s3']}",
            f"-s3.port.grpc={p['s3-grpc']}",
            f"-s3.config={self.data}/identities.json",
            f"-s3.localSocket={self._socket('s3')}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.iam=false",
            "-s3.autoCreateBucket=false",
        ]

    def _prepare(self) -> None:
        self.place.make_data("s3")
        credentials = {"accessKey": self.secrets.s3_access_key, "secretKey": self.secrets.s3_secret_key}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identities = {"identities": [{"name": "transom", "credentials": [credentials], "actions": actions}]}
        replace(self.data / "identities.json", json.dumps(identities), mode=0o600)
        self._tidy()

    def _tidy(self) -> None:
        for socket in (self._socket("s3"), self._socket("s3-filer"), *sockets(self.ports)):
            socket.unlink(missing_ok=True)

    def _socket(self, name: str) -> Path:
        return self.sockets / f"transom-{name}-{self.ports[name]}.sock"

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/status", timeout=2) as reply:  # noqa: S310, http
                return bool(reply.status == 200)
        except OSError:
            return False

    def _make_bucket(self) -> None:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.secrets.s3_access_key,
            aws_secret_access_key=self.secrets.s3_secret_key,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, read_timeout=5),
        )
        until = time.monotonic() + 60
        while True:  # it answers before all its parts have found each other
            try:
                if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
                    client.create_bucket(Bucket=BUCKET)
                client.put_bucket_cors(Bucket=BUCKET, CORSConfiguration=CORS)
                client.put_object(Bucket=BUCKET, Key=".ready", Body=b"ready")
                return
            except (BotoCoreError, ClientError):
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
