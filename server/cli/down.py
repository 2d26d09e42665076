"""`transom down`: stops a stack."""

from __future__ import annotations

import click

from ._chosen import chosen, port_option


@click.command()
@port_option
def command(port: int | None) -> None:
    """Stop everything; data stays for the next start.

    API servers first finish the calls they have; then the rest stops in order. `transom clean` also removes the data.
    """
    from deploy.native.stack import StackError

    stack = chosen(port)
    try:
        stopped = stack.stop()
    except StackError as problem:
        raise click.ClickException(str(problem)) from problem
    click.echo("stopped" if stopped else "nothing was running", err=True)
