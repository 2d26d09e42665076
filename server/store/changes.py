"""What the engine decides and the store carries out: changes as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, TypeAlias

from server.errors import Refusal
from server.schema.model import FileReference, Resource

Value = str | bytes | None
"""A column's value: Postgres's text form, or bytes for bytea."""


class Act(Enum):
    """What a change does to its row."""

    INSERT = auto()
    REPLACE = auto()
    REMOVE = auto()
    REMOVE_TREE = auto()
    MARK = auto()
    """It is deleted softly: replaced, unless there is something below it that is not."""
    MARK_TREE = auto()
    """So is what is below it, as far as that can be."""
    UNMARK = auto()
    """It is undeleted: replaced, and with it what was deleted along with it."""


class Outcome(Enum):
    """What became of a change. The values are what the statements answer."""

    DONE = b"done"
    TAKEN = b"taken"
    """The name exists already."""
    ORPHAN = b"orphan"
    """The parent does not exist, or is deleted."""
    ABSENT = b"absent"
    """There is no such row."""
    CHANGED = b"changed"
    """It is not at the version that was expected."""
    OCCUPIED = b"occupied"
    """It has children."""


Became: TypeAlias = Outcome | Refusal
"""What became of a change; a refusal where that takes more words."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who caused a change, and by which request: goes into the event."""

    caller: str = ""
    request_id: str = ""
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Referred:
    """A resource that a change newly refers to, where that is checked."""

    path: str
    """Of the field, from the request."""
    target: Resource
    name: str


@dataclass(frozen=True, slots=True)
class ReferredFile:
    """A file that a change newly refers to."""

    path: str
    """Of the field, from the request."""
    reference: FileReference
    id: str

    @property
    def name(self) -> str:
        """As the field has it."""
        return f"files/{self.id}"


@dataclass(frozen=True, slots=True)
class Change:
    """One row to write, together with its event."""

    act: Act
    resource: Resource
    name: str
    verb: str
    origin: Origin
    payload: bytes = b""
    version: int = 0
    """The row's version after the change."""
    expected: int | None = None
    """The version it must have before; None where any will do."""
    time: str = ""
    """When, RFC 3339."""
    values: tuple[Value, ...] = ()
    """Of the fields' columns, in order, without the name's."""
    parent: str = ""
    owner: str = ""
    uid: str = ""
    kept_parent: Resource | None = None
    """The resource that the parent is kept as, where it must exist."""
    refers: tuple[Referred, ...] = ()
    """What must exist."""
    files: tuple[ReferredFile, ...] = ()
    """Files that must exist, and be what their fields take."""
    regardless: bool = False
    """Nobody is there to be refused: references that keep a resource from being deleted are cleared."""
    unbidden: bool = False
    """It comes by itself, when something has come to its end: however much refers to it, nobody could say less."""


@dataclass(frozen=True, slots=True)
class Row:
    """A resource as it is stored."""

    name: str
    payload: bytes
    version: int
    owner: str


PAGE_BYTES_MAX = 3 << 20
"""Bytes of the resources on one page, beyond its first: clients of gRPC receive 4 MiB unless told otherwise."""

SMALL_PAGE = 25
"""Rows of a page that is read without looking at their sizes first."""


@dataclass(frozen=True, slots=True)
class Page:
    """What to read of a collection: at most `size` rows below `parent` whose names come after `after`.

    Of a page that is cut by its bytes, one row more is read than fits: whoever reads tells by it that there are more.
    """

    parent: str
    after: str
    size: int
    asking: bytes | None = None
    """Who asks, a JSON object with the columns of `rules.sql.ASKING`: only rows that the rules show are read. None: all."""
    deleted: bool = False
    """Whether what is deleted, and can be undeleted, is read as well."""


class Shown(NamedTuple):
    """A row of a page."""

    name: str
    payload: bytes
    version: int
    seen: str
    """Where rules were asked: 1 or 0 for each field with a read rule."""
