"""Bars: what keeps hot rows in Redis (hot.py) from being older than what anybody was shown.

Before a write of a hot resource is committed its name is barred: the entry is gone, and none can be made. After the commit the
bar is lifted, for rows that were read at the commit's position or later. So nobody can see the change anywhere, on the primary
or on the replica, while Redis still has what was before. A resource that goes with all that is below it bars all
names of each hot message that lives there: nobody knows them beforehand.

Of a write whose outcome is not known, and of a process that died in it, the bar stays for BAR_SECONDS. Where Redis could not be
told, the write is acknowledged only after `lag_max` seconds, when no entry that could be without it counts any more.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from server.errors import Refusal, Unavailable
from server.schema.model import Resource, Schema
from server.store.changes import Act, Change
from server.store.redis import RedisAway
from server.store.redis_wire import RedisWire
from server.store.statements import attached_to

BAR_SECONDS = 60
"""How long a bar stays that nobody lifts: longer than any transaction may take."""

GENERATION_SECONDS = 3600
"""How long it is remembered that all entries of a message were given up: longer than entries live."""

PREFIX = "transom:hot:"

ALL = ""
"""In place of a name: all of the message."""

_ALONE = frozenset({Act.INSERT, Act.REPLACE, Act.REMOVE, Act.MARK})
"""What changes one row; all else may change what is below it, too."""

Key = tuple[str, str]
"""Message and name."""

# KEYS: the bars of a key, and its entry or, for all of a message, the message's generation; and so on.
# ARGV: whose bar, for how many seconds, and of each key whether it is all of a message.
_BAR = f"""local now = tonumber(redis.call('TIME')[1])
for i = 1, #KEYS, 2 do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now)
  redis.call('ZADD', KEYS[i], now + ARGV[2], ARGV[1])
  redis.call('EXPIRE', KEYS[i], ARGV[2])
  if ARGV[2 + (i + 1) / 2] == '0' then redis.call('DEL', KEYS[i + 1])
  else redis.call('INCR', KEYS[i + 1]) redis.call('EXPIRE', KEYS[i + 1], {GENERATION_SECONDS}) end
end"""

# KEYS: bars, entry or generation, and the position that entries must have from now on; and so on.
# ARGV: whose bar, the position (0: nothing was done), its milliseconds, and of each key whether it is all of a message.
_LIFT = f"""for i = 1, #KEYS, 3 do
  redis.call('ZREM', KEYS[i], ARGV[1])
  if ARGV[2] ~= '0' then
    if ARGV[3 + (i + 2) / 3] == '0' then redis.call('DEL', KEYS[i + 1])
    else redis.call('INCR', KEYS[i + 1]) redis.call('EXPIRE', KEYS[i + 1], {GENERATION_SECONDS}) end
    if tonumber(redis.call('GET', KEYS[i + 2]) or 0) < tonumber(ARGV[2]) then
      redis.call('SET', KEYS[i + 2], ARGV[2], 'PX', ARGV[3]) end
  end
end"""

FILL = """if redis.call('GET', KEYS[7]) ~= ARGV[4] or (redis.call('GET', KEYS[6]) or '0') ~= ARGV[3] then return 0 end
local now = tonumber(redis.call('TIME')[1])
for i = 2, 4, 2 do
  if redis.call('ZCOUNT', KEYS[i], now, '+inf') > 0 then return 0 end
  if tonumber(redis.call('GET', KEYS[i + 1]) or 0) > tonumber(ARGV[2]) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[5])
return 1"""
"""Makes an entry, unless that is barred. KEYS: `filled`. ARGV: the entry, its position, the generation and the epoch that were
found when it was missed, its milliseconds."""


def entry(key: Key) -> str:
    """The Redis key of an entry."""
    return f"{PREFIX}e:{key[0]}:{key[1]}"


def generation(message: str) -> str:
    """The Redis key of the number of times that all entries of a message were given up."""
    return f"{PREFIX}g:{message}"


def filled(key: Key, epoch: str) -> list[str]:
    """The Redis keys that FILL wants."""
    message, everything = key[0], (key[0], ALL)
    return [entry(key), _bars(key), _least(key), _bars(everything), _least(everything), generation(message), epoch]


def _bars(key: Key) -> str:
    return f"{PREFIX}b:{key[0]}:{key[1]}"


def _least(key: Key) -> str:
    return f"{PREFIX}l:{key[0]}:{key[1]}"


class Bar:
    """What one writer has barred."""

    __slots__ = ("keys", "position", "told", "whose")

    def __init__(self) -> None:
        self.keys: dict[Key, None] = {}
        self.position = 0
        """That shows what was written; 0 where nothing was. To be set once it is committed."""
        self.told = True
        """Whether Redis knows of all of it."""
        self.whose = secrets.token_hex(8)


class Bars:
    """Bars the names that changes are of, as far as their resources are hot."""

    def __init__(self, redis: RedisWire, schema: Schema, lag_max: float) -> None:
        self._redis = redis
        self._lag_max = lag_max
        self._milliseconds = str(math.ceil(1000 * min(2 * lag_max + 1, BAR_SECONDS)))
        self.messages = frozenset(m for m, resource in schema.resources.items() if resource.hot)
        """The resources that are hot."""
        self._below = {m: self._hot_below(schema, r) for m, r in schema.resources.items()}
        self._attached = {
            m: [child for child in attached_to(schema, r) if child.hot] for m, r in schema.resources.items()
        }
        """What goes with one that is removed, though the change does not say so."""

    def concern(self, changes: Iterable[Change]) -> bool:
        """Whether any of the changes is of something hot."""
        return any(
            c.resource.message in self.messages
            or (c.act not in _ALONE and self._below[c.resource.message])
            or (c.act is Act.REMOVE and self._attached[c.resource.message])
            for c in changes
        )

    @asynccontextmanager
    async def raised(self, changes: Sequence[Change]) -> AsyncIterator[Bar]:
        """The block in which these changes are committed, and more, if they are added before that. Its end waits where others
        could be shown what was before."""
        bar = Bar()
        await self.add(bar, changes)
        try:
            yield bar
        except Unavailable as lost:
            if lost.reason != "OUTCOME_UNKNOWN":
                await self._lift(bar)
            raise
        except Refusal:
            await self._lift(bar)
            raise
        await self._lift(bar)
        if bar.position and not bar.told:
            await asyncio.sleep(self._lag_max)

    async def add(self, bar: Bar, changes: Iterable[Change]) -> None:
        """Bars what these changes are of, too. To be awaited before they are committed."""
        keys: dict[Key, None] = {}
        for change in changes:
            if change.resource.message in self.messages:
                keys[change.resource.message, change.name] = None
            if change.act not in _ALONE:
                keys |= dict.fromkeys((message, ALL) for message in self._below[change.resource.message])
            elif change.act is Act.REMOVE:
                keys |= dict.fromkeys(_key(child, change.name) for child in self._attached[change.resource.message])
        new = [key for key in keys if key not in bar.keys]
        if not new:
            return
        bar.keys |= keys
        places = [place for key in new for place in (_bars(key), _place(key))]
        await self._tell(bar, _BAR, places, [bar.whose, str(BAR_SECONDS)], new)

    async def _lift(self, bar: Bar) -> None:
        if bar.keys:
            places = [place for key in bar.keys for place in (_bars(key), _place(key), _least(key))]
            await self._tell(bar, _LIFT, places, [bar.whose, str(bar.position), self._milliseconds], bar.keys)

    async def _tell(self, bar: Bar, script: str, places: list[str], words: list[str], keys: Iterable[Key]) -> None:
        whole = ["1" if name == ALL else "0" for _, name in keys]
        try:
            await self._redis.ask("EVAL", script, str(len(places)), *places, *words, *whole)
        except RedisAway:
            bar.told = False

    def _hot_below(self, schema: Schema, resource: Resource) -> frozenset[str]:
        found: dict[str, Resource] = {}
        level = list(schema.children_of(resource))
        while level := [r for r in level if r.message not in found]:
            found |= {r.message: r for r in level}
            level = [child for r in level for child in schema.children_of(r)]
        return frozenset(found) & self.messages


def _key(child: Resource, parent: str) -> Key:
    """Of what is attached to one resource: a singleton has one name there, all else has names that nobody knows."""
    pattern = child.pattern_below(parent)
    return child.message, pattern.child(parent, "") if pattern is not None and pattern.singleton else ALL


def _place(key: Key) -> str:
    return generation(key[0]) if key[1] == ALL else entry(key)
