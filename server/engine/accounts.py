"""Accounts and their sessions: sign up, sign in, sign out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from server.caller import Caller, Kind
from server.engine import page_tokens
from server.engine.account import Account, Session, account_of, session_of
from server.engine.authentication import Authentication
from server.engine.sign_ins import Challenge, Place, Proof, SignedIn, SignIns, wrong_credentials
from server.engine.text import email_key, line
from server.engine.tokens import new_id
from server.errors import AlreadyExists, Invalid, NotFound, Precondition, Unauthenticated, Violation
from server.store.accounts import NewAccount, StoredAccounts
from server.store.passwords import Passwords
from server.store.sessions import StoredSessions
from server.store.tokens import Tokens

PASSWORD_LEAST, PASSWORD_MOST = 8, 256
LABEL = 100
"""Characters of a display name, and of a device's."""

ANYWHERE = Place()

_USER = re.compile(r"users/[^/\x00]+")
_SESSION = re.compile(r"sessions/[^/\x00]+")


class Accounts:
    """What callers may do with accounts and sessions."""

    def __init__(
        self,
        accounts: StoredAccounts,
        sessions: StoredSessions,
        passwords: Passwords,
        tokens: Tokens,
        authentication: Authentication,
        sign_ins: SignIns,
        *,
        page_size: int = 50,
        page_size_max: int = 1000,
    ) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._passwords = passwords
        self._tokens = tokens
        self._authentication = authentication
        self._sign_ins = sign_ins
        self._page_size = page_size
        self._page_size_max = page_size_max

    async def sign_up(
        self, email: str, password: str, *, display_name: str = "", place: Place = ANYWHERE
    ) -> SignedIn | Challenge:
        """Makes an account and signs it in.

        Raises AlreadyExists where the address has an account, however it is
        spelled; Invalid where something given is not as the API says.
        """
        email = email.strip()
        key = email_key(email)
        _refuse(
            _email(email, key),
            _password(password, PASSWORD_LEAST),
            line("display_name", display_name, LABEL),
            line("device", place.device, LABEL),
        )
        assert key is not None  # else it was refused
        account = NewAccount(new_id(), email, key, display_name, await self._passwords.hash(password))
        if not await self._accounts.create(account):
            raise AlreadyExists("There is an account with this address.", reason="EMAIL_TAKEN")
        return await self._sign_ins.finish(account.id, Proof.PASSWORD, place)

    async def enrol(
        self,
        email: str,
        *,
        password: str = "",
        display_name: str = "",
        verified: bool = False,
        roles: Sequence[str] = (),
    ) -> Account:
        """Makes an account for somebody whom the system, or another way to sign in, vouches for; no session.

        `verified`: the address is proved to be theirs. Raises AlreadyExists (EMAIL_TAKEN), Invalid.
        """
        email = email.strip()
        key = email_key(email)
        _refuse(
            _email(email, key),
            _password(password, PASSWORD_LEAST) if password else None,
            line("display_name", display_name, LABEL),
        )
        hashed = await self._passwords.hash(password) if password else None
        account = NewAccount(new_id(), email, key, display_name, hashed, verified=verified, roles=tuple(roles))
        if not await self._accounts.create(account):
            raise AlreadyExists("There is an account with this address.", reason="EMAIL_TAKEN")
        stored = await self._accounts.by_id(account.id)
        assert stored is not None  # it was made a moment ago, and nobody knows its name yet
        return account_of(stored)

    async def sign_in(self, email: str, password: str, place: Place = ANYWHERE) -> SignedIn | Challenge:
        """Signs an account in with its password.

        Raises Unauthenticated (WRONG_CREDENTIALS), in the same words and after
        the same time for an unknown address as for a wrong password.
        """
        key = email_key(email.strip())
        _refuse(_email(email, key), _password(password, 1), line("device", place.device, LABEL))
        assert key is not None  # else it was refused
        account = await self._accounts.by_email(key)
        hashed = account.password_hash if account else None
        if not await self._passwords.matches(hashed, password) or account is None or hashed is None:
            raise wrong_credentials()
        if self._passwords.outdated(hashed):
            await self._accounts.rehash(account, await self._passwords.hash(password))
        return await self._sign_ins.finish(account.id, Proof.PASSWORD, place)

    async def sign_out(self, caller: Caller) -> None:
        """Ends the session that calls. Raises Precondition for a key, which has none."""
        _user(caller)
        try:
            await self.revoke_session(caller, caller.session)
        except NotFound:
            pass  # another call has just ended it: what was asked for is so

    async def me(self, caller: Caller) -> Account:
        """The caller's own account. Raises Unauthenticated for nobody, Precondition for a key."""
        account = await self._accounts.by_id(_user(caller))
        if account is None:
            raise Unauthenticated("The account is gone.", reason="TOKEN_INVALID")
        return account_of(account)

    async def list_sessions(self, caller: Caller, page_size: int, page_token: str) -> tuple[Sequence[Session], str]:
        """A page of the caller's live sessions, newest first, and the token of the next page; "" after the last."""
        user = _user(caller)
        scope = f"sessions of {caller.name}"
        size = page_tokens.size(page_size, self._page_size, self._page_size_max)
        found = await self._sessions.page(user, page_tokens.opened(page_token, scope), size + 1)
        shown = found[:size]
        following = page_tokens.sealed((shown[-1].create_time, shown[-1].id), scope) if len(found) > size else ""
        return [session_of(stored, _id(caller.session)) for stored in shown], following

    async def revoke_session(self, caller: Caller, name: str) -> None:
        """Ends a session of the caller: at once on this server, everywhere within 5 seconds.

        Raises NotFound where it is none of the caller's.
        """
        user = _user(caller)
        if not _SESSION.fullmatch(name):
            raise Invalid.field("name", "is not sessions/{session}", "NAME_INVALID")
        stored = await self._sessions.one(_id(name), user)
        if stored is None:
            raise _no_session(name)
        async with self._tokens.ending([stored.token_hash]):
            deleted = await self._sessions.delete(stored.id, user)
        self._authentication.forget([stored.token_hash])
        if not deleted:
            raise _no_session(name)

    async def find(self, user: str) -> Account | None:
        """The account with this resource name; None where there is none. For what acts for the system, not for callers."""
        stored = await self._accounts.by_id(_id(user)) if _USER.fullmatch(user) else None
        return account_of(stored) if stored else None

    async def sweep(self) -> int:
        """Deletes some of the sessions that have expired; how many it were. To be called now and then, by anyone."""
        return await self._sessions.sweep()


def _user(caller: Caller) -> str:
    """The id of the account that calls."""
    if caller.kind is Kind.USER:
        return _id(caller.name)
    if not caller.known:
        raise Unauthenticated("Sign in first.")
    raise Precondition("This is for accounts; the caller is not one.", reason="NOT_AN_ACCOUNT")


def _id(name: str) -> str:
    return name.partition("/")[2]


def _email(email: str, key: str | None) -> Violation | None:
    if not email.strip():
        return Violation("email", "is required", "REQUIRED")
    return None if key is not None else Violation("email", "is not an e-mail address", "EMAIL_INVALID")


def _password(password: str, least: int) -> Violation | None:
    if not password:
        return Violation("password", "is required", "REQUIRED")
    if len(password) < least:
        return Violation("password", f"is shorter than {least} characters", "TOO_SHORT")
    if len(password) > PASSWORD_MOST:
        return Violation("password", f"is longer than {PASSWORD_MOST} characters", "TOO_LONG")
    return Violation("password", "has a NUL character", "CONTROL_CHARACTER") if "\0" in password else None


def _refuse(*violations: Violation | None) -> None:
    found = [violation for violation in violations if violation is not None]
    if found:
        raise Invalid.fields(found)


def _no_session(name: str) -> NotFound:
    return NotFound("You have no such session.", resource=("transom.dev/Session", name))
