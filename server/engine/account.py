"""An account and a session as callers see them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from server.store.accounts import StoredAccount
from server.store.sessions import StoredSession


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who uses the app; `name` is `users/{user}`."""

    name: str
    email: str
    """Empty where it has none: an anonymous account, or one that signs in by other ways."""
    display_name: str
    create_time: datetime
    verified: bool = False
    """Whether the address is proved to be the account's own."""
    anonymous: bool = False
    """Whether nobody can sign in to it until it is upgraded."""
    roles: tuple[str, ...] = ()
    password_set: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """A place where an account is signed in; `current` where it is the one that asks."""

    name: str
    user: str
    device: str
    create_time: datetime
    expire_time: datetime
    current: bool
    seen_time: datetime
    """When it was last heard of, to the minute."""
    proof: str
    """How it was signed in (sign_ins.Proof)."""
    web: bool
    """Whether its token lives in a cookie."""
    address: str
    """Where it was last heard from."""


def account_of(stored: StoredAccount) -> Account:
    """An account as it is kept → as it is shown."""
    return Account(
        name=f"users/{stored.id}",
        email=stored.email or "",
        display_name=stored.display_name,
        create_time=stored.create_time,
        verified=stored.verified,
        anonymous=stored.anonymous,
        roles=tuple(stored.roles),
        password_set=stored.password_hash is not None,
    )


def session_of(stored: StoredSession, current: str) -> Session:
    """A session as it is kept → as it is shown to the session whose id is `current`."""
    return Session(
        f"sessions/{stored.id}",
        f"users/{stored.user_id}",
        stored.device,
        stored.create_time,
        stored.expire_time,
        stored.id == current,
        stored.seen_time,
        stored.proof,
        stored.web,
        stored.address,
    )
