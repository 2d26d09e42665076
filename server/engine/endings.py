"""What has come to its end goes for good: what expired (AIP-214), and what was deleted and cannot be undeleted any more
(AIP-164). To be swept now and then, by anyone.

Two who sweep at once do not wait for each other. A bite is one transaction: whoever dies on the way leaves the rest to the
next sweep.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from server.engine.decisions import Decisions
from server.engine.identity import etag_of
from server.engine.referring import Referring
from server.engine.resources import Records
from server.engine.trees import lower
from server.errors import Refusal
from server.schema.model import Resource, Schema
from server.store import lifecycle
from server.store.changes import Change, Origin, Outcome
from server.store.transactions import Transaction

BITE = 200
"""Rows of one transaction."""
SLICE = 30.0
"""Seconds of one sweep, about; what is left is for the next."""

_SWEEP = Origin()
"""Nobody caused it."""


class Endings:
    """Removes what has come to its end."""

    def __init__(
        self, schema: Schema, decisions: Decisions, records: Records, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._schema = schema
        self._decisions = decisions
        self._referring = Referring(schema, decisions)
        self._records = records
        self._clock = clock

    async def sweep(self) -> int:
        """Removes some of what has come to its end, with all that is below it; how much it was.

        Raises what keeps it from some of the resources after all others were looked at.
        """
        until = self._clock() + SLICE
        done, refused = 0, None
        for resource in self._schema.resources.values():
            if resource.ends:
                try:
                    done += await self._swept(resource, until)
                except Refusal as refusal:
                    refused = refusal
        if refused is not None and not done:
            raise refused
        return done

    async def _swept(self, resource: Resource, until: float) -> int:
        done, after = 0, lifecycle.BEGINNING
        while self._clock() < until:
            occupied: list[Change] = []
            async with self._records.transaction() as transaction:
                rows = await lifecycle.ended(transaction, resource, after, BITE)
                changes = [
                    self._removal(resource, row.name, row.version, "purged" if row.marked else "expired")
                    for row in rows
                ]
                outcomes = await self._carried_out(transaction, changes)
                occupied = [c for c, o in zip(changes, outcomes, strict=True) if o is Outcome.OCCUPIED]
            if not rows:
                break
            after = rows[-1].at, rows[-1].name
            gone = [c for c, o in zip(changes, outcomes, strict=True) if o is Outcome.DONE]
            gone += [change for change in occupied if await self._felled(change, until)]
            for change in gone:
                lifecycle.ENDED.labels(resource.message, change.verb).inc()
            done += len(gone)
        return done

    async def _felled(self, change: Change, until: float) -> bool:
        """Whether a resource is removed with what lives below it: first what lives lowest, so that nothing of it takes long.
        What must stay, stays whole."""
        if await self._kept(change):
            return False
        for kind in reversed(lower(self._schema, change.resource)):
            after = True
            while after:
                if self._clock() > until:
                    return False
                async with self._records.transaction() as transaction:
                    found = await lifecycle.below(transaction, kind, change.name, BITE)
                    changes = [self._removal(kind, name, version, "deleted") for name, version in found]
                    outcomes = await self._carried_out(transaction, changes)
                after = any(outcome is Outcome.DONE for outcome in outcomes)
        whole = self._removal(change.resource, change.name, change.expected or 0, change.verb, force=True)
        return await self._records.write(whole) is Outcome.DONE

    async def _kept(self, change: Change) -> bool:
        """Whether something elsewhere refers to it, or to what lives below it, and keeps it."""
        if not self._referring.into(change.resource):
            return False
        whole = self._removal(change.resource, change.name, change.expected or 0, change.verb, force=True)
        async with self._records.transaction(rehearsal=True) as transaction:
            return await self._referring.keeps(transaction, whole)

    async def _carried_out(self, transaction: Transaction, changes: Sequence[Change]) -> list[object]:
        """What became of each, whatever became of the others."""
        outcomes: list[object] = []
        while len(outcomes) < len(changes):
            outcomes += await transaction.carry_out(changes[len(outcomes) :])
        return outcomes

    def _removal(self, resource: Resource, name: str, version: int, verb: str, *, force: bool = False) -> Change:
        etag = etag_of(version)
        return self._decisions.delete(resource, name, etag=etag, force=force, origin=_SWEEP, verb=verb, unbidden=True)
