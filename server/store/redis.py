"""Redis: what may be lost at any time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from server.errors import Unavailable
from server.store.breaker import Breaker

TIMEOUT = 0.3
"""Seconds a call may take; a healthy Redis needs less than a thousandth of it."""

PAUSE = 2.0
"""Seconds after a failure in which Redis is not asked: calls go on without it, and do not each pay the timeout."""


class RedisAway(Unavailable):
    """Redis does not answer, or did not a moment ago. Whoever asked goes on without it."""

    reason = "REDIS_UNAVAILABLE"


class Redis:
    """Redis, that may be away: every call answers within TIMEOUT or raises RedisAway."""

    def __init__(self, url: str, *, timeout: float = TIMEOUT, pause: float = PAUSE) -> None:
        self._client = redis.Redis.from_pool(
            redis.BlockingConnectionPool.from_url(
                url,
                max_connections=16,
                timeout=timeout,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                retry=Retry(NoBackoff(), 0),
            )
        )
        self._breaker = Breaker(pause)

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of `keys`, in their order."""
        async with self._answering():
            return [value.encode() if isinstance(value, str) else value for value in await self._client.mget(keys)]

    async def set(self, entries: Mapping[str, bytes], seconds: int) -> None:
        """Writes all entries, in place of what is there, to be gone after `seconds`."""
        async with self._answering(), self._client.pipeline(transaction=False) as pipeline:
            for key, value in entries.items():
                pipeline.set(key, value, ex=seconds)
            await pipeline.execute()

    async def add(self, entries: Mapping[str, tuple[bytes, int]]) -> None:
        """Writes each value, to be gone after its milliseconds, except where the key exists: what is there stays."""
        async with self._answering(), self._client.pipeline(transaction=False) as pipeline:
            for key, (value, milliseconds) in entries.items():
                pipeline.set(key, value, px=milliseconds, nx=True)
            await pipeline.execute()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        if self._breaker.open:
            raise RedisAway("Redis was away a moment ago.")
        try:
            yield
        except (RedisError, OSError, TimeoutError) as away:
            self._breaker.failed()
            raise RedisAway("Redis is away for now.") from away
