"""`python -m bench.events`: events a second through the relay and the broker, beside what the broker alone confirms.

Postgres and RabbitMQ as `make up` starts them, nothing else. In each round the same events go two ways, one after the other:
published by this process from memory, in the relay's windows; and from the event log, by a relay as it runs in
production, which numbers, reads, publishes and notes them. All go to so many quorum queues from which nobody takes. What
counts is the time until the broker has confirmed the last; CPU is that of all processes that take part, the ones of
this process too where it publishes.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import psycopg
from transom.events.v1.event_pb2 import Event

from consumers import topology
from consumers.relay import BATCH, send
from deploy.native.stack import PROJECT, Stack
from server.schema.compilation import compile_app
from server.schema.reading import read
from server.store.broker import Channel, connect
from server.store.migrations import migrate

from .children import running, wait_until
from .cpu import used

PARTS = ("postgres", "epmd", "rabbitmq")
TYPE, VERB = "bench.v1.Thing", "created"
_INSERT = """
    insert into transom.events (resource_type, verb, name, payload, caller, request_id)
    select %s, %s, 'things/' || n, decode(repeat('ab', %s), 'hex'), 'users/bench', 'request-' || n
    from generate_series(1, %s) n"""


@dataclass(frozen=True, slots=True)
class Way:
    """What one way took."""

    seconds: float
    cpu: Mapping[str, float]
    """CPU seconds of each role."""


@click.command()
@click.option("--events", default=20_000, show_default=True, type=click.IntRange(1000, 1_000_000), help="Of one round.")
@click.option("--bytes", "size", default=600, show_default=True, type=click.IntRange(0, 1 << 20), help="Of a payload.")
@click.option(
    "--queues", default=1, show_default=True, type=click.IntRange(0, 20), help="Handlers that get each event."
)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 100))
def main(events: int, size: int, queues: int, rounds: int) -> None:
    """Measure events a second through relay and broker."""
    with TemporaryDirectory(prefix="transom-bench-") as folder:
        Path(folder).chmod(0o755)  # Postgres does not run as root, and has to get there
        with Stack(Path(folder) / "state", parts=PARTS).running() as stack:
            env = stack.env
            migrate(env["TRANSOM_POSTGRES"], read(compile_app(PROJECT / "examples" / "inspect")))
            handlers = [(f"bench-{number}", f"{TYPE}.{VERB}") for number in range(queues)]
            asyncio.run(_stand(env["TRANSOM_AMQP"], handlers))
            alone, through = [], []
            for _ in range(rounds):
                alone.append(_alone(stack, handlers, events, size))
                through.append(_through(stack, handlers, events, size, Path(folder)))
            click.echo(f"{events} events of {size} bytes to {queues} queues, median of {rounds} rounds")
            click.echo(f"{'':20} {'events/s':>9} {'CPU µs/event':>13}")
            _report("the broker alone", alone, events)
            _report("relay and broker", through, events)
            ratio = _rate(through, events) / _rate(alone, events)
            click.echo(f"relay and broker carry {ratio:.2f} of what the broker alone confirms")


def _rate(ways: Sequence[Way], events: int) -> float:
    return events / statistics.median(way.seconds for way in ways)


def _report(name: str, ways: Sequence[Way], events: int) -> None:
    roles = {role: statistics.median(way.cpu[role] for way in ways) / events * 1e6 for role in ways[0].cpu}
    shares = ", ".join(f"{role} {cpu:.0f}" for role, cpu in roles.items())
    click.echo(f"{name:20} {_rate(ways, events):9.0f} {sum(roles.values()):13.0f}  {shares}")


def _roots(stack: Stack, **more: int) -> dict[str, list[int]]:
    told = {p["name"]: [p["pid"]] for p in stack.status()["processes"] if p["pid"] and not p["step"]}
    return told | {name: [pid] for name, pid in more.items()}


async def _stand(amqp: str, handlers: Sequence[tuple[str, str]]) -> None:
    connection = await connect(amqp, "bench")
    await topology.stand(await connection.channel(), amqp, "bench", handlers)
    await connection.close()


async def _purge(channel: Channel, handlers: Sequence[tuple[str, str]]) -> None:
    """Empties the queues: a backlog of the round before would weigh on this one."""
    for name, _ in handlers:
        done = asyncio.get_running_loop().create_future()
        channel.raw.queue_purge(topology.queue_of(name), callback=done.set_result)
        await done


def _alone(stack: Stack, handlers: Sequence[tuple[str, str]], count: int, size: int) -> Way:
    async def publish() -> Way:
        connection = await connect(stack.env["TRANSOM_AMQP"], "bench")
        channel = await connection.channel()
        await _purge(channel, handlers)
        made = [
            Event(
                id=str(number), position=number, resource_type=TYPE, verb=VERB, name=f"things/{number}",
                payload=b"\xab" * size, caller="users/bench", request_id=f"request-{number}",
            )
            for number in range(count)
        ]  # fmt: skip
        roots = _roots(stack, publisher=os.getpid())
        before, start = used(roots), time.monotonic()
        for first in range(0, count, BATCH):
            waiting, lost = send(channel, made[first : first + BATCH])
            assert lost is None
            await asyncio.gather(*waiting)
        seconds, after = time.monotonic() - start, used(roots)
        await connection.close()
        return Way(seconds, {role: after[role] - before[role] for role in ("publisher", "rabbitmq")})

    return asyncio.run(publish())


def _through(stack: Stack, handlers: Sequence[tuple[str, str]], count: int, size: int, folder: Path) -> Way:
    env = stack.env
    with psycopg.connect(env["TRANSOM_POSTGRES"], autocommit=True) as database:

        def place() -> int:
            found = database.execute("select published from transom.relay").fetchone()
            assert found is not None
            return int(found[0])

        async def empty() -> None:
            connection = await connect(env["TRANSOM_AMQP"], "bench")
            await _purge(await connection.channel(), handlers)
            await connection.close()

        asyncio.run(empty())
        goal = place() + count
        arguments = [env["TRANSOM_POSTGRES"], env["TRANSOM_AMQP"], *(name for name, _ in handlers)]
        with running([sys.executable, "-m", "bench.events_relay", *arguments], folder / "relay.log") as pid:
            active = "select count(*) from pg_locks where locktype = 'advisory' and granted"
            wait_until(lambda: bool(database.execute(active).fetchone()[0]), "the relay is active")  # type: ignore[index]
            time.sleep(0.5)  # and connected to the broker
            roots = _roots(stack, relay=pid)
            # All at once, as one large transaction would leave them; what their insertion costs is not the relay's.
            database.execute(_INSERT, [TYPE, VERB, size, count])
            before, start = used(roots), time.monotonic()
            database.execute("notify transom_events")
            while place() < goal:
                time.sleep(0.005)
            seconds, after = time.monotonic() - start, used(roots)
        return Way(seconds, {role: after[role] - before[role] for role in roots if role != "epmd"})


if __name__ == "__main__":
    main()
