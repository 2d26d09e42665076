"""Mails that tell an account's owner what was done to how it is signed in to: who did it may be somebody else."""

from __future__ import annotations

from enum import StrEnum

from server.engine.letters import Letters
from server.engine.post import Post
from server.store.pooled import Statement


class Change(StrEnum):
    """What was done, as the mail says it."""

    PASSKEY_ADDED = "a passkey was added."
    PASSKEY_REMOVED = "a passkey was removed."
    SECOND_FACTOR_ADDED = "an authenticator app was added; it is asked for when you sign in."
    SECOND_FACTOR_REMOVED = (
        "the authenticator app was removed; nothing but the first proof is asked for when you sign in."
    )
    RECOVERY_CODES_MADE = "new recovery codes were made; the old ones are worth nothing."
    RECOVERY_CODE_USED = "a recovery code was used in place of the authenticator app."


class Notices:
    """Writes them."""

    def __init__(self, post: Post, letters: Letters) -> None:
        self._post = post
        self._letters = letters

    def of(self, change: Change, email: str | None, verified: bool) -> list[Statement]:
        """The statements that queue the mail, for the transaction that does it: none where the account has no address, or
        one that may be somebody else's."""
        if not email or not verified:
            return []
        return self._post.statements(email, self._letters.ways_changed(email, change.value))
