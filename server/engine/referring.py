"""Checked references: what is referred to exists, and what becomes of references to what is deleted.

Whoever refers to a resource holds its row until the reference is committed, and whoever deletes one locks it before it is
looked for references: neither can miss the other.

A resource that is deleted softly can still be undeleted, so its references stay, in both directions: what refers to it with
RESTRICT keeps it from being deleted softly, all else happens when it goes for good. Nobody can newly refer to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from server.engine.decisions import Decisions, deleted, unreferable
from server.engine.trees import lower
from server.errors import Precondition, Refusal
from server.schema.model import Field, OnDelete, Resource, Schema
from server.store import referring
from server.store.changes import Act, Change, Row
from server.store.statements import attached_to
from server.store.transactions import Lock, Transaction

AFFECTED_MAX = 2_000
"""Resources that are cleared, or deleted, with one that they refer to, and those looked at below these."""

AFFECTED_MAX_UNBIDDEN = 100_000
"""The same where there is nobody to be refused: when an account ends, or something comes to its end by itself."""

REFERRED_TO = "REFERRED_TO"
"""Why something must stay: RESTRICT."""

_SOFT = (Act.MARK, Act.MARK_TREE)
_WHOLE = (Act.REMOVE_TREE, Act.MARK_TREE)

_Key = tuple[str, str]
"""Message and name."""


@dataclass(frozen=True, slots=True)
class _Referrer:
    """A field that refers to resources of some message."""

    resource: Resource
    field: Field
    on_delete: OnDelete


@dataclass(slots=True)
class _Fall:
    """What falls with one resource."""

    most: int
    roots: list[str]
    """Names below which everything goes."""
    going: dict[_Key, Resource] = field(default_factory=dict)
    """What goes and may be referred to."""
    felled: dict[_Key, tuple[Resource, str]] = field(default_factory=dict)
    """What goes because it refers to something that goes."""
    cleared: dict[_Key, tuple[Resource, Row]] = field(default_factory=dict)
    kept: dict[_Key, Resource] = field(default_factory=dict)
    """What must not lose what it refers to."""

    def goes(self, resource: Resource, name: str) -> bool:
        """Whether it goes, by itself or with what it lives below."""
        return (resource.message, name) in self.going or self.goes_below(name)

    def goes_below(self, name: str) -> bool:
        """Whether it goes with what it lives below."""
        return any(name.startswith(f"{root}/") for root in self.roots)

    @property
    def keeps(self) -> bool:
        """Whether something keeps it that does not go with it."""
        return any(not self.goes(resource, name) for (_, name), resource in self.kept.items())

    @property
    def full(self) -> bool:
        """Whether it is too much for one transaction."""
        return len(self.going) + len(self.cleared) + len(self.kept) > self.most


class Referring:
    """The consequences of references."""

    def __init__(self, schema: Schema, decisions: Decisions) -> None:
        self._schema = schema
        self._decisions = decisions
        self._into: dict[str, list[_Referrer]] = {}
        for resource in schema.resources.values():
            for one in resource.fields:
                if one.reference is not None:
                    referrer = _Referrer(resource, one, one.reference.on_delete)
                    self._into.setdefault(one.reference.message, []).append(referrer)
        self._below = {
            message: [r for r in lower(schema, resource) if r.message in self._into]
            for message, resource in schema.resources.items()
        }
        """Of each message: what may live below it and be referred to."""
        self._attached = {
            message: [r for r in attached_to(schema, resource) if r.message in self._into]
            for message, resource in schema.resources.items()
        }
        """The same of what goes with it even without `force`."""

    def concerns(self) -> Iterable[tuple[str, Act]]:
        """Deletions of what may be referred to. Changes with references of their own say so themselves."""
        for message, below in self._below.items():
            if message in self._into:
                yield message, Act.MARK
            if message in self._into or self._attached[message]:
                yield message, Act.REMOVE
            if message in self._into or below:
                yield from ((message, act) for act in _WHOLE)

    def into(self, resource: Resource) -> bool:
        """Whether it, or what lives below it, may be referred to."""
        return resource.message in self._into or bool(self._below[resource.message])

    async def of(self, transaction: Transaction, change: Change) -> Sequence[Change] | Refusal:
        """What is cleared, and what is deleted, with what is deleted. Refused is a reference to what is not there, and the
        deletion of what must stay; nothing is answered where the change will not be done."""
        if change.refers:
            targets = [(one.target, one.name) for one in change.refers]
            for one, row in zip(change.refers, await transaction.lock(targets, Lock.KEEP), strict=True):
                if row is None or deleted(one.target, self._decisions.parse(one.target, row.payload)):
                    return unreferable(one)
        if change.act in (Act.REMOVE, Act.REMOVE_TREE, *_SOFT):
            return await self._fall(transaction, change)
        return ()

    async def keeps(self, transaction: Transaction, change: Change) -> bool:
        """Whether something that does not go itself refers to what would go, and keeps it; as far as it may be looked at. Nothing
        is changed, but rows are locked."""
        fall = await self._fallen(transaction, change)
        return fall is not None and fall.keeps

    async def _fall(self, transaction: Transaction, change: Change) -> Sequence[Change] | Refusal:
        fall = await self._fallen(transaction, change)
        if fall is None:
            return ()
        if fall.full:
            return Precondition(
                f"More than {fall.most} resources refer to {change.name}, or to what goes with it.",
                reason="TOO_MANY_REFERENCES",
                metadata={"name": change.name},
                resource=(change.resource.type, change.name),
            )
        if fall.keeps:
            return _referred_to(change)
        return [] if change.act in _SOFT else self._changes(change, fall)

    async def _fallen(self, transaction: Transaction, change: Change) -> _Fall | None:
        """What would fall, looked at until it is too much; None where the change will not be done."""
        [row] = await transaction.lock([(change.resource, change.name)], Lock.UPDATE)
        if row is None or change.expected not in (None, row.version):
            return None
        soft, whole = change.act in _SOFT, change.act in _WHOLE
        most = AFFECTED_MAX_UNBIDDEN if change.regardless or change.unbidden else AFFECTED_MAX
        fall = _Fall(most, [change.name] if whole else [])
        fresh: list[tuple[Resource, list[str]]] = [(change.resource, [change.name])]
        fall.going[change.resource.message, change.name] = change.resource
        if whole:
            fresh += await self._lower(transaction, change, fall, self._below, soft=soft)
        elif not soft:
            fresh += await self._lower(transaction, change, fall, self._attached, soft=False)
        while fresh and not fall.full:
            resource, names = fresh.pop()
            for referrer in self._into.get(resource.message, ()):
                if not soft or referrer.on_delete is OnDelete.RESTRICT:
                    fresh += await self._referred(transaction, change, fall, referrer, names)
        return fall

    async def _referred(
        self, transaction: Transaction, change: Change, fall: _Fall, referrer: _Referrer, names: Sequence[str]
    ) -> list[tuple[Resource, list[str]]]:
        """Notes what refers to some that go; what goes because of that, to be looked at in its turn."""
        resource = referrer.resource
        rows = await referring.referring(transaction, resource, referrer.field, names, fall.most + 1)
        fresh: list[tuple[Resource, list[str]]] = []
        felled: list[str] = []
        for row in rows:
            key = (resource.message, row.name)
            if key in fall.going:
                continue
            if referrer.on_delete is OnDelete.CASCADE:
                fall.going[key] = resource
                felled.append(row.name)
                if not fall.goes_below(row.name):
                    fall.felled[key] = resource, row.name
                    if self._schema.children_of(resource):
                        fall.roots.append(row.name)
                        whole = self._felled(resource, row.name, change)
                        fresh += await self._lower(transaction, whole, fall, self._below, soft=False)
            elif referrer.on_delete is OnDelete.RESTRICT and not change.regardless:
                fall.kept[key] = resource
            else:
                fall.cleared[key] = resource, row
        if felled:
            fresh.append((resource, felled))
        return fresh

    async def _lower(
        self,
        transaction: Transaction,
        change: Change,
        fall: _Fall,
        kinds: Mapping[str, Sequence[Resource]],
        *,
        soft: bool,
    ) -> list[tuple[Resource, list[str]]]:
        """Notes what of these kinds lives below one that goes."""
        if change.act in _WHOLE:
            await transaction.lock_below(change)  # nobody adds to it from here on
        fresh: list[tuple[Resource, list[str]]] = []
        for resource in kinds[change.resource.message]:
            if soft and not resource.soft_delete:
                continue  # it stays as it is
            names = await referring.below(transaction, resource, change.name, fall.most + 1, live=soft)
            fall.going |= {(resource.message, name): resource for name in names}
            if names:
                fresh.append((resource, names))
        return fresh

    def _changes(self, change: Change, fall: _Fall) -> list[Change]:
        gone: dict[str, set[str]] = {}
        for message, name in fall.going:
            gone.setdefault(message, set()).add(name)
        out = [
            self._decisions.cleared(resource, row, gone, change.origin)
            for (_, name), (resource, row) in fall.cleared.items()
            if not fall.goes(resource, name)
        ]
        # What lives lowest goes first: so each is still there when its turn comes.
        for resource, name in sorted(fall.felled.values(), key=lambda one: -one[1].count("/")):
            out.append(self._felled(resource, name, change))
        return out

    def _felled(self, resource: Resource, name: str, change: Change) -> Change:
        """The change that removes what refers to something that goes, with all that may be below it."""
        force = bool(self._schema.children_of(resource))
        return self._decisions.delete(resource, name, etag="", force=force, origin=change.origin)


def _referred_to(change: Change) -> Precondition:
    """Says neither what refers to it nor how much that is: the caller may not be allowed to see any of it."""
    return Precondition(
        f"{change.name} is referred to by what keeps it.",
        reason=REFERRED_TO,
        metadata={"name": change.name},
        resource=(change.resource.type, change.name),
    )
