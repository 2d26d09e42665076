"""Why a rule holds or does not: its parts as text, the value of each, and which of them decided. Pure.

It asks the predicate itself, part by part, so it cannot say anything else than the rule does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf import text_format
from google.protobuf.descriptor import EnumDescriptor

from server.query.rules import tree
from server.query.rules.checking import Rule
from server.query.rules.scene import Fault, Scene
from server.query.rules.tree import Kind, Node, Type

SOURCE_MOST, VALUE_MOST = 300, 120
"""Characters of a part's text and of its value; longer ones end in an ellipsis."""

PARTS_MOST = 300
"""Parts of an explanation; those beyond are left out."""

ELEMENTS_MOST = 3
"""Elements of a list that are shown where none of them decides by itself."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Part:
    """One expression of a rule, and what became of it."""

    source: str
    value: str
    """As CEL writes it; `error: …` with the reason where it is one."""
    decides: bool
    """Whether the rule holds, or not, because of it."""
    parts: tuple[Part, ...] = ()
    """What it is made of, without constants; of what is no truth only the first time."""
    element: str = ""
    """Where it is an element of a list: the variable that stands for it."""


def explained(rule: Rule, scene: Scene) -> Part:
    """The whole rule as it is judged in the scene.

    What a part needs and nobody has looked up yet is in `scene.wanted` afterwards, and the part an error: whoever wants
    to know looks it up and asks again.
    """
    return _Explaining(rule, scene).part(rule.node, True)


def source(node: Node) -> str:
    """The expression as CEL, with no more parentheses than it needs."""
    return _source(node)[0]


class _Explaining:
    def __init__(self, rule: Rule, scene: Scene) -> None:
        self._predicates = rule.predicates
        self._scene = scene
        self._left = PARTS_MOST
        self._shown: list[Node] = []

    def part(self, node: Node, decides: bool) -> Part:
        self._left -= 1
        value, fault = self._value(node)
        shown = f"error: {self._reason(node)}" if fault else _text(value, node.type)
        return Part(
            _short(source(node), SOURCE_MOST),
            _short(shown, VALUE_MOST),
            decides,
            tuple(self._parts(node, value, fault, decides)),
        )

    def _parts(self, node: Node, value: Any, fault: bool, decides: bool) -> Iterator[Part]:
        if isinstance(node, tree.Quantified):
            yield from self._elements(node, value, fault, decides)
            return
        truth = node.type.kind is Kind.BOOL
        if not truth and not any(isinstance(n, tree.Element) for n in tree.walk(node)):
            if node in self._shown:
                return  # what it is made of was shown before, and is the same
            self._shown.append(node)
        deciding = self._deciding(node, value) if decides and truth else []
        for child in _below(node):
            if not isinstance(child, tree.Constant | tree.Root | tree.Element) and self._left > 0:
                yield self.part(child, any(child is one for one in deciding))

    def _deciding(self, node: Node, value: Any) -> list[Node]:
        """Which of its children made the node what it is."""
        match node:
            case tree.And() | tree.Or():
                sides = [node.left, node.right]
                # One side alone is enough for the value that decides; else it takes both. Of errors, those that are.
                enough = isinstance(node, tree.Or)
                if value is enough:
                    return [next(side for side in sides if self._value(side) == (enough, False))]
                return [side for side in sides if value is not None or self._value(side)[1]]
            case tree.Not():
                return [node.of]
            case tree.If():
                test, fault = self._value(node.test)
                return [node.test] if fault else [node.test, node.then if test else node.other]
        return []

    def _elements(self, node: tree.Quantified, value: Any, fault: bool, decides: bool) -> Iterator[Part]:
        if self._left > 0:
            yield self.part(node.of, False)
        elements, none = self._value(node.of)
        if none:
            return
        stack = self._predicates.elements(node.variable)
        shown = 0
        for element in elements:
            stack.append(element)
            try:
                found, failed = self._value(node.test)
                alone = (fault and failed) or (not fault and found is (not node.every) and not failed)
                together = not fault and value is node.every
                if (alone or (together and shown < ELEMENTS_MOST)) and self._left > 0:
                    shown += 1
                    self._left -= 1
                    test = self.part(node.test, decides)
                    assert node.of.type.of is not None
                    name = f"{node.variable} = {_text(element, node.of.type.of)}"
                    yield Part(_short(name, SOURCE_MOST), test.value, decides, (test,), node.variable)
                    if alone:
                        return
            finally:
                stack.pop()

    def _value(self, node: Node) -> tuple[Any, bool]:
        """The value and False, or None and True where it is an error."""
        try:
            return self._predicates.of(node)(self._scene), False
        except Fault:
            return None, True

    def _reason(self, node: Node) -> str:
        """Why the node is an error."""
        if isinstance(node, tree.Quantified):
            return self._reason_within(node)
        for child in node.children():
            if self._value(child)[1]:
                return self._reason(child)
        match node:
            case tree.Found() | tree.Exists():
                name = self._value(node.name)[0]
                if (node.resource.message, name) in self._scene.asking.found:
                    return f"{_short(name, 60)!r} does not exist"
                return f"{_short(name, 60)!r} was not looked up"
            case tree.Item():
                return f"there is no key {_text(self._value(node.key)[0], tree.STRING)}"
            case tree.Shifted():
                return "it is out of range"
            case tree.Given():
                return f"{node.name} is not known"
        return "the resource does not exist"

    def _reason_within(self, node: tree.Quantified) -> str:
        elements, fault = self._value(node.of)
        if fault:
            return self._reason(node.of)
        stack = self._predicates.elements(node.variable)
        for element in elements:
            stack.append(element)
            try:
                if self._value(node.test)[1]:
                    return self._reason(node.test)
            finally:
                stack.pop()
        return "an element is one"


def _below(node: Node) -> Iterator[Node]:
    """What a node is made of: of a text that is put together, all of its pieces."""
    for child in node.children():
        if isinstance(node, tree.Joined) and isinstance(child, tree.Joined):
            yield from _below(child)
        else:
            yield child


# Texts.

_ATOM, _NOT, _SUM, _RELATION, _BOTH, _EITHER, _CHOICE = range(7)
"""How loosely an expression holds together."""


def _source(node: Node, enum: EnumDescriptor | None = None) -> tuple[str, int]:
    """The text and how loosely it holds together. `enum`: the enum whose number it is, where only its neighbour tells."""
    match node:
        case tree.Constant():
            return _constant(node, node.type.enum or enum), _ATOM
        case tree.Given() | tree.Root() | tree.Element():
            return node.name, _ATOM
        case tree.Found():
            return f"get({source(node.name)})", _ATOM
        case tree.Exists():
            return f"exists({source(node.name)})", _ATOM
        case tree.Select():
            return f"{_in(node.of, _ATOM)}.{_field(node.field.name)}", _ATOM
        case tree.Has():
            return f"has({_in(node.of, _ATOM)}.{_field(node.field.name)})", _ATOM
        case tree.Item():
            return f"{_in(node.of, _ATOM)}[{source(node.key)}]", _ATOM
        case tree.Quantified():
            macro = "all" if node.every else "exists"
            return f"{_in(node.of, _ATOM)}.{macro}({node.variable}, {source(node.test)})", _ATOM
        case tree.And():
            return f"{_in(node.left, _BOTH)} && {_in(node.right, _BOTH)}", _BOTH
        case tree.Or():
            return f"{_in(node.left, _EITHER)} || {_in(node.right, _EITHER)}", _EITHER
        case tree.Not():
            # CEL reads `!!x` as `x`.
            return f"!{_in(node.of, _ATOM if isinstance(node.of, tree.Not) else _NOT)}", _NOT
        case tree.If():
            then, other = _in(node.then, _EITHER), _in(node.other, _CHOICE)
            return f"{_in(node.test, _EITHER)} ? {then} : {other}", _CHOICE
        case tree.Compared():
            left, right = node.left, node.right
            one, two = _in(left, _SUM, right.type.enum), _in(right, _SUM, left.type.enum)
            return f"{one} {node.op} {two}", _RELATION
        case tree.OneOf():
            enums = [n.type.enum for n in (node.value, *node.options) if n.type.enum]
            enum = enums[0] if enums else None
            options = ", ".join(_source(o, enum)[0] for o in node.options)
            return f"{_in(node.value, _SUM, enum)} in [{options}]", _RELATION
        case tree.Contained():
            element = node.of.type.of.enum if node.of.type.kind is Kind.LIST and node.of.type.of else None
            return f"{_in(node.value, _SUM, element)} in {_in(node.of, _SUM)}", _RELATION
        case tree.Joined():
            return f"{_in(node.left, _SUM)} + {_in(node.right, _NOT)}", _SUM
        case tree.Shifted():
            return f"{_in(node.left, _SUM)} {'+' if node.sign > 0 else '-'} {_in(node.right, _NOT)}", _SUM
        case tree.Size():
            return f"size({source(node.of)})", _ATOM
        case tree.Text():
            return f"{_in(node.of, _ATOM)}.{node.op}({source(node.part)})", _ATOM
    raise AssertionError(node)


def _in(node: Node, loosest: int, enum: EnumDescriptor | None = None) -> str:
    text, looseness = _source(node, enum)
    return f"({text})" if looseness > loosest else text


def _field(name: str) -> str:
    return f"`{name}`" if name in _RESERVED else name


_RESERVED = frozenset({"in", "true", "false", "null"})


def _constant(node: tree.Constant, enum: EnumDescriptor | None) -> str:
    value, kind = node.value, node.type.kind
    match kind:
        case Kind.INT if enum is not None and value in enum.values_by_number:
            return f"{enum.full_name.removeprefix(f'{enum.file.package}.')}.{enum.values_by_number[value].name}"
        case Kind.TIMESTAMP:
            return f'timestamp("{_instant(value)}")'
        case Kind.DURATION:
            return f'duration("{_span(value)}")'
    return _text(value, node.type)


def _text(value: Any, kind: Type) -> str:
    """A value as CEL writes it, as far as it can."""
    match kind.kind:
        case Kind.BOOL:
            return "true" if value else "false"
        case Kind.INT if kind.enum is not None and value in kind.enum.values_by_number:
            return str(kind.enum.values_by_number[value].name)
        case Kind.UINT:
            return f"{value}u"
        case Kind.DOUBLE:
            return (
                str(value) if math.isfinite(value) else {"nan": "NaN", "inf": "Infinity"}.get(str(value), "-Infinity")
            )
        case Kind.STRING:
            return _quoted(value)
        case Kind.BYTES:
            return 'b"' + "".join(f"\\x{byte:02x}" for byte in value) + '"'
        case Kind.TIMESTAMP:
            return _instant(value)
        case Kind.DURATION:
            return _span(value)
        case Kind.LIST:
            assert kind.of is not None
            return _several(sorted(value) if isinstance(value, frozenset) else value, kind.of)
        case Kind.MAP:
            assert kind.of is not None
            some = sorted(value)[:ELEMENTS_MOST]
            inside = ", ".join(f"{_quoted(key)}: {_text(value[key], kind.of)}" for key in some)
            return f"{{{inside}{', …' if len(value) > len(some) else ''}}}"
        case Kind.MESSAGE:
            return f"{{{text_format.MessageToString(value, as_one_line=True, as_utf8=True)}}}"
    return str(value)


def _several(values: Any, kind: Type) -> str:
    inside = ", ".join(_text(one, kind) for one in values[:ELEMENTS_MOST])
    return f"[{inside}{', …' if len(values) > ELEMENTS_MOST else ''}]"


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _quoted(text: str) -> str:
    return '"' + "".join(_ESCAPES.get(c, c if c.isprintable() else f"\\U{ord(c):08x}") for c in text) + '"'


def _instant(micros: int) -> str:
    return (_EPOCH + timedelta(microseconds=micros)).isoformat().replace("+00:00", "Z")


def _span(micros: int) -> str:
    whole, rest = divmod(abs(micros), 1_000_000)
    fraction = f".{rest:06}".rstrip("0") if rest else ""
    return f"{'-' if micros < 0 else ''}{whole}{fraction}s"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
