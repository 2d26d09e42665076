"""`transom replay`: past events, published again."""

from __future__ import annotations

from datetime import timedelta

import click

from ._chosen import port_option, settings_of


@click.command()
@click.option(
    "--hours",
    required=True,
    type=click.FloatRange(min=0, max=8760, min_open=True),
    help="How far back, as far as events are kept (TRANSOM_EVENT_DAYS).",
)
@port_option
def command(hours: float, port: int | None) -> None:
    """Have past events published again.

    For a broker that has lost its messages, and for a task that was added later. Tasks recognise what they have done
    already and leave it alone.

    Works on the stack with edge port --port, or on what TRANSOM_POSTGRES names.
    """
    import psycopg

    from consumers.relay import replay

    settings = settings_of(port)
    try:
        count = replay(settings.postgres.get_secret_value(), timedelta(hours=hours))
    except psycopg.OperationalError as error:
        raise click.ClickException("the database cannot be reached; `transom status` shows what runs") from error
    click.echo(f"{count} events will be published again", err=True)
