"""Passkeys: adding them to an account, signing in with them, taking them away."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from server.caller import Caller, Kind
from server.engine.audit import Audit
from server.engine.callers import require_own, require_recent
from server.engine.ceremonies import (
    Answer,
    Excluded,
    Flaw,
    FlawedAnswer,
    RelyingParty,
    asserted,
    attested,
    creation_options,
    request_options,
)
from server.engine.notices import Change, Notices
from server.engine.revocations import Revocations
from server.engine.sign_ins import Challenge, Place, Proof, SignedIn, SignIns
from server.engine.sign_up_policy import SignUpPolicy
from server.engine.text import line
from server.engine.tokens import new_id
from server.engine.words import Words
from server.errors import AlreadyExists, Invalid, NotFound, Precondition, Refusal, Unauthenticated
from server.store.accounts import StoredAccounts
from server.store.passkeys import PER_ACCOUNT, NewPasskey, NotAdded, NotDeleted, StoredPasskey, StoredPasskeys, still
from server.store.pooled import Statement

TITLE = 100
"""Characters of a title."""
DEVICE = 100
"""Characters of a device's name."""
LIFETIME = timedelta(minutes=5)
"""How long a challenge is good."""

_REGISTER, _SIGN_IN = "passkey_register", "passkey_sign_in"
_PASSKEY = re.compile(r"passkeys/[^/\x00]+")
_MILLISECONDS = int(LIFETIME.total_seconds() * 1000)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the browser is to be asked, as JSON has it, and until when the answer is taken."""

    options: dict[str, Any]
    expire_time: datetime


class Passkeys:
    """What callers may do with passkeys. `rotate` gives the session that calls a new token."""

    def __init__(
        self,
        passkeys: StoredPasskeys,
        accounts: StoredAccounts,
        words: Words,
        sign_ins: SignIns,
        revocations: Revocations,
        rotate: Callable[[Caller], Awaitable[str]],
        audit: Audit,
        notices: Notices,
        party: RelyingParty,
        policy: SignUpPolicy,
    ) -> None:
        self._passkeys = passkeys
        self._accounts = accounts
        self._words = words
        self._sign_ins = sign_ins
        self._revocations = revocations
        self._rotate = rotate
        self._audit = audit
        self._notices = notices
        self._party = party
        self._policy = policy

    async def begin_registration(self, caller: Caller) -> Asked:
        """What to ask for a new passkey of the caller's account.

        Raises Unauthenticated, Precondition where the caller may not or has as many as there may be; Denied where the
        account is anonymous and the sign-up policy admits nobody without an address.
        """
        user = self._registrant(caller)
        account = await self._accounts.by_id(user)
        if account is None:
            raise _gone()
        there = await self._passkeys.of_user(user)
        if len(there) >= PER_ACCOUNT:
            raise _full()
        challenge, expire = await self._words.make(_REGISTER, LIFETIME, user=user)
        options = creation_options(
            self._party,
            challenge.encode(),
            user.encode(),
            account.email or account.display_name or self._party.name,
            account.display_name,
            [Excluded(passkey.credential_id, passkey.transports) for passkey in there],
            _MILLISECONDS,
        )
        return Asked(options, expire)

    async def finish_registration(
        self, caller: Caller, credential: Mapping[str, Any], title: str
    ) -> tuple[StoredPasskey, str]:
        """Adds the passkey that was made. With it comes the new token of the session, where the account was anonymous
        until now; else "".

        Raises as begin_registration; Invalid where the credential is not in order, Precondition (CHALLENGE_INVALID)
        where its challenge is not, or no longer, one of this account's, AlreadyExists where it is registered.
        """
        user = self._registrant(caller)
        _refuse_title("title", title)
        try:
            answer = Answer.to_registration(credential)
            challenge = await self._used(answer, _REGISTER)
            if challenge is None or challenge != user:
                raise Precondition("The challenge is over; begin again.", reason="CHALLENGE_INVALID")
            made = attested(self._party, answer, answer.challenge)
        except FlawedAnswer as wrong:
            raise Invalid.field("credential", _WORDS[wrong.flaw], "PASSKEY_INVALID") from None
        new = NewPasskey(
            new_id(),
            made.credential_id,
            made.public_key,
            made.sign_count,
            made.transports,
            made.backup_eligible,
            made.backed_up,
            title,
        )
        also = await self._told("passkey_added", caller, _name(new.id), Change.PASSKEY_ADDED)
        # Callers are remembered for a moment: this one's session may have ended, and nobody may leave a way in behind.
        added = await self._passkeys.add(user, caller.session.partition("/")[2], new, also)
        if added is NotAdded.TAKEN:
            raise AlreadyExists("The passkey is registered.", reason="PASSKEY_TAKEN")
        if added is NotAdded.FULL:
            raise _full()
        if isinstance(added, NotAdded):
            raise _gone()
        passkey, upgraded = added
        if not upgraded:
            return passkey, ""
        await self._revocations.refresh(user)
        return passkey, await self._rotate(caller)

    def _registrant(self, caller: Caller) -> str:
        """The id of the account that may be given a passkey. An anonymous one has nothing to prove itself by, and becomes
        one that can sign in: that is signing up."""
        user = require_own(caller)
        if caller.kind is Kind.ANONYMOUS:
            self._policy.admit("")
        else:
            require_recent(caller)
        return user

    async def begin_sign_in(self) -> Asked:
        """What to ask for a sign-in. For anybody."""
        challenge, expire = await self._words.make(_SIGN_IN, LIFETIME)
        return Asked(request_options(self._party, challenge.encode(), _MILLISECONDS), expire)

    async def finish_sign_in(self, credential: Mapping[str, Any], place: Place) -> SignedIn | Challenge:
        """Signs in to the account of the passkey that was used. No second factor is asked: its user was verified.

        Raises Unauthenticated where the passkey or its answer is not good, Invalid where it is no answer at all.
        """
        wrong_device = line("device", place.device, DEVICE)
        if wrong_device is not None:
            raise Invalid.fields([wrong_device])
        try:
            answer = Answer.to_sign_in(credential)
        except FlawedAnswer as wrong:
            raise Invalid.field("credential", _WORDS[wrong.flaw], "PASSKEY_INVALID") from None
        if await self._used(answer, _SIGN_IN) is None:
            raise Unauthenticated("The challenge is over; begin again.", reason="CHALLENGE_INVALID")
        passkey = await self._passkeys.by_credential(answer.id)
        if passkey is None:
            raise Unauthenticated("There is no such passkey (any more).", reason="PASSKEY_UNKNOWN")
        try:
            told = asserted(
                self._party,
                answer,
                answer.challenge,
                passkey.public_key,
                passkey.user_id.encode(),
                passkey.backup_eligible,
            )
            if not await self._passkeys.used(passkey.credential_id, told.sign_count, told.backed_up):
                raise FlawedAnswer(Flaw.COUNTER)
        except FlawedAnswer as wrong:
            raise await self._refused(passkey, wrong.flaw, place) from None
        # It may be taken from the account at this very moment.
        there = still(passkey.credential_id, passkey.user_id)
        return await self._sign_ins.finish(passkey.user_id, Proof.PASSKEY, place, second_factor_done=True, still=there)

    async def list(self, caller: Caller) -> Sequence[StoredPasskey]:
        """The caller's passkeys, oldest first."""
        return await self._passkeys.of_user(require_own(caller))

    async def rename(self, caller: Caller, name: str, title: str) -> StoredPasskey:
        """Gives a passkey of the caller another title. Raises NotFound where it is none of theirs."""
        user, id = require_own(caller), _id(name, "passkey.name")
        _refuse_title("passkey.title", title)
        renamed = await self._passkeys.rename(id, user, title)
        if renamed is None:
            raise _absent(name)
        return renamed

    async def delete(self, caller: Caller, name: str) -> None:
        """Deletes a passkey of the caller. Raises NotFound where it is none of theirs, Precondition where the account has
        no other way to sign in."""
        user, id = require_own(caller), _id(name, "name")
        require_recent(caller)
        also = await self._told("passkey_removed", caller, name, Change.PASSKEY_REMOVED)
        kept = await self._passkeys.delete(id, user, also)
        if kept is NotDeleted.ABSENT:
            raise _absent(name)
        if kept is NotDeleted.LAST:
            raise Precondition(
                "It is the account's last way to sign in; add another first.", reason="LAST_WAY_TO_SIGN_IN"
            )

    async def _used(self, answer: Answer, purpose: str) -> str | None:
        """Uses up the challenge that was answered: the account it was given to ("" for nobody's); None where it is not,
        or no longer, good."""
        try:
            word = await self._words.use(answer.challenge.decode("ascii"), purpose)
        except UnicodeDecodeError:
            return None
        return None if word is None else word.user_id or ""

    async def _told(self, action: str, caller: Caller, passkey: str, change: Change) -> Sequence[Statement]:
        """What goes with a change of an account's passkeys: a note of it, and a mail to its owner."""
        account = await self._accounts.by_id(caller.id)
        if account is None:
            raise _gone()
        note = self._audit.statement(action, target=caller.name, details={"passkey": passkey})
        return [note, *self._notices.of(change, account.email, account.verified)]

    async def _refused(self, passkey: StoredPasskey, flaw: Flaw, place: Place) -> Refusal:
        """The refusal of a sign-in with a passkey that there is, once it is noted."""
        user = f"users/{passkey.user_id}"
        details = {"proof": Proof.PASSKEY.value, "passkey": _name(passkey.id), "flaw": flaw.value}
        await self._audit.note(
            "sign_in",
            target=user,
            outcome="PASSKEY_INVALID",
            details=details,
            address=place.address,
            device=place.device,
        )
        return Unauthenticated(
            f"The passkey was not accepted: it {_WORDS[flaw]}.", reason="PASSKEY_INVALID", metadata={"flaw": flaw.value}
        )


_WORDS = {
    Flaw.SHAPE: "is no credential as WebAuthn has it",
    Flaw.ORIGIN: "was used on a page of another origin",
    Flaw.EMBEDDED: "was used on a page that another site had embedded",
    Flaw.DOMAIN: "was made for another domain",
    Flaw.NOT_VERIFIED: "did not verify its user",
    Flaw.OWNER: "says another account than its own",
    Flaw.BACKUP: "has changed whether it may be copied",
    Flaw.SIGNATURE: "has a wrong signature",
    Flaw.COUNTER: "was used elsewhere, as a copy would be",
}


def _refuse_title(field: str, title: str) -> None:
    wrong = line(field, title, TITLE)
    if wrong is not None:
        raise Invalid.fields([wrong])


def _name(id: str) -> str:
    return f"passkeys/{id}"


def _id(name: str, field: str) -> str:
    if not _PASSKEY.fullmatch(name):
        raise Invalid.field(field, "is not passkeys/{passkey}", "NAME_INVALID")
    return name.partition("/")[2]


def _absent(name: str) -> NotFound:
    return NotFound("You have no such passkey.", resource=("transom.dev/Passkey", name))


def _full() -> Precondition:
    return Precondition(
        f"The account has {PER_ACCOUNT} passkeys; remove one first.",
        reason="TOO_MANY_PASSKEYS",
        metadata={"most": str(PER_ACCOUNT)},
    )


def _gone() -> Unauthenticated:
    return Unauthenticated("The session is over; sign in again.", reason="TOKEN_INVALID")
