"""What is to be done to a database, as data: each step with the SQL, the lock it takes, and what it reads."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from server.schema.changes.state import Table

MOMENT = "ACCESS EXCLUSIVE, for a moment"
BESIDE = "SHARE UPDATE EXCLUSIVE: reads and writes go on"
ROWS = "ROW EXCLUSIVE, and each row while its batch is written"
NEW = "none that anybody waits for: it is new"


class Kind(StrEnum):
    """How a step is carried out."""

    ALTER = "alter"
    """All statements in one transaction."""
    INDEX = "index"
    """Built beside everything that goes on; what an interrupted build left is removed first."""
    DROP = "drop"
    """Each statement by itself: an index is dropped beside everything that goes on."""
    VALIDATE = "validate"
    """Each statement by itself: existing rows are looked at beside everything that goes on."""
    FILL = "fill"
    """A column computed from another, in batches, by SQL."""
    REBUILD = "rebuild"
    """Columns written anew from the stored messages, in batches."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step."""

    kind: Kind
    table: Table
    statements: tuple[str, ...]
    """SQL. Of a fill: what is set; of a rebuild: none."""
    lock: str
    scans: bool = False
    """Whether it reads the whole table."""
    rows: int = 0
    """How many rows that are, as Postgres estimates."""
    noted: tuple[str, ...] = ()
    """Statements that write down what was done, in the same transaction."""
    key: str = ""
    """Of a fill or a rebuild: under which its progress is kept. Of an index: its name."""
    where: str = ""
    """Of a fill or a rebuild: the rows that need it; empty for all."""
    message: str = ""
    """Of a rebuild: the resource."""
    fields: tuple[str, ...] = ()
    """Of a rebuild: the fields whose columns are written."""
    columns: tuple[tuple[str, str], ...] = ()
    """Of a rebuild: these columns, and their types."""

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        said: dict[str, Any] = {
            "kind": self.kind.value,
            "table": ".".join(self.table),
            "lock": self.lock,
            "scans_table": self.scans,
            "sql": list(self.statements),
        }
        if self.rows or self.scans:
            said["rows_estimate"] = self.rows
        if self.fields:
            said["fields"] = list(self.fields)
        return said


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a schema is not applied."""

    where: str
    """File, message and field."""
    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}: {self.advice}"


@dataclass(frozen=True, slots=True)
class Probe:
    """A question to the rows: where any answer it, the schema is refused."""

    sql: str
    """Answers how many rows there are, at most PROBE_ROWS."""
    refusal: Refusal
    """`{count}` in its reason is how many."""


PROBE_ROWS = 1000
"""Rows that a probe counts at most."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to get to a schema."""

    refusals: tuple[Refusal, ...] = ()
    probes: tuple[Probe, ...] = ()
    steps: tuple[Step, ...] = ()
    """What is done while the servers of the schema before are served."""
    later: tuple[Step, ...] = ()
    """What is done when none of them runs any more; planned anew then."""
    notes: tuple[str, ...] = ()
    """What to know of it."""
