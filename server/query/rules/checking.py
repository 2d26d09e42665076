"""The rules of a schema, parsed and type-checked once at start.

Google's CEL does the parsing and the typing, against the schema's own descriptors. It is not told how to look up other
resources: `get(…)` and `exists(…)` become functions typed by what they find, which the shape of the name tells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

from cel_expr_python import cel
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from server.query.rules import tree
from server.query.rules.lowering import Refused, lowered
from server.query.rules.predicate import Predicates
from server.query.rules.scene import Scene
from server.query.rules.selecting import selecting
from server.query.rules.sql import Conditions
from server.query.rules.syntax import Syntax
from server.query.rules.targets import Targets, shapes_of_parents
from server.query.rules.terms import Terms
from server.query.rules.tree import BOOL, DURATION, STRING, TIMESTAMP, Kind, Node, Type
from server.schema.compilation import SchemaError
from server.schema.model import Audience, Field, Method, Resource, Schema
from server.schema.names import Pattern

TEXT_MOST = 2000
"""Characters of a rule."""

ACTIONS = ("get", "list", "create", "update", "delete", "watch")
READS = frozenset({"get", "list", "watch"})

GIVENS: Mapping[str, Type] = {
    "caller.name": STRING,
    "caller.id": STRING,
    "caller.kind": STRING,
    "caller.roles": Type(Kind.LIST, STRING),
    "caller.verified": BOOL,
    "caller.session_age": DURATION,
    "now": TIMESTAMP,
}
"""What every rule knows; those of resources know `owner`, `parent` and `path.<variable>` too."""

_CEL = {
    Kind.BOOL: cel.Type.BOOL,
    Kind.STRING: cel.Type.STRING,
    Kind.TIMESTAMP: cel.Type.TIMESTAMP,
    Kind.DURATION: cel.Type.DURATION,
}
_ERROR = re.compile(r"^(?:\w+: )?ERROR: <input>:(\d+):(\d+): (.*)$", re.MULTILINE)
_STATUS = re.compile(r" \[[A-Z_]+\]$")
_NUMBERED = re.compile(r"\b(get|exists)__\d+")
_VARIABLE = re.compile(r"\{([a-zA-Z][a-zA-Z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, ready to be judged."""

    action: str
    """What it is asked for: an action, or `read` or `write` of a field, or `call` of a method."""
    where: str
    """The option it is written in: file, message or method, option."""
    text: str
    node: Node
    holds: Callable[[Scene], bool]
    """Raises Fault where it meets an error, which denies, or lacks what must be looked up first."""
    condition: str
    """The same as SQL (`rules.sql`); empty for what is never asked of many rows."""
    selection: str
    """The same where only the rows are wanted that it holds for (`rules.selecting`); empty likewise."""
    of_row: bool
    """Whether it depends on which row it is asked for."""
    looks_up: bool
    """Whether it looks at other resources."""
    predicates: Predicates = field(repr=False, compare=False)
    """Makes the functions of its parts, for those who want to know more than whether it holds."""


@dataclass(frozen=True, slots=True)
class ResourceRules:
    """The rules of one resource. What is not there is denied."""

    actions: Mapping[str, Rule] = field(default_factory=dict)
    reads: tuple[tuple[Field, Rule], ...] = ()
    """Of the fields that not every reader of the resource may see."""
    writes: tuple[tuple[Field, Rule], ...] = ()
    copies: frozenset[str] = frozenset()
    """Fields with a copy of a resource of which not every reader may see all: nothing is found by what is in them."""


@dataclass(frozen=True, slots=True)
class MethodRule:
    """Who may call a method."""

    audience: Audience | None = None
    role: str = ""
    rule: Rule | None = None
    subject: Resource | None = None
    """The resource that the request names, if it does."""
    subject_field: str = ""
    """Where in the request."""


@dataclass(frozen=True)
class Rules:
    """All rules of a schema."""

    resources: Mapping[str, ResourceRules]
    """Of every resource, by message."""
    methods: Mapping[str, MethodRule]
    """Of the methods that have one, by path."""


def rules_of(schema: Schema) -> Rules:
    """The rules of a schema. Raises SchemaError, a line for each fault: file, message, option, column and why."""
    return _Checking(schema).rules()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a rule stands, and what it may speak of."""

    where: str
    container: str
    roots: Mapping[str, Descriptor]
    resource: Resource | None
    """The one whose row it is judged for."""
    segments: Mapping[str, int]
    rows: bool
    """Whether it is asked of many rows at once."""
    package: str
    """Whose terms it may use."""


class _Checking:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._stored = list(schema.resources.values())
        self._by_type = {r.type: r for r in self._stored}
        self._faults: list[str] = []
        self._known_terms: dict[str, Terms] = {}
        # An environment is made ready by what it compiles first, which costs far more than the compiling.
        self._syntactic = cel.NewEnv(descriptor_pool=schema.pool)
        self._environments: dict[Any, Any] = {}

    def rules(self) -> Rules:
        resources = {r.message: self._resource(r) for r in self._stored}
        for r in self._stored:
            if r.snapshot_of and resources[r.snapshot_of].reads:
                resources[r.message] = replace(resources[r.message], copies=frozenset({"snapshot"}))
        for r in self._stored:
            self._check_embedded(r, {m for m, found in resources.items() if found.reads or found.writes})
        methods = {
            m.path: found
            for s in self._schema.services
            if not s.own
            for m in s.methods
            if (found := self._method(m)) is not None
        }
        if self._faults:
            raise SchemaError("\n".join(dict.fromkeys(self._faults)))
        return Rules(resources, methods)

    def _resource(self, resource: Resource) -> ResourceRules:
        where = f"{resource.descriptor.file.name}: {resource.message}"
        written = dict(resource.rules)
        actions = {}
        for action in ACTIONS:
            option = action if action in written else "read" if action in READS else "write"
            if option in written:
                place = self._place(f"{where}: (transom.schema.v1.resource).{option}", resource, action)
                if rule := self._rule(place, action, written[option]):
                    actions[action] = rule
        fields = [(f, action, text) for f in resource.fields for action, text in f.rules]
        found: dict[str, list[tuple[Field, Rule]]] = {"read": [], "write": []}
        for f, action, text in fields:
            place = self._place(f"{where}.{f.name}: (transom.schema.v1.field).{action}", resource, action)
            if f.name == resource.name_field:
                self._fault(place, 0, "the name is never hidden, nor written by clients", text)
            elif rule := self._rule(place, action, text):
                found[action].append((f, rule))
        return ResourceRules(actions, tuple(found["read"]), tuple(found["write"]))

    def _check_embedded(self, resource: Resource, ruled: Collection[str]) -> None:
        """Refuses copies of resources whose fields have rules in another one, where these would not be asked."""
        left, seen = [resource.descriptor], {resource.message}
        while left:
            message = left.pop()
            for f in message.fields:
                held = f.message_type
                if held is None or (message.full_name == resource.message and held.full_name == resource.snapshot_of):
                    continue  # of a snapshot the rules are asked
                if held.full_name in ruled:
                    self._faults.append(
                        f"{resource.descriptor.file.name}: {resource.message}: {f.full_name} holds a {held.full_name}, whose "
                        "fields have rules; they are asked for the resource itself, not for copies: hold its name instead"
                    )
                if held.full_name not in seen:
                    seen.add(held.full_name)
                    left.append(held)

    def _place(self, where: str, resource: Resource, action: str) -> _Place:
        roots = {"resource": resource.descriptor}
        asked = action in ("create", "update", "write")
        if asked:
            roots["request"] = resource.descriptor
        rows, package = action in (*READS, "read"), resource.descriptor.file.package
        return _Place(where, resource.message, roots, resource, _segments(resource.patterns), rows, package)

    def _method(self, method: Method) -> MethodRule | None:
        access = method.access
        if access is None:
            return None
        request = self._schema.message_class(method.request).DESCRIPTOR
        subject, subject_field = self._subject(method, request)
        rule = None
        if access.rule:
            service = request.file.name
            roots = {"request": request} | ({"resource": subject.descriptor} if subject is not None else {})
            segments = _segments(subject.patterns) if subject is not None else {}
            where = f"{service}: {method.full_name}: (transom.schema.v1.method).rule"
            container = method.full_name.rpartition(".")[0].rpartition(".")[0]
            place = _Place(where, container, roots, subject, segments, rows=False, package=container)
            rule = self._rule(place, "call", access.rule)
        return MethodRule(access.audience, access.role, rule, subject, subject_field)

    def _subject(self, method: Method, request: Descriptor) -> tuple[Resource | None, str]:
        """The stored resource that the request names: the one its `name` refers to, or else its `parent`."""
        for name in ("name", "parent"):
            referred = self._by_type.get(method.references.get(name, ""))
            found = request.fields_by_name.get(name)
            if referred is not None and found is not None and found.type == FieldDescriptor.TYPE_STRING:
                return referred, name
        return None, ""

    def _rule(self, place: _Place, action: str, text: str) -> Rule | None:
        if len(text) > TEXT_MOST:
            self._fault(place, 0, f"is longer than {TEXT_MOST} characters", f"{text[:60]}…")
            return None
        givens = dict(GIVENS)
        if place.resource is not None:
            givens |= {"owner": STRING, "parent": STRING}
            givens |= {f"path.{variable}": STRING for variable in place.segments}
        try:
            node = self._node(place, givens, text)
            condition, selection = self._condition(place, node, Conditions.of), self._condition(place, node, selecting)
        except Refused as refused:
            self._fault(place, refused.at, refused.why, text)
            return None
        if node.type.kind is not Kind.BOOL:
            kind = node.type.kind
            self._fault(place, 0, f"is {'an' if kind is Kind.INT else 'a'} {kind}; a rule is true or false", text)
            return None
        resource = place.resource
        parent_of = _parent_of(resource) if resource is not None else str
        predicates = Predicates(place.segments, parent_of, resource.name_field if resource else "")
        nodes = list(tree.walk(node))
        return Rule(
            action=action,
            where=place.where,
            text=text,
            node=node,
            holds=predicates.of(node),
            condition=condition,
            selection=selection,
            of_row=tree.of_row(node),
            looks_up=any(isinstance(n, tree.Found | tree.Exists) for n in nodes),
            predicates=predicates,
        )

    @staticmethod
    def _condition(place: _Place, node: Node, made: Callable[[Conditions, Node], str]) -> str:
        if not place.rows or place.resource is None or node.type.kind is not Kind.BOOL:
            return ""
        return made(Conditions(place.resource, place.segments), node)

    def _node(self, place: _Place, givens: Mapping[str, Type], text: str) -> Node:
        expanded = self._terms(place.package).expanded(text)
        try:
            return self._whole(place, givens, expanded.text)
        except Refused as refused:
            raise expanded.original(refused) from None

    def _terms(self, package: str) -> Terms:
        """The terms of a package; none, and a fault, where they are wrong."""
        if package not in self._known_terms:
            try:
                self._known_terms[package] = Terms(self._schema.terms.get(package, ()), self._parsed)
            except Refused as refused:
                self._faults.append(f"{package}: (transom.schema.v1.terms): column {refused.at + 1}: {refused.why}")
                self._known_terms[package] = Terms((), self._parsed)
        return self._known_terms[package]

    def _parsed(self, text: str) -> Syntax:
        if len(text) > TEXT_MOST:
            raise Refused(0, f"is longer than {TEXT_MOST} characters")
        return self._syntax(text)

    def _syntax(self, text: str) -> Syntax:
        return Syntax(_compiled(self._syntactic, text, parse_only=True).serialize())

    def _whole(self, place: _Place, givens: Mapping[str, Type], text: str) -> Node:
        parsed = self._syntax(text)
        targets = Targets(self._stored, self._named(place), place.roots, self._referred, self._name_fields())
        numbered, found = _numbered(text, parsed, targets)
        checked = _compiled(self._environment(place, givens, found), numbered.text, numbered=numbered)
        try:
            return lowered(Syntax(checked.serialize()), self._schema.pool, givens, place.roots, found)
        except Refused as refused:
            raise Refused(numbered.original(refused.at), refused.why) from None

    def _environment(self, place: _Place, givens: Mapping[str, Type], found: Sequence[Resource]) -> Any:
        """One for all rules that may speak of the same."""
        roots = ((name, root.full_name) for name, root in place.roots.items())
        known = (place.container, frozenset(roots), frozenset(givens.items()), tuple(r.message for r in found))
        if known not in self._environments:
            self._environments[known] = self._new_environment(place, givens, found)
        return self._environments[known]

    def _new_environment(self, place: _Place, givens: Mapping[str, Type], found: Sequence[Resource]) -> Any:
        variables = {name: _cel_type(given) for name, given in givens.items()}
        variables |= {name: cel.Type(root.full_name) for name, root in place.roots.items()}
        functions = []
        for i, resource in enumerate(found):
            for name, result in (("get", cel.Type(resource.message)), ("exists", cel.Type.BOOL)):
                overload = cel.Overload(f"{name}_{i}", result, [cel.Type.STRING], False)
                functions.append(cel.FunctionDecl(f"{name}__{i}", [overload]))
        return cel.NewEnv(
            descriptor_pool=self._schema.pool, variables=variables, functions=functions, container=place.container
        )

    def _named(self, place: _Place) -> dict[str, list[str]]:
        """Shapes of what a rule may name."""
        users = ["users/\0", "keys/\0"]
        named = {"caller.name": users}
        if place.resource is not None:
            named |= {"owner": users, "parent": shapes_of_parents(place.resource)}
        return named

    def _name_fields(self) -> dict[str, str]:
        return {r.message: r.name_field for r in self._stored}

    def _referred(self, descriptor: FieldDescriptor) -> Resource | None:
        return self._by_type.get(self._schema.references.get(descriptor.full_name, ""))

    def _fault(self, place: _Place, at: int, why: str, text: str) -> None:
        self._faults.append(f"{place.where}: column {at + 1}: {why}: {text}")


@dataclass(frozen=True, slots=True)
class _Numbered:
    """A rule whose look-ups are told apart by numbers, and how to find a place of it in the rule as it was written."""

    text: str
    inserted: tuple[tuple[int, int], ...] = ()
    """Where in `text` something was put in, and how long it is."""

    def original(self, at: int) -> int:
        return at - sum(min(length, at - place) for place, length in self.inserted if place < at)


def _numbered(text: str, parsed: Syntax, targets: Targets) -> tuple[_Numbered, list[Resource]]:
    for expr in _walk(parsed.expr):
        if _NUMBERED.fullmatch(expr.call_expr.function):
            raise Refused(parsed.positions.get(expr.id, 0), f"undeclared reference to {expr.call_expr.function!r}")
    calls = [
        (parsed.positions.get(expr.id, 0), expr.call_expr)
        for expr in _walk(parsed.expr)
        if expr.WhichOneof("expr_kind") == "call_expr"
        and expr.call_expr.function in ("get", "exists")
        and not expr.call_expr.HasField("target")
        and len(expr.call_expr.args) == 1
    ]
    found: list[Resource] = []
    inserted: list[tuple[int, int]] = []
    out, end, grown = [], 0, 0
    for at, call in sorted(calls, key=lambda c: c[0]):
        resource = targets.of(at, call.args[0])
        if resource not in found:
            found.append(resource)
        # A call's place is its parenthesis; its name ends right before, but for blanks.
        name_end = len(text[:at].rstrip())
        mark = f"__{found.index(resource)}"
        out += [text[end:name_end], mark]
        inserted.append((name_end + grown, len(mark)))
        grown += len(mark)
        end = name_end
    return _Numbered("".join([*out, text[end:]]), tuple(inserted)), found


def _compiled(environment: Any, text: str, *, parse_only: bool = False, numbered: _Numbered | None = None) -> Any:
    """Raises Refused, with the first of what CEL has against it."""
    try:
        return environment.compile(text, disable_check=parse_only)
    except RuntimeError as error:
        match = _ERROR.search(str(error))
        if match is None:
            # Of what it parses CEL says where it fails; it stops without a place where parentheses nest too deep.
            deep = "recursion limit" in str(error)
            raise Refused(0, "is nested deeper than CEL reads" if deep else "is not CEL") from error
        line, column, why = int(match[1]), int(match[2]), _STATUS.sub("", match[3])
        at = sum(len(one) + 1 for one in text.split("\n")[: line - 1]) + max(column - 1, 0)
        why = _NUMBERED.sub(r"\1", why).partition(" (in container")[0]
        raise Refused(numbered.original(at) if numbered else at, why) from error


def _walk(expr: Any) -> Iterable[Any]:
    yield expr
    match expr.WhichOneof("expr_kind"):
        case "select_expr":
            below = [expr.select_expr.operand]
        case "call_expr":
            call = expr.call_expr
            below = [*([call.target] if call.HasField("target") else []), *call.args]
        case "list_expr":
            below = list(expr.list_expr.elements)
        case "comprehension_expr":
            over = expr.comprehension_expr
            below = [over.iter_range, over.accu_init, over.loop_condition, over.loop_step, over.result]
        case _:
            below = []
    for one in below:
        yield from _walk(one)


def _cel_type(given: Type) -> Any:
    if given.kind is Kind.LIST:
        assert given.of is not None
        return cel.Type.List(_cel_type(given.of))
    return _CEL[given.kind]


def _segments(patterns: Sequence[Pattern]) -> dict[str, int]:
    """Where in the name each variable stands, for the variables that stand at one place in every pattern. Behind a
    variable of several segments (`{path=**}`) nothing has a place."""
    places: list[dict[str, int]] = [
        {
            m[1]: i
            for i, segment in enumerate(takewhile(lambda s: "=**" not in s, p.segments))
            if (m := _VARIABLE.fullmatch(segment))
        }
        for p in patterns
    ]
    return {v: i for v, i in places[0].items() if all(other.get(v) == i for other in places[1:])}


def _parent_of(resource: Resource) -> Callable[[str], str]:
    if len(resource.patterns) == 1:
        return resource.patterns[0].parent_of

    def parent_of(name: str) -> str:
        pattern = resource.pattern_of(name)
        return pattern.parent_of(name) if pattern is not None else ""

    return parent_of
