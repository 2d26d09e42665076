"""Accounts and their sessions: sign up, sign in, sign out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from server.caller import Caller, Kind
from server.engine import page_tokens
from server.engine.authentication import Authentication
from server.engine.text import email_key, line
from server.engine.tokens import SESSION, digest, new_id, new_token
from server.errors import AlreadyExists, Invalid, NotFound, Precondition, Unauthenticated, Violation
from server.store.accounts import StoredAccount, StoredAccounts
from server.store.passwords import Passwords
from server.store.sessions import NewAccount, NewSession, StoredSession, StoredSessions
from server.store.tokens import Tokens

SHORT = timedelta(hours=12)
LONG = timedelta(days=30)

PASSWORD_LEAST, PASSWORD_MOST = 8, 256
LABEL = 100
"""Characters of a display name, and of a device's."""

_USER = re.compile(r"users/[^/\x00]+")
_SESSION = re.compile(r"sessions/[^/\x00]+")


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who can sign in; `name` is `users/{user}`."""

    name: str
    email: str
    display_name: str
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Session:
    """A place where an account is signed in; `current` where it is the one that asks."""

    name: str
    user: str
    device: str
    create_time: datetime
    expire_time: datetime
    current: bool


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A new session. The token is nowhere else: only its hash is kept."""

    account: Account
    session: Session
    token: str


class Accounts:
    """What callers may do with accounts and sessions."""

    def __init__(
        self,
        accounts: StoredAccounts,
        sessions: StoredSessions,
        passwords: Passwords,
        tokens: Tokens,
        authentication: Authentication,
        *,
        page_size: int = 50,
        page_size_max: int = 1000,
    ) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._passwords = passwords
        self._tokens = tokens
        self._authentication = authentication
        self._page_size = page_size
        self._page_size_max = page_size_max

    async def sign_up(
        self, email: str, password: str, *, display_name: str = "", device: str = "", remember: bool = False
    ) -> SignedIn:
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
            line("device", device, LABEL),
        )
        assert key is not None  # else it was refused
        account = NewAccount(new_id(), email, key, display_name, await self._passwords.hash(password))
        token = new_token(SESSION)
        stored = await self._sessions.sign_up(account, _new_session(token, device, remember))
        if stored is None:
            raise AlreadyExists("There is an account with this address.", reason="EMAIL_TAKEN")
        return SignedIn(
            Account(f"users/{account.id}", email, display_name, stored.create_time), _session(stored, stored.id), token
        )

    async def sign_in(self, email: str, password: str, *, device: str = "", remember: bool = False) -> SignedIn:
        """Signs an account in with its password.

        Raises Unauthenticated (WRONG_CREDENTIALS), in the same words and after
        the same time for an unknown address as for a wrong password.
        """
        key = email_key(email.strip())
        _refuse(_email(email, key), _password(password, 1), line("device", device, LABEL))
        assert key is not None  # else it was refused
        account = await self._accounts.by_email(key)
        hashed = account.password_hash if account else None
        if not await self._passwords.matches(hashed, password) or account is None:
            raise _wrong()
        if self._passwords.outdated(account.password_hash):
            await self._accounts.rehash(account, await self._passwords.hash(password))
        token = new_token(SESSION)
        stored, ended = await self._sessions.sign_in(account.id, _new_session(token, device, remember))
        if stored is None:
            raise _wrong()
        if ended:
            await self._end(ended)
        return SignedIn(_account(account), _session(stored, stored.id), token)

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
        return _account(account)

    async def list_sessions(self, caller: Caller, page_size: int, page_token: str) -> tuple[Sequence[Session], str]:
        """A page of the caller's live sessions, newest first, and the token of the next page; "" after the last."""
        user = _user(caller)
        scope = f"sessions of {caller.name}"
        size = page_tokens.size(page_size, self._page_size, self._page_size_max)
        found = await self._sessions.page(user, page_tokens.opened(page_token, scope), size + 1)
        shown = found[:size]
        following = page_tokens.sealed((shown[-1].create_time, shown[-1].id), scope) if len(found) > size else ""
        return [_session(stored, _id(caller.session)) for stored in shown], following

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
        return _account(stored) if stored else None

    async def sweep(self) -> int:
        """Deletes some of the sessions that have expired; how many it were. To be called now and then, by anyone."""
        return await self._sessions.sweep()

    async def _end(self, digests: Sequence[bytes]) -> None:
        """For rows that are deleted already."""
        async with self._tokens.ending(digests):
            pass
        self._authentication.forget(digests)


def _user(caller: Caller) -> str:
    """The id of the account that calls."""
    if caller.kind is Kind.USER:
        return _id(caller.name)
    if not caller.known:
        raise Unauthenticated("Sign in first.")
    raise Precondition("This is for accounts; the caller is not one.", reason="NOT_AN_ACCOUNT")


def _id(name: str) -> str:
    return name.partition("/")[2]


def _account(stored: StoredAccount) -> Account:
    return Account(f"users/{stored.id}", stored.email, stored.display_name, stored.create_time)


def _session(stored: StoredSession, current: str) -> Session:
    return Session(
        f"sessions/{stored.id}",
        f"users/{stored.user_id}",
        stored.device,
        stored.create_time,
        stored.expire_time,
        stored.id == current,
    )


def _new_session(token: str, device: str, remember: bool) -> NewSession:
    return NewSession(new_id(), digest(token), device, LONG if remember else SHORT)


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


def _wrong() -> Unauthenticated:
    return Unauthenticated("The address or the password is wrong.", reason="WRONG_CREDENTIALS")


def _no_session(name: str) -> NotFound:
    return NotFound("You have no such session.", resource=("transom.dev/Session", name))
