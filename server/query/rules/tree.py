"""What a rule may say: a small closed tree, typed. Both compilers and the explanation know every node of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import StrEnum, auto
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from server.schema.model import Resource


class Kind(StrEnum):
    """Kinds of values. Timestamps and durations are microseconds: what both Postgres and rules can tell apart."""

    BOOL = auto()
    INT = auto()
    UINT = auto()
    DOUBLE = auto()
    STRING = auto()
    BYTES = auto()
    TIMESTAMP = auto()
    DURATION = auto()
    LIST = auto()
    MAP = auto()
    MESSAGE = auto()


@dataclass(frozen=True, slots=True)
class Type:
    """The type of a node's value."""

    kind: Kind
    of: Type | None = None
    """Of a list's elements, of a map's values."""
    enum: EnumDescriptor | None = None
    """Where an INT is an enum's number: it is stored by its name."""
    message: Descriptor | None = None
    single: bool = False
    """Where a DOUBLE is kept with single precision."""


BOOL, INT, STRING = Type(Kind.BOOL), Type(Kind.INT), Type(Kind.STRING)
TIMESTAMP, DURATION = Type(Kind.TIMESTAMP), Type(Kind.DURATION)


@dataclass(frozen=True, slots=True)
class Node:
    """One expression; `at` is where it stands in the source, from 0. The same said twice is equal."""

    type: Type
    at: int = field(compare=False)

    def children(self) -> Iterator[Node]:
        """The nodes it is made of."""
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, Node):
                yield value
            elif isinstance(value, tuple):
                yield from (v for v in value if isinstance(v, Node))


@dataclass(frozen=True, slots=True)
class Constant(Node):
    value: Any


@dataclass(frozen=True, slots=True)
class Given(Node):
    """What is known of the call or the row beside its message: `caller.name`, `owner`, `parent`, `path.site`, `now`."""

    name: str


@dataclass(frozen=True, slots=True)
class Root(Node):
    """`resource` or `request`: a whole message."""

    name: str


@dataclass(frozen=True, slots=True)
class Found(Node):
    """`get(name)`: another resource. Where there is none, it is an error."""

    resource: Resource
    name: Node


@dataclass(frozen=True, slots=True)
class Exists(Node):
    """`exists(name)`: whether there is such a resource."""

    resource: Resource
    name: Node


@dataclass(frozen=True, slots=True)
class Select(Node):
    """A field of a message; of an absent message, its default."""

    of: Node
    field: FieldDescriptor


@dataclass(frozen=True, slots=True)
class Has(Node):
    """Whether the field is set."""

    of: Node
    field: FieldDescriptor


@dataclass(frozen=True, slots=True)
class Item(Node):
    """The value of a map's key. Where there is none, it is an error."""

    of: Node
    key: Node


@dataclass(frozen=True, slots=True)
class Element(Node):
    """What a quantifier's variable stands for."""

    name: str


@dataclass(frozen=True, slots=True)
class Quantified(Node):
    """`list.exists(x, test)` or `list.all(x, test)`."""

    every: bool
    of: Node
    variable: str
    test: Node


@dataclass(frozen=True, slots=True)
class And(Node):
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Or(Node):
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Not(Node):
    of: Node


@dataclass(frozen=True, slots=True)
class If(Node):
    test: Node
    then: Node
    other: Node


@dataclass(frozen=True, slots=True)
class Compared(Node):
    """`op` is one of == != < <= > >=; both sides are of one scalar kind."""

    op: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class OneOf(Node):
    """`x in [a, b]`."""

    value: Node
    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Contained(Node):
    """`x in list` or `key in map`."""

    value: Node
    of: Node


@dataclass(frozen=True, slots=True)
class Joined(Node):
    """Two texts, one after the other."""

    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Shifted(Node):
    """Timestamps and durations added (`sign` 1) or subtracted (-1)."""

    sign: int
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Size(Node):
    of: Node


@dataclass(frozen=True, slots=True)
class Text(Node):
    """`op` is one of startsWith, endsWith, contains."""

    op: str
    of: Node
    part: Node


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it."""
    yield node
    for child in node.children():
        yield from walk(child)


def depth(node: Node) -> int:
    """How many look-ups are nested in one another."""
    below = max((depth(child) for child in node.children()), default=0)
    return below + isinstance(node, Found | Exists)


_MAY_LACK = ("owner", "caller.session_age")
"""What there need not be: nobody's creations have no owner, nobody and keys have no session."""


def may_fail(node: Node) -> bool:
    """Whether its value may be an error: a look-up or a key that finds nothing, a time out of its range, an owner or a
    session that there is not."""
    return any(
        isinstance(n, Found | Item | Shifted) or (isinstance(n, Given) and n.name in _MAY_LACK) for n in walk(node)
    )


_OF_ROW = ("owner", "parent")


def of_row(node: Node) -> bool:
    """Whether its value depends on which row it is judged for, and not on the caller and the time alone."""
    return any(
        isinstance(n, Root) or (isinstance(n, Given) and (n.name in _OF_ROW or n.name.startswith("path.")))
        for n in walk(node)
    )
