"""The second factor: an authenticator app, and recovery codes for when it is lost."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime

from server.caller import Caller, Kind
from server.engine.audit import Audit
from server.engine.authenticators import (
    digits,
    fresh_recovery_codes,
    fresh_secret,
    recovery_hash,
    step_of,
    uri,
)
from server.engine.callers import require_own, require_recent
from server.engine.notices import Change, Notices
from server.engine.sealing import Seal
from server.engine.sign_ins import Place, SignedIn, SignIns
from server.engine.throttle import Attempts
from server.errors import Invalid, Precondition, Unauthenticated, Violation
from server.store.pooled import Statement
from server.store.second_factors import NotDone, StoredSecondFactor, StoredSecondFactors

PURPOSE = "authenticators"
"""What the seal of secrets is for."""

APP, RECOVERY = "totp", "recovery_code"
RECOVERY_CODE_MOST = 100
"""Characters of a recovery code as it is typed."""


@dataclass(frozen=True, slots=True)
class SecondFactor:
    """What an account's second factor is."""

    pending: bool
    """An app was begun with and not confirmed."""
    confirm_time: datetime | None
    """Since when sign-ins ask for it; None where they do not."""
    recovery_codes_left: int


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What an app needs to know. It is shown once."""

    secret: str
    uri: str


@dataclass(frozen=True, slots=True)
class Given:
    """What somebody typed: a code of the app or a recovery code, or neither."""

    code: str = ""
    recovery_code: str = ""

    def __post_init__(self) -> None:
        """Raises Invalid where both are given, or what cannot be one."""
        if self.code and self.recovery_code:
            raise Invalid.field("recovery_code", "is given beside a code", "AMBIGUOUS")
        if self.code and digits(self.code) is None:
            raise Invalid.field("code", "is not 6 digits", "CODE_INVALID")
        if len(self.recovery_code) > RECOVERY_CODE_MOST:
            raise Invalid.field("recovery_code", f"is longer than {RECOVERY_CODE_MOST} characters", "TOO_LONG")

    @property
    def there(self) -> bool:
        return bool(self.code or self.recovery_code)

    @property
    def method(self) -> str:
        return RECOVERY if self.recovery_code else APP


class SecondFactors:
    """What callers may do with second factors.

    Wrong codes of an app are counted for each account (`attempts`); recovery codes have 80 bits, which nobody tries out,
    so that the owner always gets in with one, however many try the app's.
    """

    def __init__(
        self,
        stored: StoredSecondFactors,
        sign_ins: SignIns,
        rotate: Callable[[Caller], Awaitable[str]],
        attempts: Attempts,
        audit: Audit,
        notices: Notices,
        seal: Seal,
        *,
        issuer: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._stored = stored
        self._sign_ins = sign_ins
        self._rotate = rotate
        self._attempts = attempts
        self._audit = audit
        self._notices = notices
        self._seal = seal
        self._issuer = issuer
        self._clock = clock

    async def get(self, caller: Caller) -> SecondFactor:
        """The caller's own."""
        found = await self._one(require_own(caller))
        active = found.confirm_time is not None
        return SecondFactor(found.secret is not None and not active, found.confirm_time, found.codes)

    async def enroll(self, caller: Caller) -> Enrolment:
        """A new secret, which counts once a code of it is confirmed.

        Raises Precondition where an app is confirmed already, or the installation cannot seal secrets.
        """
        user = _registered(caller)
        require_recent(caller)
        found = await self._one(user)
        secret = fresh_secret()
        if not await self._stored.enroll(user, self._seal.seal(secret.encode(), user)):
            raise Precondition("There is an authenticator app; remove it first.", reason="ALREADY_ENROLLED")
        return Enrolment(secret, uri(secret, found.email or caller.name, self._issuer))

    async def confirm(self, caller: Caller, code: str, address: str = "") -> tuple[list[str], str]:
        """Makes the app count that shows `code`: its recovery codes, and the new token of the caller's session.

        Raises Invalid for a wrong code, Precondition where nothing is to be confirmed, Exhausted after too many.
        """
        user = _registered(caller)
        require_recent(caller)
        given = Given(code=code)
        if not given.there:
            raise Invalid.field("code", "is required", "REQUIRED")
        found = await self._one(user)
        if found.secret is None or found.confirm_time is not None:
            raise _not_enrolling()
        secret, codes = found.secret, fresh_recovery_codes()
        hashes = [recovery_hash(user, fresh) for fresh in codes]
        also = self._told("second_factor_added", found, Change.SECOND_FACTOR_ADDED)

        async def take(step: int) -> bool:
            refused = await self._stored.confirm(user, _session(caller), secret, step, hashes, also)
            if refused is NotDone.OVER:
                raise _over()
            return refused is None

        if not await self._judged(user, secret, given, address, take):
            raise _wrong_field(given)
        return codes, await self._rotate(caller)

    async def remove(self, caller: Caller, given: Given, address: str = "") -> None:
        """Removes app and recovery codes. Raises Invalid for a wrong code, Exhausted after too many of the app's."""
        user = _registered(caller)
        await self._proved(caller, user, given, address)
        also = self._told("second_factor_removed", await self._one(user), Change.SECOND_FACTOR_REMOVED)
        await self._stored.remove(user, also)

    async def regenerate(self, caller: Caller, given: Given, address: str = "") -> list[str]:
        """New recovery codes in place of the old ones. Raises as `remove`; Precondition where there is no app."""
        user = _registered(caller)
        await self._proved(caller, user, given, address)
        codes = fresh_recovery_codes()
        also = self._told("recovery_codes_made", await self._one(user), Change.RECOVERY_CODES_MADE)
        hashes = [recovery_hash(user, code) for code in codes]
        refused = await self._stored.replace_codes(user, _session(caller), hashes, also)
        if refused is NotDone.OVER:
            raise _over()
        if refused is not None:
            raise Precondition("There is no confirmed authenticator app.", reason="NOT_ENROLLED")
        return codes

    async def sign_in(
        self, challenge: str, given: Given, address: str, admit: Callable[[Place], None]
    ) -> tuple[SignedIn, Place]:
        """Finishes the sign-in that was answered with `challenge`; with it, where it was asked for. `admit` raises where
        no session may live there: then the code stays good.

        Raises Unauthenticated where the challenge is over or the code wrong, Exhausted after too many wrong codes of the
        account's app.
        """
        _refuse(
            None if challenge else Violation("challenge_token", "is required", "REQUIRED"),
            None if given.there else Violation("code", "is required, or a recovery code", "REQUIRED"),
        )
        user, proof, place = await self._sign_ins.resume(challenge)
        place = replace(place, address=address or place.address)
        admit(place)
        if not await self._right(user, given, place.address):
            await self._audit.note(
                "sign_in",
                target=f"users/{user}",
                outcome="WRONG_CODE",
                details={"proof": proof.value, "second_factor": given.method},
                address=place.address,
                device=place.device,
            )
            raise Unauthenticated("The code is wrong, or was used.", reason="WRONG_CODE")
        return await self._sign_ins.meet(challenge, user, proof, place), place

    async def _one(self, user: str) -> StoredSecondFactor:
        found = await self._stored.one(user)
        if found is None:
            raise Unauthenticated("The account is gone.", reason="TOKEN_INVALID")
        return found

    async def _proved(self, caller: Caller, user: str, given: Given, address: str) -> None:
        if not given.there:
            require_recent(caller)
        elif not await self._right(user, given, address):
            raise _wrong_field(given)

    async def _right(self, user: str, given: Given, address: str) -> bool:
        """Whether what was given is good; from now on it is not."""
        found = await self._one(user)
        if given.recovery_code:
            also = self._told("recovery_code_used", found, Change.RECOVERY_CODE_USED)
            return await self._stored.take_code(user, recovery_hash(user, given.recovery_code), also)
        if found.secret is None or found.confirm_time is None:
            return False
        secret = found.secret

        async def take(step: int) -> bool:
            return await self._stored.take_step(user, secret, step)

        if not await self._judged(user, secret, given, address, take):
            return False
        if self._seal.outdated(secret):
            await self._stored.reseal(user, secret, self._seal.seal(self._seal.open(secret, user), user))
        return True

    def _told(self, action: str, of: StoredSecondFactor, change: Change) -> list[Statement]:
        """What goes with a change of an account's second factor: a note of it, and a mail to its owner."""
        name = f"users/{of.user_id}"
        note = self._audit.statement(action, actor=name, target=name)
        return [note, *self._notices.of(change, of.email, of.verified)]

    async def _judged(
        self, user: str, secret: bytes, given: Given, address: str, take: Callable[[int], Awaitable[bool]]
    ) -> bool:
        """Whether the code is one of the app's that counts now, and `take` took its step. Wrong ones are counted."""
        await self._attempts.check(APP, user, address)
        try:
            plain = self._seal.open(secret, user).decode()
            step = step_of(plain, digits(given.code) or "", self._clock())
            right = step is not None and await take(step)
        except Exception:
            await self._attempts.released(APP, user, address)
            raise
        await (self._attempts.succeeded if right else self._attempts.failed)(APP, user, address)
        return right


def methods_of(stored: StoredSecondFactors) -> Callable[[str], Awaitable[tuple[str, ...]]]:
    """What tells which second factors an account has confirmed, by its id: none, or the app, and recovery codes where some
    are left. One statement."""

    async def methods(user: str) -> tuple[str, ...]:
        app, codes = await stored.methods(user)
        return (APP, *((RECOVERY,) if codes else ())) if app else ()

    return methods


def _registered(caller: Caller) -> str:
    """The id of the account that calls. One that nobody can sign in to needs no second factor."""
    user = require_own(caller)
    if caller.kind is Kind.ANONYMOUS:
        raise Precondition("Upgrade the anonymous account first.", reason="ANONYMOUS_ACCOUNT")
    return user


def _session(caller: Caller) -> str:
    return caller.session.partition("/")[2]


def _over() -> Unauthenticated:
    """Callers are remembered for a moment: the session of one may have ended."""
    return Unauthenticated("The session is over; sign in again.", reason="TOKEN_INVALID")


def _refuse(*violations: Violation | None) -> None:
    found = [violation for violation in violations if violation is not None]
    if found:
        raise Invalid.fields(found)


def _wrong_field(given: Given) -> Invalid:
    return Invalid.field("recovery_code" if given.recovery_code else "code", "is wrong, or was used", "WRONG_CODE")


def _not_enrolling() -> Precondition:
    return Precondition("No authenticator app is to be confirmed; begin with one.", reason="NOT_ENROLLING")
