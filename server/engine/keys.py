"""Service keys: how programs (internal tools, consumers) call."""

from __future__ import annotations

from collections.abc import Sequence

from server.engine.scopes import Scopes
from server.caller import Caller
from server.engine.audit import Audit
from server.engine.scopes import require_scope, require_within, wrong_scopes
from server.engine.text import line, refuse
from server.engine.tokens import KEY, digest, new_id, new_token
from server.errors import NotFound, Violation
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
    """Makes, shows and ends service keys. For operators: who may is decided by who reaches the database."""

    def __init__(self, keys: StoredKeys, tokens: Tokens, scopes: Scopes | None = None) -> None:
        """`scopes` are those that there are; without them no key can be limited to some."""
        self._keys = keys
        self._tokens = tokens
        self._scopes = scopes

    async def create(self, title: str, role: str, scopes: Sequence[str] | None = None) -> tuple[StoredKey, str]:
        """A new key and its token, which is nowhere else: only its hash is kept. It may do what its role may, or of that
        what is in `scopes`.

        Raises Invalid, also for scopes that there are not.
        """
        if not title:
            raise Invalid.field("title", "is required", "REQUIRED")
        wrong = line("title", title, TITLE)
        if wrong is not None:
            raise Invalid.fields([wrong])
        if role not in ROLES:
            raise Invalid.field("role", f"is none of {', '.join(ROLES)}")
        if scopes is not None:
            if self._scopes is None:
                raise Invalid.field("scopes", "cannot be checked without a schema")
            scopes = self._scopes.checked(scopes)
        token = new_token(KEY)
        return await self._keys.create(new_id(), digest(token), title, role, scopes), token

    async def list(self) -> Sequence[StoredKey]:
        """The keys there are, newest first, at most LISTED."""
        return await self._keys.newest(LISTED)

    async def revoke(self, name: str) -> None:
        """Ends the key `keys/{key}`, on every server within a second. Raises NotFound where there is none."""
        id = name.removeprefix("keys/")
        key = await self._keys.one(id) if "\0" not in id else None
        if key is None:
            raise NotFound("There is no such key.", resource=("transom.dev/Key", name))
        async with self._tokens.ending([key.token_hash]):
            await self._keys.delete(id)
