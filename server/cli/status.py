"""`transom status`: what runs, and how it is."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from ._chosen import chosen, port_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from deploy.native.health import Health

COLOURS = {"ready": "green", "starting": "yellow", "waiting": "yellow", "restarting": "yellow"}


@click.command()
@port_option
@click.option("--json", "as_json", is_flag=True, help="For scripts: all of it as one JSON object.")
def command(port: int | None, as_json: bool) -> None:
    """Show what runs, and how it is.

    Each process with its address and health, the replica's lag and the queues (those of tasks that wait to be tried
    again only while there are any). The exit code is 0 only if everything runs as it should.

    \b
    transom status
    transom status --json | jq '.processes[] | select(.health != "ready")'
    """
    from deploy.native.health import examine

    health = examine(chosen(port))
    if as_json:
        click.echo(json.dumps(health.told(), indent=2))
    else:
        from rich.console import Console

        console = Console(highlight=False)
        console.print(_table(health))
        for line in _more(health):
            console.print(f"  {line}", soft_wrap=True)
        if health.error:
            console.print(health.error, style="red", markup=False)
        if health.phase == "abandoned":
            console.print("The supervisor was killed: nobody restarts what crashes. `transom up` takes over again.")
    sys.exit(0 if health.good else 1)


def _table(health: Health) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=f"{health.edge}  {_headline(health)}", title_justify="left")
    for name in ("process", "address", "health"):
        table.add_column(name, no_wrap=True)
    for name in ("up", "restarts", "pid"):
        table.add_column(name, justify="right")
    for p in health.processes:
        colour = COLOURS.get(p.health, "red")
        up = _duration(p.uptime) if p.uptime is not None else ""
        table.add_row(p.name, p.address, f"[{colour}]{p.health}[/]", up, str(p.restarts or ""), str(p.pid or ""))
    return table


def _headline(health: Health) -> str:
    # "ready" is what the supervisor calls a stack whose start is over, whatever has ended since.
    return "degraded" if health.phase == "ready" and not health.good else health.phase


def _more(health: Health) -> Iterator[str]:
    if now := health.replication:
        yield f"primary   {now.primary}{', whose commits wait for the replica' if now.synchronous else ''}"
        if now.streaming:
            yield f"replica   {now.lag_bytes} bytes, {now.lag_seconds:.3f} s behind the primary"
        else:
            yield "replica   [red]not streaming[/]"
    if reads := health.reads:
        rate = f", {reads.hit_rate:.0%} of the looks for what is hot" if reads.hit_rate is not None else ""
        yield f"reads     {reads.replica} from the replica, {reads.primary} from the primary, {reads.redis} from Redis{rate}"
    queues = [q for q in health.queues if q.messages or not q.name.startswith("transom.delay.")]
    width = max((len(queue.name) for queue in queues), default=0)
    for queue in queues:
        yield f"queue     {queue.name.ljust(width)}  {queue.messages} waiting, {queue.consumers} consumers"


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
