"""`python -m bench`: measures, and writes a table, the numbers and a plot."""

from __future__ import annotations

import fcntl
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from .rounds import Plan

OUT = Path(__file__).parent / "out"
LOCK = Path(gettempdir()) / "transom-bench.lock"
"""One measurement at a time on a machine, whatever folder it is started from."""


@click.command(context_settings={"max_content_width": 100})
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 50), help="Each cell once a round.")
@click.option("--seconds", default=4.0, show_default=True, type=click.FloatRange(0.5, 60), help="Of one measurement.")
@click.option("--clients", default=16, show_default=True, type=click.IntRange(1, 64), help="Connections at once.")
@click.option("--seed", default=1, show_default=True, help="Of the order of the cells.")
@click.option("--access", default="owner", show_default=True, type=click.Choice(["owner", "member"]), help="The rule.")
@click.option("--only", metavar="REGEX", default="", help="Cells whose name (Transom/Get/gRPC) matches.")
@click.option("--out", default=OUT, show_default="bench/out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--quick", is_flag=True, help="One short round: to see that it works, not to quote.")
def main(rounds: int, seconds: float, clients: int, seed: int, access: str, only: str, out: Path, quick: bool) -> None:
    """Measure what a request costs: requests a second, latency, CPU of every process.

    Transom as `make up` starts it, a bare grpcio server behind the same edge, and PocketBase are started on private
    ports of loopback, filled with the same data, and asked the same by the same clients, in turns. It takes about
    seven minutes and ends by itself; two cores are enough. Nothing else should run meanwhile: how much did is part
    of the result.
    """
    from deploy.native.debian import PackageError
    from deploy.native.stack import StackError

    from .cells import Access, Wrong
    from .rounds import Plan

    chosen = Access(access)
    plan = Plan(1, 1.0, clients, 1.0, seed, chosen) if quick else Plan(rounds, seconds, clients, 5.0, seed, chosen)
    try:
        with _alone():
            _run(plan, re.compile(only, re.IGNORECASE), out)
    except (Wrong, StackError, PackageError) as problem:
        raise click.ClickException(str(problem)) from problem


def _run(plan: Plan, only: re.Pattern[str], out: Path) -> None:
    from rich.console import Console

    from . import echo, plot, pocketbase, report, transom
    from .cells import Wrong, cells
    from .h2load import generator
    from .rounds import measured

    console = Console(stderr=True)
    with (
        console.status("starting") as status,
        TemporaryDirectory(prefix="transom-bench-") as name,
        ExitStack() as stack,
    ):
        folder = Path(name)
        folder.chmod(0o755)  # Postgres runs as another user where this one is root
        tool = generator(status.update)
        status.update("starting Transom")
        product = stack.enter_context(transom.opened(folder, plan.clients, plan.access))
        status.update("starting the bare servers")
        bare = stack.enter_context(echo.opened(folder, product))
        status.update("starting PocketBase")
        other = stack.enter_context(pocketbase.opened(folder, plan.clients, plan.access))
        systems = (other, product, bare)
        wanted = [cell for cell in cells(systems) if only.search(cell.key)]
        if not wanted:
            raise Wrong(f"no cell matches; there are {', '.join(cell.key for cell in cells(systems))}")
        rounds = measured(plan, systems, wanted, tool, status.update)
        status.update("stopping")
    command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
    result = report.summed(rounds, wanted, plan, command)
    terminal = Console()
    report.show(result, terminal if terminal.is_terminal else Console(width=120))
    report.write(result, out)
    plot.draw(result, out / "cpu.png")
    console.print(f"written: {', '.join(str(out / file) for file in ('report.md', 'report.json', 'cpu.png'))}")


@contextmanager
def _alone() -> Iterator[None]:
    """Holds the lock. Its descriptor is not inherited, so that a process that is left over holds nothing."""
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            click.echo("another measurement is under way on this machine: waiting for its end", err=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    main()
