"""Who calls: the token in a call's `authorization` → a Caller."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from server.caller import NOBODY, Caller, Kind
from server.engine.tokens import digest, looks_like_token
from server.errors import Unauthenticated
from server.store.tokens import Known, Tokens

K = TypeVar("K")
V = TypeVar("V")

FRESH = 5.0
"""Seconds a caller is believed at most without asking again, whatever was heard."""

GOOD = 10_000
"""Callers remembered; above that the one asked about longest ago is forgotten."""

BAD_FRESH = 5.0
"""Seconds a bad token is refused without asking again."""

BAD = 10_000
"""Bad tokens remembered, apart from the good ones: garbage pushes out garbage only."""

ENDED_FRESH = 70.0
"""Seconds the end of a token, or a change of an account, is remembered here: longer than a copy made before may live in
Redis, and a look-up that saw what was before may take."""

ENDED = 10_000
"""Ends, and changes, remembered. Above that the oldest are forgotten, and for a while no copy is believed."""

HEARD = 60.0
"""Seconds after which it is noted again that something was heard of a session."""

_SCHEME = "Bearer "


def _unnoted(session: str, address: str) -> None:
    """Where nobody wants to know."""


class Authentication:
    """Tells callers by their tokens, and remembers them for a moment.

    One per process. It is told when a token has ended (`forget`) or an account has changed (`changed`): by who did it
    on this server, and by Postgres whoever did it (store/announcements.py). `listening`: it is, and remembers only as
    long as it would hear of it.
    """

    def __init__(
        self,
        tokens: Tokens,
        clock: Callable[[], float] = time.monotonic,
        *,
        listening: bool = False,
        note: Callable[[str, str], None] = _unnoted,
    ) -> None:
        """`note` is told now and then that a session was heard of, and from where."""
        self._tokens = tokens
        self._clock = clock
        self._note = note
        self._begun = -math.inf
        self._until = -math.inf if listening else math.inf
        # All are in order of age, oldest first: what is written again moves to the end.
        self._good: dict[str, tuple[float, Caller, bytes]] = {}
        self._headers: dict[bytes, str] = {}
        self._tokens_of: dict[str, set[bytes]] = {}
        self._bad: dict[str, float] = {}
        self._ended: dict[bytes, float] = {}
        self._changed: dict[str, float] = {}
        self._forgot = -math.inf

    def cached(self, authorization: str | None) -> Caller | None:
        """The caller, where it is known without asking anybody; None where `caller` must be awaited.

        The way of nearly every call: it costs well under 3 µs.
        """
        if authorization is None:
            return NOBODY
        entry = self._good.get(authorization)
        if entry is None:
            return None
        now = self._clock()
        return entry[1] if now < entry[0] and now < self._until else None

    async def caller(self, authorization: str | None, address: str = "") -> Caller:
        """The caller whose token `authorization` (`Bearer <token>`) carries; NOBODY where there is none. `address` is
        where the call came from.

        Raises Unauthenticated (TOKEN_INVALID) where the token is not, or no
        longer, good; Unavailable where nobody can say.
        """
        found = self.cached(authorization)
        if found is not None:
            return found
        assert authorization is not None  # cached() answers None only for a header that is there
        token = _token(authorization)
        header = _SCHEME + token  # the one spelling that is remembered; the scheme's letter case is free (RFC 9110)
        found = self.cached(header)
        if found is not None:
            return found
        until = self._bad.get(header)
        if until is not None and until > self._clock():
            raise _invalid()
        hashed = digest(token)
        known = await self._tokens.find(hashed)
        if known is not None and self._has_changed(known):
            known = await self._tokens.find_anew(hashed)
        if known is None or self._has_ended(hashed) or (known.expire is not None and known.expire <= time.time()):
            _remember(self._bad, header, self._clock() + BAD_FRESH, BAD)
            raise _invalid()
        if known.session and known.heard < time.time() - HEARD:
            self._note(known.session, address)
        return self._remembered(header, hashed, known)

    def forget(self, digests: Iterable[bytes]) -> None:
        """Tokens with these SHA-256 have ended: from now on they are nobody's here."""
        now = self._clock()
        for hashed in digests:
            self._note_down(self._ended, hashed, now)
            self._drop(hashed)

    def changed(self, names: Iterable[str]) -> None:
        """Callers with these resource names, and those in whose name an admin acts, are not what they were: they are
        looked up anew, in the primary."""
        now = self._clock()
        for name in names:
            self._note_down(self._changed, name, now)
            for hashed in tuple(self._tokens_of.get(name, ())):
                self._drop(hashed)

    def begin(self) -> None:
        """From now on every end and every change is told; some before may not have been."""
        self._begun = self._clock()
        self._good.clear()
        self._headers.clear()
        self._tokens_of.clear()

    def alive(self, until: float) -> None:
        """All that was to tell has been told: what is remembered counts until that time."""
        self._until = until

    def _has_ended(self, hashed: bytes) -> bool:
        """Whether it ended here while it was looked up elsewhere."""
        told = self._ended.get(hashed)
        return told is not None and self._clock() < told + ENDED_FRESH

    def _has_changed(self, known: Known) -> bool:
        """Whether what is known may be from before a change: read before it was told, or from a copy that may be."""
        if known.copied and self._clock() < self._forgot + ENDED_FRESH:
            return True
        for name in (known.caller, known.impersonator):
            told = self._changed.get(name)
            if told is not None and (known.seen <= told or (known.copied and self._clock() < told + ENDED_FRESH)):
                return True
        return False

    def _remembered(self, header: str, hashed: bytes, known: Known) -> Caller:
        caller = _caller(known)
        fresh = known.seen + FRESH  # from when the look-up began: what it saw is as old as that
        if known.expire is not None:
            fresh = min(fresh, self._clock() + known.expire - time.time())
        if known.seen >= self._begun and not self._has_changed(known):
            if len(self._good) >= GOOD and header not in self._good:
                self._drop(next(iter(self._good.values()))[2])
            _remember(self._good, header, (fresh, caller, hashed), GOOD)
            self._headers[hashed] = header
            for name in filter(None, (caller.name, caller.impersonator)):
                self._tokens_of.setdefault(name, set()).add(hashed)
        return caller

    def _drop(self, hashed: bytes) -> None:
        header = self._headers.pop(hashed, None)
        if header is None:
            return
        _, caller, _ = self._good.pop(header)
        for name in filter(None, (caller.name, caller.impersonator)):
            tokens = self._tokens_of[name]
            tokens.discard(hashed)
            if not tokens:
                del self._tokens_of[name]

    def _note_down(self, table: dict[K, float], key: K, now: float) -> None:
        """Remembers since when; and that something was forgotten, where that was too much."""
        if len(table) >= ENDED and key not in table and now < next(iter(table.values())) + ENDED_FRESH:
            self._forgot = now
        _remember(table, key, now, ENDED)


def _remember(table: dict[K, V], key: K, value: V, most: int) -> None:
    table.pop(key, None)
    if len(table) >= most:
        del table[next(iter(table))]
    table[key] = value


def _token(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not looks_like_token(token):
        raise _invalid()
    return token


def _caller(known: Known) -> Caller:
    return Caller(
        kind=Kind.KEY if not known.session else Kind.ANONYMOUS if known.anonymous else Kind.USER,
        name=known.caller,
        roles=known.roles,
        session=known.session,
        verified=known.verified,
        session_time=known.session_time,
        scopes=known.scopes,
        impersonator=known.impersonator,
    )


def _invalid() -> Unauthenticated:
    return Unauthenticated("The token is not good, or no longer; sign in again.", reason="TOKEN_INVALID")
