"""The addresses of accounts: proving one, and changing to another.

Whoever opens a mail need not be who had it sent: a proved address makes an account or changes one, but it signs nobody
in, and what a stranger may have planted in that account does not outlive it.
"""

from __future__ import annotations

from collections.abc import Sequence

from server.caller import Caller
from server.engine.account import Account, account_of
from server.engine.audit import Audit
from server.engine.callers import require_own
from server.engine.claiming import TO_AN_ADDRESS, claim
from server.engine.letters import Letters
from server.engine.networks import network
from server.engine.post import MAILS, WITHIN, Post
from server.engine.proving import Proving
from server.engine.revocations import Revocations
from server.engine.sign_ups import PENDING, SignUps, taken
from server.engine.text import address, email_key, refuse
from server.engine.tokens import WORD, digest, looks_like_word, new_token
from server.engine.words import Purpose, chosen_here
from server.errors import Exhausted, Invalid, Precondition, Violation
from server.store.accounts import StoredAccounts
from server.store.deeds import Deed, Deeds
from server.store.words import NewWord, StoredWord


class Addresses:
    """What callers may do with the address of their account."""

    def __init__(
        self,
        accounts: StoredAccounts,
        deeds: Deeds,
        post: Post,
        letters: Letters,
        sign_ups: SignUps,
        proving: Proving,
        revocations: Revocations,
        audit: Audit,
    ) -> None:
        self._accounts = accounts
        self._deeds = deeds
        self._post = post
        self._letters = letters
        self._sign_ups = sign_ups
        self._proving = proving
        self._revocations = revocations
        self._audit = audit

    async def request_verification(self, caller: Caller, address_of_call: str = "") -> None:
        """Mails the caller's address a word to prove it with; nothing where it is proved already.

        Raises Precondition (NO_EMAIL) for an account without an address, Exhausted where there were too many within an
        hour.
        """
        user = require_own(caller)
        account = await self._accounts.by_id(user)
        if account is None or account.email is None or account.email_key is None:
            raise Precondition("The account has no address.", reason="NO_EMAIL")
        if account.verified:
            return
        word = new_token(WORD)
        async with self._deeds.begin() as deed:
            if not await self._post.room(deed, account.email_key, Purpose.VERIFY, address_of_call):
                raise too_many_mails()
            told = {"network": network(address_of_call)}
            await deed.keep(
                NewWord(digest(word), Purpose.VERIFY, PENDING, user, account.email, account.email_key, told)
            )
            await self._post.queue(deed, account.email, self._letters.verify(account.email, word, PENDING))

    async def request_change(self, caller: Caller, email: str, password: str, address_of_call: str = "") -> None:
        """Mails the new address a word: with it the account's address is changed, if the session that calls is still
        there then. Alike for an address that another account has: that one is told. So is the address that the account
        has, where it is verified.

        Raises Denied as Proving.require, Exhausted where the account asked for 5 changes within an hour, Invalid.
        """
        user = require_own(caller)
        email = email.strip()
        key = email_key(email)
        refuse(address(email, key))
        assert key is not None  # else it was refused
        account = await self._proving.require(caller, password, address_of_call)
        if account.email_key == key and account.email == email:
            raise Invalid.fields([Violation("email", "is the account's address already", "NOT_ANOTHER")])
        word = new_token(WORD)
        async with self._deeds.begin() as deed:
            room = await self._post.room(deed, key, Purpose.CHANGE, address_of_call)
            held = await deed.by_id(user)
            if await deed.asked(user, Purpose.CHANGE, WITHIN) >= MAILS:
                raise too_many_mails()
            if not room:
                return
            owner = await deed.by_email(key)
            asked = {"session": caller.session.removeprefix("sessions/"), "network": network(address_of_call)}
            await deed.keep(NewWord(digest(word), Purpose.CHANGE, PENDING, user, email, key, asked))
            if owner is None or owner.id == user:
                await self._post.queue(deed, email, self._letters.change(email, word, PENDING))
            else:  # nobody ever sees the word
                told = owner.email or email
                await self._post.queue(deed, told, self._letters.wanted(told))
            if held is not None and held.email and held.verified:
                await self._post.queue(deed, held.email, self._letters.change_asked(held.email, email))
            await deed.also([self._audit.statement("email_change_requested", target=caller.name)])

    async def prove(self, caller: Caller, word: str, sign_up_token: str = "", address_of_call: str = "") -> Account:
        """Uses a word that was mailed to prove an address: makes the account that signed up, upgrades an anonymous one,
        whose sessions end, changes an account's address, or verifies it. The account as it is then.

        With the `sign_up_token` of the sign-up, who proves the address is who chose the password; else it is not taken.
        An account is verified for who is signed in to it; for anybody else it is claimed.

        Raises Invalid (WORD_INVALID) where it is not, or no longer, good; Precondition (SIGN_IN_TO_CHANGE) where a change
        of address is not proved by who is signed in to that account: the word stays good; AlreadyExists (EMAIL_TAKEN)
        where another account has got the address meanwhile.
        """
        async with self._deeds.begin() as deed:
            purposes = (Purpose.SIGN_UP, Purpose.VERIFY, Purpose.CHANGE, Purpose.UPGRADE)
            used = await deed.use(digest(word), *purposes) if looks_like_word(word) else None
            if used is None:
                raise word_invalid()
            await deed.hold(used.email_key)
            chosen = chosen_here(used, sign_up_token)
            ended: Sequence[bytes] = ()
            if used.purpose == Purpose.SIGN_UP:
                user = await self._sign_ups.complete(deed, used, chosen=chosen)
            else:
                user, theirs = await self._prove_for(deed, used, caller, chosen, address_of_call)
                ended = () if theirs else await deed.end_sessions(user)
            await self._revocations.ending(ended)
            account = await deed.by_id(user)
            assert account is not None  # the deed has it locked
        if used.purpose != Purpose.SIGN_UP:
            await self._revocations.ended(ended)
            await self._revocations.refresh(user)
        return account_of(account)

    async def _prove_for(
        self, deed: Deed, used: StoredWord, caller: Caller, chosen: bool, address_of_call: str
    ) -> tuple[str, bool]:
        """What `used` is for, done to the account it is about; its id, and whether who is signed in to it stays so."""
        account = await deed.by_id(used.user_id) if used.user_id else None
        if account is None or account.closed:
            raise word_invalid()
        name = f"users/{account.id}"
        if used.purpose == Purpose.VERIFY:
            if account.email_key != used.email_key:
                raise word_invalid()
            if account.verified:
                return account.id, True
            if not await self._is(deed, caller, account.id):
                await claim(deed, account.id, address_of_call)
                await deed.also([self._audit.statement("claimed", target=name)])
                return account.id, False
            await deed.verify(account.id)
            await deed.drop(account.id, [Purpose.VERIFY])
            await deed.also([self._audit.statement("email_verified", target=name)])
            return account.id, True
        if used.purpose == Purpose.CHANGE and not await deed.signed_in(used.details["session"], account.id):
            raise word_invalid()  # who ended the session, by whatever way, did not trust who asked in it
        if used.purpose == Purpose.CHANGE and not await self._is(deed, caller, account.id):
            # Else whoever reads the mail would give a stranger's account their address, proved.
            raise Precondition(
                "Sign in to the account that asked for this address, then use the word again.",
                reason="SIGN_IN_TO_CHANGE",
            )
        owner = await deed.by_email(used.email_key)
        if owner is not None and owner.id != account.id:
            raise taken()
        await deed.set_address(account.id, used.email, used.email_key, verified=True)
        await deed.drop(account.id, [*TO_AN_ADDRESS, Purpose.UPGRADE, Purpose.SECOND_FACTOR])
        if used.purpose == Purpose.UPGRADE:
            if not await deed.make_known(account.id):
                raise word_invalid()
            await claim(deed, account.id, address_of_call)
            if chosen:
                await deed.set_password(account.id, used.details["password_hash"])
                if used.details["display_name"]:
                    await deed.set_display_name(account.id, used.details["display_name"])
            await deed.also([self._audit.statement("upgraded", target=name)])
            # Whoever planted the anonymous session has its token, too: its owner signs in anew.
            return account.id, False
        if account.email:
            await self._post.queue(deed, account.email, self._letters.changed(account.email, used.email))
        await deed.also([self._audit.statement("email_changed", target=name)])
        return account.id, True

    async def _is(self, deed: Deed, caller: Caller, user: str) -> bool:
        """Whether the caller is the owner of the account itself, in a session that has not ended meanwhile."""
        mine = caller.account and caller.id == user and not caller.impersonator
        return mine and await deed.signed_in(caller.session.removeprefix("sessions/"), user)


def word_invalid() -> Invalid:
    """The refusal of a word that is not, or no longer, good."""
    return Invalid.field("word", "is not, or no longer, good; ask for another", "WORD_INVALID")


def too_many_mails() -> Exhausted:
    """The refusal of one more mail to the caller's own address."""
    return Exhausted("There were too many mails to this address.", reason="TOO_MANY_MAILS", retry_after=3600)
