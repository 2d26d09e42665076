"""What else a watcher's rights depend on: the resources that rules look up. A change of one of these changes what was told.

Which resource a rule looks up for a row is told by a name that is made of the caller's, of the row's and of text. What is known
of these for a watcher, and what is not, makes a pattern: a change of a resource whose name does not fit concerns nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from server.caller import Caller
from server.query.rules import tree
from server.query.rules.checking import Rule
from server.query.rules.tree import Node
from server.schema.model import Resource

_SEGMENT, _ANY = "[^/]+", ".*"


@dataclass(frozen=True, slots=True)
class Lookup:
    """One look-up of a rule."""

    message: str
    name: Node
    fields: frozenset[str] | None
    """What it is looked up for, beside whether it exists; None for all of it."""
    segments: Mapping[str, int]
    """Where in the name of the row a `path.<variable>` stands."""
    above: bool
    """It is what the row lives below: there is no row before there is that, nor after."""

    def pattern(self, caller: Caller, known: Sequence[str]) -> re.Pattern[str]:
        """What names may be looked up for a caller, of rows whose names have these segments; `-` is one that may be any."""
        return re.compile(self._pattern(self.name, caller, known), re.DOTALL)

    def _pattern(self, node: Node, caller: Caller, known: Sequence[str]) -> str:
        match node:
            case tree.Constant():
                return re.escape(str(node.value))
            case tree.Joined():
                return self._pattern(node.left, caller, known) + self._pattern(node.right, caller, known)
            case tree.Given(name="caller.name"):
                return re.escape(caller.name)
            case tree.Given(name="caller.id"):
                return re.escape(caller.id)
            case tree.Given() if node.name.startswith("path."):
                at = self.segments[node.name.removeprefix("path.")]
                return re.escape(known[at]) if at < len(known) and known[at] != "-" else _SEGMENT
        return _ANY


def lookups(resource: Resource, rules: Sequence[Rule]) -> tuple[Lookup, ...]:
    """All look-ups of the rules of a resource."""
    return tuple(
        Lookup(of.message, name, fields, rule.predicates.segments, _is_above(resource, name))
        for rule in rules
        for of, name, fields in _found(rule.node)
    )


def _is_above(resource: Resource, name: Node) -> bool:
    text = _text(name)
    return text is not None and all(pattern.text.startswith(f"{text}/") for pattern in resource.patterns)


def _text(node: Node) -> str | None:
    """The name as patterns have it; None where it is made of anything but the row's own."""
    match node:
        case tree.Constant():
            return str(node.value)
        case tree.Given() if node.name.startswith("path."):
            return f"{{{node.name.removeprefix('path.')}}}"
        case tree.Joined():
            left, right = _text(node.left), _text(node.right)
            return None if left is None or right is None else left + right
    return None


def _found(node: Node) -> Iterator[tuple[Resource, Node, frozenset[str] | None]]:
    match node:
        case tree.Select(of=tree.Found() as found) | tree.Has(of=tree.Found() as found):
            yield found.resource, found.name, frozenset({node.field.name})
            yield from _found(found.name)
        case tree.Found():
            yield node.resource, node.name, None
            yield from _found(node.name)
        case tree.Exists():
            yield node.resource, node.name, frozenset()
            yield from _found(node.name)
        case _:
            for child in node.children():
                yield from _found(child)


def mentions(rules: Sequence[Rule], given: str) -> bool:
    """Whether one of the rules speaks of `caller.session_age`, `now` or the like."""
    return any(isinstance(n, tree.Given) and n.name == given for rule in rules for n in tree.walk(rule.node))
