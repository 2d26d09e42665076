"""`transom events`: what was committed, in the order in which it was."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from ._chosen import port_option, settings_of

if TYPE_CHECKING:
    from server.schema.model import Schema
    from server.settings import Settings
    from server.store.event_tail import EventTail, Logged, Wanted

LATE = 5.0
"""Seconds that an event may wait for its position until it is said that no relay is at work."""
PAUSE = 1.0
"""Seconds until a database that is away is asked again while following."""

_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@click.group("events")
def command() -> None:
    """Look at the event log: every committed change, in the order that watchers, webhooks and tasks are told of them.

    Works on the stack with edge port --port, or on what TRANSOM_POSTGRES and the other settings name.
    """


@command.command()
@click.option("--type", "type_", default="", metavar="MESSAGE", help="Only of these: inspect.v1.Inspection.")
@click.option("--verb", default="", help="Only this: created, updated, deleted, or an app's own word.")
@click.option("--name", default="", help="Only of resources so called; * stands for anything: 'sites/1/*'.")
@click.option("--since", default="", metavar="TIME", help="Since 30m, 2h, 7d ago, or since 2026-01-31[T12:00].")
@click.option("--after", type=click.IntRange(0), metavar="POSITION", help="All that came after this one.")
@click.option("-n", "count", type=click.IntRange(0, 10_000), default=20, show_default=True, help="The last so many.")
@click.option("-f", "--follow", is_flag=True, help="Show what comes, too.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each.")
@click.option("--resource", is_flag=True, help="With the resource as it was after the change, for --json.")
@port_option
def tail(
    type_: str,
    verb: str,
    name: str,
    since: str,
    after: int | None,
    count: int,
    follow: bool,
    as_json: bool,
    resource: bool,
    port: int | None,
) -> None:
    """Show the end of the event log, a line each, oldest first.

    The position, when, what happened to which resource, who did it, and in which request. With --since or --after it is
    all from there on, however many. With --follow it goes on with what comes, also when the database was away.

    Events of transactions that are not yet committed, and those that the relay has not seen, have no position and are
    not there yet. Secrets that a resource may hold are shown by --resource.
    """
    from server.errors import Refusal
    from server.store.event_tail import Wanted

    if resource and not as_json:
        raise click.UsageError("--resource is for --json")
    settings = settings_of(port)
    wanted = Wanted(type_, verb, name, _time(since) if since else None)
    show = _json_lines(settings, resource) if as_json else _line
    begin = after if after is not None else 0 if since else None
    try:
        asyncio.run(_shown(settings, wanted, begin, count, follow, lambda event: click.echo(show(event))))
    except Refusal as refusal:
        raise click.ClickException(refusal.message) from refusal
    except KeyboardInterrupt:
        pass  # the usual end of following


async def _shown(
    settings: Settings, wanted: Wanted, begin: int | None, count: int, follow: bool, show: Callable[[Logged], None]
) -> None:
    async with aclosing(_events(settings, wanted, begin, count, follow)) as events:
        async for event in events:
            show(event)


async def _events(
    settings: Settings, wanted: Wanted, begin: int | None, count: int, follow: bool
) -> AsyncGenerator[Logged, None]:
    """The last `count`, or all after `begin`; then, where it is followed, what comes. After each loss of the database from
    where it was."""
    from server.errors import Unavailable
    from server.store.event_tail import EventTail

    place, early = begin, wanted.since
    while True:
        tail: EventTail | None = None
        try:
            tail = await EventTail.connected(settings.postgres.get_secret_value())
            while True:
                ends = await tail.ends()
                if early is not None and ends.trimmed_time is not None and early <= ends.trimmed_time:
                    click.echo(
                        f"not all up to {ends.trimmed_time.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z is kept", err=True
                    )
                early = None
                if place is None:
                    for event in await tail.last(wanted, ends.numbered, count):
                        yield event
                    place = ends.numbered
                elif place < ends.trimmed and (place or begin):
                    click.echo(f"up to position {ends.trimmed} nothing is kept any more", err=True)
                async for event in tail.between(wanted, place, ends.numbered):
                    yield event
                    place = event.position
                place = max(place, ends.numbered)
                if ends.waiting > LATE:
                    click.echo(f"events have been waiting for {ends.waiting:.0f} s: is the relay at work?", err=True)
                if not follow:
                    return
                await tail.woken()
        except Unavailable as away:
            if not follow or place is None:
                raise
            click.echo(away.message, err=True)
            await asyncio.sleep(PAUSE)
        finally:
            if tail is not None:
                await tail.close()


def _line(event: Logged) -> str:
    told = [
        f"{event.position}",
        f"{event.time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z",
        click.style(_plain(event.verb), bold=True),
        _plain(event.name),
        _plain(event.resource_type),
        _plain(event.caller) or "-",
        _plain(event.request_id),
    ]
    return "  ".join(filter(None, told))


def _json_lines(settings: Settings, resource: bool) -> Callable[[Logged], str]:
    import orjson

    schema = _schema(settings) if resource else None

    def line(event: Logged) -> str:
        told: dict[str, Any] = {
            "position": event.position,
            "id": event.id,
            "time": event.time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "type": event.resource_type,
            "verb": event.verb,
            "name": event.name,
            "gone": event.gone,
            "caller": event.caller,
            "requestId": event.request_id,
            "traceparent": event.traceparent,
        }
        if schema is not None:
            told["resource"] = _resource(schema, event)
        return orjson.dumps(told).decode()

    return line


def _schema(settings: Settings) -> Schema:
    from server.schema.compilation import SchemaError
    from server.schema.reading import read

    try:
        return read(settings.descriptor.read_bytes())
    except (OSError, SchemaError) as error:
        raise click.ClickException(f"the app's descriptor cannot be read: {error}") from error


def _resource(schema: Schema, event: Logged) -> Any:
    """As JSON; what the schema does not know (any more) as its bytes in base64."""
    from google.protobuf import json_format
    from google.protobuf.message import DecodeError

    try:
        message = schema.message_class(event.resource_type).FromString(event.payload)
        return json_format.MessageToDict(message, descriptor_pool=schema.pool)
    except (KeyError, DecodeError, json_format.Error):
        return base64.b64encode(event.payload).decode()


def _plain(text: str) -> str:
    # Texts of strangers are among them: nothing of it is for the terminal to obey.
    return "".join(c if c.isprintable() else " " for c in text)


def _time(text: str) -> datetime:
    if ago := _AGO.fullmatch(text):
        return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither 2h nor 2026-01-31T12:00", param_hint="--since") from None
    return given if given.tzinfo else given.astimezone()
