"""Bytes that no row knows of: what a database that was restored forgot, or uploads in parts whose id was never noted.

In the usual life of a file they do not come about, so this looks slowly and is in no hurry to remove.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from server.engine.files.opening import Opening
from server.store.file_remains import Searched
from server.store.objects import Listed

LOOKS = (("files/", False), ("uploads/", False), ("variants/", False), ("files/", True))
"""Where bytes of files lie: as objects, or as parts that were not put together."""

AGE = timedelta(days=7)
"""How old bytes are before they can count as left behind; longer than an upload may take, and than it takes to notice that a
database was restored from too old a backup."""

LOOKED_AT = 500
"""Objects that one look takes."""


class Orphans(Opening):
    """Finds and removes what was left behind."""

    async def sweep_orphans(self) -> int:
        """Looks at the next LOOKED_AT objects, or uploads in parts, and removes those older than AGE whose file there is not, and
        that no resource refers to; how many it were. The bucket must be this installation's alone.

        To be called now and then, by anyone: it goes on where the last one was. Raises Unavailable where S3 is away.
        """
        place = await self._files.searched()
        prefix, parts = LOOKS[place.look % len(LOOKS)]
        following: tuple[str, str] | None
        if parts:
            found, following = await self._objects.under_way(prefix, (place.key, place.upload), LOOKED_AT)
        else:
            found = await self._objects.listed(prefix, place.key, LOOKED_AT)
            following = (found[-1].key, "") if len(found) == LOOKED_AT else None
        removed = 0
        for one in await self._left(found):
            if parts:
                await self._objects.abort_parts(one.key, one.upload)
            else:
                await self._objects.delete(one.key)
            removed += 1
        look = place.look if following else (place.look + 1) % len(LOOKS)
        await self._files.search_from(Searched(look, *(following or ("", ""))))
        return removed

    async def _left(self, found: list[Listed]) -> list[Listed]:
        """Those that nothing knows of."""
        old = [one for one in found if one.time < datetime.now(UTC) - AGE]
        if not old:
            return []
        known = await self._files.known([_id(one) for one in old], [one.upload for one in old if one.upload])
        left = []
        for one in old:
            if (one.upload or _id(one)) in known:
                continue
            # Parts that a known file does not know of are nothing that anybody could refer to.
            if _id(one) in known or not (self._referrers and await self._referrers.refers(f"files/{_id(one)}")):
                left.append(one)
        return left


def _id(one: Listed) -> str:
    """Of the file whose bytes these are."""
    return one.key.split("/")[1].partition(".")[0]
