"""A schema changes under traffic: a hundred times, with servers of two versions side by side; and what is killed is finished."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import psycopg
import pytest
from library_ground import Database, database
from schema_change_ground import (
    WIDER,
    Field,
    Traffic,
    applied,
    check_catalogue,
    check_rows,
    first_garden,
    served,
)

from deploy.native.stack import Stack
from server.schema.compilation import SchemaError
from server.schema.reading import read

CHANGES = 100
KILLABLE = multiprocessing.get_context("forkserver")
KILLABLE.set_forkserver_preload(["schema_change_ground"])


@pytest.fixture(scope="module")
def place(components: Stack) -> Iterator[Database]:
    with database(components, None) as made:
        yield made


def test_a_hundred_changes_under_traffic(place: Database) -> None:
    """No call fails, no value is lost or altered, and after each change the database is what the schema says."""
    asyncio.run(_changes(place, seed=1, count=CHANGES))


async def _changes(place: Database, seed: int, count: int) -> None:
    dice = random.Random(seed)
    garden = first_garden()
    schema = garden.schema()
    gone: dict[str, set[int]] = {}
    assert applied(place, schema)
    traffic = Traffic(seed)
    old = served(place, garden, schema)
    server = await old.__aenter__()
    traffic.servers.append(server)
    callers = [asyncio.create_task(traffic.run()) for _ in range(3)]
    try:
        for i in range(count):
            later, said = garden.changed(dice)
            next_schema = later.schema()
            done = await _beside(callers, asyncio.to_thread(applied, place, next_schema))
            assert not done, f"{said}: servers of the version before are running"
            new = served(place, later, next_schema)
            next_server = await new.__aenter__()
            traffic.servers.append(next_server)
            calls = traffic.calls
            while traffic.calls < calls + 20:  # both, side by side
                await _beside(callers, asyncio.sleep(0.002))
            await _beside(callers, traffic.without(server))
            await old.__aexit__(None, None, None)
            assert await _beside(callers, asyncio.to_thread(applied, place, next_schema, 5.0)), said
            for message, resource in schema.resources.items():
                left = next_schema.resources.get(message)
                if left is not None:
                    numbers = {f.number for f in left.fields}
                    gone.setdefault(message, set()).update(f.number for f in resource.fields if f.number not in numbers)
            try:
                await asyncio.to_thread(check_catalogue, place, next_schema, gone)
            except AssertionError as fault:
                raise AssertionError(f"change {i}, {said}: {fault}") from fault
            garden, schema, old, server = later, next_schema, new, next_server
    finally:
        traffic.stop()
        await asyncio.gather(*callers)
        for name, (message, _) in traffic.held.items():
            for kept in garden.kept:
                if kept.message == message:
                    await traffic.check(server, kept, name)
        await old.__aexit__(None, None, None)
    assert check_rows(place, schema) == len(traffic.held)


async def _beside(callers: list[asyncio.Task[None]], work: object) -> object:
    """What `work` answers; or the error of a call that failed meanwhile."""
    task = asyncio.ensure_future(work)  # type: ignore[arg-type]
    await asyncio.wait([task, *callers], return_when=asyncio.FIRST_COMPLETED)
    for caller in callers:
        if caller.done():
            caller.result()
    return await task


# ------------------------------------------------------------------------------------------------- killed, and refused


def _killed_apply(place: Database, image: bytes, statements: int) -> None:
    """Applies the schema, and is killed (SIGKILL) instead of its n-th statement."""
    left = iter(range(statements))
    execute = psycopg.Cursor.execute

    def counted(self: Any, *given: Any, **more: Any) -> Any:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return execute(self, *given, **more)

    psycopg.Cursor.execute = counted  # type: ignore[method-assign]
    sys.exit(0 if applied(place, read(image)) else 7)


def test_what_is_killed_anywhere_is_finished_by_the_next(components: Stack) -> None:
    """Before the servers are replaced and after; and what was there all along is as it was."""
    with database(components, None) as place:
        asyncio.run(_killed(place))


async def _killed(place: Database) -> None:
    dice = random.Random(7)
    garden = first_garden()
    schema = garden.schema()
    assert applied(place, schema)
    later = deepcopy(garden)
    [bed] = later.kept
    bed.plural = "plots"
    for number, change in {2: "depth", 4: "width", 10: "sort"}.items():
        next(f for f in bed.fields if f.number == number).name = change
    for one in bed.fields:
        one.kind = WIDER.get(one.kind, one.kind)
        one.index = "true" if one.number in (2, 3, 6, 10, 13) else ""
    next(f for f in bed.fields if f.number == 12).label = ""
    later.labels[1] = "WIDE_OPEN"
    later.part[0].name = "count"
    bed.fields.append(Field(30, "new", "string"))
    next_schema = later.schema()
    traffic = Traffic(7)

    def kill_until_done() -> tuple[int, int]:
        kills = 0
        while True:
            child = KILLABLE.Process(target=_killed_apply, args=(place, next_schema.image, dice.randrange(25, 75)))
            child.start()
            child.join(60)
            if child.exitcode != -signal.SIGKILL:
                return kills, child.exitcode or 0
            kills += 1

    async with served(place, garden, schema) as server:
        traffic.servers.append(server)
        for _ in range(300):
            await traffic.call()
        first, code = await asyncio.to_thread(kill_until_done)
        assert code == 7, "the server before is there"
        for _ in range(100):
            await traffic.call()
    second, code = await asyncio.to_thread(kill_until_done)
    assert code == 0
    assert first >= 3 and second >= 1, (first, second)
    check_catalogue(place, next_schema, {})
    assert check_rows(place, next_schema) == len(traffic.held)
    async with served(place, later, next_schema) as server:
        for name in traffic.held:
            await traffic.check(server, bed, name)
    # And what is past does not start again.
    with pytest.raises(SchemaError, match="not those of this schema"):
        async with served(place, garden, schema):
            pass
