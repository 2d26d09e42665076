"""Which of this machine's stacks, and which app, a command is about."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from deploy.native.stack import Stack
    from server.settings import Settings

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


def app_options(command: F) -> F:
    """Adds the app's folder, as [APP] or --app: the command gets `app`, None where neither is given."""
    kind = click.Path(exists=True, file_okay=False, path_type=Path)

    @functools.wraps(command)
    def with_app(*words: Any, app: Path | None, app_option: Path | None, **options: Any) -> Any:
        if app and app_option and app.resolve() != app_option.resolve():
            raise click.UsageError(f"two apps: {app} and {app_option}")
        return command(*words, app=app or app_option, **options)

    option = click.option("--app", "app_option", type=kind, help="Folder of the app: the same as APP.")
    return click.argument("app", required=False, type=kind)(option(with_app))  # type: ignore[return-value]


def named(app: Path | None) -> Path:
    """The app, or where none is named that of TRANSOM_APP, which is the example if it is not set."""
    from server.settings import Settings

    app = app or Settings().app
    if not app.is_dir():
        raise click.UsageError(f"which app? {app} is not a folder")
    return app


def chosen(port: int | None) -> Stack:
    """The stack of that port, with the app it was last started with.

    Without a port it is the only one there is. Raises ClickException where there is none, or more than one.
    """
    from deploy.native.stack import HOME, Stack

    if port is None:
        known = sorted(int(f.name) for f in HOME.glob("[0-9]*") if f.name.isdecimal() and (f / "plan.json").exists())
        if len(known) > 1:
            told = ", ".join(f"{one} ({_near(Stack.of(HOME / str(one)).app)})" for one in known)
            count = "two" if len(known) == 2 else len(known)
            raise click.ClickException(f"{count} stacks: {told}; say --port")
        port = known[0] if known else PORT
    state = HOME / str(port)
    if not (state / "plan.json").exists():
        raise click.ClickException(f"no stack was ever started on port {port}: transom up --port {port}")
    return Stack.of(state)


def settings_of(port: int | None) -> Settings:
    """Those of the stack that was named; else the environment's, where it names a database; else of the stack there is."""
    from server.settings import Settings

    settings = Settings()
    if port is None and "postgres" in settings.model_fields_set:
        return settings
    env = chosen(port).env
    given = {name.removeprefix("TRANSOM_").lower(): value for name, value in env.items() if name.startswith("TRANSOM_")}
    return Settings.model_validate(given)


def _near(path: Path) -> str:
    """The path as it is shortest from here."""
    return min(str(path), os.path.relpath(path), key=len)
