"""`transom plan`: what a change of schema would do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._chosen import app_options, port_option, settings_of

if TYPE_CHECKING:
    from server.schema.compatibility import Break
    from server.store.schemas.applying import Prospect


@click.command()
@app_options
@port_option
@click.option(
    "--descriptor",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A compiled schema (transom build), in place of the app's protos.",
)
@click.option("--accept-breaking", type=click.Choice(["json", "wire"]), help="As transom apply has it.")
@click.option("--json", "as_json", is_flag=True, help="For CI: all of it as one JSON object.")
def command(
    app: Path | None, port: int | None, descriptor: Path | None, accept_breaking: str | None, as_json: bool
) -> None:
    """Show what applying an app's schema would do, without doing it.

    Against what is deployed, which the database keeps: whom the change breaks (buf breaking, WIRE_JSON), what is refused
    and what to do about it, the SQL with the lock that each statement takes, and the rows that are written anew. Changes
    nothing; rows are counted, which reads whole tables.

    Exit codes: 0 it can be applied, or there is nothing to do; 1 it cannot be told; 3 it is refused.

    \b
    transom plan                    the app of the stack there is, against its database
    transom plan ../my-app --json | jq .breaks
    """
    import psycopg

    from server.schema.compilation import SchemaError
    from server.store.schemas.applying import Applying

    from . import _change

    settings = settings_of(port)
    schema = _change.target(app or settings.app, descriptor)
    try:
        with psycopg.connect(
            settings.postgres.get_secret_value(),
            autocommit=True,
            application_name="transom plan",
        ) as connection:
            connection.execute("set default_transaction_read_only = on")
            prospect = Applying(connection, schema).prospect()
        breaks = _change.breaks_of(prospect, schema)
    except psycopg.OperationalError as error:
        raise click.ClickException(f"the database: {' '.join(str(error).split())}") from error
    except SchemaError as error:
        raise click.ClickException(str(error)) from error
    refusals = _change.refused(prospect, breaks, accept_breaking)
    if as_json:
        click.echo(json.dumps(_change.told(prospect, schema, breaks, refusals), indent=2))
    else:
        _show(prospect, breaks, refusals)
    if refusals:
        raise click.exceptions.Exit(_change.REFUSED)


def _show(prospect: Prospect, found: list[Break], refusals: list[str]) -> None:
    from server.schema.compatibility import verdict

    from . import _change

    deployed, plan = prospect.deployed, prospect.plan
    click.echo(f"deployed: version {deployed.version}, by {deployed.who}" if deployed else "deployed: nothing yet")
    if deployed:
        click.echo(f"breaks: {_change.clients(verdict(found))}")
    for one in found:
        click.echo(f"  {one.breaks.value}: {one}")
    if refusals:
        click.secho("refused:", fg="red")
        for text in refusals:
            click.echo(f"  {text}")
    if prospect.others:
        running = ", ".join(f"{count} of version {version}" for version, count in prospect.others.items())
        click.echo(f"processes with other tables: {running}")
    elif deployed and (plan.steps or plan.later):
        click.echo("processes with other tables: none, so all is done at once, and none starts meanwhile")
    if plan.steps:
        click.secho("steps:", bold=True)
        for line in _change.lines(plan.steps):
            click.echo(line)
    if plan.later:
        click.secho("when none of them runs any more:", bold=True)
        for line in _change.lines(plan.later):
            click.echo(line)
    for note in plan.notes:
        click.echo(f"note: {note}")
    if not plan.steps and not plan.later and not refusals:
        click.secho("the tables are as the schema wants them", fg="green")
