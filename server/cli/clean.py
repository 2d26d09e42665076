"""`transom clean`: removes a stack with its data."""

from __future__ import annotations

import click

from ._chosen import chosen, port_option


@click.command()
@port_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--everything", is_flag=True, help="All stacks, and the unpacked servers too.")
def command(port: int | None, yes: bool, everything: bool) -> None:
    """Stop a stack and remove its data.

    Database, files, mails, logs and passwords are gone then.

    \b
    transom clean                 asks first
    transom clean --yes           does not
    transom clean --everything    every stack of this folder, and the servers that were unpacked for them
    """
    from deploy.native.stack import HOME, Stack, forget_servers

    stacks = [Stack.of(f) for f in sorted(HOME.glob("[0-9]*")) if f.is_dir()] if everything else [chosen(port)]
    for stack in stacks:
        if not yes:
            click.confirm(f"Remove {stack.place.state} with all data in it?", abort=True, err=True)
        stack.clean()
        click.echo(f"{stack.place.state} is removed", err=True)
    if everything:
        forget_servers()
        click.echo("the unpacked servers are removed", err=True)
