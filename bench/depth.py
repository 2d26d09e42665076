"""`python -m bench.depth`: whether a Get and a page of 20 cost the same in a small collection and in a very large one.

One process's engine on a Postgres of its own, started for it; the rows are written into the real table by SQL, each with its
message, its columns and all of the table's indexes. At a hundredth, a tenth and all of the rows, the same calls by the
rows' owner, whose right the rule asks of each row: each for a row or a place that is drawn anew. `postgres` is the CPU of
the primary.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import psycopg
import structlog
from pydantic import SecretStr

from deploy.native.stack import COMPONENTS, Stack
from server.app import Parts, opened
from server.caller import Caller, Kind
from server.engine.lists import Wanted
from server.engine.resources import Call
from server.schema.compilation import compile_app
from server.schema.reading import read
from server.settings import Settings
from server.store.changes import Page
from server.store.migrations import migrate

from . import cpu

APP = Path(__file__).parent / "deep"
PARENT, PAGE, TEXT = "logs/l", 20, "x" * 200
OWNER = Call(Caller(Kind.USER, "users/ann", session="sessions/s"))
ROWS_OF_ONE_INSERT = 250_000

_FILL = """
    insert into deep_v1.entries (name, _parent, _owner, _uid, _version, _create_time, _update_time, _payload, mark, text)
    select name, %(parent)s, %(owner)s, gen_random_uuid(), n, now(), now(),
        '\\x0a'::bytea || set_byte('\\x00'::bytea, 0, length(name)) || convert_to(name, 'UTF8')
        || '\\x12'::bytea || set_byte('\\x00'::bytea, 0, length(mark)) || convert_to(mark, 'UTF8')
        || '\\x1ac801'::bytea || convert_to(%(text)s, 'UTF8'), mark, %(text)s
    from (select n, %(parent)s || '/entries/e' || lpad(n::text, 9, '0') as name,
            lpad((n * 7919 %% 1000000007)::text, 10, '0') as mark
        from generate_series(%(first)s::bigint, %(last)s::bigint) as n) as made"""
"""Two numbers below 1,000,000,007, a prime, that differ have different marks."""

Asked = Callable[[Parts, random.Random, int], Awaitable[Any]]


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, type=click.IntRange(10_000, 100_000_000))
@click.option("--calls", default=2000, show_default=True, type=click.IntRange(100, 100_000), help="Of a kind, a round.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 100))
@click.option("--clients", default=16, show_default=True, type=click.IntRange(1, 256), help="Calls under way at once.")
def main(rows: int, calls: int, rounds: int, clients: int) -> None:
    """Measure reads in collections of different sizes. Ten million rows take about 10 GB and ten minutes."""
    # Sixteen at once on a small machine are slow; that is measured, and need not be warned of.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with TemporaryDirectory(prefix="transom-bench-") as folder:
        Path(folder).chmod(0o755)  # Postgres does not run as root, and has to get there
        with Stack(Path(folder) / "state", parts=COMPONENTS).running() as stack:
            asyncio.run(_measure(stack, Path(folder), rows, calls, rounds, clients))


async def _measure(stack: Stack, folder: Path, rows: int, calls: int, rounds: int, clients: int) -> None:
    descriptor = folder / "deep.binpb"
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
        click.echo(f"{'rows':>12}  {'':32}{'engine µs':>10} {'postgres µs':>12} {'p50 ms':>8} {'p99 ms':>8}")
        written = 0
        for size in (rows // 100, rows // 10, rows):
            await asyncio.to_thread(_fill, env["TRANSOM_POSTGRES"], written, size)
            written = size
            for name, asked in KINDS.items():
                found = [await _round(parts, asked, primary, size, calls, clients, n) for n in range(rounds + 1)][1:]
                own, server, half, most = (median(one[i] for one in found) for i in range(4))
                click.echo(f"{size:12,}  {name:32}{own:10.1f} {server:12.1f} {half:8.2f} {most:8.2f}")


def _fill(postgres: str, first: int, last: int) -> None:
    with psycopg.connect(postgres, autocommit=True) as database:
        for begin in range(first, last, ROWS_OF_ONE_INSERT):
            end = min(begin + ROWS_OF_ONE_INSERT, last)
            about = {"parent": PARENT, "owner": OWNER.caller.name, "text": TEXT, "first": begin, "last": end - 1}
            database.execute(_FILL, about)
        database.execute("vacuum analyze deep_v1.entries")


async def _round(
    parts: Parts, asked: Asked, primary: int, rows: int, calls: int, clients: int, seed: int
) -> tuple[float, float, float, float]:
    chosen = random.Random(seed)
    took: list[float] = []

    async def client(share: int) -> None:
        for _ in range(share):
            begun = time.perf_counter()
            await asked(parts, chosen, rows)
            took.append(time.perf_counter() - begun)

    before, server = time.process_time(), cpu.used({"p": [primary]})["p"]
    await asyncio.gather(*(client(calls // clients) for _ in range(clients)))
    own, server = time.process_time() - before, cpu.used({"p": [primary]})["p"] - server
    took.sort()
    return (
        own / len(took) * 1e6,
        server / len(took) * 1e6,
        took[len(took) // 2] * 1e3,
        took[len(took) * 99 // 100] * 1e3,
    )


def _name(number: int) -> str:
    return f"{PARENT}/entries/e{number:09}"


def _mark(number: int) -> str:
    return f"{number * 7919 % 1_000_000_007:010}"


async def _get(parts: Parts, chosen: random.Random, rows: int) -> None:
    name = _name(chosen.randrange(rows))
    payload = await parts.resources.get(OWNER, parts.schema.resources["deep.v1.Entry"], name)
    assert name.encode() in payload


async def _page(parts: Parts, chosen: random.Random, rows: int) -> None:
    resource = parts.schema.resources["deep.v1.Entry"]
    asking = await parts.resources.access.listing(OWNER, resource)
    after = _name(chosen.randrange(rows - PAGE - 1))
    shown = await parts.resources.records.page(resource, Page(PARENT, after, PAGE + 1, asking), OWNER.caller.name)
    assert len(shown) == PAGE + 1 and shown[0].name > after


async def _ordered(parts: Parts, chosen: random.Random, rows: int) -> None:
    place = _mark(chosen.randrange(rows))
    wanted = Wanted(PARENT, PAGE, filter=f'mark >= "{place}"', order_by="mark")
    listing = await parts.resources.lists.page(OWNER, parts.schema.resources["deep.v1.Entry"], wanted)
    assert listing.rows and place.encode() in listing.rows[0].payload


KINDS: dict[str, Asked] = {
    "Get": _get,
    "List-20 from a place, by name": _page,
    "List-20 from a place, by index": _ordered,
}

if __name__ == "__main__":
    main()
