"""Service keys: how programs (internal tools, consumers) call."""

from __future__ import annotations

from collections.abc import Sequence

from server.caller import Caller
from server.engine.audit import Audit
from server.engine.granting import require_scope, require_within
from server.engine.scopes import Scopes
from server.engine.text import line, refuse
from server.engine.tokens import KEY, digest, new_id, new_token
from server.errors import Invalid, NotFound, Violation
from server.store.keys import StoredKey, StoredKeys
from server.store.tokens import Tokens

KEY_MESSAGE = "transom.admin.v1.Key"
"""What scopes call it."""
ROLES = ("service", "admin")
TITLE = 100
"""Characters of a title."""
LISTED = 1000
"""Keys that a list shows at most, the newest."""


class Keys:
    """Makes, shows and ends service keys, for admins, and for operators, who are the system."""

    def __init__(self, keys: StoredKeys, tokens: Tokens, audit: Audit, scopes: Scopes | None = None) -> None:
        """`scopes` are those that there are; without them no key can be limited to some."""
        self._keys = keys
        self._tokens = tokens
        self._audit = audit
        self._scopes = scopes

    async def create(
        self, caller: Caller, title: str, role: str, scopes: Sequence[str] | None = None
    ) -> tuple[StoredKey, str]:
        """A new key and its token, which is nowhere else: only its hash is kept. It may do what its role may, or of that
        what is in `scopes`.

        Raises Invalid, also for scopes that there are not; Denied (BEYOND_SCOPES) where it could do more than the
        caller; and as `require_scope`.
        """
        require_scope(caller, KEY_MESSAGE, "create")
        refuse(
            line("title", title, TITLE) if title else Violation("title", "is required", "REQUIRED"),
            None if role in ROLES else Violation("role", f"is none of {', '.join(ROLES)}"),
        )
        if scopes is not None:
            if self._scopes is None:
                raise Invalid.field("scopes", "cannot be checked without a schema")
            scopes = self._scopes.checked(scopes)
        require_within(caller, None if scopes is None else frozenset(scopes))
        id, token = new_id(), new_token(KEY)
        told = {"title": title, "role": role, "scopes": "everything" if scopes is None else " ".join(scopes)}
        note = self._audit.statement("key_created", actor=caller.name, target=f"keys/{id}", details=told)
        return await self._keys.create(id, digest(token), title, role, scopes, note), token

    async def list(self, caller: Caller) -> Sequence[StoredKey]:
        """The keys there are, newest first, at most LISTED. Raises as `require_scope`."""
        require_scope(caller, KEY_MESSAGE, "list")
        return await self._keys.newest(LISTED)

    async def revoke(self, caller: Caller, name: str) -> None:
        """Ends the key `keys/{key}`, on every server within a second.

        Raises NotFound where there is none; Denied (BEYOND_SCOPES) where it may do more than the caller; and as
        `require_scope`.
        """
        require_scope(caller, KEY_MESSAGE, "revoke")
        id = name.removeprefix("keys/")
        key = await self._keys.one(id) if "\0" not in id else None
        if key is None:
            raise _no_key(name)
        require_within(caller, None if key.scopes is None else frozenset(key.scopes))
        told = {"title": key.title, "role": key.role}
        note = self._audit.statement("key_revoked", actor=caller.name, target=f"keys/{id}", details=told)
        async with self._tokens.ending([key.token_hash]):
            deleted = await self._keys.delete(id, note)
        if not deleted:
            raise _no_key(name)


def _no_key(name: str) -> NotFound:
    return NotFound("There is no such key.", resource=("transom.dev/Key", name))
