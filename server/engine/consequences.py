"""What changes ask for besides themselves, within their transaction: each part knows of which changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from server.engine import filing
from server.engine.decisions import Clock, Decisions
from server.engine.referring import Referring
from server.engine.revisions import Revisions
from server.engine.trees import Trees
from server.errors import Refusal
from server.schema.model import Schema
from server.store.changes import Act, Change
from server.store.transactions import Transaction

Concern = tuple[str, Act]
"""The message of a resource, and what is done to it."""


class Part(Protocol):
    """Some of the consequences."""

    def concerns(self) -> Iterable[Concern]:
        """Which changes may have any."""

    async def of(self, transaction: Transaction, change: Change) -> Sequence[Change] | Refusal:
        """What must be done before the change; or why it cannot be done."""


class Consequences:
    """All of them; see `server.store.transactions.Consequences`."""

    def __init__(self, referring: Referring, parts: Iterable[Part]) -> None:
        self._referring = referring
        self._parts: dict[Concern, list[Part]] = {}
        for part in (referring, *parts):
            for concern in part.concerns():
                self._parts.setdefault(concern, []).append(part)

    def concern(self, change: Change) -> bool:
        """Whether there may be any."""
        return bool(change.refers or change.files) or (change.resource.message, change.act) in self._parts

    async def of(self, transaction: Transaction, change: Change) -> Sequence[Change] | Refusal:
        """What must be done before the change; or why it cannot be done."""
        out: list[Change] = []
        if change.files:
            refusal = await filing.held(transaction, change)
            if refusal is not None:
                return refusal
        if change.refers or self._referring in self._asked(change):
            found = await self._referring.of(transaction, change)
            if isinstance(found, Refusal):
                return found
            for one in found:  # what it clears may have revisions
                more = await self._others(transaction, one)
                if isinstance(more, Refusal):
                    return more
                out += [*more, one]
        others = await self._others(transaction, change)
        return others if isinstance(others, Refusal) else [*out, *others]

    async def _others(self, transaction: Transaction, change: Change) -> list[Change] | Refusal:
        """The same, but for references."""
        out: list[Change] = []
        for part in self._asked(change):
            if part is not self._referring:
                found = await part.of(transaction, change)
                if isinstance(found, Refusal):
                    return found
                out += found
        return out

    def _asked(self, change: Change) -> Sequence[Part]:
        return self._parts.get((change.resource.message, change.act), ())


def consequences_of(schema: Schema, clock: Clock) -> Consequences:
    """The consequences of changes of a schema's resources."""
    decisions = Decisions(schema, clock)
    return Consequences(Referring(schema, decisions), [Trees(schema, decisions), Revisions(schema, decisions)])
