"""Rule → SQL, where only the rows that it holds for are wanted: the condition of `sql`, said so that Postgres plans well.

What is true there is true here, and nothing else; what is NULL there may be false here. That is enough for what a WHERE asks.

Postgres chooses between an index that has the rows in the wanted order, and is left as soon as the page is full, and reading all
of them and sorting. It does so by how many rows it thinks meet the condition; where it cannot know, it thinks of very few, and
sorts a million rows for a page of twenty. So it is shown what it has statistics of, whose a row is; what depends on the caller
alone it reckons out, as the caller's attributes are constants to it; and all else is said so that it thinks of a half: where
that is wrong, and few are met, the walk along the index costs some times what the sort had cost, and not thousands of times.
"""

from __future__ import annotations

from collections.abc import Iterator

from server.query.rules import tree
from server.query.rules.sql import Conditions
from server.query.rules.tree import Kind, Node

_CALLERS = frozenset({"caller.name", "caller.id"})


def selecting(conditions: Conditions, node: Node) -> str:
    """The condition of a node that is true or false. Raises Refused as `Conditions.of` does."""
    match node:
        case tree.And():
            return _joined(conditions, node, "and")
        case tree.Or():
            return _joined(conditions, node, "or")
    if (caller := _owner(node)) is not None:
        # What nobody owns has an empty one, and is nobody's.
        return f"(t._owner = nullif({conditions.of(caller)}, ''))"
    return conditions.of(node) if _told(node) else _unguessed(conditions.of(node))


def _joined(conditions: Conditions, node: tree.And | tree.Or, word: str) -> str:
    """All that cannot be guessed is one guess, however much it is."""
    parts = list(_parts(node, type(node)))
    said = [selecting(conditions, part) for part in parts if _told(part)]
    rest = [conditions.of(part) for part in parts if not _told(part)]
    if rest:
        said.append(_unguessed(f" {word} ".join(rest)))
    return f"({f' {word} '.join(said)})"


def _parts(node: Node, kind: type[tree.And | tree.Or]) -> Iterator[Node]:
    if isinstance(node, kind):
        yield from _parts(node.left, kind)
        yield from _parts(node.right, kind)
    else:
        yield node


def _told(node: Node) -> bool:
    """Whether Postgres can tell how many rows meet it: it says whose they are, or depends on no row."""
    if isinstance(node, tree.And | tree.Or):
        return _told(node.left) and _told(node.right)
    if not tree.of_row(node):
        return True
    whose, _ = _compared(node)
    match whose:
        case tree.Given(name="owner" | "parent"):
            return True
        case tree.Select(of=tree.Root(), field=field):
            return whose.type.kind is Kind.STRING and not field.has_presence  # the column, as it is
    return False


def _owner(node: Node) -> Node | None:
    """Who the row's owner must be, where the node says so."""
    match _compared(node):
        case (tree.Given(name="owner"), caller):
            return caller
    return None


def _compared(node: Node) -> tuple[Node | None, Node | None]:
    """What must be equal to the caller's name or id, and which of them."""
    if isinstance(node, tree.Compared) and node.op == "==":
        for of, caller in ((node.left, node.right), (node.right, node.left)):
            if isinstance(caller, tree.Given) and caller.name in _CALLERS:
                return of, caller
    return None, None


def _unguessed(condition: str) -> str:
    """Postgres looks into no CASE, and takes it to be true of a half."""
    return f"(case when {condition} then true else false end)"
