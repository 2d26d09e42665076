"""Accounts elsewhere: signing in with them, joining them to accounts here, parting them again."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import Protocol

from server.caller import Caller, Kind
from server.engine.audit import Audit
from server.engine.authorizations import Authorizations, Brought, Returned, Started
from server.engine.callers import require_own, require_recent
from server.engine.invitations import roles_of
from server.engine.oidc import Claimed
from server.engine.sign_ins import Challenge, Place, Proof, SignedIn, SignIns
from server.engine.sign_up_policy import SignUpPolicy
from server.engine.text import LABEL, line, refuse
from server.engine.tokens import digest, looks_like_word, new_id
from server.engine.words import Purpose
from server.errors import AlreadyExists, Denied, Invalid, NotFound, Precondition, Unauthenticated
from server.store.accounts import NewAccount, StoredAccount
from server.store.identities import PER_ACCOUNT, IdentityDeed, StoredIdentities, StoredIdentity, still
from server.store.words import StoredWord

_IDENTITY = re.compile(r"identities/[a-z2-7]{26}")


class Sessions(Protocol):
    """What sessions must do when what their account may do has changed."""

    async def rotate(self, caller: Caller) -> str:
        """A new token for the session that calls, in place of the one it called with."""


class Revocations(Protocol):
    """What must be told of changes that callers carry along."""

    async def refresh(self, user_id: str) -> object:
        """Looks the callers of this account up anew, everywhere."""


class Identities:
    """What callers may do with accounts elsewhere.

    Who somebody is is the issuer together with its `sub`. An e-mail address
    only ever finds an account that is there where its owner proved it here and
    the issuer gives it out itself; so neither who takes an address before its
    owner comes, nor an issuer that believes what it is told, gets anybody into
    somebody else's account.
    """

    def __init__(
        self,
        authorizations: Authorizations,
        identities: StoredIdentities,
        policy: SignUpPolicy,
        sign_ins: SignIns,
        sessions: Sessions,
        revocations: Revocations,
        audit: Audit,
    ) -> None:
        self._authorizations = authorizations
        self._identities = identities
        self._policy = policy
        self._sign_ins = sign_ins
        self._sessions = sessions
        self._revocations = revocations
        self._audit = audit

    def provider_of(self, identity: StoredIdentity) -> str:
        """The id of its provider; empty where that is not in the settings."""
        return self._authorizations.provider_of(identity.issuer)

    async def start(self, provider: str, redirect_uri: str, login_hint: str) -> Started:
        """As Authorizations.start."""
        return await self._authorizations.start(provider, redirect_uri, login_hint)

    async def sign_in(
        self, given: Brought | Returned, place: Place, *, display_name: str = "", invitation: str = ""
    ) -> SignedIn | Challenge:
        """Signs in who proves to be somebody elsewhere; for the first time to a new account, or to the one that is
        theirs for sure.

        Raises what Authorizations raises; TokenUsed; Precondition (ACCOUNT_EXISTS) where an account has the address and
        may be somebody else's; Denied where the sign-up policy admits no such account.
        """
        refuse(line("display_name", display_name, LABEL), line("device", place.device, LABEL))
        claimed = await self._authorizations.claimed(given)
        # Noted is from here on: who proves to be nobody tried nobody, and could fill the log with made-up tokens.
        try:
            user = await self._account(claimed, display_name, invitation)
        except (Unauthenticated, Precondition, Denied) as refusal:  # not what was malformed
            await self._audit.note(
                "sign_in",
                outcome=refusal.reason,
                details={"proof": Proof.OIDC.value, "provider": _provider(given)} | refusal.metadata,
                address=place.address,
                device=place.device,
            )
            raise
        # The identity may be parted from the account at this very moment, as by a reset that keeps a stranger out.
        linked = still(claimed.issuer, claimed.subject, user)
        return await self._sign_ins.finish(user, Proof.OIDC, place, still=linked)

    async def list(self, caller: Caller) -> Sequence[StoredIdentity]:
        """The caller's identities, oldest first. Raises Unauthenticated for nobody, Precondition for a key."""
        return await self._identities.of_user(require_own(caller))

    async def link(
        self, caller: Caller, given: Brought | Returned, *, invitation: str = ""
    ) -> tuple[StoredIdentity, str]:
        """Joins an account elsewhere to the caller's. With it comes the new token of the session, where the account was
        anonymous until now; else "".

        Raises what Authorizations raises; TokenUsed; AlreadyExists (IDENTITY_TAKEN) where it is joined to another
        account; Precondition where the caller may not, or has as many as there may be; Denied where the account is
        anonymous and the sign-up policy does not admit it.
        """
        user = require_own(caller)
        if caller.kind is not Kind.ANONYMOUS:
            require_recent(caller)
        claimed = await self._authorizations.claimed(given)
        async with self._identities.begin() as deed:
            await deed.spend(claimed.token_hash, claimed.expire)
            await deed.hold_identity(claimed.issuer, claimed.subject)
            there = await deed.seen(claimed.issuer, claimed.subject, claimed.said_email)
            if there is not None and there.user_id != user:
                raise AlreadyExists("It signs in to another account.", reason="IDENTITY_TAKEN")
            if there is not None:
                return there, ""
            if claimed.email_key:
                await deed.hold(claimed.email_key)
            account = await deed.by_id(user)
            # Looked at once more, for a session that has just been ended must not leave a way in behind.
            if account is None or account.closed or not await deed.signed_in(_id(caller.session), user):
                raise Unauthenticated("The session is over; sign in again.", reason="TOKEN_INVALID")
            if account.anonymous:
                word = await self._invited(deed, claimed, invitation)
                self._admit(claimed, word)
                if word is not None:
                    await deed.set_roles(user, await roles_of(deed, word, user, self._audit))
            added = await self._add(deed, claimed, user, "identity_linked")
            proved = await self._prove(deed, claimed, account)
            upgraded = await deed.make_known(user)
        if upgraded:
            return added, await self._sessions.rotate(caller)
        if proved:
            await self._revocations.refresh(user)
        return added, ""

    async def unlink(self, caller: Caller, name: str) -> None:
        """Parts an account elsewhere from the caller's.

        Raises NotFound where it is none of theirs, Precondition (LAST_WAY_TO_SIGN_IN) where nobody could sign in to the
        account without it.
        """
        user = require_own(caller)
        if not _IDENTITY.fullmatch(name):
            raise Invalid.field("name", "is not identities/{identity}", "NAME_INVALID")
        require_recent(caller)
        async with self._identities.begin() as deed:
            await deed.by_id(user)
            found = next((one for one in await deed.of_user(user) if identity_name(one) == name), None)
            if found is None:
                raise NotFound("You have no such identity.", resource=("transom.dev/Identity", name))
            if not await deed.remove(found):
                raise Precondition(
                    "It is the account's last way to sign in; add another first.", reason="LAST_WAY_TO_SIGN_IN"
                )
            # A sign-in by it that waits for the second factor is over, too.
            await deed.drop(user, [Purpose.SECOND_FACTOR])
            note = self._audit.statement("identity_unlinked", target=caller.name, details={"issuer": found.issuer})
            await deed.also([note])

    async def _account(self, claimed: Claimed, display_name: str, invitation: str) -> str:
        """The id of the account that is signed in to: there already, or made now. The token is used up with it."""
        async with self._identities.begin() as deed:
            await deed.spend(claimed.token_hash, claimed.expire)
            there = await deed.seen(claimed.issuer, claimed.subject, claimed.said_email)
            if there is not None:
                return there.user_id
            await deed.hold_identity(claimed.issuer, claimed.subject)
            there = await deed.seen(claimed.issuer, claimed.subject, claimed.said_email)
            if there is not None:  # another call was faster
                return there.user_id
            if claimed.email_key:
                await deed.hold(claimed.email_key)
                account = await deed.by_email(claimed.email_key)
                if account is not None:
                    return await self._join(deed, claimed, account.id)
            return await self._enrol(deed, claimed, display_name, invitation)

    async def _join(self, deed: IdentityDeed, claimed: Claimed, user: str) -> str:
        """Links the identity to the account that has its address, where both sides are sure whose that is: the issuer gives
        it out, and the account's owner proved it here. One side alone is not enough. An address that nobody proved here
        may be that of somebody who waits for its owner to come; one that the issuer only looked at once may belong to
        somebody else by now."""
        account = await deed.by_id(user)
        if (
            account is None
            or account.email_key != claimed.email_key
            or not (account.verified and claimed.authoritative)
        ):
            raise _exists()
        if not account.closed:  # else the sign-in ends as all do there
            await self._add(deed, claimed, user, "identity_linked")
        return user

    async def _enrol(self, deed: IdentityDeed, claimed: Claimed, display_name: str, invitation: str) -> str:
        word = await self._invited(deed, claimed, invitation)
        self._admit(claimed, word)
        # An invitation came by mail: that proves its address.
        email, key = (word.email, word.email_key) if word is not None else (claimed.email, claimed.email_key)
        user = new_id()
        roles = await roles_of(deed, word, user, self._audit) if word is not None else ()
        account = NewAccount(
            user,
            email or None,
            key or None,
            display_name or claimed.name,
            None,
            verified=word is not None or claimed.authoritative,
            roles=roles,
        )
        if not await deed.create(account):
            raise _exists()
        await self._add(deed, claimed, account.id, "sign_up")
        return account.id

    async def _add(self, deed: IdentityDeed, claimed: Claimed, user: str, action: str) -> StoredIdentity:
        added = await deed.add(claimed.issuer, claimed.subject, user, claimed.said_email)
        if added is None:
            raise Precondition(f"The account has {PER_ACCOUNT} identities, the most.", reason="TOO_MANY_IDENTITIES")
        name = f"users/{user}"
        details = {"proof": Proof.OIDC.value, "issuer": claimed.issuer}
        await deed.also([self._audit.statement(action, actor=name, target=name, details=details)])
        return added

    async def _prove(self, deed: IdentityDeed, claimed: Claimed, account: StoredAccount) -> bool:
        """Gives an account without an address that of the identity, where it is free; and takes the issuer's word for that
        which the account has, where the issuer gives it out. Whether callers must hear of it."""
        if not claimed.email_key:
            return False
        if account.email_key is None and await deed.by_email(claimed.email_key) is None:
            await deed.set_address(account.id, claimed.email, claimed.email_key, verified=claimed.authoritative)
            return True
        same = account.email_key == claimed.email_key
        return same and claimed.authoritative and await deed.verify(account.id)

    def _admit(self, claimed: Claimed, word: StoredWord | None) -> None:
        """Raises Denied as SignUpPolicy.admit. Of a domain is who its issuer says is: others have looked at an address
        once, and it may be somebody else's by now."""
        self._policy.admit(claimed.email_key if claimed.authoritative else "", invited=word is not None)

    async def _invited(self, deed: IdentityDeed, claimed: Claimed, invitation: str) -> StoredWord | None:
        """The invitation, used up with the deed; None where there is none. Raises Invalid where it is not good."""
        if not invitation:
            return None
        word = await deed.use(digest(invitation), Purpose.INVITE) if looks_like_word(invitation) else None
        if word is None or claimed.email_key not in ("", word.email_key):
            raise Invalid.field("invitation", "is not, or no longer, good for this address", "INVITATION_INVALID")
        return word


def identity_name(identity: StoredIdentity) -> str:
    """Its resource name: not the subject itself, which is personal, and of any form."""
    hashed = hashlib.sha256(f"{identity.issuer} {identity.subject}".encode()).digest()[:16]
    return f"identities/{base64.b32encode(hashed).decode().rstrip('=').lower()}"


def _exists() -> Precondition:
    return Precondition(
        "An account has this address: sign in to it as before, or reset its password; then link the identity.",
        reason="ACCOUNT_EXISTS",
    )


def _id(name: str) -> str:
    return name.partition("/")[2]


def _provider(given: Brought | Returned) -> str:
    return given.provider if isinstance(given, Brought) else ""
