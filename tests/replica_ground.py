"""Where the replica is held back, and who is asked is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from library_ground import ADA, BOB, Database, Engine

from deploy.native.postgres import NODES
from deploy.native.stack import Stack
from server.services.current import CURRENT, Current
from server.store.pipeline import Step

T = TypeVar("T")


@asynccontextmanager
async def paused(components: Stack) -> AsyncIterator[None]:
    """The replica answers, but replays nothing."""
    postgres = components.topology.postgres
    with postgres.superuser(next(name for name in NODES if name != postgres.leader)) as replica:
        replica.execute("select pg_wal_replay_pause()")
        try:
            while replica.execute("select pg_get_wal_replay_pause_state()").fetchone() != ("paused",):
                await asyncio.sleep(0.02)
            yield
        finally:
            replica.execute("select pg_wal_replay_resume()")


def asked(on: Engine) -> dict[str, int]:
    """From now on: how many runs each server was sent, without those that only ask for its position."""
    counts = {"primary": 0, "replica": 0}
    for server, lane in (("primary", on.primary), ("replica", on.replica)):
        for connection in (*lane.connections, *lane.writing) if lane is not None else ():
            send = connection._send

            def sending(steps: list[Step], send: Any = send, server: str = server) -> Any:
                counts[server] += any(b"_lsn(" not in step.statement for step in steps)
                return send(steps)

            connection._send = sending  # type: ignore[method-assign]
    return counts


async def caught_up(at: Database, *engines: Engine) -> None:
    """Returns once reads may go to the replica again."""
    await asyncio.to_thread(at.wait_replica)
    until = time.monotonic() + 10
    for on in engines:
        while not (await on.freshness.suffices(ADA.caller.name) and await on.freshness.suffices(BOB.caller.name)):
            assert time.monotonic() < until, on.freshness.positions.lag
            await asyncio.sleep(0.05)


async def called(on: Engine, work: Awaitable[T], tokens: str = "") -> tuple[T, str]:
    """What a call answers that brings these consistency tokens, and the token of what it wrote, empty where it did not."""
    current = Current("/library.v1.LibraryService/Called")
    current.after = on.freshness.position(tokens) if tokens else 0

    async def carrying() -> T:
        CURRENT.set(current)
        return await work

    answer = await asyncio.create_task(carrying())
    return answer, on.freshness.token(current.wrote) if current.wrote else ""
