"""The callers' marks (see freshness.py) in Redis, where every server sees them."""

from __future__ import annotations

from server.store.redis_wire import RedisWire

_PREFIX = "transom:mark:"


class RedisMarks:
    """One value per caller: the position in the log of their last write."""

    def __init__(self, redis: RedisWire) -> None:
        self._redis = redis

    async def put(self, caller: str, lsn: int, seconds: int) -> None:
        """Keeps the caller's mark for `seconds`. Raises RedisAway."""
        # A mark that a slower server overwrites with an older position is short by one write of the same caller, made
        # through two servers at once: neither can expect to see the other's.
        await self._redis.ask("SET", _PREFIX + caller, str(lsn), "EX", str(seconds))

    async def get(self, callers: list[str]) -> list[int]:
        """The marks, 0 where there is none. Raises RedisAway."""
        found = await self._redis.ask("MGET", *(_PREFIX + c for c in callers))
        return [int(v) if v is not None else 0 for v in found]
