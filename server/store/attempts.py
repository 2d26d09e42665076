"""Tries to prove who somebody is, counted in Redis for all servers; by each server alone while Redis is away."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from server.rates import Rate
from server.store.redis import RedisAway
from server.store.redis_wire import RedisWire

V = TypeVar("V")

FREE = 5
"""Wrong tries from one network at one account that cost no time."""
LONGEST = 900
"""Seconds between two tries, once there were many: 2, 4, 8, ... up to this."""
FORGOTTEN = 86_400
"""Seconds after the last try in which all is forgotten."""
ALONE_MAX = 10_000
"""Entries of each kind while Redis is away; above that the oldest is forgotten."""

_PREFIX = "transom:try:"

# KEYS: the pair's, the network's, the account's. A pair is "<tries> <when the next may be> <tokens it took>"; the other
# two are the time at which their bucket is full again. All times are in microseconds.
_TAKE = """
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local free, longest, forgotten, known = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local tries, after, took = 0, 0, 0
local pair = redis.call('GET', KEYS[1])
if pair then
  local a, b, c = string.match(pair, '(%d+) (%d+) (%d+)')
  tries, after, took = tonumber(a), tonumber(b), tonumber(c)
end
if now < after then return {1, math.ceil(after - now)} end
if known == '0' then
  local fulls = {}
  for i = 2, 3 do
    local token, window = tonumber(ARGV[i * 2 + 1]), tonumber(ARGV[i * 2 + 2])
    local full = tonumber(redis.call('GET', KEYS[i]) or 0)
    if full < now then full = now end
    local left = now + window - full
    if token > 0 and left < token then return {i, math.ceil(token - left)} end
    fulls[i] = full + token
  end
  for i = 2, 3 do
    if fulls[i] > now then
      redis.call('SET', KEYS[i], string.format('%.0f', fulls[i]), 'PX', math.ceil((fulls[i] - now) / 1000))
    end
  end
  took = took + 1
end
tries = tries + 1
local wait = 0
if tries > free then wait = math.min(longest, 2 ^ math.min(tries - free, 30)) end
local kept = string.format('%.0f %.0f %.0f', tries, now + wait * 1000000, took)
redis.call('SET', KEYS[1], kept, 'EX', forgotten)
return {0, tries}
"""

# One try was none: it gives back its tokens, and with ARGV[1] = '1' the pair begins anew, else as before the try.
_GIVE_BACK = """
local pair = redis.call('GET', KEYS[1])
if not pair then return 0 end
local a, b, c = string.match(pair, '(%d+) (%d+) (%d+)')
local tries, took = tonumber(a), tonumber(c)
if took > 0 then
  for i = 2, 3 do
    local full = tonumber(redis.call('GET', KEYS[i]) or 0)
    local token = tonumber(ARGV[i])
    if full > 0 and token > 0 then
      redis.call('SET', KEYS[i], string.format('%.0f', full - token), 'KEEPTTL')
    end
  end
end
if ARGV[1] == '1' or tries <= 1 then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], string.format('%.0f 0 %.0f', tries - 1, math.max(0, took - 1)), 'KEEPTTL')
end
return 1
"""


class Slowed(IntEnum):
    """By what a try is refused."""

    PAIR = 1
    """There were many from this network at this account."""
    NETWORK = 2
    """There were many from this network, at whatever accounts."""
    ACCOUNT = 3
    """There were many at this account, from whatever networks."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A try that is to wait."""

    by: Slowed
    seconds: float


@dataclass(frozen=True, slots=True)
class Try:
    """Who tries what: `kind` of proof, `key` of the account, and the network it comes from (empty where nobody knows)."""

    kind: str
    key: str
    network: str
    network_rate: Rate | None
    account_rate: Rate | None

    def entries(self) -> tuple[str, str, str]:
        """Of the pair, the network and the account. Addresses of people do not stand in them."""
        pair = f"{self.kind}\0{self.key}\0{self.network}"
        return _key("p", pair), _key("n", f"{self.kind}\0{self.network}"), _key("a", f"{self.kind}\0{self.key}")

    def rates(self) -> tuple[Rate | None, Rate | None]:
        """Of the network and the account."""
        return self.network_rate if self.network else None, self.account_rate


class StoredAttempts:
    """Counts tries. A try counts from the moment it is taken: of a thousand at once no more pass than one by one."""

    def __init__(self, redis: RedisWire, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._alone = _Alone(clock)

    async def take(self, one: Try, *, known: bool) -> Refused | None:
        """Counts a try; None where it may go on. With `known` only the pair counts. Raises nothing."""
        words = [str(FREE), str(LONGEST), str(FORGOTTEN), "1" if known else "0"]
        for rate in one.rates():
            words += [repr(rate.token), repr(rate.microseconds)] if rate else ["0", "0"]
        try:
            by, told = await self._redis.ask("EVAL", _TAKE, "3", *one.entries(), *words)
        except RedisAway:
            return self._alone.take(one, known)
        return Refused(Slowed(by), told / 1e6) if by else None

    async def give_back(self, one: Try, *, anew: bool) -> None:
        """The try that was taken last does not count; with `anew` none before it from this network does, either."""
        tokens = [repr(rate.token) if rate else "0" for rate in one.rates()]
        self._alone.give_back(one, anew)
        try:
            await self._redis.ask("EVAL", _GIVE_BACK, "3", *one.entries(), "1" if anew else "0", *tokens)
        except RedisAway:
            pass  # what Redis kept meanwhile is too much by one try, and goes by itself


class _Alone:
    """The same, of one server, in its own memory."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pairs: dict[str, tuple[int, float, int]] = {}
        self._buckets: dict[str, float] = {}

    def take(self, one: Try, known: bool) -> Refused | None:
        now = self._clock() * 1e6
        pair, network, account = one.entries()
        tries, after, took = self._pairs.get(pair, (0, 0.0, 0))
        if now < after:
            return Refused(Slowed.PAIR, (after - now) / 1e6)
        if not known:
            fulls = {}
            for by, key, rate in zip((Slowed.NETWORK, Slowed.ACCOUNT), (network, account), one.rates(), strict=True):
                if rate is None:
                    continue
                full = max(now, self._buckets.get(key, 0.0))
                left = now + rate.microseconds - full
                if left < rate.token:
                    return Refused(by, (rate.token - left) / 1e6)
                fulls[key] = full + rate.token
            for key, full in fulls.items():
                _kept(self._buckets, key, full)
            took += 1
        tries += 1
        wait = min(LONGEST, 2 ** min(tries - FREE, 30)) if tries > FREE else 0
        _kept(self._pairs, pair, (tries, now + wait * 1e6, took))
        return None

    def give_back(self, one: Try, anew: bool) -> None:
        pair, network, account = one.entries()
        found = self._pairs.get(pair)
        if found is None:
            return
        tries, _, took = found
        if took:
            for key, rate in zip((network, account), one.rates(), strict=True):
                if rate is not None and key in self._buckets:
                    self._buckets[key] -= rate.token
        if anew or tries <= 1:
            del self._pairs[pair]
        else:
            self._pairs[pair] = (tries - 1, -math.inf, max(0, took - 1))


def _kept(table: dict[str, V], key: str, value: V) -> None:
    table.pop(key, None)
    if len(table) >= ALONE_MAX:
        del table[next(iter(table))]
    table[key] = value


def _key(of: str, text: str) -> str:
    return f"{_PREFIX}{of}:{hashlib.blake2b(text.encode(errors='replace'), digest_size=16).hexdigest()}"
