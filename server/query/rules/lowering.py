"""Checked CEL → the tree that both compilers know. What the tree has no node for is refused here, with its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.timestamp_pb2 import Timestamp

from server.query.rules import tree
from server.query.rules.syntax import Syntax
from server.query.rules.tree import BOOL, DURATION, INT, STRING, TIMESTAMP, Kind, Node, Type
from server.schema.columns import is_map
from server.schema.model import Resource

LOOKUPS_MAX, DEPTH_MAX, NODES_MAX = 8, 3, 200
"""Look-ups of one rule, how deep they may be nested, and how large a rule may be."""

TIME_LEAST, TIME_MOST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""Microseconds since 1970: the years 1 to 9999, as google.protobuf.Timestamp has them."""
DURATION_MOST = 315_576_000_000_000_000
"""Microseconds: about 10,000 years, as google.protobuf.Duration has them."""
SPAN_MOST = 9_223_372_036_854_775
"""Microseconds: what CEL's own sums and differences of durations and times may be, 64 bits of nanoseconds or 292 years."""

_LOGIC: dict[str, type[tree.And] | type[tree.Or]] = {"_&&_": tree.And, "_||_": tree.Or}
_COMPARISONS = {"_==_": "==", "_!=_": "!=", "_<_": "<", "_<=_": "<=", "_>_": ">", "_>=_": ">="}
_SCALARS = {
    FieldDescriptor.CPPTYPE_BOOL: Kind.BOOL,
    FieldDescriptor.CPPTYPE_INT32: Kind.INT,
    FieldDescriptor.CPPTYPE_INT64: Kind.INT,
    FieldDescriptor.CPPTYPE_UINT32: Kind.UINT,
    FieldDescriptor.CPPTYPE_UINT64: Kind.UINT,
    FieldDescriptor.CPPTYPE_DOUBLE: Kind.DOUBLE,
    FieldDescriptor.CPPTYPE_FLOAT: Kind.DOUBLE,
}
_TAKEN = frozenset({"caller", "now", "owner", "parent", "path", "request", "resource"})
_COMPARABLE = frozenset(Kind) - {Kind.LIST, Kind.MAP, Kind.MESSAGE}
_LOOKUP = re.compile(r"(get|exists)__(\d+)")


class Refused(ValueError):
    """The rule says what rules cannot; `at` is where, from 0."""

    def __init__(self, at: int, why: str) -> None:
        super().__init__(why)
        self.at, self.why = at, why


def lowered(
    syntax: Syntax,
    pool: DescriptorPool,
    givens: Mapping[str, Type],
    roots: Mapping[str, Descriptor],
    found: list[Resource],
) -> Node:
    """The tree of a checked expression. `found` are the resources that `get__<i>` and `exists__<i>` look up.

    Raises Refused.
    """
    node = _Lowering(syntax, pool, givens, roots, found).node(syntax.expr)
    nodes = list(tree.walk(node))
    lookups = {(n.resource.message, n.name) for n in nodes if isinstance(n, tree.Found | tree.Exists)}
    if len(lookups) > LOOKUPS_MAX:
        raise Refused(0, f"looks up {len(lookups)} resources; {LOOKUPS_MAX} are the most")
    if tree.depth(node) > DEPTH_MAX:
        raise Refused(0, f"nests its look-ups {tree.depth(node)} deep; {DEPTH_MAX} is the most")
    if len(nodes) > NODES_MAX:
        raise Refused(0, f"has {len(nodes)} parts; {NODES_MAX} are the most")
    return node


def type_of(field: FieldDescriptor) -> Type | None:
    """The type of a field's value; None where rules know nothing of such values."""
    if is_map(field):
        entry = field.message_type.fields_by_name
        value = _single(entry["value"])
        return Type(Kind.MAP, value) if value and entry["key"].type == FieldDescriptor.TYPE_STRING else None
    single = _single(field)
    return Type(Kind.LIST, single) if single and field.is_repeated else single


def _single(field: FieldDescriptor) -> Type | None:
    if field.type == FieldDescriptor.TYPE_ENUM:
        return Type(Kind.INT, enum=field.enum_type)
    if field.type == FieldDescriptor.TYPE_STRING:
        return STRING
    if field.type == FieldDescriptor.TYPE_BYTES:
        return Type(Kind.BYTES)
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return Type(Kind.DOUBLE, single=True)
    if field.message_type is None:
        return Type(_SCALARS[field.cpp_type])
    name = field.message_type.full_name
    if name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
        return TIMESTAMP if name.endswith("Timestamp") else DURATION
    return None if name.startswith("google.protobuf.") else Type(Kind.MESSAGE, message=field.message_type)


class _Lowering:
    def __init__(
        self,
        syntax: Syntax,
        pool: DescriptorPool,
        givens: Mapping[str, Type],
        roots: Mapping[str, Descriptor],
        found: list[Resource],
    ) -> None:
        self._syntax = syntax
        self._pool = pool
        self._givens = givens
        self._roots = roots
        self._found = found
        self._variables: dict[str, Type] = {}
        self._calls: dict[str, Callable[[int, Any], Node]] = {
            "!_": self._not,
            "_?_:_": self._if,
            "@in": self._in,
            "_+_": lambda at, call: self._sum(at, call, 1),
            "_-_": lambda at, call: self._sum(at, call, -1),
            "_[_]": self._item,
            "size": self._size,
            "duration": self._duration,
            "timestamp": self._timestamp,
        }

    def node(self, expr: Any) -> Node:
        at = self._syntax.positions.get(expr.id, 0)
        reference = self._syntax.references.get(expr.id)
        if reference is not None and reference.HasField("value"):
            return self._constant(at, reference.value)
        kind = expr.WhichOneof("expr_kind")
        match kind:
            case "const_expr":
                return self._constant(at, expr.const_expr)
            case "ident_expr":
                return self._named(at, reference.name if reference is not None else expr.ident_expr.name)
            case "select_expr":
                if reference is not None and reference.name in self._givens:
                    return self._named(at, reference.name)
                return self._select(at, expr.select_expr)
            case "call_expr":
                return self._call(at, expr.call_expr)
            case "comprehension_expr":
                return self._quantified(at, expr.comprehension_expr)
            case "list_expr":
                raise Refused(at, "a list may stand only on the right of `in`")
        raise Refused(at, "builds a message or a map, which rules cannot")

    def _constant(self, at: int, constant: Any) -> Node:
        kind = constant.WhichOneof("constant_kind")
        types = {
            "bool_value": BOOL,
            "int64_value": INT,
            "uint64_value": Type(Kind.UINT),
            "double_value": Type(Kind.DOUBLE),
            "string_value": STRING,
            "bytes_value": Type(Kind.BYTES),
        }
        if kind not in types:
            raise Refused(at, "compares with null; ask has(...) whether a field is set")
        value = getattr(constant, kind)
        if kind == "string_value" and "\0" in value:
            raise Refused(at, "holds the character U+0000, which no stored text has")
        return tree.Constant(types[kind], at, value)

    def _named(self, at: int, name: str) -> Node:
        name = name.removeprefix(".")
        if name in self._variables:
            return tree.Element(self._variables[name], at, name)
        if name in self._givens:
            return tree.Given(self._givens[name], at, name)
        if name in self._roots:
            return tree.Root(Type(Kind.MESSAGE, message=self._roots[name]), at, name)
        raise Refused(at, f"{name!r} is nothing that a rule can use here")

    def _select(self, at: int, select: Any) -> Node:
        of = self.node(select.operand)
        if of.type.kind is Kind.MAP:
            # `map.key` is `map["key"]`; has(map.key) is `"key" in map`.
            key = tree.Constant(STRING, at, select.field)
            if select.test_only:
                return tree.Contained(BOOL, at, key, of)
            assert of.type.of is not None
            return tree.Item(of.type.of, at, of, key)
        if of.type.message is None:
            raise Refused(at, f"{select.field!r} is asked of what is no message")
        field = of.type.message.fields_by_name[select.field]
        whole = isinstance(of, tree.Root | tree.Found)
        kind = type_of(field)
        if kind is None:
            raise Refused(at, f"the field {field.full_name} is of a type that rules cannot use")
        if _kinds(kind) & {Kind.TIMESTAMP, Kind.DURATION} and not (whole and kind.of is None):
            raise Refused(
                at, f"{field.full_name}: rules can use times only where they are fields of the resource itself"
            )
        if select.test_only:
            return tree.Has(BOOL, at, of, field)
        return tree.Select(kind, at, of, field)

    def _call(self, at: int, call: Any) -> Node:
        name = call.function
        if lookup := _LOOKUP.fullmatch(name):
            resource, key = self._found[int(lookup[2])], self.node(call.args[0])
            if lookup[1] == "exists":
                return tree.Exists(BOOL, at, resource, key)
            return tree.Found(Type(Kind.MESSAGE, message=resource.descriptor), at, resource, key)
        if name in _LOGIC:
            return _LOGIC[name](BOOL, at, self._bool(call.args[0]), self._bool(call.args[1]))
        if name in _COMPARISONS:
            return self._compared(at, _COMPARISONS[name], call)
        if name in ("startsWith", "endsWith", "contains"):
            return tree.Text(BOOL, at, name, self.node(call.target), self.node(call.args[0]))
        if name not in self._calls:
            raise Refused(at, f"{_readable(name)} is not supported in rules")
        return self._calls[name](at, call)

    def _bool(self, expr: Any) -> Node:
        node = self.node(expr)
        if node.type.kind is not Kind.BOOL:
            raise Refused(node.at, "must be true or false")
        return node

    def _not(self, at: int, call: Any) -> Node:
        return tree.Not(BOOL, at, self._bool(call.args[0]))

    def _if(self, at: int, call: Any) -> Node:
        test, then, other = self._bool(call.args[0]), self.node(call.args[1]), self.node(call.args[2])
        if then.type.kind is not other.type.kind or then.type.kind not in _COMPARABLE:
            raise Refused(at, "both ways of ?: must be of one simple type")
        kind = then.type if then.type == other.type else Type(then.type.kind)
        return tree.If(kind, at, test, then, other)

    def _compared(self, at: int, op: str, call: Any) -> Node:
        left, right = self.node(call.args[0]), self.node(call.args[1])
        self._check_comparable(at, left, right)
        return tree.Compared(BOOL, at, op, left, right)

    @staticmethod
    def _check_comparable(at: int, left: Node, right: Node) -> None:
        if left.type.kind is not right.type.kind:
            raise Refused(at, f"compares a {left.type.kind} with a {right.type.kind}")
        if left.type.kind not in _COMPARABLE:
            raise Refused(at, f"compares two {left.type.kind}s; compare their fields or elements")

    def _in(self, at: int, call: Any) -> Node:
        value = self.node(call.args[0])
        if call.args[1].WhichOneof("expr_kind") == "list_expr":
            options = tuple(self.node(e) for e in call.args[1].list_expr.elements)
            for option in options:
                self._check_comparable(at, value, option)
            return tree.OneOf(BOOL, at, value, options)
        of = self.node(call.args[1])
        if of.type.kind is Kind.LIST:
            element = of.type.of
            if element is None or element.kind not in (Kind.STRING, Kind.INT):
                raise Refused(at, "`in` works on lists of texts, integers and enums")
            if element.kind is not value.type.kind:
                raise Refused(at, f"looks for a {value.type.kind} among {element.kind}s")
        elif of.type.kind is not Kind.MAP:
            raise Refused(at, "`in` needs a list or a map")
        return tree.Contained(BOOL, at, value, of)

    def _sum(self, at: int, call: Any, sign: int) -> Node:
        left, right = self.node(call.args[0]), self.node(call.args[1])
        kinds = (left.type.kind, right.type.kind)
        if kinds == (Kind.STRING, Kind.STRING):
            return tree.Joined(STRING, at, left, right)
        if kinds == (Kind.DURATION, Kind.DURATION) or (kinds == (Kind.TIMESTAMP, Kind.TIMESTAMP) and sign < 0):
            return tree.Shifted(DURATION, at, sign, left, right)
        if kinds == (Kind.TIMESTAMP, Kind.DURATION) or (kinds == (Kind.DURATION, Kind.TIMESTAMP) and sign > 0):
            return tree.Shifted(TIMESTAMP, at, sign, left, right)
        raise Refused(at, "arithmetic is supported for texts (+), timestamps and durations only")

    def _item(self, at: int, call: Any) -> Node:
        of, key = self.node(call.args[0]), self.node(call.args[1])
        if of.type.kind is not Kind.MAP or of.type.of is None or key.type.kind is not Kind.STRING:
            raise Refused(at, "[...] is supported for maps with text keys only")
        return tree.Item(of.type.of, at, of, key)

    def _size(self, at: int, call: Any) -> Node:
        of = self.node(call.target if call.HasField("target") else call.args[0])
        return tree.Size(INT, at, of)

    def _duration(self, at: int, call: Any) -> Node:
        return tree.Constant(DURATION, at, _micros_of_duration(at, self._text(at, call)))

    def _timestamp(self, at: int, call: Any) -> Node:
        stamp = Timestamp()
        try:
            stamp.FromJsonString(self._text(at, call))
        except ValueError:
            raise Refused(at, "is no timestamp as RFC 3339 writes it") from None
        return tree.Constant(TIMESTAMP, at, stamp.seconds * 1_000_000 + stamp.nanos // 1000)

    def _text(self, at: int, call: Any) -> str:
        node = self.node(call.args[0])
        if not isinstance(node, tree.Constant) or node.type.kind is not Kind.STRING:
            raise Refused(at, f"{call.function}() is supported for a text in quotes only")
        return str(node.value)

    def _quantified(self, at: int, over: Any) -> Node:
        every = _macro(over)
        if every is None:
            raise Refused(at, "of the macros, rules have exists and all")
        of = self.node(over.iter_range)
        if of.type.kind is not Kind.LIST or of.type.of is None:
            raise Refused(at, "exists and all are supported for lists only")
        if over.iter_var in self._variables or over.iter_var in _TAKEN:
            raise Refused(at, f"the variable {over.iter_var!r} is taken")
        self._variables[over.iter_var] = of.type.of
        test = self._bool(over.loop_step.call_expr.args[1])
        del self._variables[over.iter_var]
        return tree.Quantified(BOOL, at, every, of, over.iter_var, test)


def _macro(over: Any) -> bool | None:
    """Whether a comprehension is what CEL makes of `all` (True) or of `exists` (False); None for another one."""
    step, initial = over.loop_step.call_expr, over.accu_init.const_expr
    plain = (
        over.result.ident_expr.name == over.accu_var
        and len(step.args) == 2
        and step.args[0].ident_expr.name == over.accu_var
        and initial.WhichOneof("constant_kind") == "bool_value"
        and over.loop_condition.call_expr.function == "@not_strictly_false"
        and not over.iter_var2
    )
    if plain and step.function == "_||_" and not initial.bool_value:
        return False
    return True if plain and step.function == "_&&_" and initial.bool_value else None


def _kinds(kind: Type) -> set[Kind]:
    return {kind.kind} | (_kinds(kind.of) if kind.of else set())


def _readable(function: str) -> str:
    return (
        f"the operator {function.strip('_@')}" if function.startswith(("_", "-", "@")) else f"the function {function}()"
    )


_UNITS = {"h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "ms": 1000, "us": 1}
_PARTS = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|m|s)")


def _micros_of_duration(at: int, text: str) -> int:
    """Of `1h30m`, `-2.5s`, as CEL writes durations; what is finer than a microsecond is refused."""
    body = text[1:] if text[:1] in "+-" else text
    micros, end = 0, 0
    for part in _PARTS.finditer(body):
        if part.start() != end:
            break
        whole, _, fraction = part[1].partition(".")
        unit = _UNITS[part[2]]
        fine = int(fraction or "0") * unit
        if fine % 10 ** len(fraction):
            raise Refused(at, "is finer than a microsecond")
        micros += int(whole) * unit + fine // 10 ** len(fraction)
        end = part.end()
    if not body or end != len(body) or micros > DURATION_MOST:
        raise Refused(at, "is no duration: write hours, minutes and seconds like 1h30m or 2.5s")
    return -micros if text.startswith("-") else micros
