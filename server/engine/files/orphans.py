"""Bytes that no row knows of: what a database that was restored forgot, or uploads in parts whose id was never noted.

In the usual life of a file they do not come about, so this looks slowly and is in no hurry to remove.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from server.engine.files.opening import Opening
from server.store.objects import Listed

PREFIXES = ("files/", "uploads/", "variants/")
"""Where bytes of files lie."""

AGE = timedelta(days=7)
"""How old bytes are before they can count as left behind; longer than an upload may take, and than it takes to notice that a
database was restored from too old a backup."""

LOOKED_AT = 500
"""Objects that one look takes."""


class Orphans(Opening):
    """Finds and removes what was left behind."""

    _place = (0, "")
    """Where the next look begins: which prefix, after which key."""

    async def sweep_orphans(self) -> int:
        """Looks at the next LOOKED_AT objects, and removes those older than AGE whose file there is not, and that no resource
        refers to; how many it were. The bucket must be this installation's alone.

        To be called now and then, by anyone. Raises Unavailable where S3 is away.
        """
        which, after = self._place
        prefix = PREFIXES[which % len(PREFIXES)]
        found = await self._objects.listed(prefix, after, LOOKED_AT)
        more = len(found) == LOOKED_AT
        self._place = (which, found[-1].key) if more else ((which + 1) % len(PREFIXES), "")
        removed = 0
        for one in await self._left(found):
            await self._objects.delete(one.key)
            removed += 1
        if not more:
            for one in await self._left(await self._objects.under_way(prefix, LOOKED_AT)):
                await self._objects.abort_parts(one.key, one.upload)
                removed += 1
        return removed

    async def _left(self, found: list[Listed]) -> list[Listed]:
        """Those that nothing knows of."""
        old = [one for one in found if one.time < datetime.now(UTC) - AGE]
        if not old:
            return []
        known = await self._files.known([_id(one) for one in old], [one.upload for one in old if one.upload])
        left = []
        for one in old:
            unknown = one.upload not in known if one.upload else _id(one) not in known
            if unknown and not (self._referrers and await self._referrers.refers(f"files/{_id(one)}")):
                left.append(one)
        return left


def _id(one: Listed) -> str:
    """Of the file whose bytes these are."""
    return one.key.split("/")[1]
