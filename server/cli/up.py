"""`transom up`: the whole system on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._chosen import PORT

if TYPE_CHECKING:
    from deploy.native.stack import Status


@click.command()
@click.option("--port", default=PORT, show_default=True, type=click.IntRange(1, 65535), help="The edge's port.")
@click.option(
    "--app",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the app: proto/, methods.py, tasks.py, seed/.  [default: what it last served, or examples/inspect]",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address the edge listens on; 0.0.0.0 lets the network in. Signed URLs of files point to this machine all the same.",
)
def command(port: int, app: Path | None, host: str) -> None:
    """Start everything: servers, Transom, the edge.

    Starts Postgres with a replica, Redis, RabbitMQ, an S3 server and a mail catcher; creates the tables, loads the
    seed once, and runs three API servers, relay and worker behind Envoy. Returns when all are healthy and leaves them
    running; a process that crashes is started again.

    Where it runs already and the app has changed, only Transom's own processes are replaced, one API server after the
    other; an app that is refused leaves the one that runs. Where nothing has changed, nothing happens.

    State is kept in .transom/PORT, so several stacks may run side by side:

    \b
    transom up                             the example on http://127.0.0.1:8080
    transom up --port 9000 --app ../mine   another app beside it
    transom down --port 9000
    """
    from deploy.native.binaries import ServersError
    from deploy.native.card import card
    from deploy.native.stack import HOME, Stack, StackError

    state = HOME / str(port)
    app = (app or Stack.of(state).app).resolve()
    if not (app / "proto").is_dir():
        raise click.ClickException(f"{app} has no folder proto/")
    stack = Stack(state, edge_port=port, edge_host=host, app=app)
    progress = Progress()
    try:
        started = stack.start(report=progress.report, progress=progress.say)
    except (ServersError, StackError) as problem:
        progress.end()
        raise click.ClickException(str(problem)) from problem
    except KeyboardInterrupt:
        progress.end("it goes on starting in the background; `transom down` stops it")
        raise
    progress.end("everything is ready" if started else "it runs already")
    _show(list(card(stack, app)))


class Progress:
    """A line for each part that gets ready; on a terminal also one that says what is waited for."""

    def __init__(self) -> None:
        self._done: set[str] = set()
        self._terminal = sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Says a line."""
        self._clear()
        click.echo(text, err=True)

    def report(self, status: Status) -> None:
        """Says what is new in the status."""
        waiting = []
        for told in status["processes"]:
            name, state = told["name"], told["state"]
            if state in ("ready", "done") and name not in self._done and not told.get("adopted"):
                self._done.add(name)
                self.say(f"  {click.style('✓', fg='green')} {name:10} {told['took']:5.1f} s")
            elif state == "restarting":
                self.say(f"  {click.style('!', fg='yellow')} {name} ended, starting it again")
            elif state == "starting":
                waiting.append(name)
        if self._terminal and waiting:
            self._clear()
            click.echo(f"  … {', '.join(waiting)}", nl=False, err=True)

    def end(self, text: str = "") -> None:
        """Ends with a last line, if there is one to say."""
        self._clear()
        if text:
            click.echo(f"  {text}", err=True)

    def _clear(self) -> None:
        if self._terminal:
            click.echo("\r\033[K", nl=False, err=True)


def _show(lines: list[tuple[str, str]]) -> None:
    width = max(len(label) for label, _ in lines)
    click.echo()
    for label, line in lines:
        click.echo(f"  {click.style(label.ljust(width), bold=True)}  {line}")
    click.echo()
