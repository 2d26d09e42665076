"""What changes ask for besides themselves, within their transaction: each part knows of which changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from server.engine.decisions import Clock, Decisions
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

    def __init__(self, parts: Iterable[Part]) -> None:
        self._parts: dict[Concern, list[Part]] = {}
        for part in parts:
            for concern in part.concerns():
                self._parts.setdefault(concern, []).append(part)

    def concern(self, change: Change) -> bool:
        """Whether there may be any."""
        return (change.resource.message, change.act) in self._parts

    async def of(self, transaction: Transaction, change: Change) -> Sequence[Change] | Refusal:
        """What must be done before the change; or why it cannot be done."""
        out: list[Change] = []
        for part in self._parts.get((change.resource.message, change.act), ()):
            found = await part.of(transaction, change)
            if isinstance(found, Refusal):
                return found
            out += found
        return out


def consequences_of(schema: Schema, clock: Clock) -> Consequences:
    """The consequences of changes of a schema's resources."""
    decisions = Decisions(schema, clock)
    return Consequences([Trees(schema, decisions), Revisions(schema, decisions)])
