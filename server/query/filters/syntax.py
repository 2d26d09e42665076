"""The text of a filter → its syntax (AIP-160, and the grammar it refers to: google.aip.dev/assets/misc/ebnf-filtering.txt).

`OR` binds tighter than `AND`, and what stands side by side is AND. Nothing is known here of fields and their types.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from server.errors import Invalid

LENGTH_MOST = 10_000
"""Characters of a filter."""
DEPTH_MOST = 20
"""Parentheses in parentheses."""
TERMS_MOST = 200
"""Comparisons, words and calls of one filter."""
STARS_MOST = 5
"""Wildcards of one text."""
SEGMENTS_MOST = 12
"""Names of one path."""
ARGUMENTS_MOST = 8
"""Arguments of one call."""

_TEXT = re.compile(r"(?:(?!!=)[^\s().,:=<>\"'])(?:(?!!=)[^\s().,:=<>\"])*")
"""A name or a word: what the grammar calls TEXT. An apostrophe may stand in it, as in `don't`, but not begin it."""
_LITERAL = re.compile(r"(?:(?!!=)[^\s(),:=<>\"'])(?:(?!!=)[^\s(),:=<>\"])*")
"""A value without quotes: it may have dots, as 1.5 has."""
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)(?![^\s(),])")
_COMPARATOR = re.compile(r"<=|>=|!=|<|>|=|:")
_FOREIGN = {"&&": "AND", "||": "OR", "!": "NOT"}
KEYWORDS = frozenset({"AND", "OR", "NOT"})


class Fault(Exception):
    """A filter that is wrong: `at` is where, from 0."""

    def __init__(self, at: int, why: str) -> None:
        super().__init__(why)
        self.at, self.why = at, why

    def refusal(self, field: str = "filter") -> Invalid:
        """It as the caller is told, with its place: columns count from 1."""
        return Invalid.field(field, f"column {self.at + 1}: {self.why}", f"INVALID_{field.upper()}")


@dataclass(frozen=True, slots=True)
class Segment:
    """One name of a path: a field, or a key of a map."""

    at: int
    text: str
    quoted: bool


@dataclass(frozen=True, slots=True)
class Literal:
    """A value as it is written."""

    at: int
    parts: tuple[str, ...]
    """What stands between its wildcards; one where it has none."""
    quoted: bool

    @property
    def text(self) -> str:
        """The whole, its wildcards as `*`."""
        return "*".join(self.parts)


@dataclass(frozen=True, slots=True)
class Call:
    """A function with its arguments: paths are literals without quotes."""

    at: int
    name: str
    arguments: tuple[Literal | Call, ...]


@dataclass(frozen=True, slots=True)
class All:
    """AND."""

    parts: tuple[Syntax, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """OR."""

    parts: tuple[Syntax, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """NOT, or `-`."""

    of: Syntax


@dataclass(frozen=True, slots=True)
class Restriction:
    """A path, a comparator, and a value or several with AND, OR and NOT between them."""

    at: int
    path: tuple[Segment, ...]
    op: str
    value: Syntax


@dataclass(frozen=True, slots=True)
class Word:
    """A value alone: it is searched for."""

    literal: Literal


Syntax = All | Some | Not | Restriction | Word | Literal | Call


def parse(text: str) -> Syntax | None:
    """The syntax of a filter; None for an empty one. Raises Fault."""
    if len(text) > LENGTH_MOST:
        raise Fault(LENGTH_MOST, f"the filter has {len(text)} characters; {LENGTH_MOST} are the most")
    if "\0" in text:
        raise Fault(text.index("\0"), "holds the character U+0000, which no stored text has")
    return _Parser(text).filter()


def shown(text: str) -> str:
    """A piece of the filter as it is quoted in an error."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def names(text: str, at: int = 0) -> tuple[Segment, ...]:
    """The names of a path that stands alone, `a.b."c d"`. Raises Fault."""
    parser = _Parser(text)
    try:
        segments = parser.path()
        if not parser.ended():
            raise Fault(parser.at, f"{shown(text[parser.at :])} is no part of a path")
    except Fault as fault:
        raise Fault(at + fault.at, fault.why) from None
    return tuple(Segment(at + s.at, s.text, s.quoted) for s in segments)


class _Parser:
    """One pass over the text; `at` is how far it came."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.terms = 0

    def filter(self) -> Syntax | None:
        if self.ended():
            return None
        found = self._expression(self._simple, 0)
        if not self.ended():
            raise Fault(self.at, f"{shown(self.text[self.at])} is unexpected here")
        return found

    def ended(self) -> bool:
        self._blanks()
        return self.at >= len(self.text)

    def path(self) -> list[Segment]:
        segments = [self._segment()]
        while self._next("."):
            segments.append(self._segment())
            if len(segments) > SEGMENTS_MOST:
                raise Fault(segments[-1].at, f"the path has more than {SEGMENTS_MOST} names")
        return segments

    # Logic. `leaf` reads what it combines: restrictions, or the values of one.

    def _expression(self, leaf: Callable[[int], Syntax], depth: int) -> Syntax:
        parts = [self._sequence(leaf, depth)]
        while self._keyword("AND"):
            parts.append(self._sequence(leaf, depth))
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _sequence(self, leaf: Callable[[int], Syntax], depth: int) -> Syntax:
        parts = [self._factor(leaf, depth)]
        while not self.ended() and self.text[self.at] not in ")," and not self._peek("AND"):
            parts.append(self._factor(leaf, depth))
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _factor(self, leaf: Callable[[int], Syntax], depth: int) -> Syntax:
        parts = [self._term(leaf, depth)]
        while self._keyword("OR"):
            parts.append(self._term(leaf, depth))
        return parts[0] if len(parts) == 1 else Some(tuple(parts))

    def _term(self, leaf: Callable[[int], Syntax], depth: int) -> Syntax:
        if self._keyword("NOT") or (leaf == self._simple and self._next("-")):
            return Not(self._composite(leaf, depth))
        return self._composite(leaf, depth)

    def _composite(self, leaf: Callable[[int], Syntax], depth: int) -> Syntax:
        self._blanks()
        begin = self.at
        if not self._next("("):
            return leaf(depth)
        if depth >= DEPTH_MOST:
            raise Fault(begin, f"parentheses are nested deeper than {DEPTH_MOST}")
        found = self._expression(leaf, depth + 1)
        self._blanks()
        if not self._next(")"):
            raise Fault(begin, "this parenthesis is not closed")
        return found

    # Restrictions.

    def _simple(self, depth: int) -> Syntax:
        self._blanks()
        begin = self.at
        self._refuse_foreign()
        path = self.path()
        if not path[-1].quoted and self._next("("):
            self._count(begin)
            return self._call(begin, ".".join(s.text for s in path), self._comparator_refused)
        end = self.at
        self._blanks()
        op = _COMPARATOR.match(self.text, self.at)
        if op is None:
            self._count(begin)
            self.at = end
            if len(path) == 1 and path[0].quoted:
                self.at = begin
                return Word(self._literal())
            return Word(Literal(begin, self._parts(begin, ".".join(s.text for s in path)), False))
        if path[0].quoted:
            raise Fault(begin, "a field stands left of a comparison, without quotes")
        self.at = op.end()
        if self.text.startswith("=", self.at):
            raise Fault(
                op.start(), f"{shown(self.text[op.start() : self.at + 1])} is no comparison; there are = != < <= > >= :"
            )
        value = self._composite(self._value, depth)
        return Restriction(begin, tuple(path), op[0], value)

    def _value(self, depth: int) -> Syntax:
        self._blanks()
        self._count(self.at)
        found = self._argument()
        self._blanks()
        if (op := _COMPARATOR.match(self.text, self.at)) is not None:
            raise Fault(
                op.start(), f"{shown(op[0])} is unexpected after a value; write a value that holds it in quotes"
            )
        return found

    def _argument(self) -> Literal | Call:
        begin = self.at
        literal = self._literal()
        if not literal.quoted and self._next("("):
            return self._call(begin, literal.text, lambda: None)
        return literal

    def _call(self, begin: int, name: str, after: Callable[[], None]) -> Call:
        arguments: list[Literal | Call] = []
        self._blanks()
        while not self._next(")"):
            if arguments and not self._next(","):
                raise Fault(begin, f"the parenthesis of {shown(name)} is not closed")
            if len(arguments) >= ARGUMENTS_MOST:
                raise Fault(self.at, f"{shown(name)} has more than {ARGUMENTS_MOST} arguments")
            self._blanks()
            at = self.at
            literal = self._literal()
            if not literal.quoted and self.text.startswith("(", self.at):
                raise Fault(at, "a call cannot be an argument")
            arguments.append(literal)
            self._blanks()
        after()
        return Call(begin, name, tuple(arguments))

    def _comparator_refused(self) -> None:
        self._blanks()
        if (op := _COMPARATOR.match(self.text, self.at)) is not None:
            raise Fault(op.start(), f"{shown(op[0])} is unexpected after a call, which is true or false by itself")

    # Pieces.

    def _segment(self) -> Segment:
        begin = self.at
        if self.text[begin : begin + 1] in ("'", '"'):
            literal = self._quoted()
            return Segment(begin, literal.text, True)
        found = _TEXT.match(self.text, begin)
        if found is None:
            raise self._missing("a field or a word")
        self.at = found.end()
        return Segment(begin, found[0], False)

    def _literal(self) -> Literal:
        begin = self.at
        if self.text[begin : begin + 1] in ("'", '"'):
            return self._quoted()
        found = _INSTANT.match(self.text, begin) or _LITERAL.match(self.text, begin)
        if found is None:
            raise self._missing("a value")
        self.at = found.end()
        if found[0] in KEYWORDS:
            raise Fault(begin, f"{found[0]} stands where a value is expected; write it in quotes if it is one")
        return Literal(begin, self._parts(begin, found[0]), False)

    def _quoted(self) -> Literal:
        begin, quote = self.at, self.text[self.at]
        parts, part = [], []
        at = begin + 1
        while at < len(self.text) and self.text[at] != quote:
            char = self.text[at]
            if char == "\\":
                at += 1
                part.append(self.text[at : at + 1])
            elif char == "*":
                parts.append("".join(part))
                part = []
            else:
                part.append(char)
            at += 1
        if at >= len(self.text):
            raise Fault(begin, "this quote is not closed")
        parts.append("".join(part))
        self.at = at + 1
        self._check_stars(begin, parts)
        return Literal(begin, tuple(parts), True)

    def _parts(self, at: int, text: str) -> tuple[str, ...]:
        parts = text.split("*")
        self._check_stars(at, parts)
        return tuple(parts)

    @staticmethod
    def _check_stars(at: int, parts: list[str]) -> None:
        if len(parts) - 1 > STARS_MOST:
            raise Fault(at, f"the text has {len(parts) - 1} wildcards; {STARS_MOST} are the most")

    def _count(self, at: int) -> None:
        self.terms += 1
        if self.terms > TERMS_MOST:
            raise Fault(at, f"the filter has more than {TERMS_MOST} terms")

    def _blanks(self) -> None:
        at, text = self.at, self.text
        while at < len(text) and text[at].isspace():
            at += 1
        self.at = at

    def _next(self, char: str) -> bool:
        if self.text.startswith(char, self.at):
            self.at += len(char)
            return True
        return False

    def _peek(self, keyword: str) -> bool:
        if not self.text.startswith(keyword, self.at):
            return False
        found = _TEXT.match(self.text, self.at)
        return found is not None and found[0] == keyword

    def _keyword(self, keyword: str) -> bool:
        self._blanks()
        if self._peek(keyword):
            self.at += len(keyword)
            return True
        return False

    def _refuse_foreign(self) -> None:
        found = _TEXT.match(self.text, self.at)
        if found is not None and (found[0] in KEYWORDS or (meant := _FOREIGN.get(found[0]))):
            if found[0] in KEYWORDS:
                raise Fault(self.at, f"{found[0]} is missing something to its left or right")
            raise Fault(self.at, f"{shown(found[0])} is no operator; it is {meant}, or the word in quotes")

    def _missing(self, what: str) -> Fault:
        if self.at >= len(self.text):
            return Fault(self.at, f"the filter ends where {what} is expected")
        return Fault(self.at, f"{shown(self.text[self.at])} stands where {what} is expected")
