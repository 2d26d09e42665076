"""`transom dead`: what no task could do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click

from ._chosen import port_option, settings_of

MOST = 100
"""Messages looked at in one go; as many are held back from others meanwhile."""
PATIENCE = 10.0
"""Seconds the broker may take to answer, or to take a message while it is short of memory or disk."""


@dataclass(frozen=True, slots=True)
class Parked:
    """One message of the queue."""

    tag: int
    handler: str
    body: bytes
    headers: dict[str, Any]
    message_id: str


@click.command()
@port_option
@click.option("--replay", is_flag=True, help="Put them back: each to the task that gave it up, with all its retries.")
def command(port: int | None, replay: bool) -> None:
    """Show the events that tasks have given up.

    When all retries of a task have failed, its event is parked in the queue transom.dead and stays there: with the
    task, the event, how often it was tried and why that failed last. Shows the oldest 100 and leaves them where they
    are. With --replay they are tried again; once what was wrong is put right, that is.

    Works on the stack with edge port --port, or on what TRANSOM_AMQP and the other settings name.
    """
    from pika.exceptions import AMQPError

    settings = settings_of(port)
    try:
        with _channel(settings.amqp.get_secret_value()) as channel:
            waiting, parked = _taken(channel)
            for one in parked:
                _show(one)
            left = waiting - len(parked)
            if not parked:
                click.echo("nothing is parked", err=True)
            elif left > 0:
                click.echo(f"and {left} more", err=True)
            if replay:
                _put_back(channel, parked)
    except AMQPError as error:
        raise click.ClickException(f"the broker cannot be asked: {type(error).__name__}") from error


@contextmanager
def _channel(url: str) -> Iterator[Any]:
    import pika

    parameters = pika.URLParameters(url)
    parameters.connection_attempts = 1
    parameters.socket_timeout = parameters.stack_timeout = parameters.blocked_connection_timeout = PATIENCE
    parameters.heartbeat = 20
    parameters.client_properties = {"connection_name": "transom dead"}
    connection = pika.BlockingConnection(parameters)
    try:
        yield connection.channel()
    finally:
        # What is held and not acknowledged goes back to its place in the queue, however this ends.
        if connection.is_open:
            connection.close()


def _taken(channel: Any) -> tuple[int, list[Parked]]:
    """How many messages the queue has, and the oldest of them, held until they are settled or the connection ends."""
    from pika.exceptions import ChannelClosedByBroker

    from consumers.runner import WHOSE
    from consumers.topology import DEAD, queue_of

    try:
        waiting = int(channel.queue_declare(DEAD, passive=True).method.message_count)
    except ChannelClosedByBroker:  # no worker ever ran: there is no queue yet
        return 0, []
    parked: list[Parked] = []
    while len(parked) < MOST:
        got, properties, body = channel.basic_get(DEAD)
        if got is None:
            break
        headers = properties.headers or {}
        # One that the broker parked by itself (it killed its workers) tells the queue it was in.
        queue = str(headers.get("x-first-death-queue", ""))
        handler = headers.get(WHOSE) or queue.removeprefix(queue_of(""))
        parked.append(Parked(got.delivery_tag, _plain(handler), body, headers, properties.message_id or ""))
    return waiting, parked


def _show(one: Parked) -> None:
    from google.protobuf.message import DecodeError
    from transom.events.v1.event_pb2 import Event

    from consumers.runner import ATTEMPTS, FIRST, WHY

    try:
        event = Event.FromString(one.body)
    except DecodeError:
        event = Event(id=one.message_id)
    first = one.headers.get(FIRST)
    since = f"{datetime.fromtimestamp(first, UTC):%Y-%m-%d %H:%M:%S}Z" if isinstance(first, int) else "unknown"
    task = click.style(one.handler or "unknown task", bold=True)
    click.echo(f"{task}  {_plain(event.name)} {_plain(event.verb)}".rstrip())
    told = [
        ("event", _plain(f"{event.id}  {event.resource_type}").strip()),
        ("attempts", f"{one.headers.get(ATTEMPTS, 'unknown')}, first {since}"),
        ("reason", _plain(one.headers.get(WHY) or one.headers.get("x-first-death-reason") or "unknown")),
    ]
    if event.request_id:
        told.append(("request", _plain(event.request_id)))
    for label, text in told:
        click.echo(f"  {label:8}  {text}")


def _plain(text: object) -> str:
    # An error's text may hold anything, also what a terminal would obey.
    return "".join(c if c.isprintable() else " " for c in str(text))


def _put_back(channel: Any, parked: list[Parked]) -> None:
    """Each to its task's queue. One that is not taken there stays parked, and the exit code tells."""
    import pika
    from pika.exceptions import NackError, UnroutableError

    from consumers.topology import queue_of

    channel.confirm_delivery()
    done = 0
    for one in parked:
        properties = pika.BasicProperties(
            message_id=one.message_id, content_type="application/x-protobuf", delivery_mode=2
        )
        try:
            if not one.handler:
                raise UnroutableError([])
            # Returns when the broker has it for good. Killed before the acknowledgement, there are two: the inbox of
            # tasks tells them apart.
            channel.basic_publish("", queue_of(one.handler), one.body, properties, mandatory=True)
        except UnroutableError:
            click.echo(f"{one.message_id} stays: there is no task {one.handler or 'it came from'} any more", err=True)
        except NackError:
            click.echo(f"{one.message_id} stays: the queue of {one.handler} is full", err=True)
        else:
            channel.basic_ack(one.tag)
            done += 1
    click.echo(f"{done} put back", err=True)
    if done < len(parked):
        sys.exit(1)
