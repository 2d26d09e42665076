"""What a caller must be before it may do something with its account."""

from __future__ import annotations

import time

from server.caller import Caller
from server.errors import Denied, Precondition, Unauthenticated

RECENT = 900.0
"""Seconds after signing in, or proving again who one is, in which ways to sign in may be changed."""


def require_account(caller: Caller) -> str:
    """The id of the account that calls, also where an admin acts as it.

    Raises Unauthenticated for nobody, Precondition for a key, which has no account.
    """
    if caller.account:
        return caller.id
    if not caller.known:
        raise Unauthenticated("Sign in first.")
    raise Precondition("This is for accounts; the caller is not one.", reason="NOT_AN_ACCOUNT")


def require_own(caller: Caller) -> str:
    """As `require_account`, where the account itself must call: for all that changes how it signs in, ends it or hands
    it out. Raises Denied (IMPERSONATED) where an admin acts as it."""
    user = require_account(caller)
    if caller.impersonator:
        raise Denied("Who acts as somebody else may not do this.", reason="IMPERSONATED")
    return user


def require_recent(caller: Caller) -> None:
    """Raises Precondition (SIGN_IN_AGAIN) where the session proved who it is longer than RECENT seconds ago: whoever
    finds a phone unlocked must not be able to keep the account."""
    if caller.session_time < time.time() - RECENT:
        raise Precondition("Sign in again first: this session is too old for it.", reason="SIGN_IN_AGAIN")
