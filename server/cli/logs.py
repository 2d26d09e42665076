"""`transom logs`: what the processes say."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ._chosen import chosen, port_option


@click.command()
@click.argument("process", nargs=-1)
@port_option
@click.option("-f", "--follow", is_flag=True, help="Go on with what is said from now on, until Ctrl-C.")
@click.option("-n", "--lines", default=20, show_default=True, type=click.IntRange(min=0), help="Lines of each.")
def command(process: tuple[str, ...], port: int | None, follow: bool, lines: int) -> None:
    """Show the logs of all processes, or of those named.

    \b
    transom logs                  the last lines of each
    transom logs api-1 work -f    two of them, followed
    transom logs api              all whose name begins with api
    """
    from deploy.native.logs import tail

    folder = chosen(port).place.logs
    known = sorted(folder.glob("*.log"))
    files = [f for f in known if not process or any(f.stem == p or f.stem.startswith(f"{p}-") for p in process)]
    if not files:
        names = ", ".join(f.stem for f in known)
        raise click.ClickException(f"no log of that name; there are: {names}")
    width = max(len(f.stem) for f in files) if len(files) > 1 else 0
    for file in files:
        for line in tail(file, lines):
            _say(file, line, width)
    if follow:
        _follow(files, width)


def _follow(files: list[Path], width: int) -> None:
    places = {file: file.stat().st_size for file in files}
    pending = dict.fromkeys(files, b"")
    try:
        while True:
            for file in files:
                if (size := file.stat().st_size) < places[file]:  # it was emptied because it had grown too large
                    places[file] = 0
                if size > places[file]:
                    with file.open("rb") as log:
                        log.seek(places[file])
                        content = log.read()
                    places[file] += len(content)
                    *whole, pending[file] = (pending[file] + content).split(b"\n")
                    for line in whole:
                        _say(file, line.decode(errors="replace"), width)
            time.sleep(0.2)
    except (KeyboardInterrupt, FileNotFoundError):
        return


def _say(file: Path, line: str, width: int) -> None:
    click.echo(f"{click.style(file.stem.ljust(width), fg='cyan')} {line}" if width else line)
