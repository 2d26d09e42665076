"""Passwords: argon2id, off the event loop."""

from __future__ import annotations

import secrets
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from server.errors import Exhausted, Internal
from server.store.threads import Threads

WORKERS = 2
"""Hashes at once. Each takes 19 MiB and keeps a core busy while it lasts: that is its purpose."""

WAITING = 32
"""Hashes that wait, about a second's worth; a flood of sign-ins must not take the whole machine's time."""

EACH = 4
"""Hashes of one network, at work or waiting: one that floods the line leaves places to others."""

T = TypeVar("T")


class Passwords:
    """Hashes passwords and compares them with their hashes.

    The cost is OWASP's first choice for argon2id: 19 MiB, two passes, one lane.
    """

    def __init__(
        self,
        workers: int = WORKERS,
        waiting: int = WAITING,
        each: int = EACH,
        whose: Callable[[], str] = lambda: "",
    ) -> None:
        """`whose` says from which network the call comes that is being served; those from nowhere are not counted."""
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1, type=Type.ID)
        self._threads = Threads("passwords", workers=workers, waiting=waiting, full="Too many sign-ins at this moment.")
        self._each = each
        self._whose = whose
        self._of: Counter[str] = Counter()
        self._nobodys = self._hasher.hash(secrets.token_urlsafe(32))

    async def hash(self, password: str) -> str:
        """The hash to keep, as a PHC string. Raises Exhausted where too many are in line, of all or of this network."""
        spelled = _spelled(password)
        return await self._run(lambda: self._hasher.hash(spelled))

    async def matches(self, hashed: str | None, password: str) -> bool:
        """Whether `password` is the one that was hashed; False where `hashed` is None, after the same time.

        Raises Exhausted where too many are in line, of all or of this network.
        """
        spelled = _spelled(password)
        agrees = await self._run(lambda: self._verify(hashed or self._nobodys, spelled))
        return agrees and hashed is not None

    def outdated(self, hashed: str) -> bool:
        """Whether the hash was made at another cost than today's and should be made anew."""
        return self._hasher.check_needs_rehash(hashed)

    def close(self) -> None:
        """Ends the threads."""
        self._threads.close()

    async def _run(self, work: Callable[[], T]) -> T:
        whose = self._whose()
        if not whose:
            return await self._threads.run(work)
        if self._of[whose] >= self._each:
            raise Exhausted("Too many sign-ins from this network at this moment.", reason="BUSY", retry_after=1.0)
        self._of[whose] += 1
        try:
            return await self._threads.run(work)
        finally:
            self._of[whose] -= 1
            if not self._of[whose]:
                del self._of[whose]

    def _verify(self, hashed: str, password: bytes) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except VerifyMismatchError:
            return False
        except (VerificationError, InvalidHashError) as broken:
            raise Internal("A stored password hash cannot be read.") from broken


def _spelled(password: str) -> bytes:
    """The password's one spelling: keyboards write the same accent in different ways (NIST SP 800-63B, 5.1.1.2)."""
    return unicodedata.normalize("NFKC", password).encode()
