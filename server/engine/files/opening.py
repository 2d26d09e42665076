"""Who may see a file, and who may change one.

Its owner may; and keys, admins and the system, within their scopes, every file that is no copy of an account. Whoever may see
a field of a resource that refers to it may read it, and everybody may where it is public. For all others it is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from server.caller import ADMIN, Caller
from server.engine.files.known import NAME, missing
from server.errors import Denied, Invalid, Unauthenticated
from server.store.file_rows import StoredFile
from server.store.file_uploads import Quota
from server.store.files import StoredFiles
from server.store.objects import Objects

FILE = "transom.files.v1.File"
EXPORT = "transom.accounts.v1.Export"
"""The messages that scopes name."""


class Referrers(Protocol):
    """What refers to files; see `server.engine.files.referrers`."""

    async def shows(self, caller: Caller, name: str) -> bool:
        """Whether the caller may see a field of a resource that refers to the file."""

    async def refers(self, name: str) -> bool:
        """Whether any resource refers to the file."""

    async def delete(self, caller: Caller, id: str) -> bool:
        """Deletes a file together with the references to it that are to be cleared; False where there is no such file.

        Raises Precondition (REFERRED_TO)."""


class Opening:
    """Finds files for those who may have them."""

    def __init__(
        self,
        files: StoredFiles,
        objects: Objects,
        *,
        referrers: Referrers | None = None,
        processed: Callable[[str], bool] | None = None,
        upload_bytes_max: int = 100 << 20,
        multipart_bytes_max: int = 5 << 30,
        quota: Quota | None = None,
        page_size: int = 50,
        page_size_max: int = 1000,
    ) -> None:
        """`processed` says of a content type whether such files are processed after they are uploaded; none are where it is not
        given. Without `referrers` no resource refers to any."""
        self._files = files
        self._objects = objects
        self._referrers = referrers
        self._processed = processed or (lambda content_type: False)
        self._upload_bytes_max = upload_bytes_max
        self._multipart_bytes_max = multipart_bytes_max
        self._quota = quota or Quota()
        self._page_size = page_size
        self._page_size_max = page_size_max

    def _quota_of(self, caller: Caller) -> Quota:
        """What the caller may have at most: keys and admins as much as they want."""
        return Quota() if caller.trusted else self._quota

    async def _one(self, name: str) -> StoredFile:
        match = NAME.fullmatch(name)
        if match is None:
            raise Invalid.field("name", "is not files/{file}", "NAME_INVALID")
        stored = await self._files.one(match[1])
        if stored is None:
            raise missing(name)
        return stored

    async def _open(self, caller: Caller, name: str) -> StoredFile:
        """The file, for who may read it. A private one is not for who acts as its owner, either."""
        stored = await self._found(caller, name, "get")
        if stored.private:
            if not (stored.owner == caller.name and not caller.impersonator) and not copies(caller):
                raise missing(name)
            return stored
        if stored.owner == caller.name or caller.trusted or stored.public:
            return stored
        if self._referrers is None or not await self._referrers.shows(caller, name):
            raise missing(name)
        return stored

    async def _own(self, caller: Caller, name: str, action: str) -> StoredFile:
        """The file, for its owner and for keys, admins and the system, whom every file is open to that is not private."""
        stored = await self._found(caller, name, action)
        theirs = copies(caller) if stored.private else caller.trusted
        if stored.owner != caller.name and not theirs:
            raise missing(name)
        return stored

    async def _found(self, caller: Caller, name: str, action: str) -> StoredFile:
        """The file, where the caller's scopes hold this. The copy of an account needs none: it is its owner's as a person,
        whatever they are as an admin, and who else may have it is said by the scopes of exports."""
        if not caller.account:
            require(caller, action)
        stored = await self._one(name)
        if not stored.private:
            require(caller, action)
        return stored


def require(caller: Caller, action: str) -> None:
    """Raises Unauthenticated for nobody, and Denied (SCOPE_MISSING)."""
    if not caller.known:
        raise Unauthenticated("Sign in first.")
    if caller.trusted and not caller.in_scope(FILE, action):
        raise Denied(
            "This is not in your scopes.",
            reason="SCOPE_MISSING",
            metadata={"resource": "transom.dev/File", "action": action},
        )


def copies(caller: Caller) -> bool:
    """Whether the caller may read copies of accounts that are not its own: service keys never do."""
    return ADMIN in caller.roles and caller.in_scope(EXPORT, "get")
