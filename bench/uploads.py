"""`python -m bench.uploads`: uploads through Transom, beside the same bytes put into the bare S3 server.

The whole system as `make up` starts it. In each round the same bytes go two ways, one after the other: put straight into S3
by URLs that this process signs itself; and as a client of Transom uploads them, announced and completed through the edge.
Small files show what announcing and checking cost, large ones, in parts, what is left of the bare server's throughput.
"""

from __future__ import annotations

import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import httpx

from deploy.native.stack import PROJECT, Stack
from server.store.objects import Objects

PART = 8 << 20
"""Bytes of a part."""
TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Cell:
    """So many files of one size."""

    name: str
    size: int
    files: int


@click.command()
@click.option("--clients", default=4, show_default=True, type=click.IntRange(1, 64), help="Uploads, or parts, at once.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 100))
@click.option("--quick", is_flag=True, help="One short round: to see that it works, not to quote.")
def main(clients: int, rounds: int, quick: bool) -> None:
    """Measure uploads in MB/s."""
    cells = [Cell("64 KiB", 64 << 10, 200), Cell("1 MiB", 1 << 20, 100), Cell("128 MiB, in parts", 128 << 20, 1)]
    if quick:
        rounds, cells = 1, [Cell("64 KiB", 64 << 10, 20), Cell("24 MiB, in parts", 24 << 20, 1)]
    with TemporaryDirectory(prefix="transom-bench-") as folder:
        Path(folder).chmod(0o755)  # Postgres does not run as root, and has to get there
        with Stack(Path(folder) / "state", app=PROJECT / "examples" / "inspect").running() as stack:
            ways = {"S3 alone": _Bare(stack, clients), "Transom": _Through(stack, clients)}
            click.echo(f"median of {rounds} rounds, {clients} at once")
            click.echo(f"{'':20} {'S3 alone':>12} {'Transom':>12} {'ratio':>6} {'':>12}")
            for cell in cells:
                _measure(cell, ways, rounds)


def _measure(cell: Cell, ways: dict[str, Any], rounds: int) -> None:
    data = secrets.token_bytes(cell.size)
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way.send(data, cell.files)
            took[name].append(time.perf_counter() - began)
    rates = {name: cell.size * cell.files / statistics.median(seconds) / 1e6 for name, seconds in took.items()}
    files = cell.files / statistics.median(took["Transom"])
    bare, through = rates["S3 alone"], rates["Transom"]
    click.echo(f"{cell.name:20} {bare:7.1f} MB/s {through:7.1f} MB/s {through / bare:6.2f} {files:6.1f} files/s")


class _Bare:
    """Straight into S3."""

    def __init__(self, stack: Stack, clients: int) -> None:
        env = stack.env
        self._objects = Objects(
            endpoint=env["TRANSOM_S3_ENDPOINT"],
            public_endpoint=None,
            region=env["TRANSOM_S3_REGION"],
            bucket=env["TRANSOM_S3_BUCKET"],
            access_key=env["TRANSOM_S3_ACCESS_KEY"],
            secret_key=env["TRANSOM_S3_SECRET_KEY"],
        )
        self._clients = clients
        self._http = httpx.Client(timeout=60)

    def send(self, data: bytes, files: int) -> None:
        pieces = _pieces(data) if files == 1 else [data] * files
        _at_once(self._clients, self._put, pieces)

    def _put(self, number: int, piece: bytes) -> None:
        signed = self._objects.signed_put(f"bench/{secrets.token_hex(8)}", TYPE, len(piece), None, timedelta(hours=1))
        self._http.put(signed.url, content=piece, headers=signed.headers).raise_for_status()


class _Through:
    """As a client of Transom."""

    def __init__(self, stack: Stack, clients: int) -> None:
        made = subprocess.run(
            [sys.executable, "-m", "server.cli", "key", "create", "--title", "bench", "--role", "service"],
            env={**os.environ, **stack.env},
            cwd=PROJECT,
            check=True,
            capture_output=True,
            text=True,
        )
        self._edge = httpx.Client(
            base_url=f"{stack.edge}/transom/v1",
            timeout=60,
            headers={"authorization": f"Bearer {made.stdout.strip()}"},
        )
        self._s3 = httpx.Client(timeout=60)
        self._clients = clients

    def send(self, data: bytes, files: int) -> None:
        if files > 1:
            _at_once(self._clients, self._whole, [data] * files)
            return
        asked = {"contentType": TYPE, "sizeBytes": str(len(data)), "partSizeBytes": str(PART)}
        name = self._call("/files:createMultipartUpload", asked)["file"]["name"]
        pieces = _pieces(data)
        signed = self._call(f"/{name}:signParts", {"parts": [{"number": n} for n in range(1, len(pieces) + 1)]})
        _at_once(self._clients, lambda n, piece: self._put(signed["parts"][n], piece), pieces)
        self._call(f"/{name}:complete", {})

    def _whole(self, number: int, data: bytes) -> None:
        upload = self._call("/files:createUpload", {"contentType": TYPE, "sizeBytes": str(len(data))})
        self._put(upload, data)
        self._call(f"/{upload['file']['name']}:complete", {})

    def _put(self, to: Any, data: bytes) -> None:
        self._s3.put(to["uploadUrl"], content=data, headers=to["uploadHeaders"]).raise_for_status()

    def _call(self, path: str, body: Any) -> Any:
        return self._edge.post(path, json=body).raise_for_status().json()


def _pieces(data: bytes) -> list[bytes]:
    return [data[at : at + PART] for at in range(0, len(data), PART)]


def _at_once(clients: int, work: Callable[[int, bytes], None], pieces: Sequence[bytes]) -> None:
    with ThreadPoolExecutor(clients) as threads:
        for _ in threads.map(work, range(len(pieces)), pieces):
            pass


if __name__ == "__main__":
    main()
