"""`python -m edge`: renders Envoy's configuration."""

from __future__ import annotations

from pathlib import Path

import click

from edge.rendering import ANY, DEFAULT_SERVERS, EVERYWHERE, TEMPLATE, render
from server.schema.compilation import SchemaError, compile_app


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise click.BadParameter(f"{text!r} is not host:port")
    return host.strip("[]"), int(port)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--descriptor",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("descriptor.binpb"),
    help="The app's compiled FileDescriptorSet, where Envoy will find it.",
)
@click.option(
    "--app",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the app: compile its protos instead of reading the descriptor.",
)
@click.option("--compile", "write", is_flag=True, help="With --app: write what was compiled to the descriptor, too.")
@click.option("--servers", default=",".join(f"{h}:{p}" for h, p in DEFAULT_SERVERS), help="API servers, host:port,…")
@click.option("--host", "edge_host", default=EVERYWHERE, help="Address to listen on.")
@click.option("--port", "edge_port", default=8080, help="Port to listen on.")
@click.option("--admin-port", default=9901, help="Port of Envoy's admin interface, on loopback.")
@click.option(
    "--origins",
    default=ANY,
    envvar="TRANSOM_ALLOWED_ORIGINS",
    help="Web origins whose pages may call, with cookies, separated by commas; * for any, without.",
)
@click.option("--request-bytes", default=1 << 20, help="Largest request that does not stream.")
@click.option("--deadline", default=30.0, help="Seconds a call that does not stream may take.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help=f"File to write instead of standard output. {TEMPLATE.name} itself may be named.",
)
def main(
    descriptor: Path,
    app: Path | None,
    write: bool,
    servers: str,
    edge_host: str,
    edge_port: int,
    admin_port: int,
    origins: str,
    request_bytes: int,
    deadline: float,
    output: Path | None,
) -> None:
    """Renders Envoy's configuration from envoy.yaml and the schema.

    \b
    For the app that is served by default, over envoy.yaml itself:
      python -m edge --app examples/inspect -o envoy.yaml
    """
    try:
        compiled = compile_app(app) if app else descriptor.read_bytes()
        text = render(
            compiled,
            str(descriptor),
            edge_port=edge_port,
            edge_host=edge_host,
            admin_port=admin_port,
            servers=[_address(s) for s in servers.split(",")],
            origins=[origin.strip() for origin in origins.split(",") if origin.strip()],
            request_bytes=request_bytes,
            deadline=deadline,
        )
    except (SchemaError, OSError, ValueError) as fault:
        raise click.ClickException(str(fault)) from fault
    if app and write:
        _replace(descriptor, compiled)
    if output:
        _replace(output, text.encode())
    else:
        click.echo(text, nl=False)


def _replace(path: Path, content: bytes) -> None:
    # Written beside and moved: a reader never meets half a file.
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    beside.replace(path)


if __name__ == "__main__":
    main()
