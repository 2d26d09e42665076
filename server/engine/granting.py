"""Who may administrate, and that nobody gives away what they have not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from server.caller import ADMIN, Caller, Kind
from server.errors import Denied, Unauthenticated

USER = "transom.admin.v1.User"
"""What scopes call accounts."""

Rights = frozenset[str] | None
"""Scopes, `<what>:<action>`, either of which may be `*`; None: everything."""


def require_scope(caller: Caller, resource: str, action: str) -> None:
    """Lets admins pass, and the system, who may do `action` with resources of this message.

    Raises Unauthenticated for nobody; Denied for who is no admin (ADMIN_REQUIRED), for a session in which one acts as
    somebody else (IMPERSONATED), and where the scope is missing (SCOPE_REQUIRED).
    """
    if not caller.known:
        raise Unauthenticated("Sign in first.")
    if caller.impersonator:
        raise Denied("Who acts as somebody else may not do this.", reason="IMPERSONATED")
    if caller.kind is not Kind.SYSTEM and ADMIN not in caller.roles:
        raise Denied("This is for admins.", reason="ADMIN_REQUIRED")
    if not caller.in_scope(resource, action):
        scope = f"{resource}:{action}"
        raise Denied(f"This needs the scope {scope}.", reason="SCOPE_REQUIRED", metadata={"scope": scope})


def require_invite(caller: Caller, roles: Sequence[str]) -> None:
    """Lets those pass who may invite people and give them these roles. Raises Denied (BEYOND_SCOPES) where that would
    make an admin who may do more than the caller, and as `require_scope`."""
    require_scope(caller, USER, "invite")
    if roles:
        require_scope(caller, USER, "grant")
    require_within(caller, rights(roles, None))


def rights(roles: Iterable[str], scopes: Sequence[str] | None) -> Rights:
    """What an account with these may do as an admin."""
    if ADMIN not in roles:
        return frozenset()
    return None if scopes is None else frozenset(scopes)


def require_within(caller: Caller, given: Rights) -> None:
    """Raises Denied (BEYOND_SCOPES) where `given` is more than the caller has."""
    if not within(given, caller.scopes):
        raise Denied("That is more than the caller may do.", reason="BEYOND_SCOPES")


def within(given: Rights, had: Rights) -> bool:
    """Whether each of the scopes `given` is among those `had`, or narrower than one of them."""
    if had is None:
        return True
    if given is None:
        return False
    return all(any(_covers(wide, narrow) for wide in had) for narrow in given)


def _covers(wide: str, narrow: str) -> bool:
    (what, _, action), (narrow_what, _, narrow_action) = wide.partition(":"), narrow.partition(":")
    return what in ("*", narrow_what) and action in ("*", narrow_action)
