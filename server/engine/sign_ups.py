"""Making accounts: by signing up, with or without an invitation, and for those whom others vouch for.

Where addresses are verified first (the usual), signing up answers alike for every address, after the same work: what
becomes of it says the mail. The account is made once the address is proved, so nobody can keep an address from its
owner by signing up with it; and its password counts only where the mail was opened by who chose it. Where addresses are
not verified first, the session is the answer, and who asks learns which addresses are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from server.caller import SYSTEM
from server.engine.account import Account, account_of
from server.engine.audit import Audit
from server.engine.invitations import promised, roles_of
from server.engine.letters import Letters
from server.engine.networks import network
from server.engine.password_rules import LEAST, PasswordRules, shape
from server.engine.post import Post
from server.engine.sign_ins import Challenge, Place, Proof, SignedIn, SignIns
from server.engine.sign_up_policy import SignUpPolicy
from server.engine.text import LABEL, address, email_key, line, refuse
from server.engine.tokens import WORD, digest, looks_like_word, new_id, new_token
from server.engine.words import SIGN_UP_TOKEN, Purpose, Words, sign_up_token
from server.errors import AlreadyExists, Exhausted, Invalid, Violation
from server.store.accounts import NewAccount, StoredAccounts
from server.store.deeds import Deed, Deeds
from server.store.passwords import Passwords
from server.store.words import NewWord, StoredWord

PENDING = timedelta(days=1)
"""How long a sign-up waits for its address to be proved, and an address for being verified."""
INVITED = timedelta(days=7)
"""How long an invitation is good."""

ANYWHERE = Place()


@dataclass(frozen=True, slots=True)
class Promised:
    """An account once its address is proved, perhaps. `token` stays on the device that asked: with it, and the word of the
    mail, the account has the password that was chosen."""

    token: str


class SignUps:
    """Makes accounts."""

    def __init__(
        self,
        policy: SignUpPolicy,
        rules: PasswordRules,
        passwords: Passwords,
        accounts: StoredAccounts,
        deeds: Deeds,
        words: Words,
        post: Post,
        letters: Letters,
        sign_ins: SignIns,
        audit: Audit,
    ) -> None:
        self._policy = policy
        self._rules = rules
        self._passwords = passwords
        self._accounts = accounts
        self._deeds = deeds
        self._words = words
        self._post = post
        self._letters = letters
        self._sign_ins = sign_ins
        self._audit = audit

    async def sign_up(
        self, email: str, password: str, *, display_name: str = "", invitation: str = "", place: Place = ANYWHERE
    ) -> SignedIn | Challenge | Promised:
        """Makes an account and signs it in; Promised where the address must be proved first: then a mail is under way,
        which asks for that, or tells its reader that they have an account, or was one too many within an hour.

        Raises Invalid where something given is not as the API says, or the invitation is not good for the address;
        Denied as SignUpPolicy.admit; AlreadyExists (EMAIL_TAKEN) where the caller has an invitation or addresses are
        not verified first.
        """
        email = email.strip()
        key = email_key(email)
        refuse(
            address(email, key),
            self._rules.violation(password, email),
            line("display_name", display_name, LABEL),
            line("device", place.device, LABEL),
        )
        assert key is not None  # else it was refused
        if invitation and not await self._invited(invitation, key):
            raise not_invited()
        self._policy.admit(key, invited=bool(invitation))
        account = NewAccount(new_id(), email, key, display_name, await self._passwords.hash(password))
        if invitation:
            await self._join(account, invitation)
        elif self._policy.verify:
            return await self._promise(account, place)
        else:
            await self._make(account, place)
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

        `verified`: the address is proved to be theirs. Who asks has seen to it that the policy admits them. Raises
        AlreadyExists (EMAIL_TAKEN), Invalid.
        """
        email = email.strip()
        key = email_key(email)
        refuse(address(email, key), _given(password), line("display_name", display_name, LABEL))
        hashed = await self._passwords.hash(password) if password else None
        account = NewAccount(new_id(), email, key, display_name, hashed, verified=verified, roles=tuple(roles))
        async with self._deeds.begin() as deed:
            await self._create(deed, account)
        stored = await self._accounts.by_id(account.id)
        assert stored is not None  # it was made a moment ago, and nobody knows its name yet
        return account_of(stored)

    async def invite(self, email: str, *, roles: Sequence[str] = (), by: str = SYSTEM.name) -> None:
        """Mails an invitation: with it, its reader may sign up once within 7 days and gets these roles, while who is
        named `by` may give them. For admins.

        Raises AlreadyExists (EMAIL_TAKEN) where the address has an account, Exhausted where it was invited 5 times
        within an hour, Denied where nobody can sign up, Invalid.
        """
        email = email.strip()
        key = email_key(email)
        refuse(address(email, key))
        assert key is not None  # else it was refused
        self._policy.admit(key, invited=True)
        word = new_token(WORD)
        async with self._deeds.begin() as deed:
            if not await self._post.room(deed, key, Purpose.INVITE):
                raise Exhausted("The address was invited often enough.", reason="TOO_MANY_MAILS", retry_after=3600)
            if await deed.by_email(key) is not None:
                raise taken()
            given = promised(roles, by)
            await deed.keep(NewWord(digest(word), Purpose.INVITE, INVITED, email=email, email_key=key, details=given))
            await self._post.queue(deed, email, self._letters.invitation(email, word, INVITED))
            # Not the address: what is noted outlives the account, and no entry of its own says whose this is.
            told = {"domain": key.rpartition("@")[2], "roles": " ".join(roles)}
            await deed.also([self._audit.statement("invite", details=told)])

    async def complete(self, deed: Deed, word: StoredWord, *, chosen: bool) -> str:
        """Makes the account that a sign-up waits with, as its address is proved by `word`; its id.

        `chosen`: who proves it is who signed up. Else the account has neither the password nor the name of the sign-up:
        they may be a stranger's, who waits for the reader to open the mail.

        Raises AlreadyExists (EMAIL_TAKEN) where the address has got an account meanwhile, Denied where it would not be
        admitted any more.
        """
        self._policy.admit(word.email_key)
        told = word.details
        name, password = (told["display_name"], told["password_hash"]) if chosen else ("", None)
        account = NewAccount(new_id(), word.email, word.email_key, name, password, verified=True)
        await deed.hold(word.email_key)
        await self._create(deed, account)
        return account.id

    async def sweep(self) -> int:
        """Deletes some of the mails whose words are long over; how many it were."""
        return await self._deeds.sweep_mails()

    async def _invited(self, invitation: str, key: str) -> bool:
        word = await self._words.live(invitation, Purpose.INVITE)
        return word is not None and word.email_key == key

    async def _join(self, account: NewAccount, invitation: str) -> None:
        """With an invitation, which came by mail: that proves the address."""
        assert account.email_key is not None
        async with self._deeds.begin() as deed:
            word = await deed.use(digest(invitation), Purpose.INVITE) if looks_like_word(invitation) else None
            if word is None:
                raise not_invited()
            await deed.hold(account.email_key)
            roles = await roles_of(deed, word, account.id, self._audit)
            await self._create(
                deed,
                NewAccount(
                    account.id,
                    account.email,
                    account.email_key,
                    account.display_name,
                    account.password_hash,
                    verified=True,
                    roles=roles,
                ),
            )

    async def _promise(self, account: NewAccount, place: Place) -> Promised:
        """An account once the address is proved; the same work for an address that has one."""
        assert account.email is not None and account.email_key is not None
        word, (token, kept) = new_token(WORD), sign_up_token()
        details = {
            "display_name": account.display_name,
            "password_hash": account.password_hash,
            SIGN_UP_TOKEN: kept,
            "network": network(place.address),
        }
        async with self._deeds.begin() as deed:
            if not await self._post.room(deed, account.email_key, Purpose.SIGN_UP, place.address):
                return Promised(token)
            owner = await deed.by_email(account.email_key)
            await deed.keep(
                NewWord(
                    digest(word),
                    Purpose.SIGN_UP,
                    PENDING,
                    email=account.email,
                    email_key=account.email_key,
                    details=details,
                )
            )
            if owner is None:
                await self._post.queue(deed, account.email, self._letters.sign_up(account.email, word, PENDING))
            else:  # nobody ever sees the word
                email = owner.email or account.email
                await self._post.queue(deed, email, self._letters.already(email))
        return Promised(token)

    async def _make(self, account: NewAccount, place: Place) -> None:
        """An account at once; whether the address is the caller's own is asked by mail."""
        assert account.email is not None and account.email_key is not None
        word = new_token(WORD)
        async with self._deeds.begin() as deed:
            room = await self._post.room(deed, account.email_key, Purpose.VERIFY, place.address)
            await self._create(deed, account)
            if room:
                to, told = (account.email, account.email_key), {"network": network(place.address)}
                await deed.keep(NewWord(digest(word), Purpose.VERIFY, PENDING, account.id, *to, told))
                await self._post.queue(deed, account.email, self._letters.verify(account.email, word, PENDING))

    async def _create(self, deed: Deed, account: NewAccount) -> None:
        if not await deed.create(account):
            raise taken()
        name = f"users/{account.id}"
        await deed.also([self._audit.statement("sign_up", actor=name, target=name)])


def taken() -> AlreadyExists:
    """The refusal where an address has an account, and the caller may know."""
    return AlreadyExists("There is an account with this address.", reason="EMAIL_TAKEN")


def not_invited() -> Invalid:
    """The refusal of an invitation."""
    return Invalid.field("invitation", "is not, or no longer, good for this address", "INVITATION_INVALID")


def _given(password: str) -> Violation | None:
    """What is wrong with a password that an operator gives: its length only."""
    if not password:
        return None
    if len(password) < LEAST:
        return Violation("password", f"is shorter than {LEAST} characters", "TOO_SHORT")
    return shape(password)
