"""`transom tasks`: what was enqueued by name, straight in the database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import click

from ._chosen import port_option, settings_of

if TYPE_CHECKING:
    from server.engine.tasks import Tasks

T = TypeVar("T")
MOST = 1000
"""Tasks of one list."""


@click.group("tasks")
def command() -> None:
    """Show, retry and cancel the tasks that were enqueued by name.

    \b
    transom tasks list --state dead
    transom tasks show TASK        why it failed, with its traceback
    transom tasks retry TASK       from the beginning, with all its attempts
    transom tasks cancel TASK      also where it runs

    Works on the stack with edge port --port, or on what TRANSOM_POSTGRES and the other settings name.
    """


@command.command("list")
@click.option("--state", default="", help="Only those: queued, running, failed, succeeded, dead, cancelled, discarded.")
@click.option("--handler", default="", help="Only those that this function runs.")
@click.option("-n", "count", type=click.IntRange(1, MOST), default=50, show_default=True, help="At most so many.")
@port_option
def list_(state: str, handler: str, count: int, port: int | None) -> None:
    """Show tasks, the newest first: name, function, state, attempts, when it runs, why it failed."""
    from server.caller import OPERATOR

    found, _ = _run(port, lambda tasks: tasks.list(OPERATOR, state.upper(), handler, count, ""))
    if not found:
        click.echo("no tasks", err=True)
    for one in found:
        told = [click.style(one.id, bold=True), f"{one.handler:24}", f"{one.state.lower():9}", f"{one.attempts:3}"]
        click.echo("  ".join([*told, _moment(one.run_time), one.error.partition("\n")[0][:80]]).rstrip())


@command.command()
@click.argument("task")
@port_option
def show(task: str, port: int | None) -> None:
    """Show one task: what it was told, how it went, and why it failed."""
    from server.caller import OPERATOR

    one = _run(port, lambda tasks: tasks.get(OPERATOR, _name(task)))
    rows = [
        ("task", one.id),
        ("handler", one.handler),
        ("state", one.state.lower() + (" (is being cancelled)" if one.cancelling else "")),
        ("attempts", str(one.attempts)),
        ("progress", f"{one.progress:.0%} {one.progress_text}"),
        ("priority", str(one.priority)),
        ("unique", one.unique_key),
        ("caller", one.caller),
        ("payload", one.payload),
        ("made", _moment(one.create_time)),
        ("runs", _moment(one.run_time)),
        ("began", _moment(one.start_time)),
        ("ended", _moment(one.end_time)),
        ("result", one.result),
        ("error", one.error),
    ]
    for label, text in rows:
        if text.strip():
            click.echo(f"{label:8}  {text}")
    if one.traceback:
        click.echo(f"\n{one.traceback}")


@command.command()
@click.argument("task")
@port_option
def retry(task: str, port: int | None) -> None:
    """Run one again that is dead, cancelled, discarded, or waits after a failure."""
    from server.caller import OPERATOR

    _run(port, lambda tasks: tasks.retry(OPERATOR, _name(task)))
    click.echo(f"{task} runs again", err=True)


@command.command()
@click.argument("task")
@port_option
def cancel(task: str, port: int | None) -> None:
    """Cancel one that has not ended; where it runs, its worker cancels it within about a second."""
    from server.caller import OPERATOR

    one = _run(port, lambda tasks: tasks.cancel(OPERATOR, _name(task)))
    click.echo(f"{task} is {'being ' if one.cancelling else ''}cancelled", err=True)


def _name(task: str) -> str:
    return task if task.startswith("tasks/") else f"tasks/{task}"


def _moment(time: datetime | None) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z" if time else ""


def _run(port: int | None, work: Callable[[Tasks], Awaitable[T]]) -> T:
    from psycopg_pool import AsyncConnectionPool

    from server.engine.audit import Audit
    from server.engine.tasks import Tasks
    from server.errors import Refusal
    from server.store.tasks import StoredTasks

    dsn = settings_of(port).postgres.get_secret_value()

    async def main() -> T:
        async with AsyncConnectionPool(dsn, min_size=1, max_size=1, open=False, timeout=5, reconnect_timeout=3) as pool:
            # Nothing is kept through the audit: its notes go with the statements.
            return await work(Tasks(StoredTasks(pool), Audit(None), page_size_max=MOST))  # type: ignore[arg-type]

    try:
        return asyncio.run(main())
    except Refusal as refusal:
        raise click.ClickException(refusal.message) from refusal
