"""Buckets of tokens that all servers share, in Redis.

A call takes its tokens on the spot, from what its server may spend ahead: the hundredth part of a bucket. What was
spent is told to Redis a moment later, for all buckets in one command, and Redis answers what is left. So a call costs
a look into a dictionary, and a server that was told that a bucket is empty refuses by itself until it is not. A bucket
of less than 100 tokens is never spent ahead: each of its calls waits for Redis' word.

Whatever the number of callers, in any time t a bucket lets through at most

    calls + t × calls / seconds + servers × calls / 100

A bucket is one number in Redis: the time at which it is full again (the generic cell rate algorithm). A full bucket is
no entry at all. Each server has a copy; while Redis is away it goes on with that, alone: then each server lets as many
through as all together otherwise.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence

from server.rates import Rate
from server.store.redis import RedisAway
from server.store.redis_wire import RedisWire

AHEAD = 100
"""A server spends at most a bucket divided by this before it has Redis' word."""
TELL_SECONDS = 0.1
"""What was spent is told to Redis at most this much later; sooner where half of what may be spent ahead is."""
GENERATION = 5_000
"""Buckets of one kind that a server remembers at least; at most twice as many. Redis knows the others."""
TOGETHER = 500
"""Buckets of one command."""
WAITING_MAX = 10_000
"""Calls that may wait for Redis' word; more are decided on by the server alone."""

_PREFIX = "transom:limit:"

_SETTLE = """
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local answer = {}
for i, key in ipairs(KEYS) do
  local token, window = tonumber(ARGV[i * 4 - 3]), tonumber(ARGV[i * 4 - 2])
  local spent, wanted = tonumber(ARGV[i * 4 - 1]), tonumber(ARGV[i * 4])
  local full = tonumber(redis.call('GET', key) or 0)
  if full < now then full = now end
  full = full + spent * token
  local granted = math.max(0, math.min(wanted, math.floor((now + window - full) / token)))
  full = full + granted * token
  if full > now then
    redis.call('SET', key, string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
  end
  answer[i * 2 - 1] = granted
  answer[i * 2] = math.floor(now + window - full)
end
return answer
"""


class Bucket:
    """One bucket as this server knows it."""

    __slots__ = ("dirty", "flying", "full", "key", "kind", "room", "spent", "until", "waiting")

    def __init__(self, kind: Kind, key: str) -> None:
        self.kind = kind
        self.key = key
        self.until = 0.0
        """Until when it is known to be empty; monotonic time."""
        self.room = kind.ahead
        """What may be spent before Redis' word."""
        self.spent = 0
        """Not yet told to Redis."""
        self.flying = 0
        """Told, not yet answered."""
        self.full = 0.0
        """When it is full again; microseconds of monotonic time."""
        self.dirty = False
        self.waiting: deque[asyncio.Future[bool]] | None = None


class Kind:
    """Buckets of one rate. `name` tells them from others' in Redis, and callers which limit it was."""

    def __init__(self, buckets: Buckets, name: str, rate: Rate, scope: str) -> None:
        self.name = name
        self.rate = rate
        self.scope = scope
        self.ahead = rate.calls // AHEAD
        self._buckets = buckets
        self._young: dict[str, Bucket] = {}
        self._old: dict[str, Bucket] = {}

    def of(self, whose: str) -> Bucket:
        """Whose bucket it is."""
        bucket = self._young.get(whose)
        return bucket if bucket is not None else self._remembered(whose)

    def spend(self, bucket: Bucket) -> bool:
        """Takes a token, where that needs nobody's word; else it is to be asked for."""
        if bucket.spent + bucket.flying < bucket.room:
            bucket.spent += 1
            if not bucket.dirty:
                self._buckets.touched(bucket)
            elif bucket.spent * 2 >= bucket.room:
                self._buckets.hurry()
            return True
        return False

    async def ask(self, bucket: Bucket) -> bool:
        """Takes a token by Redis' word; whether there was one. Where there was none, `until` says when there is."""
        return await self._buckets.ask(bucket)

    def _remembered(self, whose: str) -> Bucket:
        bucket = self._old.pop(whose, None) or Bucket(self, f"{_PREFIX}{self.name}:{whose}")
        if len(self._young) >= GENERATION:
            self._old, self._young = self._young, {}
        self._young[whose] = bucket
        return bucket


class Buckets:
    """Tells Redis what was spent, and asks it. One per process and event loop."""

    def __init__(self, redis: RedisWire, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._clock = clock
        self._dirty: deque[Bucket] = deque()
        self._asking = 0
        self._timer: asyncio.TimerHandle | None = None
        self._telling: asyncio.Task[None] | None = None

    def kind(self, name: str, rate: Rate, scope: str) -> Kind:
        """Buckets of this rate."""
        return Kind(self, name, rate, scope)

    def touched(self, bucket: Bucket) -> None:
        """Something was spent of it, of which Redis is to be told."""
        bucket.dirty = True
        self._dirty.append(bucket)
        if self._timer is None and self._telling is None:
            self._timer = asyncio.get_running_loop().call_later(TELL_SECONDS, self._tell)

    def hurry(self) -> None:
        """Tells Redis now, before calls have to wait for it."""
        if self._timer is not None:
            self._tell()

    async def ask(self, bucket: Bucket) -> bool:
        """As Kind.ask."""
        if self._asking >= WAITING_MAX:
            granted, _ = self._alone(bucket, 0, 1)
            return granted > 0
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if bucket.waiting is None:
            bucket.waiting = deque()
        bucket.waiting.append(answer)
        if not bucket.dirty:
            bucket.dirty = True
            self._dirty.append(bucket)
        if self._telling is None:
            self._tell()
        self._asking += 1
        try:
            return await answer
        finally:
            self._asking -= 1

    async def aclose(self) -> None:
        """Tells Redis the rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._telling is not None:
            await self._telling
        elif self._dirty:
            await self._told()

    def _tell(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._telling is None:
            self._telling = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        """One command at a time: what comes meanwhile goes with the next, at once where somebody waits for it."""
        try:
            await asyncio.sleep(0)  # who comes in the same turn of the loop goes along
            await self._told()
            while self._asking:
                if not await self._told():
                    break
        finally:
            self._telling = None
            if self._dirty:
                self._timer = asyncio.get_running_loop().call_later(TELL_SECONDS, self._tell)

    async def _told(self) -> bool:
        """Tells of what is dirty and hands the answers on; False where nothing was."""
        batch = [self._dirty.popleft() for _ in range(min(TOGETHER, len(self._dirty)))]
        if not batch:
            return False
        asked: list[Sequence[asyncio.Future[bool]]] = []
        words: list[str] = []
        for bucket in batch:
            bucket.dirty = False
            bucket.flying, bucket.spent = bucket.spent, 0
            asked.append([one for one in bucket.waiting or () if not one.done()])
            bucket.waiting = None
            rate = bucket.kind.rate
            words += (repr(rate.token), repr(rate.microseconds), str(bucket.flying), str(len(asked[-1])))
        try:
            keys = [bucket.key for bucket in batch]
            answers = await self._redis.ask("EVAL", _SETTLE, str(len(keys)), *keys, *words)
        except RedisAway:
            for bucket, waiting in zip(batch, asked, strict=True):
                granted, left = self._alone(bucket, bucket.flying, len(waiting))
                self._settled(bucket, waiting, granted, left)
            return True
        except BaseException:
            for one in (one for waiting in asked for one in waiting):
                one.cancel()
            raise
        for index, (bucket, waiting) in enumerate(zip(batch, asked, strict=True)):
            self._settled(bucket, waiting, answers[index * 2], answers[index * 2 + 1])
        return True

    def _alone(self, bucket: Bucket, spent: int, wanted: int) -> tuple[int, float]:
        """What Redis would say, from what this server knows."""
        rate, now = bucket.kind.rate, self._clock() * 1e6
        bucket.full = max(bucket.full, now) + spent * rate.token
        granted = max(0, min(wanted, math.floor((now + rate.microseconds - bucket.full) / rate.token)))
        bucket.full += granted * rate.token
        return granted, now + rate.microseconds - bucket.full

    def _settled(self, bucket: Bucket, waiting: Sequence[asyncio.Future[bool]], granted: int, left: float) -> None:
        """`left`: microseconds' worth of tokens, negative where more was spent than there was."""
        rate, now = bucket.kind.rate, self._clock()
        bucket.flying = 0
        bucket.full = now * 1e6 + rate.microseconds - left
        bucket.room = max(0, min(bucket.kind.ahead, math.floor(left / rate.token)))
        bucket.until = now + (rate.token - left) / 1e6 if left < rate.token else 0.0
        for index, one in enumerate(waiting):
            if not one.done():
                one.set_result(index < granted)
