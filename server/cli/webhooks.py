"""`transom webhooks`: whom events are posted to and what became of them, straight in the database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
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
    """Make and look after webhook endpoints: see what became of events, and have them posted again.

    \b
    transom webhooks create billing https://billing.example.com/hooks --type 'inspect.v1.Finding.*'
    transom webhooks list
    transom webhooks show billing
    transom webhooks ping billing
    transom webhooks deliveries billing --state failed
    transom webhooks replay billing 4711
    transom webhooks replay billing --since 2026-11-22T10:00:00
    transom webhooks rotate billing --overlap 24
    transom webhooks pause billing
    transom webhooks resume billing
    transom webhooks delete billing

    Works on the stack with edge port --port, or on what TRANSOM_POSTGRES and the other settings name.
    """


@command.command()
@click.argument("endpoint")
@click.argument("url")
@click.option(
    "--type", "types", multiple=True, required=True, metavar="TYPE", help="<message>.<verb>, <message>.* or *."
)
@click.option("--filter", "filter_", default="", help="Which resources, as in a List.")
@click.option("--description", default="", help="For people.")
@port_option
def create(endpoint: str, url: str, types: tuple[str, ...], filter_: str, description: str, port: int | None) -> None:
    """Have events posted to URL from now on; prints the secret, which is shown only now."""
    from server.caller import OPERATOR
    from server.engine.webhooks import CHANGEABLE, Wanted

    wanted = Wanted(frozenset(CHANGEABLE), url, types, filter_, description)
    made, secret = _run(port, lambda webhooks: webhooks.create(OPERATOR, endpoint, wanted), checking=True)
    click.echo(f"{made.id} is told of what is committed from now on; its secret, shown only now:", err=True)
    click.echo(secret)


@command.command()
@click.argument("endpoint")
@port_option
def show(endpoint: str, port: int | None) -> None:
    """Show one endpoint: whom, of what, how it goes."""
    from server.caller import OPERATOR

    one = _run(port, lambda webhooks: webhooks.get(OPERATOR, _name(endpoint)))
    for label, text in (
        ("id", one.id),
        ("url", one.url),
        ("types", " ".join(one.types)),
        ("filter", one.filter),
        ("description", one.description),
        ("owner", one.owner),
        ("state", f"{one.state} ({one.reason})" if one.reason else one.state),
        ("waiting", f"{one.waiting} deliveries"),
        ("failures", f"{one.failures} in a row" if one.failures else ""),
        ("next post", _moment(one.open_until) if one.open_until and one.open_until > datetime.now(UTC) else ""),
        (
            "old secret",
            f"until {_moment(one.old_until)}" if one.old_until and one.old_until > datetime.now(UTC) else "",
        ),
        ("made", _moment(one.create_time)),
        ("changed", _moment(one.update_time)),
    ):
        if text:
            click.echo(f"{label:12}  {''.join(c if c.isprintable() else ' ' for c in text)}")


@command.command()
@click.argument("endpoint")
@click.option(
    "--overlap", type=click.FloatRange(0, 168), default=24, show_default=True, help="Hours that the old one signs, too."
)
@port_option
def rotate(endpoint: str, overlap: float, port: int | None) -> None:
    """Give an endpoint another secret and print it; it is shown only now."""
    from server.caller import OPERATOR

    overlapping = timedelta(hours=overlap)
    _, secret = _run(port, lambda webhooks: webhooks.rotate(OPERATOR, _name(endpoint), overlapping))
    click.echo(f"the new secret of {endpoint}, shown only now:", err=True)
    click.echo(secret)


@command.command()
@click.argument("endpoint")
@port_option
def ping(endpoint: str, port: int | None) -> None:
    """Have something posted that tells nothing."""
    from server.caller import OPERATOR

    made = _run(port, lambda webhooks: webhooks.ping(OPERATOR, _name(endpoint)))
    click.echo(f"delivery {made.id} is posted by the next worker: transom webhooks deliveries {endpoint}", err=True)


@command.command()
@click.argument("endpoint")
@click.option("--yes", is_flag=True, help="Do not ask.")
@port_option
def delete(endpoint: str, yes: bool, port: int | None) -> None:
    """Delete an endpoint with all that waits for it and what became of events."""
    from server.caller import OPERATOR

    if not yes:
        click.confirm(f"delete {endpoint} and its deliveries?", abort=True, err=True)
    _run(port, lambda webhooks: webhooks.delete(OPERATOR, _name(endpoint)))
    click.echo(f"{endpoint} is deleted", err=True)


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
            _moment(one.create_time),
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


def _moment(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def _name(endpoint: str) -> str:
    return endpoint if endpoint.startswith("webhookEndpoints/") else f"webhookEndpoints/{endpoint}"


def _run(port: int | None, work: Callable[[Webhooks], Awaitable[T]], *, checking: bool = False) -> T:
    """What the work returns; with `checking` it may also say types of events and filters, which the app's schema tells."""
    import time

    from psycopg_pool import AsyncConnectionPool

    from server.engine.audit import Audit
    from server.engine.sealing import Seal
    from server.engine.webhook_events import WebhookEvents
    from server.engine.webhook_signing import PURPOSE
    from server.engine.webhooks import Webhooks
    from server.errors import Refusal
    from server.schema.compilation import SchemaError
    from server.schema.reading import read
    from server.store.webhook_deliveries import StoredDeliveries
    from server.store.webhooks import StoredEndpoints

    settings = settings_of(port)
    dsn = settings.postgres.get_secret_value()
    try:
        events = WebhookEvents(read(settings.descriptor.read_bytes()), None) if checking else None  # type: ignore[arg-type]
    except (OSError, SchemaError) as error:
        raise click.ClickException(f"the app's descriptor cannot be read: {error}") from error

    async def main() -> T:
        async with AsyncConnectionPool(dsn, min_size=1, max_size=1, open=False, timeout=5, reconnect_timeout=3) as pool:
            # Types and filters are checked against the schema; no event is told here, and notes go with the statements.
            return await work(
                Webhooks(
                    StoredEndpoints(pool),
                    StoredDeliveries(pool),
                    events,  # type: ignore[arg-type]
                    Seal([secret.get_secret_value() for secret in settings.secret], PURPOSE),
                    Audit(None),  # type: ignore[arg-type]
                    lambda: time.time_ns() // 1000,
                    settings.webhook_networks,
                    page_size_max=MOST,
                )
            )

    try:
        return asyncio.run(main())
    except Refusal as refusal:
        wrong = [f"{one.field}: {one.description}" for one in refusal.violations]
        raise click.ClickException("\n".join(wrong if len(wrong) > 1 else [refusal.message])) from refusal
