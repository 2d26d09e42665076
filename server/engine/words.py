"""Words: single-use, expiring strings that were mailed to somebody, or that go on with something begun."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from server.engine.tokens import WORD, digest, looks_like_word, new_token
from server.store.words import NewWord, StoredWord, StoredWords


class Purpose(StrEnum):
    """What a word is good for; it is good for nothing else."""

    SIGN_UP = "sign_up"
    VERIFY = "verify"
    RESET = "reset"
    CHANGE = "change"
    UPGRADE = "upgrade"
    CODE = "code"
    INVITE = "invite"
    SECOND_FACTOR = "second_factor"
    PASSKEY = "passkey"
    OIDC = "oidc"
    SPARE = "spare"


SIGN_UP_TOKEN = "sign_up_token"  # noqa: S105 - the name of a detail


def sign_up_token() -> tuple[str, str]:
    """A new secret for the device that signs up, and what the details of the word keep of it: nothing that shows it."""
    token = new_token(WORD)
    return token, digest(token).hex()


def chosen_here(word: StoredWord, token: str) -> bool:
    """Whether `token` is the secret of the device that had this word sent: who brings both chose what the word makes."""
    kept = word.details.get(SIGN_UP_TOKEN, "")
    return bool(kept) and looks_like_word(token) and hmac.compare_digest(kept, digest(token).hex())


class Words:
    """Makes words and takes them back."""

    def __init__(self, words: StoredWords) -> None:
        self._words = words

    async def make(
        self,
        purpose: str,
        lifetime: timedelta,
        *,
        user: str | None = None,
        email: str = "",
        email_key: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> tuple[str, datetime]:
        """A new word for `purpose` and when it ends. It is nowhere else: only its hash is kept, with `details`, which
        must be JSON."""
        word = new_token(WORD)
        kept = NewWord(digest(word), purpose, lifetime, user, email, email_key, details or {})
        return word, await self._words.keep(kept)

    async def live(self, word: str, purpose: str) -> StoredWord | None:
        """What `word` was made with; None where it is not, or no longer, good for `purpose`. It stays good."""
        return await self._words.live(digest(word), purpose) if looks_like_word(word) else None

    async def attempt(self, word: str, purpose: str, most: int) -> StoredWord | None:
        """As `live`, and counts a try; None from the one after `most` on."""
        return await self._words.attempt(digest(word), purpose, most) if looks_like_word(word) else None

    async def use(self, word: str, purpose: str) -> StoredWord | None:
        """As `live`, but for the last time: of all who use a word, one gets it."""
        return await self._words.use(digest(word), purpose) if looks_like_word(word) else None

    async def sweep(self) -> int:
        """Deletes some of the words that have expired; how many it were."""
        return await self._words.sweep()
