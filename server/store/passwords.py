"""Passwords: argon2id, off the event loop."""

from __future__ import annotations

import secrets
import unicodedata

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from server.errors import Internal
from server.store.threads import Threads

WORKERS = 2
"""Hashes at once. Each takes 19 MiB and keeps a core busy while it lasts: that is its purpose."""

WAITING = 32
"""Hashes that wait, about a second's worth; a flood of sign-ins must not take the whole machine's time."""


class Passwords:
    """Hashes passwords and compares them with their hashes.

    The cost is OWASP's first choice for argon2id: 19 MiB, two passes, one lane.
    """

    def __init__(self, workers: int = WORKERS, waiting: int = WAITING) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1, type=Type.ID)
        self._threads = Threads("passwords", workers=workers, waiting=waiting, full="Too many sign-ins at this moment.")
        self._nobodys = self._hasher.hash(secrets.token_urlsafe(32))

    async def hash(self, password: str) -> str:
        """The hash to keep, as a PHC string. Raises Exhausted where too many are in line."""
        spelled = _spelled(password)
        return await self._threads.run(lambda: self._hasher.hash(spelled))

    async def matches(self, hashed: str | None, password: str) -> bool:
        """Whether `password` is the one that was hashed; False where `hashed` is None, after the same time.

        Raises Exhausted where too many are in line.
        """
        spelled = _spelled(password)
        agrees = await self._threads.run(lambda: self._verify(hashed or self._nobodys, spelled))
        return agrees and hashed is not None

    def outdated(self, hashed: str) -> bool:
        """Whether the hash was made at another cost than today's and should be made anew."""
        return self._hasher.check_needs_rehash(hashed)

    def close(self) -> None:
        """Ends the threads."""
        self._threads.close()

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
