"""`python -m bench.memory`: whether a server's memory grows with the calls it has answered.

The whole stack, as `python -m bench` starts it, and the same calls by the same clients: every operation over both protocols
in turns. Told are the pages of each API server that are its own (RssAnon, proc(5)), after each tenth of the calls; and how
fast they grew over the second half, when all that is remembered for a moment has been remembered.
"""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from . import load, transom
from .cells import Operation, Wire
from .h2load import generator

STEPS = 10
CLIENTS = 16
SLOWEST = 50
"""Calls a second below which a step has failed."""

_OWN = re.compile(r"^RssAnon:\s+(\d+) kB$", re.MULTILINE)


@click.command()
@click.option("--calls", default=100_000, show_default=True, type=click.IntRange(10_000, 100_000_000))
def main(calls: int) -> None:
    """Measure the memory of the API servers. A million calls take about fifteen minutes."""
    tool = generator(lambda told: click.echo(told, err=True))
    kinds = [(operation, wire) for operation in Operation for wire in Wire]
    share = max(1, calls // (STEPS * len(kinds) * CLIENTS))
    with TemporaryDirectory(prefix="transom-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # Postgres does not run as root, and has to get there
        with transom.opened(folder, CLIENTS) as system:
            pids = system.processes()["API servers"]
            click.echo(f"{'calls':>12}" + "".join(f"{f'server {n}, MiB':>16}" for n in range(1, len(pids) + 1)))
            told = [(0, _own(pids))]
            _show(*told[0])
            for step in range(1, STEPS + 1):
                for operation, wire in kinds:
                    requests = [system.request(operation, wire, client) for client in range(CLIENTS)]
                    load.run(tool, requests, seconds=share * CLIENTS / SLOWEST, count=share)
                told.append((step * share * len(kinds) * CLIENTS, _own(pids)))
                _show(*told[-1])
    (half, before), (end, after) = told[STEPS // 2], told[-1]
    grown = (sum(after) - sum(before)) / len(pids) / 1024 / (end - half) * 1e6 * len(pids)
    click.echo(f"over the second half: {grown:+.2f} MiB a server for each million calls that it answered")


def _own(pids: list[int]) -> list[int]:
    """KiB of each process."""
    found = []
    for pid in pids:
        told = _OWN.search(Path(f"/proc/{pid}/status").read_text())
        assert told is not None, "Linux tells it"
        found.append(int(told[1]))
    return found


def _show(calls: int, kib: list[int]) -> None:
    click.echo(f"{calls:12,}" + "".join(f"{one / 1024:16.1f}" for one in kib))


if __name__ == "__main__":
    main()
