"""Redis for the hot path: one connection, commands sent as they come, replies in their order.

A call of the whole client costs more than its question is worth; what is asked for at every read goes by this
road, which is hiredis' parser under an asyncio protocol. Everything else uses server/store/redis.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

from server.store.breaker import Breaker
from server.store.redis import PAUSE, TIMEOUT, RedisAway

WAITING_MAX = 10_000
"""Commands that may wait for their replies; more are refused as if Redis were away."""

Word = str | bytes


class RedisWire:
    """A connection, made when it is needed. Where Redis does not answer within TIMEOUT, or hangs up, all that waits is
    refused with RedisAway, and so is everything for PAUSE seconds.

    URLs are `redis://:password@host:port/0`, `rediss://…` with TLS, and as redis-py has it `unix://:password@/socket?db=0`."""

    def __init__(self, url: str, *, timeout: float = TIMEOUT, pause: float = PAUSE) -> None:
        parts = urlsplit(url)
        self._path = unquote(parts.path) if parts.scheme == "unix" else ""
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 6379
        self._tls = ssl.create_default_context() if parts.scheme == "rediss" else None
        self._greeting: list[tuple[Word, ...]] = []
        if parts.password:
            user = [unquote(parts.username)] if parts.username else []
            self._greeting.append(("AUTH", *user, unquote(parts.password)))
        database = parse_qs(parts.query).get("db", [""])[0] if self._path else parts.path.strip("/")
        if database:
            self._greeting.append(("SELECT", database))
        self._timeout = timeout
        self._breaker = Breaker(pause)
        self._line: _Line | None = None
        self._connecting: asyncio.Task[_Line] | None = None
        self.connects = 0
        """How often it has connected: as long as it stays the same, Redis was not restarted."""

    async def ask(self, *words: Word) -> Any:
        """The reply to one command. Raises RedisAway."""
        line = self._line
        if line is None or line.lost:
            line = await self._connected()
        reply = await line.ask(words)
        if isinstance(reply, hiredis.ReplyError):
            raise RedisAway("Redis refused a command.") from reply
        return reply

    async def aclose(self) -> None:
        """Hangs up."""
        if self._connecting is not None:
            self._connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError, RedisAway):
                await self._connecting
        if self._line is not None:
            self._line.hang_up()

    async def _connected(self) -> _Line:
        if self._breaker.open:
            raise RedisAway("Redis was away a moment ago.")
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> _Line:
        try:
            async with asyncio.timeout(self._timeout):
                line = await self._reached(lambda: _Line(self._timeout, self._breaker))
                for words in self._greeting:
                    if isinstance(reply := await line.ask(words), hiredis.ReplyError):
                        line.hang_up()
                        raise reply
        except (OSError, TimeoutError, hiredis.ReplyError, RedisAway) as away:
            self._breaker.failed()
            raise RedisAway("Redis is away for now.") from away
        self._line = line
        self.connects += 1
        return line

    async def _reached(self, made: Callable[[], _Line]) -> _Line:
        loop = asyncio.get_running_loop()
        if self._path:
            _, line = await loop.create_unix_connection(made, self._path)
        else:
            _, line = await loop.create_connection(made, self._host, self._port, ssl=self._tls)
        return line


class _Line(asyncio.Protocol):
    """One connection."""

    def __init__(self, timeout: float, breaker: Breaker) -> None:
        self._timeout = timeout
        self._breaker = breaker
        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._transport: asyncio.Transport | None = None
        self._heard = 0.0
        self._listening = False
        self.lost = False

    def ask(self, words: tuple[Word, ...]) -> asyncio.Future[Any]:
        """The reply to come; a refusal of Redis' is one of them."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if self.lost or self._transport is None or len(self._waiting) >= WAITING_MAX:
            future.set_exception(RedisAway("Redis is away for now."))
            return future
        if not self._waiting:
            self._heard = loop.time()
        self._waiting.append(future)
        self._transport.write(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub knows one word only
        if not self._listening:
            self._listening = True
            loop.call_later(self._timeout, self._listen)
        return future

    def hang_up(self) -> None:
        """Ends the connection; what waits is refused."""
        if self._transport is not None:
            self._transport.abort()
        self._give_up(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is one, too, but does not say so

    def data_received(self, data: bytes) -> None:
        self._heard = asyncio.get_running_loop().time()
        self._reader.feed(data)
        while self._waiting and (reply := self._reader.gets()) is not False:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._give_up(exc)

    def _listen(self) -> None:
        """Gives the connection up where Redis is silent though it was asked."""
        self._listening = False
        if not self._waiting or self.lost:
            return
        loop = asyncio.get_running_loop()
        left = self._heard + self._timeout - loop.time()
        if left > 0:
            self._listening = True
            loop.call_later(left, self._listen)
        else:
            self.hang_up()

    def _give_up(self, cause: Exception | None) -> None:
        if self.lost:
            return
        self.lost = True
        if self._waiting:
            self._breaker.failed()
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                away = RedisAway("Redis is away for now.")
                away.__cause__ = cause
                future.set_exception(away)
