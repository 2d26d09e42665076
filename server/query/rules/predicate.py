"""Rule → Python: a function of one scene. Errors are Faults, and behave as CEL's errors do.

`false && error` is false and `true || error` is true, whichever side the error is on; everything else that meets an
error is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import eq, ge, gt, le, lt, ne
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from server.query.rules import tree
from server.query.rules.lowering import SPAN_MOST, TIME_LEAST, TIME_MOST
from server.query.rules.scene import Fault, Scene
from server.query.rules.tree import Kind, Node

Value = Callable[[Scene], Any]

_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {"==": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge}
_GIVEN: Mapping[str, Value] = {
    "caller.name": lambda s: s.asking.caller.name,
    "caller.id": lambda s: s.asking.caller.id,
    "caller.kind": lambda s: s.asking.caller.kind.value,
    "caller.roles": lambda s: s.asking.caller.roles,
    "caller.verified": lambda s: s.asking.caller.verified,
    "caller.session_age": lambda s: _session_age(s),
    "now": lambda s: s.asking.now,
}


class Predicates:
    """Makes the functions of one resource's rules. `segments` says where in the name a `path.<variable>` stands,
    `parent_of` what the parent of a name is, `name_field` which field of the resource holds the name."""

    def __init__(self, segments: Mapping[str, int], parent_of: Callable[[str], str], name_field: str) -> None:
        self._segments = segments
        self._parent_of = parent_of
        self._name_field = name_field
        self._elements: dict[str, list[Any]] = {}

    def of(self, node: Node) -> Value:
        """The value of `node` in a scene. What it makes raises Fault for CEL's errors, and for what is not looked up."""
        make: Callable[[Any], Value] = getattr(self, f"_{type(node).__name__.lower()}")
        return make(node)

    @property
    def segments(self) -> Mapping[str, int]:
        """Where in the name a `path.<variable>` stands."""
        return self._segments

    def elements(self, variable: str) -> list[Any]:
        """What a quantifier's variable stands for, the last for the innermost: what is put there is what its test sees."""
        return self._elements[variable]

    def _constant(self, node: tree.Constant) -> Value:
        value = node.value
        return lambda scene: value

    def _given(self, node: tree.Given) -> Value:
        if node.name in _GIVEN:
            return _GIVEN[node.name]
        if node.name == "owner":
            return _owner
        if node.name == "parent":
            parent_of = self._parent_of
            return lambda scene: parent_of(scene.name)
        index = self._segments[node.name.removeprefix("path.")]
        return lambda scene: scene.name.split("/")[index]

    @staticmethod
    def _root(node: tree.Root) -> Value:
        return _resource if node.name == "resource" else _request

    def _found(self, node: tree.Found) -> Value:
        resource, name = node.resource, self.of(node.name)

        def found(scene: Scene) -> Any:
            message = scene.look_up(resource, name(scene))
            if message is None:
                raise Fault
            return message

        return found

    def _exists(self, node: tree.Exists) -> Value:
        resource, name = node.resource, self.of(node.name)
        return lambda scene: scene.look_up(resource, name(scene)) is not None

    def _select(self, node: tree.Select) -> Value:
        if isinstance(node.of, tree.Root) and node.of.name == "resource" and node.field.name == self._name_field:
            return _name  # known before the row is
        of, field = self.of(node.of), node.field.name
        if node.type.kind is Kind.TIMESTAMP:
            return lambda scene: _instant(getattr(of(scene), field))
        if node.type.kind is Kind.DURATION:
            return lambda scene: _span(getattr(of(scene), field))
        return lambda scene: getattr(of(scene), field)

    def _has(self, node: tree.Has) -> Value:
        of, field = self.of(node.of), node.field
        name = field.name
        if field.is_repeated:
            return lambda scene: len(getattr(of(scene), name)) > 0
        if field.has_presence:
            return lambda scene: of(scene).HasField(name)
        default = field.default_value
        if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            return lambda scene: str(getattr(of(scene), name)) != "0.0"  # -0.0 is set
        return lambda scene: getattr(of(scene), name) != default

    def _item(self, node: tree.Item) -> Value:
        of, key = self.of(node.of), self.of(node.key)

        def item(scene: Scene) -> Any:
            entries, wanted = of(scene), key(scene)
            if wanted not in entries:  # a message map would make the entry that is asked for
                raise Fault
            return entries[wanted]

        return item

    def _element(self, node: tree.Element) -> Value:
        stack = self._elements[node.name]
        return lambda scene: stack[-1]

    def _quantified(self, node: tree.Quantified) -> Value:
        stack = self._elements.setdefault(node.variable, [])
        of, test, decided = self.of(node.of), self.of(node.test), not node.every

        def quantified(scene: Scene) -> Any:
            fault: Fault | None = None
            for element in of(scene):
                stack.append(element)
                try:
                    if test(scene) is decided:
                        return decided
                except Fault as met:
                    fault = met
                finally:
                    stack.pop()
            if fault is not None:
                raise fault
            return not decided

        return quantified

    def _and(self, node: tree.And) -> Value:
        return _either(self.of(node.left), self.of(node.right), False)

    def _or(self, node: tree.Or) -> Value:
        return _either(self.of(node.left), self.of(node.right), True)

    def _not(self, node: tree.Not) -> Value:
        of = self.of(node.of)
        return lambda scene: not of(scene)

    def _if(self, node: tree.If) -> Value:
        test, then, other = self.of(node.test), self.of(node.then), self.of(node.other)
        return lambda scene: then(scene) if test(scene) else other(scene)

    def _compared(self, node: tree.Compared) -> Value:
        compare, left, right = _COMPARE[node.op], self.of(node.left), self.of(node.right)
        if isinstance(node.right, tree.Constant):
            constant = node.right.value
            return lambda scene: compare(left(scene), constant)
        return lambda scene: compare(left(scene), right(scene))

    def _oneof(self, node: tree.OneOf) -> Value:
        value, options = self.of(node.value), [self.of(o) for o in node.options]

        def one_of(scene: Scene) -> bool:
            found, known = value(scene), [option(scene) for option in options]
            return any(found == one for one in known)  # `in` would find a NaN that is the same object

        return one_of

    def _contained(self, node: tree.Contained) -> Value:
        value, of = self.of(node.value), self.of(node.of)
        return lambda scene: value(scene) in of(scene)

    def _joined(self, node: tree.Joined) -> Value:
        left, right = self.of(node.left), self.of(node.right)
        return lambda scene: left(scene) + right(scene)

    def _shifted(self, node: tree.Shifted) -> Value:
        left, right, sign = self.of(node.left), self.of(node.right), node.sign
        least, most = (TIME_LEAST, TIME_MOST) if node.type.kind is Kind.TIMESTAMP else (-SPAN_MOST, SPAN_MOST)

        def shifted(scene: Scene) -> int:
            value: int = left(scene) + sign * right(scene)
            if not least <= value <= most:
                raise Fault
            return value

        return shifted

    def _size(self, node: tree.Size) -> Value:
        of = self.of(node.of)
        return lambda scene: len(of(scene))

    def _text(self, node: tree.Text) -> Value:
        of, part = self.of(node.of), self.of(node.part)
        if node.op == "startsWith":
            return lambda scene: of(scene).startswith(part(scene))
        if node.op == "endsWith":
            return lambda scene: of(scene).endswith(part(scene))
        return lambda scene: part(scene) in of(scene)


def _either(left: Value, right: Value, decisive: bool) -> Value:
    """`||` where `decisive` is True, `&&` where it is False."""

    def either(scene: Scene) -> Any:
        try:
            if left(scene) is decisive:
                return decisive
        except Fault:
            if right(scene) is decisive:
                return decisive
            raise
        return right(scene)

    return either


def _owner(scene: Scene) -> str:
    # What nobody created belongs to nobody, and not to everybody who is nobody.
    if not scene.owner:
        raise Fault
    return scene.owner


def _session_age(scene: Scene) -> int:
    age = scene.asking.session_age
    if age is None:
        raise Fault
    return age


def _name(scene: Scene) -> str:
    return scene.name


def _resource(scene: Scene) -> Any:
    return scene.resource


def _request(scene: Scene) -> Any:
    if scene.request is None:
        raise Fault
    return scene.request


def _instant(stamp: Any) -> int:
    micros: int = stamp.seconds * 1_000_000 + stamp.nanos // 1000
    return micros


def _span(span: Any) -> int:
    micros: int = span.seconds * 1_000_000 + int(span.nanos / 1000)
    return micros
