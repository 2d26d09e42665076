"""Giving an account another password: by its owner, and by whoever reads its mail."""

from __future__ import annotations

from datetime import timedelta

from server.caller import Caller
from server.engine.addresses import word_invalid
from server.engine.audit import Audit
from server.engine.callers import require_own
from server.engine.claiming import TO_AN_ADDRESS, claim
from server.engine.letters import Letters
from server.engine.networks import network
from server.engine.password_rules import PasswordRules
from server.engine.post import Post
from server.engine.proving import Proving
from server.engine.revocations import Revocations
from server.engine.sessions import Sessions
from server.engine.sign_ins import Challenge, Place, Proof, SignedIn, SignIns
from server.engine.sign_ups import ANYWHERE
from server.engine.text import LABEL, address, email_key, line, refuse
from server.engine.tokens import WORD, digest, new_token
from server.engine.words import Purpose, Words
from server.store.accounts import StoredAccounts
from server.store.deeds import Deeds
from server.store.passwords import Passwords
from server.store.words import NewWord

RESET = timedelta(hours=1)
"""How long a forgotten password may be replaced after it was asked for."""


class NewPasswords:
    """Replaces passwords, and ends the sessions that others may have."""

    def __init__(
        self,
        accounts: StoredAccounts,
        deeds: Deeds,
        words: Words,
        post: Post,
        letters: Letters,
        rules: PasswordRules,
        passwords: Passwords,
        proving: Proving,
        sessions: Sessions,
        revocations: Revocations,
        sign_ins: SignIns,
        audit: Audit,
    ) -> None:
        self._accounts = accounts
        self._deeds = deeds
        self._words = words
        self._post = post
        self._letters = letters
        self._rules = rules
        self._passwords = passwords
        self._proving = proving
        self._sessions = sessions
        self._revocations = revocations
        self._sign_ins = sign_ins
        self._audit = audit

    async def change(self, caller: Caller, current: str, new: str, address_of_call: str = "") -> str:
        """Gives the caller's account another password; all its sessions end but the one that calls, which gets a new
        token: this.

        Raises Invalid, Denied as Proving.require.
        """
        user = require_own(caller)
        account = await self._proving.require(caller, current, address_of_call)
        refuse(self._rules.violation(new, account.email or "", "new_password"))
        hashed = await self._passwords.hash(new)
        session = caller.session.partition("/")[2]
        async with self._deeds.begin() as deed:
            if await deed.by_id(user) is None:
                raise word_invalid()
            await deed.set_password(user, hashed)
            await deed.drop(user, [Purpose.RESET, Purpose.CHANGE, Purpose.SECOND_FACTOR])
            await deed.forget_networks(user, keep=network(address_of_call))
            ended = await deed.end_sessions(user, keep=session)
            await self._revocations.ending(ended)
            if account.email:
                await self._post.queue(deed, account.email, self._letters.password_changed(account.email))
            await deed.also([self._audit.statement("password_changed", target=caller.name)])
        await self._revocations.ended(ended)
        return await self._sessions.rotate(caller, proved=True)

    async def request_reset(self, email: str, address_of_call: str = "") -> None:
        """Mails the account of the address a word to choose another password with, unless there were too many within an
        hour.

        The same work for an address that has no account. Raises Invalid.
        """
        email = email.strip()
        key = email_key(email)
        refuse(address(email, key))
        assert key is not None  # else it was refused
        word = new_token(WORD)
        async with self._deeds.begin() as deed:
            if not await self._post.room(deed, key, Purpose.RESET, address_of_call):
                return
            account = await deed.by_email(key)
            known = account is not None and not account.closed
            user = account.id if account is not None and known else None
            to = (account.email if account else None) or email
            asked = {"network": network(address_of_call)}
            await deed.keep(NewWord(digest(word), Purpose.RESET, RESET, user, email, key, asked))
            await self._post.queue(deed, to, self._letters.reset(to, word, RESET), withheld=not known)

    async def reset(self, word: str, password: str, place: Place = ANYWHERE) -> SignedIn | Challenge:
        """Gives the account of the address that `word` was mailed to this password, and signs it in; all its sessions
        end. The second factor is asked for all the same.

        The word proves the address. Where nobody had proved it, what was set up until now may be a stranger's:
        passkeys, accounts elsewhere and second factors are removed. Raises Invalid (WORD_INVALID) where the word is
        not, or no longer, good.
        """
        live = await self._words.live(word, Purpose.RESET)
        refuse(line("device", place.device, LABEL), self._rules.violation(password, live.email if live else ""))
        account = await self._accounts.by_id(live.user_id) if live and live.user_id else None
        if account is None or account.closed or live is None or account.email_key != live.email_key:
            raise word_invalid()
        hashed = await self._passwords.hash(password)
        user = account.id
        async with self._deeds.begin() as deed:
            used = await deed.use(digest(word), Purpose.RESET)
            account = await deed.by_id(user)
            if used is None or account is None or account.closed or account.email_key != used.email_key:
                raise word_invalid()
            if not account.verified:
                await claim(deed, user, place.address)
            await deed.set_password(user, hashed)
            await deed.drop(user, [*TO_AN_ADDRESS, Purpose.SECOND_FACTOR])
            await deed.forget_networks(user, keep=network(place.address))
            ended = await deed.end_sessions(user)
            await self._revocations.ending(ended)
            if account.email:
                await self._post.queue(deed, account.email, self._letters.password_changed(account.email))
            name = f"users/{user}"
            await deed.also([self._audit.statement("password_reset", actor=name, target=name)])
        await self._revocations.ended(ended)
        await self._revocations.refresh(user)
        return await self._sign_ins.finish(user, Proof.RESET, place)
