"""The callers' marks (see freshness.py) in Redis, where every server sees them."""

from __future__ import annotations

from collections.abc import Sequence

from server.store.gathering import Gathering
from server.store.redis import Redis

_PREFIX = "transom:mark:"


class RedisMarks:
    """One value per caller: the position in the log of their last write."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._puts: Gathering[tuple[str, int, int], None] = Gathering(
            self._put, size=500, lanes=2, key=lambda put: put[0]
        )

    async def put(self, caller: str, lsn: int, seconds: int) -> None:
        """Keeps the caller's mark for `seconds`. Raises RedisAway."""
        await self._puts.ask((caller, lsn, seconds))

    async def get(self, callers: list[str]) -> list[int]:
        """The marks, 0 where there is none. Raises RedisAway."""
        found = await self._redis.get([_PREFIX + c for c in callers])
        return [int(v) if v is not None else 0 for v in found]

    async def _put(self, puts: Sequence[tuple[str, int, int]]) -> Sequence[Exception | None]:
        # A mark that a slower server overwrites with an older position is short by one write of the same caller, made
        # through two servers at once: neither can expect to see the other's.
        await self._redis.set({_PREFIX + caller: str(lsn).encode() for caller, lsn, _ in puts}, puts[0][2])
        return [None] * len(puts)
