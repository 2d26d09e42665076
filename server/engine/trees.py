"""What is deleted softly along with what is above it, and undeleted with it (AIP-164).

Below a resource that is deleted softly with `force`, all that can be deleted softly is marked with the very same time; by
that time it is known when the resource is undeleted. What cannot be marked stays as it is, and goes when that above it goes for
good: so a deletion that can be undone is undone as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from server.engine.decisions import Decisions, deleted
from server.errors import Precondition, Refusal
from server.schema.model import Resource, Schema
from server.store import lifecycle
from server.store.changes import Act, Change
from server.store.transactions import Lock, Transaction

TREE_MAX = 5_000
"""Resources that are deleted softly, or undeleted, along with one above them."""


class Trees:
    """The consequences of soft deletions and of what undoes them."""

    def __init__(self, schema: Schema, decisions: Decisions) -> None:
        self._schema = schema
        self._decisions = decisions
        self._lower = {
            message: [r for r in lower(schema, resource) if r.soft_delete]
            for message, resource in schema.resources.items()
            if resource.soft_delete
        }

    def concerns(self) -> Iterable[tuple[str, Act]]:
        """Soft deletions of trees where something below can be deleted so; and undeletions there, or below what can."""
        for message, below in self._lower.items():
            resource = self._schema.resources[message]
            above = [self._schema.parent_of(resource, pattern) for pattern in resource.patterns]
            if below:
                yield message, Act.MARK_TREE
            if below or any(parent is not None and parent.soft_delete for parent in above):
                yield message, Act.UNMARK

    async def of(self, transaction: Transaction, change: Change) -> Sequence[Change] | Refusal:
        """What is marked with it, or unmarked. Nothing where the change will not be done."""
        how = Lock.UPDATE if change.act is Act.MARK_TREE else Lock.CHANGE
        [row] = await transaction.lock([(change.resource, change.name)], how)
        if row is None or row.version != change.expected:
            return ()
        if change.act is Act.MARK_TREE:
            return await self._marked(transaction, change)
        kept = change.kept_parent
        if kept is not None and kept.soft_delete:
            [parent] = await transaction.lock([(kept, change.parent)], Lock.KEEP)
            if parent is None or deleted(kept, self._decisions.parse(kept, parent.payload)):
                return Precondition(
                    f"{change.parent} is deleted; undelete that first.",
                    reason="PARENT_DELETED",
                    metadata={"name": change.name, "parent": change.parent},
                    resource=(kept.type, change.parent),
                )
        when = self._decisions.parse(change.resource, row.payload).delete_time.ToMicroseconds()
        return await self._unmarked(transaction, change, when)

    async def _marked(self, transaction: Transaction, change: Change) -> Sequence[Change] | Refusal:
        await transaction.lock_below(change)  # nobody adds to it from here on
        when = self._decisions.parse(change.resource, change.payload).delete_time.ToMicroseconds()
        out: list[Change] = []
        for resource in self._lower[change.resource.message]:
            rows = await lifecycle.live_below(transaction, resource, change.name, TREE_MAX + 1 - len(out))
            out += [self._decisions.marked(resource, row, when, change.origin, force=True) for row in rows]
            if len(out) > TREE_MAX:
                return _too_large(change)
        return out

    async def _unmarked(self, transaction: Transaction, change: Change, when: int) -> Sequence[Change] | Refusal:
        out: list[Change] = []
        for resource in self._lower[change.resource.message]:
            rows = await lifecycle.marked_below(transaction, resource, change.name, when, TREE_MAX + 1 - len(out))
            out += [self._decisions.unmarked(resource, row, change.origin) for row in rows]
            if len(out) > TREE_MAX:
                return _too_large(change)
        return out


def lower(schema: Schema, resource: Resource) -> list[Resource]:
    """The kinds of resources that may live somewhere below one, about in order of how far."""
    found: dict[str, Resource] = {}
    level = [resource]
    while level:
        level = [child for above in level for child in schema.children_of(above) if child.message not in found]
        found |= {child.message: child for child in level}
    return list(found.values())


def _too_large(change: Change) -> Precondition:
    return Precondition(
        f"There are more than {TREE_MAX} resources below {change.name}; delete or purge some of them first.",
        reason="TREE_TOO_LARGE",
        metadata={"name": change.name},
        resource=(change.resource.type, change.name),
    )
