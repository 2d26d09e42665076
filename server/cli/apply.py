"""`transom apply`: a change of schema, carried out while everything goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._change import accept_option
from ._chosen import app_options, chosen, port_option, settings_of

if TYPE_CHECKING:
    from server.schema.model import Schema


@click.command()
@app_options
@port_option
@click.option(
    "--descriptor",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A compiled schema (transom build), in place of the app's protos.",
)
@accept_option
@click.option(
    "--wait",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 86_400),
    metavar="SECONDS",
    help="How long to wait for servers of the version before to be replaced, in order to finish.",
)
@click.option("--roll/--no-roll", default=True, help="Whether the servers of this machine's stack are replaced, too.")
def command(
    app: Path | None,
    port: int | None,
    descriptor: Path | None,
    accept_breaking: str | None,
    wait: float,
    roll: bool,
) -> None:
    """Bring the database, and a stack of this machine with it, from one schema to the next while everything goes on.

    First the tables grow, so that servers of both schemas can work on them. Then the servers are replaced, one by one:
    on a stack of this machine this does it, elsewhere you do. What only the new schema's servers may see comes when none
    of the others runs: then, or with the next `transom apply`. Whatever interrupts it, another one finishes it. One runs at
    a time; others wait, and say for whom.

    Exit codes: 0 all is done; 1 it failed on the way, apply again; 3 refused, nothing was done; 4 servers of the version
    before still run: replace them and apply again.

    \b
    transom apply                           the app of the stack there is
    transom apply ../my-app --accept-breaking json
    transom apply --descriptor app.binpb --wait 600     with TRANSOM_POSTGRES, while another tool replaces servers
    """
    from . import _change

    settings = settings_of(port)
    schema = _change.target(app or settings.app, descriptor)
    dsn = settings.postgres.get_secret_value()
    if _applied(dsn, schema, accept_breaking, wait):
        return
    rolled = roll and descriptor is None and _rolled(dsn, port, app or settings.app)
    if rolled and _applied(dsn, schema, accept_breaking, max(wait, 30.0)):
        return
    click.secho("servers of the version before still run: replace them, then apply again to finish", fg="yellow")
    raise click.exceptions.Exit(_change.WAITING)


def _applied(dsn: str, schema: Schema, accept_breaking: str | None, wait: float) -> bool:
    """Whether all is done."""
    import psycopg

    from server.engine.rewriting import encoder
    from server.schema.compilation import SchemaError
    from server.store.migrations import changing
    from server.store.schemas.applying import Applying

    from . import _change

    def report(text: str) -> None:
        click.echo(text, err=True)

    try:
        with changing(dsn, report) as (connection, own):
            applying = Applying(connection, schema, who=_change.who(), encode=encoder(schema), report=report)
            prospect = applying.prospect()
            breaks = _change.breaks_of(prospect, schema)
            if refusals := _change.refused(prospect, breaks, accept_breaking):
                _change.stop(refusals)
            done, all_done = applying.apply(wait)
    except psycopg.OperationalError as error:
        raise click.ClickException(f"the database: {' '.join(str(error).split())}: apply again") from error
    except SchemaError as error:
        raise click.ClickException(str(error)) from error
    for line in [*own, *done]:
        click.echo(line)
    if all_done:
        click.secho("done: the tables are as the schema wants them", fg="green")
    return all_done


def _rolled(dsn: str, port: int | None, app: Path) -> bool:
    """Replaces the servers of the stack that this database is of, if it is one of this machine's; whether it did."""
    from deploy.native.stack import StackError

    from .up import Progress

    try:
        stack = chosen(port)
        if stack.env.get("TRANSOM_POSTGRES") != dsn or stack.app.resolve() != app.resolve():
            return False
    except (click.ClickException, StackError):
        return False
    if stack.status()["phase"] != "ready":
        return False
    progress = Progress()
    try:
        stack.start(report=progress.report, progress=progress.say)
    except StackError as problem:
        progress.end()
        raise click.ClickException(str(problem)) from problem
    progress.end()
    return True
