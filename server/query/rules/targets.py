"""Which resource `get(name)` and `exists(name)` look up: told from the shape of the name, before types are checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor

from server.query.rules.lowering import Refused
from server.schema.model import Resource

HOLE = "\0"
"""One segment of a name that is not known before the call."""

MOST = 16
"""Shapes of one name at most."""


class Targets:
    """Finds what is looked up. `named` are the shapes of what a rule may name (`resource.name`, `parent`, `caller.name`),
    `referred` gives the resource that a field refers to."""

    def __init__(
        self,
        resources: Sequence[Resource],
        named: Mapping[str, Sequence[str]],
        roots: Mapping[str, Descriptor],
        referred: Callable[[Any], Resource | None],
        name_fields: Mapping[str, str],
    ) -> None:
        self._resources = resources
        self._named = named
        self._roots = roots
        self._referred = referred
        self._name_fields = name_fields

    def of(self, at: int, expr: Any) -> Resource:
        """The resource that a call with the parsed argument `expr` looks up. Raises Refused where that cannot be told."""
        shapes = self._shapes(expr, whole=True)
        if shapes is None:
            raise Refused(
                at,
                "cannot tell which resource is looked up: write the name as text and ids, like "
                '"teams/" + path.team + "/members/" + caller.id, or use a field with google.api.resource_reference',
            )
        found = {r.message: r for shape in shapes for r in self._fitting(shape)}
        if len(found) != 1 or any(not self._fitting(shape) for shape in shapes):
            shown = " or ".join(sorted({shape.replace(HOLE, "*") for shape in shapes}))
            which = f"{' and '.join(sorted(found))} are" if found else "no resource of this schema is"
            raise Refused(at, f"{which} named like {shown}")
        return next(iter(found.values()))

    def _fitting(self, shape: str) -> list[Resource]:
        wanted = shape.split("/")
        return [r for r in self._resources if any(_fits(p.segments, wanted) for p in r.patterns)]

    def _shapes(self, expr: Any, *, whole: bool = False) -> list[str] | None:
        """What the text may look like, holes for ids; None where nobody can tell."""
        match expr.WhichOneof("expr_kind"):
            case "const_expr":
                return [expr.const_expr.string_value]
            case "call_expr" if expr.call_expr.function == "_+_":
                left, right = (self._shapes(a) for a in expr.call_expr.args)
                if left is None or right is None:
                    return None
                return [a + b for a in left for b in right][:MOST]
            case "ident_expr" | "select_expr":
                name = _dotted(expr)
                if name in self._named:
                    return list(self._named[name])
                if name.startswith("path.") or name == "caller.id":
                    return [HOLE]
                return self._field(expr, whole)
        return None

    def _field(self, expr: Any, whole: bool) -> list[str] | None:
        if expr.WhichOneof("expr_kind") != "select_expr":
            return None
        message = self._message(expr.select_expr.operand)
        if message is None:
            return None
        field = message.fields_by_name.get(expr.select_expr.field)
        if field is None:
            return None
        if self._name_fields.get(message.full_name) == field.name:
            return next([_shape(p.text) for p in r.patterns] for r in self._resources if r.message == message.full_name)
        referred = self._referred(field)
        if referred is not None:
            return [_shape(p.text) for p in referred.patterns]
        return None if whole else [HOLE]

    def _message(self, expr: Any) -> Descriptor | None:
        match expr.WhichOneof("expr_kind"):
            case "ident_expr":
                return self._roots.get(expr.ident_expr.name)
            case "select_expr":
                of = self._message(expr.select_expr.operand)
                field = of.fields_by_name.get(expr.select_expr.field) if of is not None else None
                return field.message_type if field is not None else None
            case "call_expr" if expr.call_expr.function == "get" and len(expr.call_expr.args) == 1:
                return self.of(0, expr.call_expr.args[0]).descriptor
        return None


def shapes_of(resource: Resource) -> list[str]:
    """The shapes of the resource's names."""
    return [_shape(p.text) for p in resource.patterns]


def shapes_of_parents(resource: Resource) -> list[str]:
    """The shapes of the names of what the resource lives below."""
    return sorted({_shape(p.parent) for p in resource.patterns})


def _shape(pattern: str) -> str:
    return "/".join(HOLE if "{" in segment else segment for segment in pattern.split("/"))


def _fits(segments: Sequence[str], shape: Sequence[str]) -> bool:
    """Whether names of that shape may be of the pattern: ids stand where it has variables, and its literals are there."""
    return len(segments) == len(shape) and all("{" in s or s == w for s, w in zip(segments, shape, strict=True))


def _dotted(expr: Any) -> str:
    if expr.WhichOneof("expr_kind") == "ident_expr":
        return str(expr.ident_expr.name)
    if expr.WhichOneof("expr_kind") == "select_expr":
        of = _dotted(expr.select_expr.operand)
        return f"{of}.{expr.select_expr.field}" if of else ""
    return ""
