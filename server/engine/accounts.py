"""Accounts: signing in with a password, looking at one's own, finding others' for the system."""

from __future__ import annotations

import re

from server.caller import Caller
from server.engine.account import Account, account_of
from server.engine.audit import Audit
from server.engine.callers import require_account, require_own
from server.engine.password_rules import shape
from server.engine.sign_ins import Challenge, Place, Proof, SignedIn, SignIns, wrong_credentials
from server.engine.sign_ups import ANYWHERE
from server.engine.text import LABEL, address, email_key, line, refuse
from server.engine.throttle import Attempts
from server.errors import Refusal, Unauthenticated
from server.store.accounts import StoredAccount, StoredAccounts
from server.store.deeds import Deeds
from server.store.passwords import Passwords

_USER = re.compile(r"users/([^/\x00]+)")


class Accounts:
    """What callers may do with accounts that are there."""

    def __init__(
        self,
        accounts: StoredAccounts,
        deeds: Deeds,
        passwords: Passwords,
        attempts: Attempts,
        sign_ins: SignIns,
        audit: Audit,
    ) -> None:
        self._accounts = accounts
        self._deeds = deeds
        self._passwords = passwords
        self._attempts = attempts
        self._sign_ins = sign_ins
        self._audit = audit

    async def sign_in(self, email: str, password: str, place: Place = ANYWHERE) -> SignedIn | Challenge:
        """Signs an account in with its password.

        Raises Unauthenticated (WRONG_CREDENTIALS), in the same words and after
        the same time for an unknown address as for a wrong password; Exhausted
        where there were too many tries, alike for an unknown address.
        """
        key = email_key(email.strip())
        refuse(address(email, key), shape(password), line("device", place.device, LABEL))
        assert key is not None  # else it was refused
        await self._attempts.check("password", key, place.address)
        try:
            account = await self._accounts.by_email(key)
            hashed = account.password_hash if account else None
            right = await self._passwords.matches(hashed, password)
        except Refusal:
            await self._attempts.released("password", key, place.address)
            raise
        if not right or account is None or hashed is None:
            await self._attempts.failed("password", key, place.address)
            await self._note_refused(account, place)
            raise wrong_credentials()
        await self._attempts.succeeded("password", key, place.address)
        if self._passwords.outdated(hashed):
            hashed = await self._rehashed(account, password)
        return await self._sign_ins.finish(account.id, Proof.PASSWORD, place, password_hash=hashed)

    async def me(self, caller: Caller) -> Account:
        """The caller's own account. Raises Unauthenticated for nobody, Precondition for a key."""
        account = await self._accounts.by_id(require_account(caller))
        if account is None:
            raise Unauthenticated("The account is gone.", reason="TOKEN_INVALID")
        return account_of(account)

    async def rename(self, caller: Caller, display_name: str) -> Account:
        """The caller's account with another name to show. Raises as `me`, Denied where an admin acts as it, Invalid."""
        user = require_own(caller)
        refuse(line("account.display_name", display_name, LABEL))
        async with self._deeds.begin() as deed:
            await deed.set_display_name(user, display_name)
        return await self.me(caller)

    async def find(self, user: str) -> Account | None:
        """The account with this resource name; None where there is none, or it is to be deleted. For what acts for the
        system, not for callers."""
        named = _USER.fullmatch(user)
        stored = await self._accounts.by_id(named[1]) if named else None
        return account_of(stored) if stored and stored.delete_time is None else None

    async def _rehashed(self, account: StoredAccount, password: str) -> str:
        """The hash that is kept of the right password from now on. Raises wrong_credentials where it was changed."""
        fresh = await self._passwords.hash(password)
        if await self._accounts.rehash(account, fresh):
            return fresh
        kept = await self._accounts.by_id(account.id)  # another sign-in was faster, or a change
        if kept is None or kept.password_hash is None:
            raise wrong_credentials()
        if not await self._passwords.matches(kept.password_hash, password):
            raise wrong_credentials()
        return kept.password_hash

    async def _note_refused(self, account: StoredAccount | None, place: Place) -> None:
        await self._audit.note(
            "sign_in",
            target=f"users/{account.id}" if account else "",
            outcome="WRONG_CREDENTIALS",
            details={"proof": Proof.PASSWORD.value},
            address=place.address,
            device=place.device,
        )
