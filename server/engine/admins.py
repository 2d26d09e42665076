"""What admins may do with accounts."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from server.caller import Caller
from server.engine import page_tokens
from server.engine.audit import Audit
from server.engine.granting import USER, require_invite, require_scope, require_within, rights
from server.engine.notices import Change as Notice
from server.engine.notices import Notices
from server.engine.revocations import Revocations
from server.engine.scopes import Scopes
from server.engine.sessions import Sessions
from server.engine.sign_ins import SignedIn
from server.engine.sign_ups import SignUps
from server.engine.text import EMAIL, LABEL, line, refuse
from server.errors import Denied, Invalid, NotFound, Precondition, Stale, Violation
from server.store.audit import StoredEntry, Wanted
from server.store.second_factors import StoredSecondFactors
from server.store.users import StoredUser, StoredUsers

AUDIT_ENTRY = "transom.admin.v1.AuditEntry"
"""What scopes call what is noted."""

ROLES = 20
"""Roles of one account."""

CHANGEABLE = ("display_name", "disabled", "roles", "scopes")
"""Fields that admins change."""
GRANTING = frozenset(("roles", "scopes"))
"""Those that give somebody rights."""

_USER = re.compile(r"users/([^/\x00]{1,100})")
_ROLE = re.compile(r"[a-z][a-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class User:
    """An account as admins see it."""

    name: str
    email: str
    verified: bool
    display_name: str
    anonymous: bool
    roles: tuple[str, ...]
    scopes: tuple[str, ...] | None
    disabled_time: datetime | None
    delete_time: datetime | None
    create_time: datetime
    seen_time: datetime | None
    ways: tuple[str, ...]
    etag: str


@dataclass(frozen=True, slots=True)
class Change:
    """What an account is to be, where `paths` name it."""

    paths: frozenset[str]
    display_name: str = ""
    disabled: bool = False
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] | None = None
    etag: str = ""


class Admins:
    """Shows and changes accounts, for callers who may."""

    def __init__(
        self,
        users: StoredUsers,
        sign_ups: SignUps,
        sessions: Sessions,
        revocations: Revocations,
        scopes: Scopes,
        second_factors: StoredSecondFactors,
        notices: Notices,
        audit: Audit,
        *,
        page_size: int = 50,
        page_size_max: int = 1000,
    ) -> None:
        self._users = users
        self._sign_ups = sign_ups
        self._sessions = sessions
        self._revocations = revocations
        self._scopes = scopes
        self._second_factors = second_factors
        self._notices = notices
        self._audit = audit
        self._page_size = page_size
        self._page_size_max = page_size_max

    async def list(
        self, caller: Caller, page_size: int, page_token: str, *, email: str = "", role: str = ""
    ) -> tuple[Sequence[User], str]:
        """A page of the accounts, newest first, and the token of the next page; "" after the last. `email` is a part of
        their addresses. Raises Invalid, and as `require_scope`."""
        require_scope(caller, USER, "list")
        refuse(line("email", email, EMAIL), line("role", role, 100))
        wanted = unicodedata.normalize("NFKC", email.strip()).casefold()
        scope = f"users {wanted} {role}"
        size = page_tokens.size(page_size, self._page_size, self._page_size_max)
        found = await self._users.page(wanted, role, page_tokens.opened(page_token, scope), size + 1)
        shown = found[:size]
        following = page_tokens.sealed((shown[-1].create_time, shown[-1].id), scope) if len(found) > size else ""
        return [_user(stored) for stored in shown], following

    async def get(self, caller: Caller, name: str) -> User:
        """The account with this resource name. Raises NotFound, Invalid, and as `require_scope`."""
        require_scope(caller, USER, "get")
        found = await self._users.one(_id("name", name))
        if found is None:
            raise _no_user(name)
        return _user(found)

    async def update(self, caller: Caller, name: str, change: Change) -> User:
        """Changes an account; effective for its sessions everywhere within the time in which one that is revoked ends.

        Raises NotFound; Invalid; Stale where it is not the one of the etag any more; Precondition (OWN_ACCOUNT) where
        admins would take their own rights; Denied (BEYOND_SCOPES) where the account has, or would get, more than the
        caller; and as `require_scope`.
        """
        for action in ("grant",) * bool(change.paths & GRANTING) + ("update",) * bool(change.paths - GRANTING):
            require_scope(caller, USER, action)
        if not change.paths:
            require_scope(caller, USER, "update")
        id = _id("user.name", name)
        refuse(*_violations(change))
        if change.scopes is not None and "scopes" in change.paths:
            self._scopes.checked(change.scopes, "user.scopes.allowed")
        async with self._users.held(id) as held:
            if held is None:
                raise _no_user(name)
            before = held.user
            if change.etag and change.etag != _etag(before):
                raise Stale("The account was changed since it was read.")
            wanted = _wanted(before, change)
            _check(caller, before, wanted)
            said = _told(before, wanted)
            notes = [
                self._audit.statement(action, actor=caller.name, target=name, details=details)
                for action, details in said.items()
            ]
            if not notes:
                return _user(before)
            # Those of an account that is disabled go with it, whatever dies now: else they would be good again with it.
            ended = await held.end_sessions() if "disabled" in said else []
            if ended:
                await self._revocations.ending(ended)
                told = {"why": "disabled", "sessions": str(len(ended))}
                notes.append(self._audit.statement("sessions_ended", target=name, details=told))
            after = await held.write(
                display_name=wanted.display_name,
                roles=wanted.roles,
                scopes=wanted.scopes,
                disabled=wanted.disabled,
                also=notes,
            )
        await self._revocations.ended(ended)
        await self._revocations.refresh(id)
        return _user(after)

    async def revoke_sessions(self, caller: Caller, name: str) -> int:
        """Ends all sessions of an account; how many it were. Raises NotFound, Invalid, Denied (BEYOND_SCOPES) for that
        of an admin who may do more than the caller, and as `require_scope`."""
        require_scope(caller, USER, "revoke_sessions")
        id = _id("name", name)
        found = await self._users.one(id)
        if found is None:
            raise _no_user(name)
        require_within(caller, rights(found.roles, found.scopes))
        return await self._revocations.end_sessions(id, why="revoked by an admin")

    async def remove_second_factor(self, caller: Caller, name: str) -> None:
        """Removes authenticator app and recovery codes of an account that can show neither any more; its owner is told.

        Raises NotFound; Invalid; Precondition where it has none, or is the caller's own, for which a code is asked; Denied
        (BEYOND_SCOPES) for that of an admin who may do more than the caller; and as `require_scope`.
        """
        require_scope(caller, USER, "update")
        id = _id("name", name)
        found = await self._users.one(id)
        if found is None:
            raise _no_user(name)
        require_within(caller, rights(found.roles, found.scopes))
        if caller.name == name:
            raise Precondition("One's own is removed with a code, by RemoveAuthenticator.", reason="OWN_ACCOUNT")
        note = self._audit.statement("second_factor_removed", actor=caller.name, target=name)
        mail = self._notices.of(Notice.SECOND_FACTOR_REMOVED, found.email, found.verified)
        if not await self._second_factors.remove(id, [note, *mail]):
            raise Precondition("There is no authenticator app.", reason="NOT_ENROLLED")

    async def invite(self, caller: Caller, email: str, roles: Sequence[str]) -> None:
        """Mails an invitation; with it, its reader gets these roles, unless the caller could not give them any more by
        then. Raises as SignUps.invite and `require_invite`."""
        require_invite(caller, roles)
        refuse(_wrong_roles("roles", roles))
        await self._sign_ups.invite(email, roles=sorted(set(roles)), by=caller.name)

    async def impersonate(self, caller: Caller, name: str, reason: str, address: str = "") -> SignedIn:
        """A session in which the caller acts as an account. Raises as Sessions.impersonate and `require_scope`; those
        refused are noted, too."""
        require_scope(caller, USER, "impersonate")
        id = _id("name", name)
        try:
            made = await self._sessions.impersonate(caller, id, reason, address)
        except (Denied, Precondition) as refused:
            await self._audit.note(
                "impersonated", actor=caller.name, target=name, outcome=refused.reason, details={"reason": reason}
            )
            raise
        # The token is worth nothing before it is answered: killed in between, there is a session nobody can use.
        told = {"reason": reason, "session": made.session.name}
        await self._audit.note("impersonated", actor=caller.name, target=name, details=told)
        return made

    async def audit_entries(
        self, caller: Caller, wanted: Wanted, page_size: int, page_token: str
    ) -> tuple[Sequence[StoredEntry], str]:
        """A page of the audit log, the last written first, and the token of the next page; "" after the last. Raises
        Invalid, and as `require_scope`."""
        require_scope(caller, AUDIT_ENTRY, "list")
        refuse(line("actor", wanted.actor, 200), line("target", wanted.target, 200), line("action", wanted.action, 100))
        return await self._audit.list(wanted, page_size, page_token)


@dataclass(frozen=True, slots=True)
class _Wanted:
    display_name: str
    disabled: bool
    roles: tuple[str, ...]
    scopes: tuple[str, ...] | None


def _wanted(before: StoredUser, change: Change) -> _Wanted:
    """What the account is after the change."""
    paths = change.paths
    return _Wanted(
        change.display_name if "display_name" in paths else before.display_name,
        change.disabled if "disabled" in paths else before.disabled_time is not None,
        _sorted(change.roles if "roles" in paths else before.roles),
        _maybe_sorted(change.scopes if "scopes" in paths else before.scopes),
    )


def _check(caller: Caller, before: StoredUser, wanted: _Wanted) -> None:
    """Refuses what would take an admin's own rights, or give somebody more than the caller has."""
    granted = (wanted.roles, wanted.scopes) != (_sorted(before.roles), _maybe_sorted(before.scopes))
    if caller.name == f"users/{before.id}" and (granted or wanted.disabled):
        raise Precondition("Somebody else must change one's own rights.", reason="OWN_ACCOUNT")
    if before.anonymous and wanted.roles:
        raise Precondition("An anonymous account has no roles.", reason="ANONYMOUS")
    require_within(caller, rights(before.roles, before.scopes))
    require_within(caller, rights(wanted.roles, wanted.scopes))


def _told(before: StoredUser, wanted: _Wanted) -> Mapping[str, Mapping[str, str]]:
    """What is noted: actions with their details."""
    told: dict[str, Mapping[str, str]] = {}
    if wanted.display_name != before.display_name:
        told["display_name_changed"] = {}
    if wanted.disabled != (before.disabled_time is not None):
        told["disabled" if wanted.disabled else "enabled"] = {}
    if wanted.roles != _sorted(before.roles):
        told["roles_changed"] = {"from": " ".join(_sorted(before.roles)), "to": " ".join(wanted.roles)}
    if wanted.scopes != _maybe_sorted(before.scopes):
        told["scopes_changed"] = {"from": _said(before.scopes), "to": _said(wanted.scopes)}
    return told


def _said(scopes: Sequence[str] | None) -> str:
    return "everything" if scopes is None else " ".join(sorted(scopes))


def _violations(change: Change) -> list[Violation | None]:
    return [
        line("user.display_name", change.display_name, LABEL) if "display_name" in change.paths else None,
        _wrong_roles("user.roles", change.roles) if "roles" in change.paths else None,
    ]


def _wrong_roles(field: str, roles: Sequence[str]) -> Violation | None:
    if len(roles) > ROLES:
        return Violation(field, f"has {len(roles)} roles, more than {ROLES}", "TOO_MANY")
    if not all(_ROLE.fullmatch(role) for role in roles):
        return Violation(field, "has one that is not 1 to 63 of a-z, 0-9, _ and -, a letter first", "ROLE_INVALID")
    return None


def _sorted(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(texts)))


def _maybe_sorted(texts: Iterable[str] | None) -> tuple[str, ...] | None:
    return None if texts is None else _sorted(texts)


def _id(field: str, name: str) -> str:
    found = _USER.fullmatch(name)
    if found is None:
        raise Invalid.field(field, "is not users/{user}", "NAME_INVALID")
    return found[1]


def _no_user(name: str) -> NotFound:
    return NotFound("There is no such account.", resource=("transom.dev/User", name))


def _user(stored: StoredUser) -> User:
    ways = {"password": stored.password, "passkey": stored.passkey, "identity": stored.identity, "totp": stored.totp}
    return User(
        name=f"users/{stored.id}",
        email=stored.email or "",
        verified=stored.verified,
        display_name=stored.display_name,
        anonymous=stored.anonymous,
        roles=_sorted(stored.roles),
        scopes=_maybe_sorted(stored.scopes),
        disabled_time=stored.disabled_time,
        delete_time=stored.delete_time,
        create_time=stored.create_time,
        seen_time=stored.seen_time,
        ways=tuple(way for way, has in ways.items() if has),
        etag=_etag(stored),
    )


def _etag(stored: StoredUser) -> str:
    told = (
        stored.id,
        stored.email,
        stored.verified,
        stored.display_name,
        _sorted(stored.roles),
        _maybe_sorted(stored.scopes),
        stored.disabled_time is not None,
        stored.delete_time is not None,
    )
    return hashlib.blake2b(repr(told).encode(), digest_size=12).hexdigest()
