"""`transom migrate`: brings the database up to the schema."""

from __future__ import annotations

import click

from ._chosen import port_option, settings_of


@click.command()
@port_option
def command(port: int | None) -> None:
    """Bring the database up to date with Transom's own tables and the app's compiled schema.

    As `transom apply`, for whoever starts a system: it replaces no servers, accepts nothing that breaks clients, and leaves
    what has to wait for servers of the version before to the next time. Safe to run at any time and any number of times.

    Works on the stack with edge port --port, or on what TRANSOM_POSTGRES and TRANSOM_DESCRIPTOR name.
    """
    import psycopg

    from server.engine.rewriting import encoder
    from server.schema.compilation import SchemaError
    from server.schema.reading import read
    from server.store.migrations import changing
    from server.store.schemas.applying import Applying

    from . import _change

    settings = settings_of(port)
    try:
        schema = read(settings.descriptor.read_bytes())
        with changing(settings.postgres.get_secret_value()) as (connection, own):
            applying = Applying(connection, schema, who=_change.who(), encode=encoder(schema))
            prospect = applying.prospect()
            if refusals := _change.refused(prospect, _change.breaks_of(prospect, schema), None):
                raise SchemaError("\n".join(refusals))
            done, all_done = applying.apply()
    except FileNotFoundError as error:
        raise click.ClickException(f"{settings.descriptor}: there is no compiled schema (transom build)") from error
    except psycopg.OperationalError as error:
        raise click.ClickException(f"the database: {' '.join(str(error).split())}") from error
    except SchemaError as error:
        raise click.ClickException(f"the schema is refused:\n{error}") from error
    for line in [*own, *done] or ["nothing to do"]:
        click.echo(line)
    if not all_done:
        click.echo("servers of the version before still run: what is left waits for them (transom apply)")
