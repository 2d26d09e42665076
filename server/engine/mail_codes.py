"""Signing in with a code that was mailed.

A code is good only together with what its request answered, which stays on the device: neither who reads over a
shoulder nor who gets it told on the phone can use it elsewhere, and guesses made elsewhere do not use up its tries.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from server.engine.audit import Audit
from server.engine.claiming import claim
from server.engine.letters import Letters
from server.engine.networks import network
from server.engine.post import Post
from server.engine.revocations import Revocations
from server.engine.sign_ins import Challenge, Place, Proof, SignedIn, SignIns
from server.engine.sign_up_policy import SignUpPolicy
from server.engine.sign_ups import ANYWHERE
from server.engine.text import LABEL, address, email_key, line, refuse
from server.engine.throttle import Attempts
from server.engine.tokens import WORD, digest, new_id, new_token
from server.engine.words import Purpose, Words
from server.errors import Unauthenticated
from server.store.accounts import NewAccount, StoredAccount, proved
from server.store.deeds import Deed, Deeds
from server.store.words import NewWord, StoredWord

CODE = timedelta(minutes=10)
"""How long a code is good."""
DIGITS = 8
ATTEMPTS = 5
"""Tries at one code."""


@dataclass(frozen=True, slots=True)
class Requested:
    """A code is under way, perhaps: `token` is what it is good with, until `expire_time`."""

    token: str
    expire_time: datetime


class MailCodes:
    """Mails codes and takes them. Whoever is admitted to sign up and has no account gets one with the first code: its
    address is proved by it."""

    def __init__(
        self,
        policy: SignUpPolicy,
        deeds: Deeds,
        words: Words,
        post: Post,
        letters: Letters,
        attempts: Attempts,
        revocations: Revocations,
        sign_ins: SignIns,
        audit: Audit,
    ) -> None:
        self._policy = policy
        self._deeds = deeds
        self._words = words
        self._post = post
        self._letters = letters
        self._attempts = attempts
        self._revocations = revocations
        self._sign_ins = sign_ins
        self._audit = audit

    async def request(self, email: str, address_of_call: str = "") -> Requested:
        """Mails a code to the address, unless it may not sign in here, or there were too many within an hour.

        The same answer after the same work for every address. Raises Invalid where it is none.
        """
        email = email.strip()
        key = email_key(email)
        refuse(address(email, key))
        assert key is not None  # else it was refused
        token, code = new_token(WORD), f"{secrets.randbelow(10**DIGITS):0{DIGITS}}"
        async with self._deeds.begin() as deed:
            if not await self._post.room(deed, key, Purpose.CODE, address_of_call):
                return Requested(token, datetime.now(UTC) + CODE)
            account = await deed.by_email(key)
            known = account is not None and not account.closed
            may = known if account is not None else self._policy.admits(key)
            user = account.id if account is not None and known else None
            to = (account.email if account else None) or email
            told = {"code": _hashed(token, code), "network": network(address_of_call)}
            ends = await deed.keep(NewWord(digest(token), Purpose.CODE, CODE, user, email, key, told))
            shown = f"{code[:4]} {code[4:]}"
            await self._post.queue(deed, to, self._letters.code(shown, CODE), withheld=not may)
        return Requested(token, ends)

    async def sign_in(
        self, token: str, code: str, *, display_name: str = "", place: Place = ANYWHERE
    ) -> SignedIn | Challenge:
        """Signs in who got `code`, which was asked for with the answer `token`; to a new account with this name to show
        where there is none and the policy admits it.

        An account whose address nobody had proved is the caller's from now on: what signed in to it before, its
        password, passkeys, accounts elsewhere and sessions, may be a stranger's and is removed. Raises Unauthenticated
        (WRONG_CODE), alike for a code that is wrong, over, used, or tried 5 times; Exhausted where there were too many
        tries at the address; Invalid.
        """
        refuse(line("display_name", display_name, LABEL), line("device", place.device, LABEL))
        digits = "".join(code.split()).replace("-", "")
        live = await self._words.live(token, Purpose.CODE)
        if live is None:
            raise await self._wrong(None, place)
        await self._attempts.check("code", live.email_key, place.address)
        word = await self._words.attempt(token, Purpose.CODE, ATTEMPTS)
        if word is None or not hmac.compare_digest(word.details["code"], _hashed(token, digits)):
            await self._attempts.failed("code", live.email_key, place.address)
            raise await self._wrong(word, place)
        await self._attempts.succeeded("code", live.email_key, place.address)
        async with self._deeds.begin() as deed:
            used = await deed.use(digest(token), Purpose.CODE)
            if used is None:  # another call was faster
                raise await self._wrong(word, place)
            await deed.hold(used.email_key)
            account = await deed.by_email(used.email_key)
            user, ended, claimed = await self._signed_in(deed, used, account, display_name, place)
        if claimed:
            await self._revocations.ended(ended)
            await self._revocations.refresh(user)
        # The address may be given up at this very moment.
        return await self._sign_ins.finish(user, Proof.CODE, place, still=proved(user, used.email_key))

    async def _signed_in(
        self, deed: Deed, used: StoredWord, account: StoredAccount | None, display_name: str, place: Place
    ) -> tuple[str, list[bytes], bool]:
        """The id of the account, made where there is none; the sessions that ended, and whether it was claimed."""
        if account is None:
            self._policy.admit(used.email_key)
            made = NewAccount(new_id(), used.email, used.email_key, display_name, None, verified=True)
            await deed.create(made)
            name = f"users/{made.id}"
            details = {"proof": Proof.CODE.value}
            await deed.also([self._audit.statement("sign_up", actor=name, target=name, details=details)])
            return made.id, [], False
        if account.verified or account.closed:
            return account.id, [], False
        await deed.by_id(account.id)  # nobody signs in to it meanwhile
        await claim(deed, account.id, place.address)
        ended = [*await deed.end_sessions(account.id)]
        await self._revocations.ending(ended)
        await deed.also([self._audit.statement("claimed", target=f"users/{account.id}")])
        return account.id, ended, True

    async def _wrong(self, word: StoredWord | None, place: Place) -> Unauthenticated:
        """The refusal; it is noted where an account was tried. Else strangers could fill the log with what they make up."""
        if word is not None and word.user_id:
            await self._audit.note(
                "sign_in",
                target=f"users/{word.user_id}",
                outcome="WRONG_CODE",
                details={"proof": Proof.CODE.value},
                address=place.address,
                device=place.device,
            )
        return Unauthenticated("The code is wrong, or over; ask for another.", reason="WRONG_CODE")


def _hashed(token: str, code: str) -> str:
    """What is kept of a code: without the token, of which only a hash is kept, it cannot be found by trying all."""
    return hashlib.sha256(f"{token} {code}".encode()).hexdigest()
