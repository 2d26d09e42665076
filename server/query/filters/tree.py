"""What a filter may say: a small closed tree, typed. The condition in SQL and the predicate in Python know every node of it.

Every node is true or false of a resource. A comparison with what is not set is false; its negation is true (AIP-160: "True
if a is not true").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from server.query.filters.paths import Path


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    of: Node


@dataclass(frozen=True, slots=True)
class Compared:
    """A value and a constant. Where the path leads to several values: one of them."""

    path: Path
    op: str
    """= < <= > >="""
    constant: Any
    """As the path's kind has it: an enum's is its number. Of a DYNAMIC one: a tuple of what it may equal."""
    relative: bool = False
    """A timestamp in microseconds from now, and not from 1970."""


@dataclass(frozen=True, slots=True)
class Like:
    """A text that the parts stand in, in their order: the first at its beginning, the last at its end."""

    path: Path
    parts: tuple[str, ...]
    folded: bool = False
    """Whether capital letters and small ones are the same."""


@dataclass(frozen=True, slots=True)
class Present:
    """What is there: set, or with a value other than its default; of a map's key: there; of a map or list: not empty."""

    path: Path


@dataclass(frozen=True, slots=True)
class Holds:
    """JSON that equals one of the constants, or is a list that has one of them."""

    path: Path
    constant: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """A word or phrase that stands in the searchable fields."""

    parts: tuple[str, ...]


Node = And | Or | Not | Compared | Like | Present | Holds | Found


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it."""
    yield node
    match node:
        case And() | Or():
            for part in node.parts:
                yield from walk(part)
        case Not():
            yield from walk(node.of)
