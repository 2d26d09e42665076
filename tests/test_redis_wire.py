"""The hot path's connection to Redis, and what it makes of a Redis that is silent, hangs up or comes back."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Awaitable, Callable

import pytest
import redis
import uvloop

from deploy.native.stack import Stack
from server.store.redis import RedisAway
from server.store.redis_wire import RedisWire

PATIENT = 20.0
"""Seconds for Redis where its silence is not what is tried: on a busy machine the usual 0.3 pass without a word of it."""


def asynchronous(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Runs a test on both kinds of loop: the servers' and Python's own."""

    @pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
    @functools.wraps(test)
    def run(*args: object, loop: Callable[[], asyncio.AbstractEventLoop], **kwargs: object) -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(asyncio.wait_for(test(*args, **kwargs), 30))

    signature = inspect.signature(test)
    more = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), more])  # what pytest fills in
    return run


@asynchronous
@pytest.mark.parametrize("road", ["port", "socket"])
async def test_replies_come_in_the_order_of_their_commands(components: Stack, road: str) -> None:
    wire = RedisWire(
        (components.env if road == "port" else components.topology.nearby())["TRANSOM_REDIS"], timeout=PATIENT
    )
    try:
        await wire.ask("DEL", "wire:list")
        pushed = await asyncio.gather(*(wire.ask("RPUSH", "wire:list", str(n)) for n in range(500)))
        assert pushed == list(range(1, 501))
        assert await wire.ask("LRANGE", "wire:list", "0", "-1") == [str(n).encode() for n in range(500)]
        big = b"x" * 3_000_000
        await wire.ask("SET", "wire:big", big, "EX", "5")
        assert await wire.ask("GET", "wire:big") == big
    finally:
        await wire.aclose()


@asynchronous
async def test_what_redis_refuses_refuses_one_command_only(components: Stack) -> None:
    wire = RedisWire(components.env["TRANSOM_REDIS"], timeout=PATIENT)
    try:
        wrong, right = wire.ask("NO-SUCH-COMMAND"), wire.ask("ECHO", "here")
        with pytest.raises(RedisAway):
            await wrong
        assert await right == b"here"
    finally:
        await wire.aclose()


@asynchronous
async def test_a_wrong_password_is_redis_being_away(components: Stack) -> None:
    url = components.env["TRANSOM_REDIS"]
    wire = RedisWire(url.rpartition("@")[0].rpartition(":")[0] + ":wrong@" + url.rpartition("@")[2])
    with pytest.raises(RedisAway):
        await wire.ask("PING")
    await wire.aclose()


@asynchronous
async def test_a_connection_that_is_killed_is_made_again(components: Stack) -> None:
    url = components.env["TRANSOM_REDIS"]
    wire = RedisWire(url, timeout=PATIENT, pause=0.1)
    try:
        number = await wire.ask("CLIENT", "ID")
        with redis.Redis.from_url(url) as admin:
            admin.client_kill_filter(_id=str(number))
        deadline = time.monotonic() + 5
        while True:
            try:
                assert await wire.ask("ECHO", "again") == b"again"
                return
            except RedisAway:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
    finally:
        await wire.aclose()


@asynchronous
async def test_a_silent_redis_costs_its_timeout_once() -> None:
    silent = await asyncio.start_server(lambda reader, writer: asyncio.sleep(60), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    wire = RedisWire(f"redis://127.0.0.1:{port}", timeout=0.2, pause=30)
    try:
        start = time.monotonic()
        answers = await asyncio.gather(*(wire.ask("PING") for _ in range(50)), return_exceptions=True)
        assert all(isinstance(answer, RedisAway) for answer in answers)
        with pytest.raises(RedisAway):
            await wire.ask("PING")
        assert time.monotonic() - start < 5, "each of them alone would have taken longer"
    finally:
        await wire.aclose()
        silent.close()


@asynchronous
async def test_nobody_there_is_redis_being_away() -> None:
    wire = RedisWire("redis://127.0.0.1:1", pause=30)
    with pytest.raises(RedisAway):
        await wire.ask("PING")
    await wire.aclose()
