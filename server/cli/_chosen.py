"""Which of this machine's stacks a command is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from deploy.native.stack import Stack

F = TypeVar("F", bound=Callable[..., Any])

PORT = 8080


def port_option(command: F) -> F:
    """Adds --port: the edge's port, by which a stack is known."""
    return click.option(
        "--port",
        "--stack",
        "port",
        type=click.IntRange(1, 65535),
        metavar="PORT",
        help=f"The stack with this edge port. Default: the only one there is, else {PORT}.",
    )(command)


def chosen(port: int | None) -> Stack:
    """The stack of that port, with the app it was last started with. Raises ClickException where there is none."""
    from deploy.native.stack import HOME, Stack

    if port is None:
        known = [folder for folder in HOME.glob("[0-9]*") if (folder / "plan.json").exists()]
        port = int(known[0].name) if len(known) == 1 else PORT
    state = HOME / str(port)
    if not (state / "plan.json").exists():
        raise click.ClickException(f"no stack was ever started on port {port}: transom up --port {port}")
    return Stack.of(state)
