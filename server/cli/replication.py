"""`transom replication`: whether commits wait for the replica."""

from __future__ import annotations

import time

import click

from ._chosen import chosen, port_option

HEARD_SECONDS = 5.0
"""How long the primary may take to go by what it is told."""


@click.command()
@port_option
@click.option(
    "--synchronous/--asynchronous",
    "wanted",
    default=None,
    help="Whether a write is acknowledged only when the replica has it on disk, too.",
)
def command(port: int | None, wanted: bool | None) -> None:
    """Show or choose whether commits wait for the replica.

    Asynchronous is the default of two servers: each alone is enough to go on, and what a primary that is lost for good had
    not streamed yet, usually milliseconds, is lost with it. Synchronous loses nothing that was acknowledged; but while the
    replica is away, writes wait, until it is back or --asynchronous is said. It asks for three servers where both are wanted.

    \b
    transom replication
    transom replication --synchronous
    """
    from deploy.native.failover import wait_for_replica
    from deploy.native.postgres import replication
    from deploy.native.stack import StackError

    stack = chosen(port)
    try:
        if wanted is not None:
            wait_for_replica(stack.topology.postgres, wanted=wanted)
        until = time.monotonic() + HEARD_SECONDS
        now = replication(stack.env["TRANSOM_POSTGRES"])
        while now is not None and wanted not in (None, now.synchronous) and time.monotonic() < until:
            time.sleep(0.05)
            now = replication(stack.env["TRANSOM_POSTGRES"])
    except StackError as problem:
        raise click.ClickException(str(problem)) from problem
    if now is None:
        raise click.ClickException("no primary answers")
    how = "synchronous" if now.synchronous else "asynchronous"
    click.echo(f"primary {now.primary}, {how}, replica {'streaming' if now.streaming else 'away'}")
