"""Ends sessions, and makes every server look at callers anew.

The database's own triggers tell every server which tokens have ended and whose callers have changed, when the change
commits (store/announcements.py): that alone makes it effective. What is done here keeps the copies in Redis from
outliving it.
"""

from __future__ import annotations

from collections.abc import Iterable

from server.engine.authentication import Authentication
from server.engine.sign_ins import Notes
from server.store.sessions import StoredSessions
from server.store.tokens import Tokens


class Revocations:
    """Told by whoever changes an account, or ends its sessions."""

    def __init__(self, sessions: StoredSessions, tokens: Tokens, authentication: Authentication, notes: Notes) -> None:
        self._sessions = sessions
        self._tokens = tokens
        self._authentication = authentication
        self._notes = notes

    async def refresh(self, user_id: str) -> None:
        """To be awaited once a change of the account (roles, scopes, verified, disabled, upgraded) is committed: its
        callers, and those who act as others in its name, are looked up anew everywhere.

        Disabled or to be deleted, its sessions are nobody's from then on.
        """
        self._authentication.changed([f"users/{user_id}"])
        await self._tokens.recall(await self._sessions.digests(user_id))

    async def end_sessions(self, user_id: str, *, keep: str = "", why: str) -> int:
        """Ends the sessions of the account, and those in which it acts as others, on every server; how many it were.

        `keep` is the name of one that stays, with its token. `why` goes into the audit log.
        """
        kept = keep.removeprefix("sessions/")
        digests = await self._sessions.digests(user_id, but=kept)
        async with self._tokens.ending(digests):
            ended = await self._sessions.end(user_id, but=kept)
        late = set(ended).difference(digests)  # made in between
        if late:
            await self._tokens.recall(late)
        self._authentication.forget(ended)
        if ended:
            await self._notes.note(
                "sessions_ended", target=f"users/{user_id}", details={"why": why, "sessions": str(len(ended))}
            )
        return len(ended)

    async def ending(self, digests: Iterable[bytes]) -> None:
        """For sessions whose rows a transaction has deleted that is not committed yet, by the hashes of their tokens: from
        now on no copy of them is kept. `ended` is for when it is."""
        await self._tokens.recall(digests)

    async def ended(self, digests: Iterable[bytes]) -> None:
        """For sessions whose rows another transaction has just deleted."""
        gone = list(digests)
        if gone:
            await self._tokens.recall(gone)
            self._authentication.forget(gone)
