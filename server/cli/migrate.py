"""`transom migrate`: brings the database up to the schema."""

from __future__ import annotations

import click

from ._chosen import port_option, settings_of


@click.command()
@port_option
def command(port: int | None) -> None:
    """Bring the database up to date with Transom's own tables and the app's schema.

    Adds what is missing, renames what was renamed (fields are known by their numbers), and refuses what would lose
    data. Safe to run at any time and any number of times.

    Works on the stack with edge port --port, or on what TRANSOM_POSTGRES and TRANSOM_DESCRIPTOR name.
    """
    import psycopg

    from server.schema.compilation import SchemaError
    from server.schema.reading import read
    from server.store.migrations import migrate

    settings = settings_of(port)
    try:
        done = migrate(settings.postgres.get_secret_value(), read(settings.descriptor.read_bytes()))
    except FileNotFoundError as error:
        raise click.ClickException(f"{settings.descriptor}: there is no compiled schema (transom build)") from error
    except psycopg.OperationalError as error:
        raise click.ClickException(f"the database: {' '.join(str(error).split())}") from error
    except SchemaError as error:
        raise click.ClickException(f"the schema is refused:\n{error}") from error
    for line in done or ["nothing to do"]:
        click.echo(line)
