"""The marks that keep a caller from the past of their own writes: which one stays, and what a Redis that forgot says."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from deploy.native.stack import Stack
from server.store.freshness import Freshness
from server.store.marks import EPOCH, RedisMarks
from server.store.positions import Positions
from server.store.redis import RedisAway
from server.store.redis_wire import RedisWire


def with_redis(components: Stack, test: Callable[[RedisWire], Coroutine[Any, Any, None]]) -> None:
    """Runs a test with a connection of its own."""

    async def run() -> None:
        wire = RedisWire(components.env["TRANSOM_REDIS"])
        try:
            await test(wire)
        finally:
            await wire.aclose()

    asyncio.run(run())


def test_the_later_position_stays_whoever_comes_last(components: Stack) -> None:
    async def test(wire: RedisWire) -> None:
        one, other, who = RedisMarks(wire, 0), RedisMarks(wire, 0), f"users/{secrets.token_hex(6)}"
        await one.put(who, 200, 30)
        await other.put(who, 100, 30)
        assert await other.get([who, "users/nobody"]) == [200, 0]
        await other.put(who, 10_000_000_000_001, 30)
        assert await one.get([who]) == [10_000_000_000_001]

    with_redis(components, test)


def test_a_redis_that_forgot_is_not_believed_for_a_while(components: Stack) -> None:
    async def test(wire: RedisWire) -> None:
        now = 0.0
        marks = RedisMarks(wire, 1.0, clock=lambda: now)
        with pytest.raises(RedisAway):
            await marks.get(["users/a"])  # who has just started knows nothing
        now = 1.1
        assert await marks.get(["users/a"]) == [0]
        await wire.ask("DEL", EPOCH)
        for later in (0.0, 0.9):
            now = 1.1 + later
            with pytest.raises(RedisAway):
                await marks.get(["users/a"])
        now = 3.3
        assert await marks.get(["users/a"]) == [0]

    with_redis(components, test)


def test_a_redis_that_was_restarted_is_not_believed_for_a_while(components: Stack) -> None:
    """It has its word again, but with marks as they were when it saved them."""

    async def test(wire: RedisWire) -> None:
        now = 0.0
        marks = RedisMarks(wire, 1.0, clock=lambda: now)
        with pytest.raises(RedisAway):
            await marks.get(["users/a"])
        now = 1.1
        assert await marks.get(["users/a"]) == [0]
        assert wire._line is not None
        wire._line.hang_up()
        with pytest.raises(RedisAway):
            await marks.get(["users/a"])
        now = 2.2
        assert await marks.get(["users/a"]) == [0]

    with_redis(components, test)


def test_a_write_whose_mark_is_not_kept_is_acknowledged_once_the_replica_shows_it() -> None:
    class Away:
        async def put(self, caller: str, lsn: int, seconds: int) -> None:
            raise RedisAway("away")

        async def get(self, callers: list[str]) -> list[int]:
            return [0] * len(callers)

    async def run() -> None:
        lane: Any = object()
        positions = Positions(lane, lane, 1000)
        freshness = Freshness(Away(), positions, 1000)
        written = asyncio.create_task(freshness.written("users/a", 50))
        for replayed, done in ((10, False), (49, False), (50, True)):
            positions.replayed = replayed
            positions._looked.set()
            positions._looked = asyncio.Event()
            await asyncio.sleep(0.01)
            assert written.done() is done
        await written

    asyncio.run(run())
