"""`transom build`: what the processes need to know of an app, as files."""

from __future__ import annotations

from pathlib import Path

import click

from ._chosen import app_options, named


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise click.BadParameter(f"{text!r} is not host:port")
    return host, int(port)


@click.command()
@app_options
@click.option(
    "--descriptor",
    default="descriptor.binpb",
    show_default=True,
    envvar="TRANSOM_DESCRIPTOR",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the compiled schema goes.",
)
@click.option("--envoy", type=click.Path(dir_okay=False, path_type=Path), help="Where Envoy's configuration goes.")
@click.option("--edge-host", default="127.0.0.1", show_default=True, help="Address the edge listens on.")
@click.option("--edge-port", default=8080, show_default=True, help="Port the edge listens on.")
@click.option("--admin-port", default=9901, show_default=True, help="Port of Envoy's own pages, on loopback.")
@click.option(
    "--origins",
    default="",
    envvar="TRANSOM_ALLOWED_ORIGINS",
    help="Web origins whose pages may call, with cookies, separated by commas. None: any, without.",
)
@click.option("--server", "servers", multiple=True, metavar="HOST:PORT", help="An API server; may be given often.")
def command(
    app: Path | None,
    descriptor: Path,
    envoy: Path | None,
    edge_host: str,
    edge_port: int,
    admin_port: int,
    origins: str,
    servers: tuple[str, ...],
) -> None:
    """Compile an app's protos.

    Writes the descriptor set that every process reads and, if asked to, the configuration of the edge that belongs
    to it. A schema that cannot be served is refused here, with file, line and reason, and so are methods.py and
    tasks.py that do not fit it or cannot be imported, and mails that cannot be read.

    \b
    transom build ../my-app --descriptor my-app.binpb
    """
    from server.apps.loading import load
    from server.apps.templates import Templates
    from server.query.rules.checking import rules_of
    from server.schema.compilation import SchemaError, compile_app
    from server.schema.reading import read

    app = named(app)
    try:
        compiled = compile_app(app)
        schema = read(compiled)
        rules_of(schema)
        load(app, schema)
        Templates.of(app).sound()
        _replace(descriptor, compiled)
        if envoy:
            from edge.rendering import DEFAULT_SERVERS, render

            addresses = [_address(server) for server in servers] or DEFAULT_SERVERS
            text = render(
                compiled,
                str(descriptor.absolute()),
                edge_port=edge_port,
                edge_host=edge_host,
                admin_port=admin_port,
                servers=addresses,
                origins=[origin.strip() for origin in origins.split(",") if origin.strip()],
            )
            _replace(envoy, text.encode())
    except SchemaError as refused:
        raise click.ClickException(f"the app is refused:\n{refused}") from refused


def _replace(path: Path, content: bytes) -> None:
    # Written beside and moved: no process ever reads half a file.
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.replace(path)
