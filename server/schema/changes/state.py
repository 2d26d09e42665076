"""What is there: the tables, columns, views and indexes of a database, as its catalogue has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Table = tuple[str, str]
"""Schema and name."""

VIEW = "transom: "
"""How the comment of every view begins that stands for a table; then comes what it shows."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is there."""

    name: str
    type: str
    not_null: bool = False
    default: str | None = None
    """As Postgres prints it."""


@dataclass(frozen=True, slots=True)
class TableState:
    """The table of one message."""

    schema: str
    name: str
    """What it is called, by those who ask; views bear that name while the table has its `base` name."""
    base: str
    """What the table itself is called at the moment."""
    numbers: Mapping[int, str] = field(default_factory=dict)
    """Which column a field's number lives in."""
    types: Mapping[int, str] = field(default_factory=dict)
    """The type it was made with, by number."""
    columns: Mapping[str, Column] = field(default_factory=dict)
    """By name."""
    views: Mapping[str, str] = field(default_factory=dict)
    """Views that stand for it, by name, and which columns they show, as `planning.exposure` writes it."""
    indexes: Mapping[str, bool] = field(default_factory=dict)
    """Names of indexes, and whether each is whole (valid)."""
    keys: frozenset[tuple[str, ...]] = frozenset()
    """The columns of whole indexes over plain columns of all rows."""
    constraints: frozenset[str] = frozenset()
    """Names of the checks it has."""
    rows: int = 0
    """How many it has, as Postgres estimates."""

    @property
    def place(self) -> Table:
        """Where the rows are."""
        return self.schema, self.base


@dataclass(frozen=True, slots=True)
class State:
    """All tables that a schema ever had."""

    tables: Mapping[str, TableState] = field(default_factory=dict)
    """By message."""
    schemas: frozenset[str] = frozenset()
    """The schemas of Postgres that are there."""
    filled: frozenset[str] = frozenset()
    """Keys of the fills that have reached their end."""
