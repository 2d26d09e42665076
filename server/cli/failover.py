"""`transom failover`: the replica becomes the primary."""

from __future__ import annotations

import time

import click

from ._chosen import chosen, port_option

BACK_SECONDS = 120.0
"""How long the former primary may take to come back as the replica: it may have to be copied anew."""


@click.command()
@port_option
def command(port: int | None) -> None:
    """Promote the replica; the former primary comes back as its replica.

    Servers follow by themselves: reads go on, writes are refused with UNAVAILABLE and come back within seconds. A primary
    that runs is stopped first, and ships all it has; of one that is dead, what had not reached the replica is lost, unless
    commits wait for the replica (transom replication --synchronous).

    \b
    transom failover
    transom status
    """
    from deploy.native.failover import FailoverError, fail_over
    from deploy.native.postgres import replication
    from deploy.native.stack import StackError

    stack = chosen(port)
    begun = time.monotonic()
    try:
        with stack.place.alone():
            new = fail_over(stack.topology.postgres, stack.place, lambda said: click.echo(said, err=True))
        click.echo(f"{new} is the primary, after {time.monotonic() - begun:.1f} s", err=True)
        dsn = stack.env["TRANSOM_POSTGRES"]
    except (FailoverError, StackError) as problem:
        raise click.ClickException(str(problem)) from problem
    while time.monotonic() - begun < BACK_SECONDS:
        now = replication(dsn)
        if now is not None and now.streaming:
            click.echo(f"the other is its replica, after {time.monotonic() - begun:.1f} s", err=True)
            return
        time.sleep(0.1)
    raise click.ClickException("the former primary has not come back as the replica; see: transom logs")
