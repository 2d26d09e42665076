"""Revisions (AIP-162): what a resource was, once for each time it was made or changed.

A revision is written in the transaction of its change, so that none is missing and none is too many. Its id is made of the
version, turned round: in the order of their names, which is how they are listed, the newest comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from server.engine.decisions import Decisions
from server.schema.model import Resource, Schema
from server.store import lifecycle
from server.store.changes import Act, Change
from server.store.transactions import Lock, Transaction

_TOP = 1 << 52
"""Versions are microseconds since 1970: this is in the year 2112."""
_OURS = "/revisions/r[0-9a-f]{13}$"
"""How names of revisions end that nobody asked for. Those that a client made under an id of its own are its own to delete."""

PRUNED = 100
"""Old revisions that go with one change at most: there are more of them where the schema is told to keep fewer."""


def revision_id(version: int) -> str:
    """The id of the revision of a version."""
    return f"r{_TOP - version:013x}"


class Revisions:
    """The revisions that changes of resources ask for."""

    def __init__(self, schema: Schema, decisions: Decisions) -> None:
        self._decisions = decisions
        self._kinds = {r.snapshot_of: r for r in schema.resources.values() if r.snapshot_of}

    def concerns(self) -> Iterable[tuple[str, Act]]:
        """All that make or change a resource that has revisions."""
        for message in self._kinds:
            yield message, Act.INSERT
            yield message, Act.REPLACE

    async def of(self, transaction: Transaction, change: Change) -> Sequence[Change]:
        """The new revision, and the old ones that are too many. Nothing where the change will not be done."""
        [row] = await transaction.lock([(change.resource, change.name)], Lock.CHANGE)
        if change.act is Act.REPLACE and (row is None or change.expected not in (None, row.version)):
            return ()
        if change.act is Act.INSERT and row is not None:
            return ()
        kind = self._kinds[change.resource.message]
        name = f"{change.name}/revisions/{revision_id(change.version)}"
        message = snapshot(self._decisions, kind, name, change.payload)
        made = self._decisions.made(kind, message, row.owner if row else change.owner, change.origin)
        # It comes before the resource where that is new: the parent is not looked for.
        return [*await self._pruned(transaction, kind, change), replace(made, kept_parent=None)]

    async def _pruned(self, transaction: Transaction, kind: Resource, change: Change) -> list[Change]:
        kept = change.resource.revisions - 1
        names = await lifecycle.beyond(transaction, kind, change.name, _OURS, kept, PRUNED)
        return [self._decisions.delete(kind, name, etag="", force=False, origin=change.origin) for name in names]


def snapshot(decisions: Decisions, kind: Resource, name: str, payload: bytes) -> Any:
    """The revision called `name` of a resource that is stored as `payload`."""
    message = decisions.implied(kind, name)
    message.snapshot.ParseFromString(payload)
    return message
