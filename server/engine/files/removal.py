"""Files that go: deleted, given up, or left behind."""

from __future__ import annotations

import contextlib

from server.caller import Caller
from server.engine.files.known import kept_key, kept_prefix, keys_of, missing, uploaded_key
from server.engine.files.opening import Opening
from server.errors import Refusal
from server.store.file_metrics import CHANGES

SWEPT = 100
"""Files that one sweep looks after."""


class Removal(Opening):
    """How files go. A row is there before its bytes and goes after them: wherever a process is killed, the sweep finds what
    it left."""

    async def delete(self, caller: Caller, name: str) -> None:
        """Deletes a file, or gives up its upload. It is gone when this returns; its bytes are too, or will be when S3 is back.

        Raises Precondition (REFERRED_TO) where a resource refers to it that keeps it.
        """
        stored = await self._own(caller, name, "delete")
        if self._referrers is None:
            deleted = await self._files.delete(stored.id, caller.name)
        else:
            deleted = await self._referrers.delete(caller, stored.id)
        if not deleted:
            raise missing(name)
        CHANGES.labels("deleted").inc()
        with contextlib.suppress(Refusal):  # else the sweep does it
            await self._remove(stored.id, stored.upload_key, keys_of(stored.id, stored.variants))

    async def discard(self, owner: str) -> int:
        """Deletes some files of `owner`, at most SWEPT, whatever refers to them; how many it were. Their bytes are gone, too, or
        will be when S3 is back."""
        ids = await self._files.discard(owner, SWEPT)
        CHANGES.labels("deleted").inc(len(ids))
        with contextlib.suppress(Refusal):  # else the sweep does it
            for id in ids:
                await self._remove(id, None, keys_of(id, ()))
        return len(ids)

    async def sweep(self) -> int:
        """Removes some of what nobody finished and of what was deleted; how many files it were.

        To be called now and then, by anyone; several at once do no harm.
        Raises Unavailable where S3 is away: what is left then is found again.
        """
        abandoned = await self._files.abandon(SWEPT)
        CHANGES.labels("abandoned").inc(abandoned)
        remains = await self._files.remains(SWEPT)
        for remain in remains:
            if remain.state == "DELETING":
                await self._remove(remain.id, remain.upload_key, keys_of(remain.id, remain.variants))
            else:
                kept = kept_key(remain.id, remain.attempt)
                await self._objects.delete(*({uploaded_key(remain.id), kept_key(remain.id)} - {kept}))
                await self._objects.clear(kept_prefix(remain.id), but=kept)
        if remains:
            await self._files.removed(remains)
        return abandoned + len(remains)

    async def _remove(self, id: str, upload_key: str | None, keys: list[str]) -> None:
        if upload_key is not None:
            await self._objects.abort_parts(kept_key(id), upload_key)
        await self._objects.delete(*keys)
        await self._objects.clear(kept_prefix(id))
