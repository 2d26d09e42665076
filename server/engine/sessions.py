"""Where an account is signed in: shown, ended, given a new token, opened for an admin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta

from server.caller import ADMIN, Caller, Kind
from server.engine import page_tokens
from server.engine.account import Session, account_of, session_of
from server.engine.authentication import Authentication
from server.engine.callers import require_account, require_own
from server.engine.revocations import Revocations
from server.engine.sign_ins import Notes, Proof, SignedIn
from server.engine.text import line
from server.engine.tokens import SESSION, digest, new_id, new_token
from server.errors import Denied, Invalid, NotFound, Precondition, Stale, Unauthenticated
from server.store.accounts import StoredAccounts
from server.store.sessions import NewSession, StoredSession, StoredSessions
from server.store.tokens import Tokens

IMPERSONATION = timedelta(hours=1)
"""The longest that an admin acts as an account with one session."""
IMPERSONATION_IDLE = timedelta(minutes=15)
REASON = 200
"""Characters of the reason why."""

_SESSION = re.compile(r"sessions/[^/\x00]+")


class Sessions:
    """What callers may do with the sessions of their account."""

    def __init__(
        self,
        sessions: StoredSessions,
        accounts: StoredAccounts,
        tokens: Tokens,
        authentication: Authentication,
        revocations: Revocations,
        notes: Notes,
        *,
        page_size: int = 50,
        page_size_max: int = 1000,
    ) -> None:
        self._sessions = sessions
        self._accounts = accounts
        self._tokens = tokens
        self._authentication = authentication
        self._revocations = revocations
        self._notes = notes
        self._page_size = page_size
        self._page_size_max = page_size_max

    async def list(self, caller: Caller, page_size: int, page_token: str) -> tuple[Sequence[Session], str]:
        """A page of the caller's live sessions, newest first, and the token of the next page; "" after the last."""
        user = require_account(caller)
        scope = f"sessions of {caller.name}"
        size = page_tokens.size(page_size, self._page_size, self._page_size_max)
        found = await self._sessions.page(user, page_tokens.opened(page_token, scope), size + 1)
        shown = found[:size]
        following = page_tokens.sealed((shown[-1].create_time, shown[-1].id), scope) if len(found) > size else ""
        return [session_of(stored, _id(caller.session)) for stored in shown], following

    async def revoke(self, caller: Caller, name: str) -> None:
        """Ends a session of the caller's, on every server (store/announcements.py says how soon).

        Raises NotFound where it is none of the caller's; Denied where an admin acts as the account and it is not the
        admin's own.
        """
        user = require_account(caller)
        if not _SESSION.fullmatch(name):
            raise Invalid.field("name", "is not sessions/{session}", "NAME_INVALID")
        if name != caller.session:
            require_own(caller)
        stored = await self._sessions.one(_id(name), user)
        if stored is None or not await self._end(caller, stored, "session_revoked"):
            raise NotFound("You have no such session.", resource=("transom.dev/Session", name))

    async def revoke_all(self, caller: Caller, *, keep_current: bool) -> int:
        """Ends all sessions of the caller's, or all but the one that calls; how many it were."""
        user = require_own(caller)
        return await self._revocations.end_sessions(user, keep=caller.session if keep_current else "", why="asked for")

    async def sign_out(self, caller: Caller) -> None:
        """Ends the session that calls. Raises Precondition for a key, which has none."""
        stored = await self._sessions.one(_id(caller.session), require_account(caller))
        if stored is not None:  # else another call has just ended it: what was asked for is so
            await self._end(caller, stored, "sign_out")

    async def rotate(self, caller: Caller, *, proved: bool = False) -> str:
        """A new token for the session that calls; the old one ends. For whenever the session can do more than before,
        or what it was made with is no longer so: who has got hold of the old token is left behind.

        `proved`: the caller has just proved again who it is. Raises Stale where two do so at once: of the two new
        tokens one is good. Where the process dies in between, the account signs in again.

        A change of roles by an admin needs none of this: nobody but the admin decides when it happens, so that a token
        planted before is worth no more than any other that was stolen; and the session's owner, who makes no call then,
        could not be told the new one. Revocations.refresh makes it effective.
        """
        user = require_own(caller)
        stored = await self._sessions.one(_id(caller.session), user)
        if stored is None:
            raise Unauthenticated("The session has ended; sign in again.", reason="TOKEN_INVALID")
        token = new_token(SESSION)
        async with self._tokens.ending([stored.token_hash]):
            rotated = await self._sessions.rotate(stored, digest(token), proved=proved)
        self._authentication.forget([stored.token_hash])
        if not rotated:
            raise Stale("The session got another token, or ended, at the same time.", reason="SESSION_CHANGED")
        return token

    async def impersonate(self, admin: Caller, user_id: str, why: str, address: str = "") -> SignedIn:
        """A session in which `admin` acts as the account, for at most an hour; `why` is kept as its device, where the
        account sees it. It may do what the account may, but not change how it signs in (`require_own`), and it ends
        with the admin's own role or account. Who calls this checks scopes and writes the audit log.

        Raises Denied for who is no admin, or acts as somebody already, and where the account is an admin's; NotFound
        where there is no such account; Precondition where it is disabled.
        """
        if ADMIN not in admin.roles or admin.kind not in (Kind.USER, Kind.KEY) or admin.impersonator:
            raise Denied("Only an admin can act as somebody else.", reason="IMPERSONATION_NOT_ALLOWED")
        wrong = line("reason", why, REASON)
        if wrong is not None or not why.strip():
            raise Invalid.fields([wrong]) if wrong else Invalid.field("reason", "is required", "REQUIRED")
        account = await self._accounts.by_id(user_id) if "\0" not in user_id else None
        if account is None:
            raise NotFound("There is no such account.", resource=("transom.dev/User", f"users/{user_id}"))
        if ADMIN in account.roles:
            raise Denied("Nobody acts as an admin.", reason="IMPERSONATION_NOT_ALLOWED")
        token = new_token(SESSION)
        session = NewSession(
            new_id(),
            digest(token),
            why,
            IMPERSONATION,
            idle=IMPERSONATION_IDLE,
            proof=Proof.IMPERSONATION,
            address=address,
            impersonator=admin.name,
        )
        stored, ended = await self._sessions.sign_in(user_id, session)
        if stored is None:
            raise Precondition("The account is disabled.", reason="ACCOUNT_DISABLED")
        await self._tokens.recall(ended)
        self._authentication.forget(ended)
        return SignedIn(account_of(account), session_of(stored, stored.id), token)

    async def sweep(self) -> int:
        """Deletes some of the sessions that have expired; how many it were. To be called now and then, by anyone."""
        return await self._sessions.sweep()

    async def _end(self, caller: Caller, stored: StoredSession, action: str) -> bool:
        async with self._tokens.ending([stored.token_hash]):
            deleted = await self._sessions.delete(stored.id, stored.user_id)
        self._authentication.forget([stored.token_hash])
        if deleted:
            session = {"session": f"sessions/{stored.id}"}
            await self._notes.note(action, actor=caller.name, target=caller.name, details=session, device=stored.device)
        return deleted


def _id(name: str) -> str:
    return name.partition("/")[2]
