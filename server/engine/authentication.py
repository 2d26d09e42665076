"""Who calls: the token in a call's `authorization` → a Caller."""

from __future__ import annotations

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
"""Seconds a caller is believed without asking again: how long a session ended on another server can live on here."""

GOOD = 10_000
"""Callers remembered; above that the one asked about longest ago is forgotten."""

BAD_FRESH = 5.0
"""Seconds a bad token is refused without asking again."""

BAD = 10_000
"""Bad tokens remembered, apart from the good ones: garbage pushes out garbage only."""

ENDED_FRESH = 60.0
"""Seconds the end of a token is remembered here, longer than any look-up that saw it alive may take."""

_SCHEME = "Bearer "


class Authentication:
    """Tells callers by their tokens, and remembers them for a moment.

    One per process. Whoever ends a token tells it (`forget`), so that on this
    server the end is effective at once; elsewhere within FRESH seconds.
    """

    def __init__(self, tokens: Tokens, clock: Callable[[], float] = time.monotonic) -> None:
        self._tokens = tokens
        self._clock = clock
        # All three are in order of age, oldest first: what is written again moves to the end.
        self._good: dict[str, tuple[float, Caller, bytes]] = {}
        self._bad: dict[str, float] = {}
        self._ended: dict[bytes, float] = {}

    def cached(self, authorization: str | None) -> Caller | None:
        """The caller, where it is known without asking anybody; None where `caller` must be awaited.

        The way of nearly every call: it costs well under 3 µs.
        """
        if authorization is None:
            return NOBODY
        entry = self._good.get(authorization)
        if entry is None or entry[0] <= self._clock():
            return None
        return entry[1]

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
        if known is None or self._has_ended(hashed) or (known.expire is not None and known.expire <= time.time()):
            _remember(self._bad, header, self._clock() + BAD_FRESH, BAD)
            raise _invalid()
        return self._remembered(header, hashed, known)

    def forget(self, digests: Iterable[bytes]) -> None:
        """Tokens with these SHA-256 have ended: from now on they are nobody's here."""
        ended = set(digests)
        until = self._clock() + ENDED_FRESH
        for hashed in ended:
            _remember(self._ended, hashed, until, BAD)
        # Ends are rare and the table is bounded: looking through it is cheaper than keeping an index on every sign-in.
        for header in [header for header, entry in self._good.items() if entry[2] in ended]:
            del self._good[header]

    def changed(self, names: Iterable[str]) -> None:
        """What is known of callers with these resource names has changed, or of admins who act as others: they are
        looked up anew."""
        changed = set(names)
        for header in [
            header
            for header, (_, caller, _) in self._good.items()
            if caller.name in changed or caller.impersonator in changed
        ]:
            del self._good[header]

    def _has_ended(self, hashed: bytes) -> bool:
        """Whether it ended here while it was looked up elsewhere."""
        until = self._ended.get(hashed)
        return until is not None and until > self._clock()

    def _remembered(self, header: str, hashed: bytes, known: Known) -> Caller:
        caller = _caller(known)
        fresh = known.seen + FRESH  # from when the look-up began: what it saw is as old as that
        if known.expire is not None:
            fresh = min(fresh, self._clock() + known.expire - time.time())
        _remember(self._good, header, (fresh, caller, hashed), GOOD)
        return caller


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
