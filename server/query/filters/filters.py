"""The filters of one resource, and one filter."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from server.query.filters import syntax, tree
from server.query.filters.checking import Checking
from server.query.filters.paths import Item, Key, Member, Path, Paths, Property
from server.query.filters.predicate import Predicates, Test
from server.query.filters.sql import Conditions, Readable
from server.query.filters.syntax import Fault
from server.query.filters.tree import Node
from server.schema.expressions import searched
from server.schema.model import Resource, Schema

KNOWN_MOST, KNOWN_LENGTH = 200, 500
"""Filters of a resource that are kept for when they are asked for again, as apps do, and how long one may be for that."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What an index could serve of a filter: a condition that all that is found must meet."""

    path: tuple[str, ...]
    """Names from the resource on, as in an index: up to the first map or list. Empty for a search of words."""
    how: str
    """`equal`, `range` (< <= > >=), `pattern` (wildcards, parts of texts), `holds` (a key or value of a map, an item of a list)
    or `words`."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter, good for any number of callers and rows."""

    text: str
    node: Node | None
    """None for the empty filter, which all resources meet."""
    fields: frozenset[str]
    """The top-level fields that it depends on."""
    _resource: Resource = field(repr=False)
    _test: Test | None = field(repr=False, compare=False)

    def condition(
        self,
        values: list[Any],
        place: Callable[[int], str] = "${}".format,
        readable: Readable = lambda name: None,
        now: int | None = None,
    ) -> str:
        """The condition in SQL over a row `t` of the resource's table, in parentheses; `true` for the empty filter. It is met
        where it is true, and fails for no row.

        Constants are added to `values`, all as texts, and stand in the SQL as `place` writes the parameter of that number,
        from 1. `readable` gives, for the name of a top-level field, the SQL by which a row shows it to the caller, None where
        every row does: of a row that does not, the field is as if it were not set, as in the caller's replies. `now` is in
        microseconds since 1970.

        Raises Invalid where the SQL would be too long.
        """
        if self.node is None:
            return "true"
        return f"({Conditions(self._resource, values, place, readable, _now(now)).of(self.node)})"

    def matches(self, name: str, message: Any, hidden: Collection[str] = (), now: int | None = None) -> bool:
        """Whether the resource called `name` meets the filter; `hidden` are the top-level fields that the caller does not
        see. The same answer as the condition's."""
        if self._test is None:
            return True
        unlike = getattr(message, self._resource.name_field) != name
        if unlike or hidden:
            shown = type(message)()
            shown.CopyFrom(message)
            for one in hidden:
                shown.ClearField(one)
            setattr(shown, self._resource.name_field, name)
            message = shown
        return self._test(message, _now(now))

    @property
    def indexable(self) -> tuple[Usage, ...]:
        """What indexes could serve, of the conditions that must all be met."""
        return tuple(_usages(self.node)) if self.node is not None else ()


class Filters:
    """What the filters of one resource are read with; made once."""

    def __init__(self, schema: Schema, resource: Resource) -> None:
        self._resource = resource
        self._paths = Paths(schema, resource)
        self._searched = searched(resource)
        self._predicates = Predicates(self._searched)
        self._known: dict[str, Filter] = {}

    def parse(self, text: str) -> Filter:
        """The filter that a text says. Raises Invalid of the field `filter`, with the column and what is wrong there."""
        found = self._known.get(text)
        if found is None:
            found = self._parsed(text)
            if len(text) <= KNOWN_LENGTH:
                if len(self._known) >= KNOWN_MOST:
                    self._known.pop(next(iter(self._known)), None)
                self._known[text] = found
        return found

    def _parsed(self, text: str) -> Filter:
        try:
            found = syntax.parse(text)
            checking = Checking(self._paths, bool(self._searched), self._resource.message)
            node = checking.node(found) if found is not None else None
        except Fault as fault:
            raise fault.refusal() from None
        if node is None:
            return Filter(text, None, frozenset(), self._resource, None)
        return Filter(text, node, self._fields(node), self._resource, self._predicates.of(node))

    def _fields(self, node: Node) -> frozenset[str]:
        named: set[str] = set()
        for one in tree.walk(node):
            match one:
                case tree.Found():
                    named |= {f.name for f in self._searched}
                case tree.Compared() | tree.Like() | tree.Present() | tree.Holds():
                    named.add(one.path.root.name)
        return frozenset(named)


def _now(now: int | None) -> int:
    return time.time_ns() // 1000 if now is None else now


def _usages(node: Node) -> Iterator[Usage]:
    match node:
        case tree.And():
            for part in node.parts:
                yield from _usages(part)
        case tree.Or():
            # An index serves one of several conditions only where it serves all.
            first, *others = [list(dict.fromkeys(_usages(part))) for part in node.parts]
            yield from (usage for usage in first if all(usage in other for other in others))
        case tree.Found():
            yield Usage((), "words")
        case tree.Like():
            yield _usage(node.path, "pattern")
        case tree.Compared():
            yield _usage(node.path, "equal" if node.op == "=" else "range")
        case tree.Present() if node.path.steps and isinstance(node.path.steps[-1], Key):
            yield _usage(node.path, "holds")


def _usage(path: Path, how: str) -> Usage:
    names = [path.root.name]
    for step in path.steps:
        match step:
            case Member():
                names.append(step.field.name)
            case Key() | Item() | Property():
                return Usage(tuple(names), "holds" if how in ("equal", "holds") else how)
    return Usage(tuple(names), how)
