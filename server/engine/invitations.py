"""What an invitation gives, once somebody uses it: roles only while their giver could still give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from server.caller import OPERATOR, SYSTEM, Caller, Kind
from server.engine.audit import Audit
from server.engine.granting import require_invite
from server.errors import Denied
from server.store.deeds import Deed
from server.store.words import StoredWord

_OURS = {caller.name: caller for caller in (SYSTEM, OPERATOR)}


def promised(roles: Sequence[str], by: str) -> Mapping[str, Any]:
    """What the word of an invitation is kept with; `by` is the name of who invites."""
    return {"roles": list(roles), "by": by}


async def roles_of(deed: Deed, word: StoredWord, user: str, audit: Audit) -> tuple[str, ...]:
    """The roles that the account `user` gets with this invitation, which the deed uses.

    None where who sent it is no admin any more, or may not give such roles: who loses that right leaves nobody behind
    who has it. The invitation admits all the same, and the audit log says what was withheld.
    """
    roles = tuple(word.details.get("roles", ()))
    if not roles:
        return ()
    by = str(word.details.get("by", ""))
    try:
        require_invite(await _inviter(deed, by), roles)
    except Denied as refused:
        told = {"roles": " ".join(roles), "inviter": by}
        await deed.also(
            [audit.statement("roles_withheld", target=f"users/{user}", outcome=refused.reason, details=told)]
        )
        return ()
    return roles


async def _inviter(deed: Deed, name: str) -> Caller:
    """Who sent it, as they are now; somebody without roles where they are gone."""
    if name in _OURS:
        return _OURS[name]
    found = await deed.rights(name)
    if found is None:
        return Caller(kind=Kind.USER, name=name)
    scopes = None if found.scopes is None else frozenset(found.scopes)
    return Caller(kind=Kind.USER, name=name, roles=frozenset(found.roles), scopes=scopes)
