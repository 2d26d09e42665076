"""`transom env`: a stack's settings for a shell."""

from __future__ import annotations

import shlex
import sys

import click

from ._chosen import chosen, port_option


@click.command()
@port_option
def command(port: int | None) -> None:
    """Print the stack's settings as export lines.

    They hold its passwords: for a shell, not for a log.

    \b
    eval "$(transom env)"
    python -m server              another API server on the stack's data
    """
    from deploy.native.stack import StackError

    try:
        env = chosen(port).env
    except StackError as problem:
        raise click.ClickException(str(problem)) from problem
    if sys.stdout.isatty():
        click.secho("these lines hold passwords", fg="yellow", err=True)
    for name, value in env.items():
        click.echo(f"export {name}={shlex.quote(value)}")
