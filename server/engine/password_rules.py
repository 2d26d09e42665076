"""Which passwords may be chosen: NIST SP 800-63B, 5.1.1.2.

Length, and that nobody would try it first. No rules about kinds of characters, and no changing now and then: both make
passwords worse.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable
from importlib import resources

from server.errors import Violation

LEAST, MOST = 8, 256
"""Characters, as they are after Unicode's NFKC: keyboards write the same accent in different ways."""


class PasswordRules:
    """What may be chosen; `names` are what the app calls itself, which are guessed first."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = tuple(name for name in names if name)

    def violation(self, password: str, email: str = "", field: str = "password") -> Violation | None:
        """What is wrong with a new password for the account with that address; None where nothing is."""
        wrong = shape(password, field)
        if wrong is not None:
            return wrong
        spelled = _spelled(password)
        if len(unicodedata.normalize("NFKC", password)) < LEAST:
            return Violation(field, f"is shorter than {LEAST} characters", "TOO_SHORT")
        if spelled in _common() or len(set(spelled)) == 1:
            return Violation(field, "is one of those that are tried first", "TOO_COMMON")
        address = _spelled(email.strip())
        told = {address, *address.split("@"), *map(_spelled, self._names)} - {""}
        if spelled in told or _letters(spelled) in told:
            return Violation(field, "is the address or the name of the app", "TOO_OBVIOUS")
        return None


def shape(password: str, field: str = "password") -> Violation | None:
    """What is wrong with a password that somebody has, whatever the rules were when it was chosen."""
    if not password:
        return Violation(field, "is required", "REQUIRED")
    if len(password) > MOST or len(unicodedata.normalize("NFKC", password)) > MOST:
        return Violation(field, f"is longer than {MOST} characters", "TOO_LONG")
    return Violation(field, "has a NUL character", "CONTROL_CHARACTER") if "\0" in password else None


def _spelled(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _letters(spelled: str) -> str:
    """Without what people put before and behind a word: `transom2026!` is `transom`."""
    return spelled.strip("0123456789!?.,;:-_+*#$%&/()= ")


@functools.cache
def _common() -> frozenset[str]:
    """Read at the first use: not every process sets passwords."""
    text = resources.files("server.engine").joinpath("common_passwords.txt").read_text("utf-8")
    return frozenset(line for line in text.splitlines() if not line.startswith("# "))
