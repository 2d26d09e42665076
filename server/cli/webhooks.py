"""`transom webhooks`: whom events are posted to and what became of them, straight in the database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import click

from ._chosen import port_option, settings_of

if TYPE_CHECKING:
    from server.engine.webhooks import Webhooks

T = TypeVar("T")
MOST = 1000
"""Rows of one list."""
_MOMENT = click.DateTime(["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d"])


@click.group("webhooks")
def command() -> None:
    """Show webhook endpoints, what became of events, and have them posted again.

    \b
    transom webhooks list
    transom webhooks deliveries billing --state failed
    transom webhooks replay billing 4711
    transom webhooks replay billing --since 2026-11-22T10:00:00
    transom webhooks pause billing
    transom webhooks resume billing

    Works on the stack with edge port --port, or on what TRANSOM_POSTGRES and the other settings name.
    """


@command.command("list")
@port_option
def list_(port: int | None) -> None:
    """Show all endpoints: name, state, what waits, what failed, where to."""
    from server.caller import OPERATOR

    found, _ = _run(port, lambda webhooks: webhooks.list(OPERATOR, MOST, ""))
    if not found:
        click.echo("no endpoints", err=True)
    for one in found:
        state = f"{one.state} ({one.reason})" if one.reason else one.state
        told = [
            click.style(f"{one.id:24}", bold=True),
            f"{state:20}",
            f"{one.waiting:6} wait",
            f"{one.failures:4} failed in a row",
            one.url,
            " ".join(one.types),
        ]
        click.echo("  ".join(told))


@command.command()
@click.argument("endpoint")
@click.option("--state", type=click.Choice(["waiting", "delivered", "failed"]), default=None, help="Only these.")
@click.option("-n", "count", type=click.IntRange(1, MOST), default=50, show_default=True, help="So many at most.")
@port_option
def deliveries(endpoint: str, state: str | None, count: int, port: int | None) -> None:
    """Show what became of events, the newest first."""
    from server.caller import OPERATOR

    found, _ = _run(port, lambda webhooks: webhooks.deliveries(OPERATOR, _name(endpoint), state or "", count, ""))
    if not found:
        click.echo("no deliveries", err=True)
    for one in found:
        answer = one.error or (str(one.code) if one.code else "")
        told = [
            click.style(f"{one.id:>8}", bold=True),
            f"{one.create_time.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z",
            f"{one.state:9}",
            f"{one.attempts:3} attempts",
            f"{answer:18}",
            f"{one.millis:5} ms",
            one.type,
            one.resource,
        ]
        click.echo("  ".join(told).rstrip())


@command.command()
@click.argument("endpoint")
@click.argument("delivery", type=int, required=False)
@click.option("--since", type=_MOMENT, help="All that happened from then on (UTC).")
@click.option("--until", type=_MOMENT, help="And before then (UTC); without it, up to now and on.")
@port_option
def replay(
    endpoint: str, delivery: int | None, since: datetime | None, until: datetime | None, port: int | None
) -> None:
    """Have one delivery posted again, or all that happened in a range of time."""
    from server.caller import OPERATOR

    if (delivery is None) == (since is None):
        raise click.UsageError("give the number of a delivery, or --since")
    if delivery is not None:
        _run(port, lambda webhooks: webhooks.replay(OPERATOR, f"{_name(endpoint)}/deliveries/{delivery}"))
        click.echo(f"delivery {delivery} is posted again", err=True)
        return
    assert since is not None
    start, end = since.replace(tzinfo=UTC), until.replace(tzinfo=UTC) if until else None
    after, last = _run(port, lambda webhooks: webhooks.replay_range(OPERATOR, _name(endpoint), start, end))
    click.echo(f"events {min(after + 1, last)} to {last} are posted again, as far as it is told of them", err=True)


@command.command()
@click.argument("endpoint")
@port_option
def pause(endpoint: str, port: int | None) -> None:
    """Post nothing to it until it is resumed; what happens meanwhile waits."""
    from server.caller import OPERATOR

    _run(port, lambda webhooks: webhooks.pause(OPERATOR, _name(endpoint)))
    click.echo(f"{endpoint} is paused", err=True)


@command.command()
@click.argument("endpoint")
@click.option("--skip", is_flag=True, help="Leave out what happened meanwhile.")
@port_option
def resume(endpoint: str, skip: bool, port: int | None) -> None:
    """Go on with an endpoint that is paused or disabled."""
    from server.caller import OPERATOR

    _run(port, lambda webhooks: webhooks.resume(OPERATOR, _name(endpoint), skip))
    click.echo(f"{endpoint} goes on", err=True)


def _name(endpoint: str) -> str:
    return endpoint if endpoint.startswith("webhookEndpoints/") else f"webhookEndpoints/{endpoint}"


def _run(port: int | None, work: Callable[[Webhooks], Awaitable[T]]) -> T:
    import time

    from psycopg_pool import AsyncConnectionPool

    from server.engine.audit import Audit
    from server.engine.sealing import Seal
    from server.engine.webhooks import Webhooks
    from server.errors import Refusal
    from server.store.webhook_deliveries import StoredDeliveries
    from server.store.webhooks import StoredEndpoints

    dsn = settings_of(port).postgres.get_secret_value()

    async def main() -> T:
        async with AsyncConnectionPool(dsn, min_size=1, max_size=1, open=False, timeout=5, reconnect_timeout=3) as pool:
            # Nothing is made or changed here: neither events nor secrets are looked into, and notes go with the statements.
            return await work(
                Webhooks(
                    StoredEndpoints(pool),
                    StoredDeliveries(pool),
                    None,  # type: ignore[arg-type]
                    Seal([], ""),
                    Audit(None),  # type: ignore[arg-type]
                    lambda: time.time_ns() // 1000,
                    page_size_max=MOST,
                )
            )

    try:
        return asyncio.run(main())
    except Refusal as refusal:
        raise click.ClickException(refusal.message) from refusal
