"""Proving anew who one is, before something is done that would lock others out of the account."""

from __future__ import annotations

from server.caller import Caller, Kind
from server.engine.callers import require_own, require_recent
from server.engine.password_rules import shape
from server.engine.text import refuse
from server.engine.throttle import Attempts
from server.errors import Denied, Precondition, Refusal, Unauthenticated
from server.store.accounts import StoredAccount, StoredAccounts
from server.store.passwords import Passwords


class Proving:
    """Asks callers for their password, unless their session has just proved who they are."""

    def __init__(self, accounts: StoredAccounts, passwords: Passwords, attempts: Attempts) -> None:
        self._accounts = accounts
        self._passwords = passwords
        self._attempts = attempts

    async def require(self, caller: Caller, password: str, address: str = "") -> StoredAccount:
        """The caller's account, where `password` is its password, or is empty and the session proved itself a moment
        ago. `address` is where the call came from.

        Raises Denied (WRONG_PASSWORD), Precondition (SIGN_IN_AGAIN; ANONYMOUS_ACCOUNT for one that must be upgraded, as
        the sign-up policy allows, before it has anything to prove itself by), Exhausted where there were too many tries.
        """
        user = require_own(caller)
        if caller.kind is Kind.ANONYMOUS:
            raise Precondition("The account is anonymous; upgrade it first.", reason="ANONYMOUS_ACCOUNT")
        if not password:
            require_recent(caller)
        else:
            refuse(shape(password, "current_password"))
        account = await self._accounts.by_id(user)
        if account is None:
            raise Unauthenticated("The account is gone.", reason="TOKEN_INVALID")
        if password:
            await self._check(account, password, address)
        return account

    async def _check(self, account: StoredAccount, password: str, address: str) -> None:
        key = account.email_key or account.id
        await self._attempts.check("password", key, address)
        try:
            right = await self._passwords.matches(account.password_hash, password)
        except Refusal:
            await self._attempts.released("password", key, address)
            raise
        if not right:
            await self._attempts.failed("password", key, address)
            raise Denied("The password is wrong.", reason="WRONG_PASSWORD")
        await self._attempts.succeeded("password", key, address)
