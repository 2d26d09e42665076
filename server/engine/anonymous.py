"""Accounts before anybody has signed up: they live as long as their session, and keep all they own when upgraded."""

from __future__ import annotations

from datetime import timedelta

from server.caller import Caller, Kind
from server.engine.audit import Audit
from server.engine.callers import require_own
from server.engine.invitations import roles_of
from server.engine.letters import Letters
from server.engine.networks import network
from server.engine.password_rules import PasswordRules
from server.engine.post import Post
from server.engine.revocations import Revocations
from server.engine.sign_ins import Challenge, Place, Proof, SignedIn, SignIns
from server.engine.sign_up_policy import SignUpPolicy
from server.engine.sign_ups import ANYWHERE, PENDING, Promised, not_invited, taken
from server.engine.text import LABEL, address, email_key, line, refuse
from server.engine.tokens import WORD, digest, looks_like_word, new_id, new_token
from server.engine.words import SIGN_UP_TOKEN, Purpose, Words, sign_up_token
from server.errors import Denied, Precondition
from server.store.accounts import NewAccount, StoredAccounts
from server.store.anonymous import StoredAnonymous
from server.store.deeds import Deed, Deeds
from server.store.passwords import Passwords
from server.store.words import NewWord

UNUSED = timedelta(days=30)
"""How long an anonymous account that owns nothing stays once its last session has ended."""


class Anonymous:
    """Makes anonymous accounts, where they are `allowed`, and upgrades them."""

    def __init__(
        self,
        accounts: StoredAccounts,
        stored: StoredAnonymous,
        deeds: Deeds,
        words: Words,
        post: Post,
        letters: Letters,
        policy: SignUpPolicy,
        rules: PasswordRules,
        passwords: Passwords,
        revocations: Revocations,
        sign_ins: SignIns,
        audit: Audit,
        *,
        allowed: bool = False,
    ) -> None:
        self._accounts = accounts
        self._stored = stored
        self._deeds = deeds
        self._words = words
        self._post = post
        self._letters = letters
        self._policy = policy
        self._rules = rules
        self._passwords = passwords
        self._revocations = revocations
        self._sign_ins = sign_ins
        self._audit = audit
        self._allowed = allowed

    async def sign_in(self, place: Place = ANYWHERE) -> SignedIn | Challenge:
        """A new account without an address, and its only session. Raises Denied (ANONYMOUS_NOT_ALLOWED), Invalid."""
        refuse(line("device", place.device, LABEL))
        if not self._allowed:
            raise Denied("Nobody can use this app without signing in.", reason="ANONYMOUS_NOT_ALLOWED")
        account = NewAccount(new_id(), None, None, "", None, anonymous=True)
        name = f"users/{account.id}"
        async with self._deeds.begin() as deed:
            await deed.create(account)
            await deed.also([self._audit.statement("sign_up", actor=name, target=name, details={"proof": "anonymous"})])
        return await self._sign_ins.finish(account.id, Proof.ANONYMOUS, place)

    async def upgrade(
        self,
        caller: Caller,
        email: str,
        password: str,
        *,
        display_name: str = "",
        invitation: str = "",
        place: Place = ANYWHERE,
    ) -> SignedIn | Challenge | Promised:
        """Gives the caller's anonymous account an address and a password: from then on its owner can sign in to it. It
        is the same account, with all it owns, in a new session; the one that calls ends.

        Promised where the address must be proved first, as SignUps.sign_up: the account is upgraded, and its sessions
        end, when that is done. Raises Precondition (NOT_ANONYMOUS), and as SignUps.sign_up.
        """
        user = require_own(caller)
        if caller.kind is not Kind.ANONYMOUS:
            raise _not_anonymous()
        email = email.strip()
        key = email_key(email)
        refuse(
            address(email, key),
            self._rules.violation(password, email),
            line("display_name", display_name, LABEL),
            line("device", place.device, LABEL),
        )
        assert key is not None  # else it was refused
        if invitation:
            live = await self._words.live(invitation, Purpose.INVITE)
            if live is None or live.email_key != key:
                raise not_invited()
        self._policy.admit(key, invited=bool(invitation))
        hashed = await self._passwords.hash(password)
        if self._policy.verify and not invitation:
            return await self._promise(user, email, key, hashed, display_name, place)
        ended = await self._at_once(user, email, key, hashed, display_name, invitation, place)
        await self._revocations.ended(ended)
        await self._revocations.refresh(user)
        return await self._sign_ins.finish(user, Proof.PASSWORD, place)

    async def sweep(self) -> int:
        """Deletes some anonymous accounts that nobody can use any more and that own nothing; how many it were. One that
        owns something stays: others may see what it made."""
        return await self._stored.sweep(UNUSED)

    async def _promise(self, user: str, email: str, key: str, hashed: str, display_name: str, place: Place) -> Promised:
        """An upgrade once the address is proved; the same work for an address that has an account."""
        word, (token, kept) = new_token(WORD), sign_up_token()
        details = {
            "display_name": display_name,
            "password_hash": hashed,
            SIGN_UP_TOKEN: kept,
            "network": network(place.address),
        }
        async with self._deeds.begin() as deed:
            if not await self._post.room(deed, key, Purpose.UPGRADE, place.address):
                return Promised(token)
            owner = await deed.by_email(key)
            await deed.keep(NewWord(digest(word), Purpose.UPGRADE, PENDING, user, email, key, details))
            if owner is None:
                await self._post.queue(deed, email, self._letters.sign_up(email, word, PENDING))
            else:  # nobody ever sees the word
                told = owner.email or email
                await self._post.queue(deed, told, self._letters.already(told))
        return Promised(token)

    async def _at_once(
        self, user: str, email: str, key: str, hashed: str, display_name: str, invitation: str, place: Place
    ) -> list[bytes]:
        """The hashes of the tokens of the sessions that ended."""
        async with self._deeds.begin() as deed:
            roles: tuple[str, ...] = ()
            if invitation:
                used = await deed.use(digest(invitation), Purpose.INVITE) if looks_like_word(invitation) else None
                if used is None:
                    raise not_invited()
                roles = await roles_of(deed, used, user, self._audit)
            room = await self._post.room(deed, key, Purpose.VERIFY, place.address)
            account = await deed.by_id(user)
            if account is None or not account.anonymous:
                raise _not_anonymous()
            if await deed.by_email(key) is not None:
                raise taken()
            await self._upgraded(deed, user, email, key, hashed, display_name, verified=bool(invitation))
            if roles:
                await deed.set_roles(user, roles)
            if room and not invitation:
                word = new_token(WORD)
                told = {"network": network(place.address)}
                await deed.keep(NewWord(digest(word), Purpose.VERIFY, PENDING, user, email, key, told))
                await self._post.queue(deed, email, self._letters.verify(email, word, PENDING))
            ended = [*await deed.end_sessions(user)]
            await self._revocations.ending(ended)
            return ended

    async def _upgraded(
        self, deed: Deed, user: str, email: str, key: str, hashed: str, display_name: str, *, verified: bool
    ) -> None:
        await deed.set_address(user, email, key, verified=verified)
        await deed.set_password(user, hashed)
        if display_name:
            await deed.set_display_name(user, display_name)
        await deed.make_known(user)
        await deed.drop(user, [Purpose.UPGRADE])
        await deed.also([self._audit.statement("upgraded", target=f"users/{user}")])


def _not_anonymous() -> Precondition:
    return Precondition("The account is an ordinary one already.", reason="NOT_ANONYMOUS")
