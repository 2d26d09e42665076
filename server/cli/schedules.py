"""`transom schedules`: what is due again and again, straight in the database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

import click

from ._chosen import port_option, settings_of

if TYPE_CHECKING:
    from server.engine.schedules import Schedule, Schedules

T = TypeVar("T")
MOST = 1000
"""Schedules of one list."""


@click.group("schedules")
def command() -> None:
    """Show, pause, resume and run the schedules of the app.

    \b
    transom schedules list
    transom schedules show remind_overdue
    transom schedules pause remind_overdue     until it is resumed, whatever is deployed meanwhile
    transom schedules run remind_overdue       once, now

    Works on the stack with edge port --port, or on what TRANSOM_POSTGRES and the other settings name.
    """


@command.command("list")
@port_option
def list_(port: int | None) -> None:
    """Show all schedules: name, state, when they are due, the next and the last time."""
    from server.caller import OPERATOR

    found, _ = _run(port, lambda schedules: schedules.list(OPERATOR, MOST, ""))
    if not found:
        click.echo("no schedules", err=True)
    for one in found:
        following = f"next {_moment(one.next_times[0])}" if one.next_times else ""
        last = f"last {_moment(one.stored.last_tick)}" if one.stored.last_tick else "never run"
        told = [
            click.style(f"{one.stored.name:24}", bold=True),
            f"{_state(one):8}",
            f"{_when(one):32}",
            following,
            last,
        ]
        click.echo("  ".join(filter(None, told)))


@command.command()
@click.argument("name")
@click.option("-n", "count", type=click.IntRange(0, 20), default=5, show_default=True, help="So many next ticks.")
@port_option
def show(name: str, count: int, port: int | None) -> None:
    """Show one schedule, its next ticks (in its time zone and in UTC), and what became of past ones."""
    from zoneinfo import ZoneInfo

    from server.caller import OPERATOR

    one = _run(port, lambda schedules: schedules.get(OPERATOR, _name(name)))
    stored, spec = one.stored, one.spec
    zone = ZoneInfo(spec.cadence.time_zone)
    rows = [
        ("schedule", stored.name),
        ("about", stored.description),
        ("state", _state(one)),
        ("due", _when(one)),
        ("catch up", f"{spec.catch_up} (at most {spec.catch_up_most})" if spec.catch_up == "all" else spec.catch_up),
        ("overlap", "yes" if spec.overlap else "no"),
        ("last", f"{_moment(stored.last_tick)}  {stored.last_run}" if stored.last_tick else "never"),
        ("task", f"{stored.last_task or '-'}{'  (a run goes on)' if stored.going else ''}"),
        ("missed", str(stored.missed)),
        *(
            ("next", f"{tick.astimezone(zone):%a %Y-%m-%d %H:%M:%S %Z}  {_moment(tick)}")
            for tick in one.next_times[:count]
        ),
    ]
    for label, text in rows:
        click.echo(f"{label:8}  {text}")


@command.command()
@click.argument("name")
@port_option
def pause(name: str, port: int | None) -> None:
    """Let no tick of it through until it is resumed."""
    from server.caller import OPERATOR

    _run(port, lambda schedules: schedules.pause(OPERATOR, _name(name)))
    click.echo(f"{name} is paused", err=True)


@command.command()
@click.argument("name")
@port_option
def resume(name: str, port: int | None) -> None:
    """Go on with its next tick from now."""
    from server.caller import OPERATOR

    one = _run(port, lambda schedules: schedules.resume(OPERATOR, _name(name)))
    click.echo(f"{name} goes on" + (f" at {_moment(one.next_times[0])}" if one.next_times else ""), err=True)


@command.command()
@click.argument("name")
@port_option
def run(name: str, port: int | None) -> None:
    """Run it once, now; prints the task that does (`transom tasks show`)."""
    from server.caller import OPERATOR

    click.echo(_run(port, lambda schedules: schedules.run(OPERATOR, _name(name))).task)


def _name(name: str) -> str:
    return name if name.startswith("schedules/") else f"schedules/{name}"


def _state(one: Schedule) -> str:
    return "retired" if one.stored.retired else "paused" if one.stored.paused else "active"


def _when(one: Schedule) -> str:
    cadence = one.spec.cadence
    return f"every {_span(cadence.interval)}" if cadence.interval else f"{cadence.cron} ({cadence.time_zone})"


def _span(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds % size == 0:
            return f"{seconds // size} {unit}" if seconds > size else f"{unit[:-1]}"
    return f"{seconds} seconds"


def _moment(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def _run(port: int | None, work: Callable[[Schedules], Awaitable[T]]) -> T:
    from psycopg_pool import AsyncConnectionPool

    from server.engine.audit import Audit
    from server.engine.schedules import Schedules, enqueued
    from server.errors import Refusal
    from server.store.schedules import StoredSchedules

    dsn = settings_of(port).postgres.get_secret_value()

    async def main() -> T:
        async with AsyncConnectionPool(dsn, min_size=1, max_size=1, open=False, timeout=5, reconnect_timeout=3) as pool:
            # Nothing is kept through the audit: its notes go with the statements.
            return await work(Schedules(StoredSchedules(pool), Audit(None), enqueued, page_size_max=MOST))  # type: ignore[arg-type]

    try:
        return asyncio.run(main())
    except Refusal as refusal:
        raise click.ClickException(refusal.message) from refusal
