"""`transom migrate`: brings the database up to the schema."""

from __future__ import annotations

import click


@click.command()
def command() -> None:
    """Bring the database up to date with Transom's own tables and the app's schema.

    Adds what is missing, renames what was renamed (fields are known by their numbers), and refuses what would lose
    data. Reads TRANSOM_POSTGRES and TRANSOM_DESCRIPTOR. Safe to run at any time and any number of times.
    """
    from server.schema.compilation import SchemaError
    from server.schema.reading import read
    from server.settings import Settings
    from server.store.migrations import migrate

    settings = Settings()
    try:
        done = migrate(settings.postgres.get_secret_value(), read(settings.descriptor.read_bytes()))
    except SchemaError as error:
        raise click.ClickException(f"the schema is refused:\n{error}") from error
    for line in done or ["nothing to do"]:
        click.echo(line)
