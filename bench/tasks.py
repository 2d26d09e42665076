"""`python -m bench.tasks`: tasks a second through the whole, beside what Postgres and the broker do alone.

Postgres and RabbitMQ as `make up` starts them, and a worker as it runs in production. In each round, one after the other:

    bare Postgres   so many rows of a table like transom.tasks, enqueued one a transaction, then taken by `update … where id in
                    (select … for update skip locked)` and ended, a transaction for each page and for each end, by as many
                    connections as the worker has runs
    tasks by name   so many tasks, enqueued one a transaction, taken, run and ended by the worker; the function does nothing
    bare broker     so many messages, published in the relay's windows, confirmed, taken with the worker's prefetch, acknowledged
    @on             so many events, put into the log by one statement, published by a relay, taken, run and noted by the worker

Enqueuing is timed by itself; what counts is the time from then until the last one is done. CPU is that of all processes that
take part, this one too where it does the work.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import psycopg
from transom.events.v1.event_pb2 import Event

from consumers import topology
from consumers.relay import BATCH, send
from consumers.runner import PREFETCH
from consumers.task_runner import RUNS_MAX
from deploy.native.stack import COMPONENTS, PROJECT, Stack
from server.engine.tasks import enqueue
from server.schema.compilation import compile_app
from server.schema.reading import read
from server.store.broker import connect
from server.store.migrations import migrate

from .children import running, wait_until
from .cpu import used

TASK, HANDLER, TYPE, VERB = "by_name", "on_event", "inspect.v1.Site", "created"
"""The worker's functions, by name and on events."""
APP = f"""
from server.apps import on, task

@task()
async def {TASK}(order, work):
    pass

@on("{TYPE}", "{VERB}")
async def {HANDLER}(event, work):
    pass
"""
LONGEST = 300.0
"""Seconds that a way may take, before it is given up."""

_BARE = """
drop table if exists bench_tasks;
create table bench_tasks (
    id text primary key, handler text not null, payload text not null, state text not null default 'QUEUED',
    priority smallint not null default 0, run_time timestamptz not null default clock_timestamp(),
    takes bigint not null default 0, result text not null default '', end_time timestamptz
);
create index bench_tasks_due on bench_tasks (handler, priority desc, run_time, id) where state = 'QUEUED';
"""
_TAKE = """
update bench_tasks set state = 'RUNNING', takes = takes + 1 where id in (
    select id from bench_tasks where state = 'QUEUED' and handler = %s and run_time <= clock_timestamp()
    order by priority desc, run_time, id limit %s for update skip locked
) returning id, takes
"""
_END = """
update bench_tasks set state = 'SUCCEEDED', result = %s, end_time = clock_timestamp()
where id = %s and takes = %s and state = 'RUNNING'
"""
_EVENTS = """
insert into transom.events (resource_type, verb, name, payload, caller, request_id)
select %s, %s, 'things/' || n, '', 'users/bench', 'request-' || n from generate_series(1, %s) n
"""


@dataclass(frozen=True, slots=True)
class Way:
    """What one way took."""

    seconds: float
    cpu: Mapping[str, float]
    """CPU seconds of each role."""
    enqueued: float = 0
    """Seconds that it took to enqueue what was done; 0 where that is no part of it."""


@click.command()
@click.option(
    "--tasks", "count", default=5000, show_default=True, type=click.IntRange(100, 200_000), help="Of one way."
)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 100))
def main(count: int, rounds: int) -> None:
    """Measure tasks a second, by name and on events."""
    with TemporaryDirectory(prefix="transom-bench-") as folder:
        Path(folder).chmod(0o755)  # Postgres does not run as root, and has to get there
        with Stack(Path(folder) / "state", parts=COMPONENTS).running() as stack:
            migrate(stack.env["TRANSOM_POSTGRES"], read(compile_app(PROJECT / "examples" / "inspect")))
            asyncio.run(_stand(stack.env["TRANSOM_AMQP"]))
            ways: dict[str, Callable[[], Way]] = {
                "bare Postgres": lambda: _bare(stack, count),
                "tasks by name": lambda: _named(stack, count, Path(folder)),
                "bare broker": lambda: asyncio.run(_broker(stack, count)),
                "@on": lambda: _on(stack, count, Path(folder)),
            }
            taken: dict[str, list[Way]] = {name: [] for name in ways}
            for _ in range(rounds):
                for name, way in ways.items():
                    taken[name].append(way())
            click.echo(f"{count} tasks of each way, median of {rounds} rounds")
            click.echo(f"{'':15} {'tasks/s':>8} {'enqueued/s':>11} {'CPU µs/task':>12}")
            for name, done in taken.items():
                _report(name, done, count)
            for name, alone in (("tasks by name", "bare Postgres"), ("@on", "bare broker")):
                ratio = _rate(taken[name], count) / _rate(taken[alone], count)
                click.echo(f"{name}: {ratio:.2f} of what {alone} does")


def _rate(ways: Sequence[Way], count: int) -> float:
    return count / statistics.median(way.seconds for way in ways)


def _report(name: str, ways: Sequence[Way], count: int) -> None:
    roles = {role: statistics.median(way.cpu[role] for way in ways) / count * 1e6 for role in ways[0].cpu}
    shares = ", ".join(f"{role} {cpu:.0f}" for role, cpu in roles.items())
    enqueued = statistics.median(way.enqueued for way in ways)
    told = f"{count / enqueued:11.0f}" if enqueued else f"{'':11}"
    click.echo(f"{name:15} {_rate(ways, count):8.0f} {told} {sum(roles.values()):12.0f}  {shares}")


def _roots(stack: Stack, **more: int) -> dict[str, list[int]]:
    """Processes by role: all of Postgres are one."""
    roots: dict[str, list[int]] = {}
    for process in stack.status()["processes"]:
        if process["pid"] and not process["step"]:
            roots.setdefault(process["name"].partition("-")[0], []).append(process["pid"])
    return roots | {name: [pid] for name, pid in more.items()}


def _timed(roots: Mapping[str, Sequence[int]], work: Callable[[], None], enqueued: float = 0) -> Way:
    before, start = used(roots), time.monotonic()
    work()
    seconds, after = time.monotonic() - start, used(roots)
    return Way(seconds, {role: after[role] - before[role] for role in roots}, enqueued)


def _until(done: Callable[[], bool]) -> None:
    limit = time.monotonic() + LONGEST
    while not done():
        if time.monotonic() > limit:
            raise click.ClickException(f"not done after {LONGEST:.0f} s")
        time.sleep(0.005)


async def _stand(amqp: str) -> None:
    connection = await connect(amqp, "bench")
    await topology.stand(await connection.channel(), amqp, "bench", [(HANDLER, f"{TYPE}.{VERB}")])
    await connection.close()


def _bare(stack: Stack, count: int) -> Way:
    with psycopg.connect(stack.env["TRANSOM_POSTGRES"]) as database:
        database.execute(_BARE)
        database.commit()
        start = time.monotonic()
        for number in range(count):
            database.execute(
                "insert into bench_tasks (id, handler, payload) values (%s, %s, '{}')", [str(number), TASK]
            )
            database.commit()
        enqueued = time.monotonic() - start

    async def take() -> None:
        async with await psycopg.AsyncConnection.connect(stack.env["TRANSOM_POSTGRES"]) as own:
            while page := await (await own.execute(_TAKE, [TASK, RUNS_MAX])).fetchall():
                await own.commit()
                for id, take in page:
                    await own.execute(_END, ["", id, take])
                    await own.commit()

    async def work() -> None:
        await asyncio.gather(*(take() for _ in range(RUNS_MAX)))

    roots = {"postgres": _roots(stack)["postgres"], "bench": [os.getpid()]}
    return _timed(roots, lambda: asyncio.run(work()), enqueued)


def _named(stack: Stack, count: int, folder: Path) -> Way:
    """Enqueued while the worker is held: what is timed is how they are worked off."""
    with psycopg.connect(stack.env["TRANSOM_POSTGRES"], autocommit=True) as database, _worker(stack, folder) as pid:
        database.execute("truncate transom.tasks")
        os.kill(pid, signal.SIGSTOP)
        start = time.monotonic()
        for _ in range(count):
            for text, values in enqueue(datetime.now(UTC), TASK)[1]:
                database.execute(text.encode(), values)
        enqueued = time.monotonic() - start

        def work() -> None:
            os.kill(pid, signal.SIGCONT)
            _until(lambda: not _number(database, "select count(*) from transom.tasks where end_time is null"))

        return _timed(_only(_roots(stack, worker=pid), "postgres", "worker"), work, enqueued)


async def _broker(stack: Stack, count: int) -> Way:
    connection = await connect(stack.env["TRANSOM_AMQP"], "bench")
    channel, taking = await connection.channel(), await connection.channel()
    done, got = asyncio.get_running_loop().create_future(), 0

    def take(_: object, method: object, *__: object) -> None:
        nonlocal got
        got += 1
        taking.raw.basic_ack(method.delivery_tag)  # type: ignore[attr-defined]
        if got == count and not done.done():
            done.set_result(None)

    roots = {"rabbitmq": _roots(stack)["rabbitmq"], "bench": [os.getpid()]}
    before, start = used(roots), time.monotonic()
    taking.raw.basic_qos(prefetch_count=PREFETCH)
    taking.raw.basic_consume(topology.queue_of(HANDLER), take)
    made = [Event(id=str(n), position=n, resource_type=TYPE, verb=VERB, name=f"things/{n}") for n in range(count)]
    for first in range(0, count, BATCH):
        waiting, lost = send(channel, made[first : first + BATCH])
        assert lost is None
        await asyncio.gather(*waiting)
    async with asyncio.timeout(LONGEST):
        await done
    seconds, after = time.monotonic() - start, used(roots)
    await connection.close()
    return Way(seconds, {role: after[role] - before[role] for role in roots})


def _on(stack: Stack, count: int, folder: Path) -> Way:
    relay = [sys.executable, "-m", "consumers", "relay"]
    with (
        psycopg.connect(stack.env["TRANSOM_POSTGRES"], autocommit=True) as database,
        running(relay, folder / "relay.log", _env(stack, folder, "relay")) as relay_pid,
        _worker(stack, folder) as pid,
    ):
        wait_until(
            lambda: _number(database, "select count(*) from pg_locks where locktype = 'advisory'") > 0,
            "a relay is active",
        )
        time.sleep(2)  # and connected to the broker, as the worker
        inbox = f"select count(*) from transom.inbox where handler = '{HANDLER}'"
        goal = _number(database, inbox) + count

        def work() -> None:
            database.execute(_EVENTS, [TYPE, VERB, count])
            database.execute("notify transom_events")
            _until(lambda: _number(database, inbox) >= goal)

        return _timed(
            _only(_roots(stack, worker=pid, relay=relay_pid), "postgres", "rabbitmq", "relay", "worker"), work
        )


@contextmanager
def _worker(stack: Stack, folder: Path) -> Iterator[int]:
    """The process id of a worker that takes tasks, for as long as the block lasts."""
    (folder / "tasks.py").write_text(APP)
    with psycopg.connect(stack.env["TRANSOM_POSTGRES"], autocommit=True) as database:
        database.execute("truncate transom.task_workers")
        command = [sys.executable, "-m", "consumers", "work"]
        with running(command, folder / "worker.log", _env(stack, folder, "worker")) as pid:
            wait_until(lambda: _number(database, "select count(*) from transom.task_workers") > 0, "a worker is ready")
            time.sleep(1)  # and has begun whatever it does at its beginning
            yield pid


def _env(stack: Stack, folder: Path, instance: str) -> dict[str, str]:
    descriptor = folder / "descriptor.binpb"
    if not descriptor.exists():
        descriptor.write_bytes(compile_app(PROJECT / "examples" / "inspect"))
    own = {"TRANSOM_APP": str(folder), "TRANSOM_DESCRIPTOR": str(descriptor), "TRANSOM_INSTANCE": instance}
    return {**os.environ, **stack.env, **own}


def _number(database: psycopg.Connection[tuple[int]], text: str) -> int:
    found = database.execute(text.encode()).fetchone()
    assert found is not None
    return found[0]


def _only(roots: Mapping[str, list[int]], *names: str) -> dict[str, list[int]]:
    return {name: roots[name] for name in names}


if __name__ == "__main__":
    main()
