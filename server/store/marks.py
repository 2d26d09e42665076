"""The callers' marks (see freshness.py) in Redis, where every server sees them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from server.store.redis import RedisAway
from server.store.redis_wire import RedisWire

_PREFIX = "transom:mark:"
EPOCH = "transom:marks"
"""The Redis key of a word that is there as long as Redis remembers: where it is gone, so may be marks."""

# The larger position stays: two servers may acknowledge two writes of one caller in either order.
_KEEP = "if tonumber(redis.call('GET', KEYS[1]) or 0) < tonumber(ARGV[1]) then \
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2]) end"


class Memory:
    """Whether Redis remembers what it was told.

    Where it may have forgotten (it was flushed, or there is a new connection to it: it may have been restarted, empty or
    with what it had saved before), nothing is believed for `forgotten` seconds: as long as the replica that is read may lag
    behind what was marked before.
    """

    def __init__(self, redis: RedisWire, forgotten: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._forgotten = forgotten
        self._clock = clock
        self._epoch: bytes | None = None
        self._connects = 0
        self._silent_until = 0.0

    async def check(self, epoch: bytes | None) -> None:
        """Returns where it does, by the value that EPOCH had together with what was asked. Raises RedisAway."""
        if epoch is None or epoch != self._epoch or self._redis.connects != self._connects:
            self._silent_until = self._clock() + self._forgotten
            self._epoch, self._connects = epoch, self._redis.connects
            if epoch is None:
                await self._redis.ask("SET", EPOCH, secrets.token_hex(8), "NX")
        if self._clock() < self._silent_until:
            raise RedisAway("Redis may have forgotten marks.")


class RedisMarks:
    """One value per caller: the position in the log of their last write."""

    def __init__(self, redis: RedisWire, forgotten: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self.memory = Memory(redis, forgotten, clock)

    async def put(self, caller: str, lsn: int, seconds: int) -> None:
        """Keeps the caller's mark for `seconds`. Raises RedisAway."""
        await self._redis.ask("EVAL", _KEEP, "1", _PREFIX + caller, str(lsn), str(seconds))

    async def get(self, callers: list[str]) -> list[int]:
        """The marks, 0 where there is none. Raises RedisAway, also where Redis may have forgotten some."""
        epoch, *found = await self._redis.ask("MGET", EPOCH, *(_PREFIX + c for c in callers))
        await self.memory.check(epoch)
        return [int(v) if v is not None else 0 for v in found]
