"""Service keys: how programs (internal tools, consumers) call."""

from __future__ import annotations

from collections.abc import Sequence

from server.engine.text import line
from server.engine.tokens import KEY, digest, new_id, new_token
from server.errors import Invalid, NotFound
from server.store.keys import StoredKey, StoredKeys
from server.store.tokens import Tokens

ROLES = ("service", "admin")
TITLE = 100
"""Characters of a title."""
LISTED = 1000
"""Keys that a list shows at most, the newest."""


class Keys:
    """Makes, shows and ends service keys. For operators: who may is decided by who reaches the database."""

    def __init__(self, keys: StoredKeys, tokens: Tokens) -> None:
        self._keys = keys
        self._tokens = tokens

    async def create(self, title: str, role: str) -> tuple[StoredKey, str]:
        """A new key and its token, which is nowhere else: only its hash is kept."""
        if not title:
            raise Invalid.field("title", "is required", "REQUIRED")
        wrong = line("title", title, TITLE)
        if wrong is not None:
            raise Invalid.fields([wrong])
        if role not in ROLES:
            raise Invalid.field("role", f"is none of {', '.join(ROLES)}")
        token = new_token(KEY)
        return await self._keys.create(new_id(), digest(token), title, role), token

    async def list(self) -> Sequence[StoredKey]:
        """The keys there are, newest first, at most LISTED."""
        return await self._keys.newest(LISTED)

    async def revoke(self, name: str) -> None:
        """Ends the key `keys/{key}`, everywhere within 5 seconds. Raises NotFound where there is none."""
        id = name.removeprefix("keys/")
        key = await self._keys.one(id) if "\0" not in id else None
        if key is None:
            raise NotFound("There is no such key.", resource=("transom.dev/Key", name))
        async with self._tokens.ending([key.token_hash]):
            await self._keys.delete(id)
