"""Syntax → tree: names become paths, values become constants of their types. What does not fit is refused, with its place."""

from __future__ import annotations

from collections.abc import Callable

from server.query.filters import constants, syntax, tree
from server.query.filters.paths import Path, Paths
from server.query.filters.syntax import Call, Fault, Literal, Restriction, Segment, Syntax, Word, shown
from server.query.filters.tree import Node
from server.schema.kinds import Kind

_ORDERED = frozenset({Kind.INT, Kind.DOUBLE, Kind.STRING, Kind.TIMESTAMP, Kind.DURATION, Kind.DYNAMIC})
_CALLS = "startsWith, endsWith, contains; now() and ago(20s) as values of times"


class Checking:
    """One filter of one resource."""

    def __init__(self, paths: Paths, searchable: bool, message: str) -> None:
        self._paths = paths
        self._searchable = searchable
        self._message = message
        self._terms = 0

    def node(self, found: Syntax) -> Node:
        """The tree of a filter. Raises Fault."""
        match found:
            case syntax.All():
                return tree.And(tuple(map(self.node, found.parts)))
            case syntax.Some():
                return tree.Or(tuple(map(self.node, found.parts)))
            case syntax.Not():
                return tree.Not(self.node(found.of))
            case Word():
                return self._word(found.literal)
            case Call():
                return self._call(found)
            case Restriction():
                return self._restriction(found)
        raise AssertionError(found)

    def _word(self, literal: Literal) -> Node:
        if not self._searchable:
            raise Fault(
                literal.at,
                f"{shown(literal.text)} stands alone, and {self._message} has no field whose words are searched; "
                "write a field, a comparison and a value",
            )
        return tree.Found(("", *literal.parts, ""))

    def _restriction(self, found: Restriction) -> Node:
        has = found.op == ":"
        path = self._paths.of(found.path, items=has)
        if has:
            return self._values(found.value, lambda literal: self._has(path, literal))
        if path.repeated or path.kind is Kind.MAP:
            what = "repeated" if path.repeated else "a map"
            how = "`:`" if path.repeated else f"`:`, and the value of a key as {path.text}.key"
            return self._values(
                found.value, lambda literal: self._null(path, found.op, literal, f"is {what}: ask with {how}")
            )
        if path.kind is Kind.MESSAGE:
            why = f"is a message: name a field of it, as in {path.text}.{_first(path)}"
            return self._values(found.value, lambda literal: self._null(path, found.op, literal, why))
        equal = self._values(
            found.value, lambda literal: self._compared(path, "=" if found.op == "!=" else found.op, literal)
        )
        return tree.Not(equal) if found.op == "!=" else equal

    def _values(self, value: Syntax, of: Callable[[Literal | Call], Node]) -> Node:
        """A comparison with a value, or with each of several that logic stands between."""
        match value:
            case syntax.All():
                return tree.And(tuple(self._values(part, of) for part in value.parts))
            case syntax.Some():
                return tree.Or(tuple(self._values(part, of) for part in value.parts))
            case syntax.Not():
                return tree.Not(self._values(value.of, of))
            case Literal() | Call():
                return of(value)
        raise AssertionError(value)

    def _null(self, path: Path, op: str, literal: Literal | Call, why: str) -> Node:
        if isinstance(literal, Literal) and _is_null(literal) and op in ("=", "!="):
            return tree.Present(path) if op == "!=" else tree.Not(tree.Present(path))
        raise Fault(literal.at, f"{shown(path.text)} {why}")

    def _compared(self, path: Path, op: str, literal: Literal | Call) -> Node:
        if isinstance(literal, Call):
            return tree.Compared(path, op, self._moment(path, literal), relative=True)
        if _is_null(literal):
            if op != "=":
                raise Fault(literal.at, f"null can be compared with = and != only, and not with {op}")
            return tree.Not(tree.Present(path))
        if path.kind is Kind.OPAQUE:
            raise Fault(
                literal.at, f"{shown(path.text)} has no value that could be compared; it is there or not: {path.text}:*"
            )
        if op != "=" and path.kind not in _ORDERED:
            raise Fault(literal.at, f"{shown(path.text)} can be compared with = and != only, and not with {op}")
        if len(literal.parts) > 1 and path.kind in (Kind.STRING, Kind.DYNAMIC) and op == "=":
            return tree.Like(path, literal.parts)
        constant = constants.constant(path, literal)
        if path.kind is Kind.DYNAMIC and op != "=" and isinstance(constant[0], bool):
            raise Fault(literal.at, f"{literal.text} can be compared with = and != only, and not with {op}")
        return tree.Compared(path, op, constant)

    def _has(self, path: Path, literal: Literal | Call) -> Node:
        if isinstance(literal, Literal) and not literal.quoted and literal.parts == ("", ""):
            return tree.Present(path)
        if isinstance(literal, Literal) and path.kind is Kind.MAP:
            return tree.Present(path.key(literal.at, literal.text))
        if path.repeated:
            path = path.items()
        if isinstance(literal, Literal):
            if path.kind is Kind.MESSAGE:
                field = self._paths.member(path.field.message_type, Segment(literal.at, literal.text, literal.quoted))
                return tree.Present(path.member(field))
            if path.kind is Kind.DYNAMIC and not path.many and not _is_null(literal):
                return self._in_json(path, literal)
            if path.kind is Kind.STRING and not path.steps:
                return tree.Like(path, ("", *literal.parts, ""), folded=True)
        return self._compared(path, "=", literal)

    @staticmethod
    def _in_json(path: Path, literal: Literal) -> Node:
        if len(literal.parts) > 1:
            return tree.Like(path, literal.parts)
        return tree.Or(
            (tree.Holds(path, constants.constant(path, literal)), tree.Present(path.key(literal.at, literal.text)))
        )

    def _moment(self, path: Path, call: Call) -> int:
        """Microseconds from now."""
        if call.name not in ("now", "ago"):
            raise Fault(
                call.at, f"there is no function {shown(call.name)} that gives a value; there are now() and ago(20s)"
            )
        if path.kind is not Kind.TIMESTAMP:
            raise Fault(call.at, f"{call.name}(...) is a time, and {shown(path.text)} is none")
        if call.name == "now":
            self._arguments(call, 0)
            return 0
        [of] = self._arguments(call, 1)
        return -constants.duration(of)

    def _call(self, call: Call) -> Node:
        if call.name not in ("startsWith", "endsWith", "contains"):
            raise Fault(call.at, f"there is no function {shown(call.name)}; there are {_CALLS}")
        of, text = self._arguments(call, 2)
        if of.quoted:
            raise Fault(of.at, f"{call.name} asks of a field, which stands without quotes")
        path = self._paths.of(syntax.names(of.text, of.at), items=False)
        if path.repeated or path.kind is not Kind.STRING:
            raise Fault(of.at, f"{shown(path.text)} is no text, of which {call.name} could ask")
        if len(text.parts) > 1:
            raise Fault(text.at, f"{call.name} knows no wildcards; a star is written \\*")
        parts = {"startsWith": (text.text, ""), "endsWith": ("", text.text), "contains": ("", text.text, "")}
        return tree.Like(path, parts[call.name])

    @staticmethod
    def _arguments(call: Call, number: int) -> list[Literal]:
        given = [one for one in call.arguments if isinstance(one, Literal)]
        if len(given) != number:
            raise Fault(
                call.at, f"{call.name} takes {number or 'no'} argument{'s' * (number != 1)}, and has {len(given)}"
            )
        return given


def _is_null(literal: Literal) -> bool:
    return not literal.quoted and literal.text == "null"


def _first(path: Path) -> str:
    fields = path.field.message_type.fields
    return fields[0].name if fields else "field"
