"""A plan in the making."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from psycopg import sql

from server.schema.changes.state import State, Table, TableState
from server.schema.changes.steps import Probe, Refusal, Step
from server.schema.model import Resource, Schema


@dataclass
class Draft:
    """A plan in the making."""

    state: State
    target: Schema
    previous: Schema | None
    """What is deployed, if anything is known of it."""
    old_runs: bool
    """Whether servers of `previous` may run."""
    refusals: list[Refusal] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    first: list[Step] = field(default_factory=list)
    cuts: list[tuple[TableState, Cut]] = field(default_factory=list)
    moved: dict[str, Table] = field(default_factory=dict)
    """Tables that made room, by message."""
    then: list[Step] = field(default_factory=list)
    alone: list[Step] = field(default_factory=list)
    """What is done only when no old server runs."""
    notes: list[str] = field(default_factory=list)

    def refuse(self, where: str, reason: str, advice: str) -> None:
        """Notes why it cannot be done."""
        self.refusals.append(Refusal(where, reason, advice))

    @property
    def deployed(self) -> bool:
        """Whether the target is what is deployed: all its rows are as it wants them."""
        return self.previous is self.target

    @property
    def served(self) -> list[Schema]:
        """The schemas whose servers may run, the target first."""
        return [self.target, self.previous] if self.previous is not None and self.old_runs else [self.target]

    def before(self, resource: Resource) -> Resource | None:
        """The resource as it is deployed."""
        return self.previous.resources.get(resource.message) if self.previous is not None else None


@dataclass
class Cut:
    """What changes one table, all at once, for a moment."""

    place: Table
    """Where the table is afterwards."""
    shown: list[tuple[str, Mapping[str, int]]] = field(default_factory=list)
    """The views that stand for it afterwards."""

    drops: list[sql.Composable] = field(default_factory=list)
    """Views that make room."""
    renamed: list[sql.Composable] = field(default_factory=list)
    columns: list[sql.Composable] = field(default_factory=list)
    views: list[sql.Composable] = field(default_factory=list)
    noted: list[str] = field(default_factory=list)
