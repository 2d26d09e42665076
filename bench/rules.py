"""`python -m bench.rules`: what a rule costs on a Get and on a List of 20.

One process's engine on a Postgres of its own, started for it: the same calls by a service key, which no rule binds, and
by a user, whom the rule lets. Cases take turns; a figure is the median of its rounds. `client` is the CPU of the process
that judges, `postgres` that of the primary; `trips` are the exchanges with Postgres of one call by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import click
from pydantic import SecretStr

from deploy.native.stack import COMPONENTS, Stack
from server.app import Parts, opened
from server.caller import Caller, Kind
from server.engine.lists import Wanted
from server.engine.resources import Call
from server.schema.compilation import compile_app
from server.schema.reading import read
from server.settings import Settings
from server.store.migrations import migrate
from server.store.pipeline import Pipeline, Result, Step

from . import cpu

APP = Path(__file__).parent / "notes"
ROWS, TEXT = 200, "x" * 200
USER = Call(Caller(Kind.USER, "users/ann", session="sessions/s"))
KEY = Call(Caller(Kind.KEY, "keys/k", roles=frozenset({"service"})))

Case = tuple[str, str, Call]
"""Operation, message, and who calls."""

CASES: tuple[Case, ...] = tuple(
    (operation, message, by) for operation in ("Get", "List-20") for message in ("Note", "Paper") for by in (KEY, USER)
)


@click.command()
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1, 100))
@click.option("--calls", default=4000, show_default=True, type=click.IntRange(100, 100_000), help="Of a case, a round.")
@click.option("--clients", default=16, show_default=True, type=click.IntRange(1, 256), help="Calls under way at once.")
def main(rounds: int, calls: int, clients: int) -> None:
    """Measure what rules cost."""
    with TemporaryDirectory(prefix="transom-bench-") as folder:
        Path(folder).chmod(0o755)  # Postgres does not run as root, and has to get there
        with Stack(Path(folder) / "state", parts=COMPONENTS).running() as stack:
            asyncio.run(_measure(stack, Path(folder), rounds, calls, clients))


async def _measure(stack: Stack, folder: Path, rounds: int, calls: int, clients: int) -> None:
    descriptor = folder / "notes.binpb"
    descriptor.write_bytes(compile_app(APP))
    env = stack.env
    await asyncio.to_thread(migrate, env["TRANSOM_POSTGRES"], read(descriptor.read_bytes()))
    settings = Settings(
        app=APP,
        descriptor=descriptor,
        postgres=SecretStr(env["TRANSOM_POSTGRES"]),
        redis=SecretStr(env["TRANSOM_REDIS"]),
    )
    [primary] = [p["pid"] for p in stack.status()["processes"] if p["name"] == "postgres-1"]
    async with opened(settings, replica_reads=False) as parts:
        await _fill(parts)
        found: dict[Case, list[tuple[float, float]]] = {case: [] for case in CASES}
        for case in CASES:
            await _run(parts, case, 200, clients)
        for _ in range(rounds):
            for case in CASES:
                before, server = time.process_time(), cpu.used({"p": [primary]})["p"]
                await _run(parts, case, calls, clients)
                own = time.process_time() - before
                found[case].append((own / calls * 1e6, (cpu.used({"p": [primary]})["p"] - server) / calls * 1e6))
        trips = {case: await _trips(parts, case) for case in CASES}
    click.echo(f"{'':32} {'client µs':>10} {'postgres µs':>12} {'trips':>6}")
    for case in CASES:
        operation, message, by = case
        rule = "no rule" if by is KEY else "two clauses" if message == "Note" else "exists()"
        own, server = (median(f[i] for f in found[case]) for i in (0, 1))
        click.echo(f"{operation:8} {message:6} {rule:16} {own:10.1f} {server:12.1f} {trips[case]:6}")


async def _fill(parts: Parts) -> None:
    async def create(by: Call, message: str, parent: str, id: str, **fields: Any) -> None:
        body = parts.schema.message_class(f"notes.v1.{message}")(**fields)
        change = parts.resources.decisions.create(
            parts.schema.resources[f"notes.v1.{message}"],
            body,
            parent=parent,
            id=id,
            owner=USER.caller.name,
            origin=by.origin,
        )
        await parts.resources.records.write(change)

    await create(KEY, "Team", "", "t")
    await create(KEY, "Member", "teams/t", "ann")
    for message in ("Note", "Paper"):
        await asyncio.gather(*(create(KEY, message, "teams/t", f"n{i:04}", text=TEXT) for i in range(ROWS)))


def _call(parts: Parts, case: Case, i: int) -> Awaitable[Any]:
    operation, message, by = case
    resource = parts.schema.resources[f"notes.v1.{message}"]
    if operation == "Get":
        return parts.resources.get(by, resource, f"teams/t/{message.lower()}s/n{i % ROWS:04}")
    return parts.resources.lists.page(by, resource, Wanted("teams/t", 20))


async def _run(parts: Parts, case: Case, calls: int, clients: int) -> None:
    async def client(first: int) -> None:
        for i in range(first, calls, clients):
            await _call(parts, case, i)

    await asyncio.gather(*(client(i) for i in range(clients)))


async def _trips(parts: Parts, case: Case) -> int:
    """Exchanges with Postgres that one call by itself waits for, one after the other; those under way at once are one."""
    under_way, waited = 0, 0
    run = Pipeline.run

    async def counted(self: Pipeline, steps: Sequence[Step]) -> list[Result]:
        nonlocal under_way, waited
        waited += not under_way
        under_way += 1
        try:
            return await run(self, steps)
        finally:
            under_way -= 1

    with patch.object(Pipeline, "run", counted):
        await _call(parts, case, 7)
    return waited


if __name__ == "__main__":
    main()
