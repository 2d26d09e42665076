"""Where every way to sign in ends: with a session, or with the second factor to ask for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from server.engine.account import Account, Session, account_of, session_of
from server.engine.authentication import Authentication
from server.engine.lifetimes import Lifetimes
from server.engine.tokens import SESSION, WORD, digest, new_id, new_token
from server.engine.words import Purpose, Words
from server.errors import Unauthenticated
from server.store.accounts import StoredAccount, StoredAccounts
from server.store.pooled import Statement
from server.store.sessions import NewSession, StoredSessions
from server.store.tokens import Tokens
from server.store.words import NewWord, using

CHALLENGE = timedelta(minutes=10)
"""How long a second factor is waited for."""
ATTEMPTS = 5
"""Answers to one challenge; then the sign-in begins again."""

SecondFactors = Callable[[str], Awaitable[tuple[str, ...]]]
"""The id of an account → the second factors it has confirmed, none where it has none."""


class Proof(StrEnum):
    """How somebody proved who they are."""

    PASSWORD = "password"  # noqa: S105 - the name of a way
    CODE = "code"
    OIDC = "oidc"
    PASSKEY = "passkey"
    ANONYMOUS = "anonymous"
    RESET = "reset"
    IMPERSONATION = "impersonation"


class Notes(Protocol):
    """The audit log, as signing in needs it (engine/audit.py)."""

    async def note(
        self,
        action: str,
        *,
        actor: str = "",
        target: str = "",
        outcome: str = "ok",
        details: Mapping[str, str] = {},
        address: str = "",
        device: str = "",
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a session will live, as the request says."""

    device: str = ""
    remember: bool = False
    web: bool = False
    """Its token goes into a cookie and not into the answer."""
    address: str = ""
    """Where the request came from."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A new session. The token is nowhere else: only its hash is kept."""

    account: Account
    session: Session
    token: str


@dataclass(frozen=True, slots=True)
class Challenge:
    """A second factor is asked for before there is a session."""

    token: str
    methods: tuple[str, ...]
    """`totp`, `recovery_code`."""
    expire_time: datetime


class SignIns:
    """Ends sign-ins. Who calls it has checked the proof."""

    def __init__(
        self,
        accounts: StoredAccounts,
        sessions: StoredSessions,
        tokens: Tokens,
        authentication: Authentication,
        words: Words,
        second_factors: SecondFactors,
        notes: Notes,
        lifetimes: Lifetimes = Lifetimes(),  # noqa: B008 - frozen
    ) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._tokens = tokens
        self._authentication = authentication
        self._words = words
        self._second_factors = second_factors
        self._notes = notes
        self._lifetimes = lifetimes

    async def finish(
        self,
        user_id: str,
        proof: Proof,
        place: Place,
        *,
        second_factor_done: bool = False,
        password_hash: str | None = None,
        still: Statement | None = None,
    ) -> SignedIn | Challenge:
        """The session of an account that proved itself by `proof`, or the challenge where it has a second factor and
        that is not done. `password_hash` is of the password that was the proof: one that was changed meanwhile, which
        ended all sessions, makes no session any more. So it is with any other proof, where `still` finds no row.

        An account has at most as many sessions as the store allows: one more ends the oldest. Raises Unauthenticated
        (WRONG_CREDENTIALS) where the account is gone or disabled, as for a wrong password.
        """
        account = await self._account(user_id, proof, place)
        methods = () if second_factor_done else await self._second_factors(user_id)
        made = (
            await self._challenge(user_id, proof, place, methods, password_hash, still)
            if methods
            else await self._session(account, proof, place, password_hash, still)
        )
        if made is None:
            raise wrong_credentials()
        return made

    async def meet(self, challenge_token: str, user_id: str, proof: Proof, place: Place) -> SignedIn:
        """The session of an account whose second factor met the challenge, which is used up with it, once: what took the
        challenge back meanwhile, as a new password does, leaves no session.

        Raises Unauthenticated: CHALLENGE_INVALID where it is over, or another call was faster; else as `finish`.
        """
        account = await self._account(user_id, proof, place)
        met = using(digest(challenge_token), Purpose.SECOND_FACTOR)
        made = await self._session(account, proof, place, None, met)
        if made is None:
            raise _over()
        return made

    async def resume(self, challenge_token: str) -> tuple[str, Proof, Place]:
        """The id of the account that a live challenge is about, and how and where it signs in. Counts as an answer.

        Raises Unauthenticated (CHALLENGE_INVALID) where the challenge is over or was answered too often.
        """
        word = await self._words.attempt(challenge_token, Purpose.SECOND_FACTOR, ATTEMPTS)
        if word is None or word.user_id is None:
            raise _over()
        told = word.details
        return word.user_id, Proof(told["proof"]), Place(**told["place"])

    async def _account(self, user_id: str, proof: Proof, place: Place) -> StoredAccount:
        account = await self._accounts.by_id(user_id)
        if account is None or account.closed:
            await self._note(user_id, proof, place, "DISABLED" if account else "GONE")
            raise wrong_credentials()
        return account

    async def _session(
        self, account: StoredAccount, proof: Proof, place: Place, password_hash: str | None, still: Statement | None
    ) -> SignedIn | None:
        token = new_token(SESSION)
        stored, ended = await self._sessions.sign_in(
            account.id, self._new_session(token, proof, place), password_hash, still
        )
        if stored is None:
            return None
        if ended:
            await self._end(ended)
        await self._note(account.id, proof, place, "ok")
        return SignedIn(account_of(account), session_of(stored, stored.id), token)

    async def _challenge(
        self,
        user_id: str,
        proof: Proof,
        place: Place,
        methods: tuple[str, ...],
        password_hash: str | None,
        still: Statement | None,
    ) -> Challenge | None:
        told = {
            "proof": proof.value,
            "place": {
                "device": place.device,
                "remember": place.remember,
                "web": place.web,
                "address": place.address,
            },
        }
        token = new_token(WORD)
        word = NewWord(digest(token), Purpose.SECOND_FACTOR, CHALLENGE, user_id, details=told)
        ends = await self._sessions.challenge(user_id, word, password_hash, still)
        return None if ends is None else Challenge(token, methods, ends)

    def _new_session(self, token: str, proof: Proof, place: Place) -> NewSession:
        # An anonymous account is as good as lost with its session.
        lifetime, idle = self._lifetimes.of(place.remember or proof is Proof.ANONYMOUS)
        return NewSession(
            new_id(),
            digest(token),
            place.device,
            lifetime,
            idle=idle,
            proof=proof,
            web=place.web,
            address=place.address,
        )

    async def _end(self, digests: Sequence[bytes]) -> None:
        """For sessions whose rows are deleted already."""
        async with self._tokens.ending(digests):
            pass
        self._authentication.forget(digests)

    async def _note(self, user_id: str, proof: Proof, place: Place, outcome: str) -> None:
        name = f"users/{user_id}"
        await self._notes.note(
            "sign_in",
            actor=name if outcome == "ok" else "",
            target=name,
            outcome=outcome,
            details={"proof": proof.value},
            address=place.address,
            device=place.device,
        )


def _over() -> Unauthenticated:
    return Unauthenticated("The challenge is over; sign in again.", reason="CHALLENGE_INVALID")


def wrong_credentials() -> Unauthenticated:
    """The one refusal of a sign-in, whatever was wrong."""
    return Unauthenticated("The address or the password is wrong.", reason="WRONG_CREDENTIALS")
