"""Terms: words that a schema gives to expressions it uses again and again, put in where rules say them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from server.query.rules.lowering import Refused
from server.query.rules.syntax import Syntax

TERMS_MOST = 50
"""Terms of one package."""

EXPANDED_MOST = 8000
"""Characters of a rule with all its terms put in."""

_WORD = re.compile(r"[a-z][a-z0-9_]{0,62}")
_KNOWN = {"caller", "resource", "request", "owner", "parent", "path", "now", "get", "exists", "has", "size"}
_KEPT = {"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import"}
_TAKEN = _KNOWN | _KEPT | {"let", "loop", "package", "namespace", "return", "var", "void", "while"}
"""What rules know already, and the words that CEL keeps for itself."""

Parse = Callable[[str], Syntax]
"""An expression's syntax, not checked yet. Raises Refused."""


@dataclass(frozen=True, slots=True)
class Expanded:
    """A rule with its terms put in, and where in the rule as it was written each place of it is."""

    text: str
    put_in: tuple[tuple[int, int, int, str], ...] = ()
    """Beginning and end of what was put in, where its word stands in the rule, and the word."""

    def original(self, refused: Refused) -> Refused:
        """The refusal, with its place in the rule as it was written."""
        shift = 0
        for begin, end, at, word in self.put_in:
            if refused.at < begin:
                break
            if refused.at < end:
                return Refused(at, f"in the term {word!r}: {refused.why}")
            shift = end - (at + len(word))
        return Refused(refused.at - shift, refused.why)


class Terms:
    """The terms of one package, each made of those before it."""

    def __init__(self, written: Sequence[tuple[str, str]], parse: Parse) -> None:
        """Raises Refused, saying which term is wrong."""
        self._parse = parse
        self._meanings: dict[str, str] = {}
        if len(written) > TERMS_MOST:
            raise Refused(0, f"there are {len(written)} terms; {TERMS_MOST} are the most")
        for word, text in written:
            if not _WORD.fullmatch(word) or word in _TAKEN:
                raise Refused(0, f"{word!r} is no word for a term: lower_snake_case, and none that CEL or rules use")
            if word in self._meanings:
                raise Refused(0, f"the term {word!r} is there twice")
            try:
                parse(text)
                self._meanings[word] = self.expanded(text).text
            except Refused as refused:
                raise Refused(refused.at, f"the term {word!r}: {refused.why}") from None

    def expanded(self, text: str) -> Expanded:
        """`text` with every term in it put in, in parentheses. Raises Refused."""
        if not self._meanings:
            return Expanded(text)
        syntax = self._parse(text)
        found = sorted(
            (syntax.positions.get(expr.id, -1), word)
            for expr, bound in _words(syntax.expr, frozenset())
            if (word := expr.ident_expr.name) in self._meanings and word not in bound
        )
        out, end, put_in, length = [], 0, [], 0
        for at, word in found:
            if text[at : at + len(word)] != word:
                continue  # a macro's own
            before, meaning = text[end:at], f"({self._meanings[word]}\n)"  # it may end in a comment
            length += len(before)
            put_in.append((length, length + len(meaning), at, word))
            length += len(meaning)
            out += [before, meaning]
            end = at + len(word)
        whole = "".join([*out, text[end:]])
        if len(whole) > EXPANDED_MOST:
            raise Refused(0, f"is longer than {EXPANDED_MOST} characters with its terms put in")
        return Expanded(whole, tuple(put_in))


def _words(expr: Any, bound: frozenset[str]) -> Iterator[tuple[Any, frozenset[str]]]:
    """The names that stand alone, and the variables of macros around each."""
    match expr.WhichOneof("expr_kind"):
        case "ident_expr":
            yield expr, bound
        case "select_expr":
            yield from _words(expr.select_expr.operand, bound)
        case "call_expr":
            call = expr.call_expr
            for one in [*([call.target] if call.HasField("target") else []), *call.args]:
                yield from _words(one, bound)
        case "list_expr":
            for one in expr.list_expr.elements:
                yield from _words(one, bound)
        case "comprehension_expr":
            over = expr.comprehension_expr
            yield from _words(over.iter_range, bound)
            inside = bound | {over.iter_var, over.accu_var}
            for one in (over.loop_step, over.result):
                yield from _words(one, inside)
