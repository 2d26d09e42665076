"""A closed loop of clients: each has a connection of its own and sends its next request when the last was answered."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from . import alternating
from .cells import Request, Wire, Wrong
from .h2load import Generator

PATIENCE = 6
"""A measurement that takes this many times as long as it should is ended, and has failed."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the clients saw."""

    requests: int
    seconds: float
    micros: list[int]
    """How long each request took, in order of size."""
    cpu: float
    """CPU seconds of the clients themselves."""

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    def percentile(self, share: float) -> float:
        """Milliseconds that this share of the requests did not exceed."""
        return self.micros[min(len(self.micros) - 1, int(share * len(self.micros)))] / 1000


def run(generator: Generator, requests: Sequence[Request], *, seconds: float, count: int = 0) -> Loaded:
    """Has one client for each of `requests` send it: `count` times, which should take `seconds`; or for `seconds`.

    Raises Wrong where a request was not answered with 200 and where it takes PATIENCE times too long.
    """
    if any(request.other is not None for request in requests):
        before = time.process_time()
        micros, took = alternating.run(requests, seconds=seconds, count=count, patience=5 + PATIENCE * seconds)
        return Loaded(len(micros), took, micros, time.process_time() - before)
    with TemporaryDirectory(prefix="transom-load-") as name:
        work = Path(name)
        before = _children()
        clients = [
            subprocess.Popen(
                _command(generator, request, work / str(i), count, seconds),
                env=generator.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for i, request in enumerate(requests)
        ]
        deadline = time.monotonic() + 5 + PATIENCE * seconds
        try:
            for client in clients:
                if client.wait(timeout=max(0.0, deadline - time.monotonic())):
                    raise Wrong("the load generator failed")
        except subprocess.TimeoutExpired:
            raise Wrong(f"{count} requests of each client took longer than {PATIENCE * seconds:.0f} s") from None
        finally:
            for client in clients:
                client.kill()
                client.wait()
        return _read([work / f"{i}.log" for i in range(len(requests))], count, _children() - before)


def _command(generator: Generator, request: Request, file: Path, count: int, seconds: float) -> list[str]:
    command = [str(generator.program), "--clients=1", "--threads=1", "--max-concurrent-streams=1"]
    command += [f"--requests={count}"] if count else [f"--duration={max(1, round(seconds))}"]
    command += [f"--log-file={file.with_suffix('.log')}"]
    assert request.other is None and not request.verb, "see alternating.py"
    if request.wire is Wire.JSON:
        command += ["--h1"]
    for name, value in request.headers.items():
        command += ["--header", f"{name}: {value}"]
    if request.body is not None:
        file.with_suffix(".body").write_bytes(request.body)
        command += [f"--data={file.with_suffix('.body')}"]
    return [*command, request.url]


def _read(logs: Sequence[Path], count: int, cpu: float) -> Loaded:
    """Each line of a log: when a request began (µs of the epoch), its HTTP status, how long it took (µs)."""
    micros: list[int] = []
    begun, ended = float("inf"), 0
    for log in logs:
        lines = [tuple(map(int, line.split("\t"))) for line in log.read_text().splitlines()] if log.exists() else []
        if count and len(lines) != count:
            raise Wrong(f"a client was answered {len(lines)} times, not {count}")
        for start, status, took in lines:
            if status != 200:
                if status == -1 and not count:
                    continue  # the time was over
                raise Wrong(f"a request was answered with HTTP status {status}")
            micros.append(took)
            begun, ended = min(begun, start), max(ended, start + took)
    if not micros:
        raise Wrong("no request was answered")
    return Loaded(len(micros), (ended - begun) / 1e6, sorted(micros), cpu)


def _children() -> float:
    """CPU seconds of all children of this process that have ended."""
    times = os.times()
    return times.children_user + times.children_system
