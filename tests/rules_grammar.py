"""Random schemas, rules over them, rows of them and callers: what the property test of rules is made of.

Everything comes from one `random.Random`, so that a number is a case. An expression keeps the parts it is made of, so that
of a rule that is judged differently the smallest part that is can be shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any

from google.api import resource_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from rules_ground import EPOCH, MARK, Row, World, schema_of, variables_of
from transom.schema.v1 import options_pb2

from server.caller import Caller, Kind
from server.schema.columns import is_map
from server.schema.model import Resource, Schema

F = FieldDescriptorProto
PACKAGE = "shop.v1"

# ------------------------------------------------------------------------------------------------- values

STRINGS = [
    "", "a", "b", "A", "ab", "é", "e\u0301", "😀", "a'b", 'q"q', "back\\slash", "{}", "{0}", "%s", "%", "$1", "line\nbreak",
    "\t", "0", "-1", "x" * 300, "\x7f", "_%", "--", "/*", "'; drop table x", "users/ada", "as/a", "as/a/bs/b", "null", "\ufeff",
    "\U0010ffff", "\ud7ff", "\uffff",
]  # fmt: skip
BYTES = [b"", b"a", b"\0", b"\xff\xfe", b"ab", b"\\x", b"'"]
INT32 = [0, 1, -1, 2, 3, 2**31 - 1, -(2**31)]
INT64 = [*INT32, 2**53 + 1, 2**63 - 1, -(2**63)]
UINT32 = [0, 1, 2, 2**32 - 1]
UINT64 = [*UINT32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1]
FLOATS = [
    0.0,
    -0.0,
    1.0,
    1.5,
    -1.5,
    0.5,
    float("inf"),
    float("-inf"),
    float("nan"),
    float("nan"),
    float("nan"),
    0.1,
    3.4028234663852886e38,
    1.401298464324817e-45,
]
DOUBLES = [*FLOATS, 0.10000000149011612, 1e308, 5e-324, 2.0**53]
NOW = 1_790_000_000_000_000
TIMES = [0, 1, -1, NOW, NOW - 1, NOW + 1, NOW - 3_600_000_000, -62_135_596_800_000_000, 253_402_300_799_999_999]
SPANS = [0, 1, -1, 1_000_000, 3_600_000_000, -3_600_000_000, 9_223_372_034_000_000, -9_223_372_034_000_000, NOW]
IDS = ["a", "b", "c"]

POOLS: dict[int, tuple[str, list[Any]]] = {
    F.TYPE_STRING: ("string", STRINGS),
    F.TYPE_BYTES: ("bytes", BYTES),
    F.TYPE_BOOL: ("bool", [False, True]),
    F.TYPE_INT32: ("int", INT32),
    F.TYPE_SINT32: ("int", INT32),
    F.TYPE_SFIXED32: ("int", INT32),
    F.TYPE_INT64: ("int", INT64),
    F.TYPE_SINT64: ("int", INT64),
    F.TYPE_SFIXED64: ("int", INT64),
    F.TYPE_UINT32: ("uint", UINT32),
    F.TYPE_FIXED32: ("uint", UINT32),
    F.TYPE_UINT64: ("uint", UINT64),
    F.TYPE_FIXED64: ("uint", UINT64),
    F.TYPE_FLOAT: ("double", FLOATS),
    F.TYPE_DOUBLE: ("double", DOUBLES),
}
SCALARS = ("bool", "int", "uint", "double", "string", "bytes")
KINDS = (*SCALARS, "timestamp", "duration")

# ------------------------------------------------------------------------------------------------- schemas


class Schemas:
    """Makes one file: enums, a message of parts, and three or four resources in the shapes that names may have."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.proto2 = random.random() < 0.25
        self.file = FileDescriptorProto(
            name="shop.proto", package=PACKAGE, syntax="proto2" if self.proto2 else "proto3"
        )
        self.file.dependency.extend(
            f"google/protobuf/{n}.proto" for n in ("descriptor", "timestamp", "duration", "wrappers")
        )
        self.file.dependency.extend(["google/api/resource.proto", "transom/schema/v1/options.proto"])

    def made(self) -> FileDescriptorProto:
        self._enum()
        part = self.file.message_type.add(name="Part")
        self._fields(part, whole=False, parts=["Part"])
        two = self.random.random() < 0.4
        self._resource("A", ["as/{a}"], "name")
        self._resource("B", ["as/{a}/bs/{b}", *(["cs/{c}/bs/{b}"] if two else [])], "name")
        self._resource("C", ["cs/{c}"], "full_name" if self.random.random() < 0.5 else "name")
        self._resource("S", ["as/{a}/s"], "name")
        return self.file

    def _enum(self) -> None:
        color = self.file.enum_type.add(name="Color")
        for name, number in (("GREY", 0), ("RED", 1), ("CRIMSON", 1), ("BLUE", 2), ("COLD", -5), ("ODD", 7)):
            color.value.add(name=name, number=number)
        color.options.allow_alias = True

    def _resource(self, name: str, patterns: list[str], name_field: str) -> None:
        message = self.file.message_type.add(name=name)
        option = message.options.Extensions[resource_pb2.resource]
        option.type = f"shop.example.com/{name}"
        option.pattern.extend(patterns)
        option.plural = f"{name.lower()}s"
        if name_field != "name":
            option.name_field = name_field
        message.field.add(name=name_field, number=1, type=F.TYPE_STRING, label=F.LABEL_OPTIONAL)
        self._fields(message, whole=True, parts=["Part"])
        for i, other in enumerate(self.random.sample(["A", "B", "C", "S"], 2)):
            ref = message.field.add(name=f"ref{i}", number=90 + i, type=F.TYPE_STRING, label=F.LABEL_OPTIONAL)
            ref.options.Extensions[resource_pb2.resource_reference].type = f"shop.example.com/{other}"

    def _fields(self, message: DescriptorProto, *, whole: bool, parts: list[str]) -> None:
        random = self.random
        types = [*POOLS, F.TYPE_ENUM, F.TYPE_MESSAGE, "timestamp", "duration"]
        names = ["in_use", "type", "order", "select", "user", "size", "_odd", "payload", "xmin", "Camel", "x" * 70]
        synthetic: list[FieldDescriptorProto] = []
        has_oneof = False
        for number in range(2, 2 + random.randint(6, 11)):
            kind: Any = random.choice(types)
            name = (
                f"f{number}"
                if random.random() < 0.85 or not whole or not names
                else names.pop(random.randrange(len(names)))
            )
            shape = random.choice(["plain", "plain", "plain", "optional", "repeated", "map", "oneof"])
            if kind in ("timestamp", "duration") and shape in ("repeated", "map"):
                shape = "plain"
            made = message.field.add(name=name, number=number, label=F.LABEL_OPTIONAL)
            self._typed(made, kind, parts)
            if shape == "map":
                entry = message.nested_type.add(name=f"{_camel(name)}Entry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, type=F.TYPE_STRING, label=F.LABEL_OPTIONAL)
                value = entry.field.add(name="value", number=2, label=F.LABEL_OPTIONAL)
                self._typed(value, kind, parts)
                made.label, made.type = F.LABEL_REPEATED, F.TYPE_MESSAGE
                made.type_name = f".{PACKAGE}.{message.name}.{entry.name}"
            elif shape == "repeated":
                made.label = F.LABEL_REPEATED
            elif shape == "oneof":
                has_oneof = True
                made.oneof_index = 0
            elif shape == "optional" and not self.proto2 and kind != F.TYPE_MESSAGE and isinstance(kind, int):
                made.proto3_optional = True
                synthetic.append(made)
            if self.proto2 and isinstance(kind, int) and kind in POOLS and shape in ("plain", "optional", "oneof"):
                self._default(made, kind)
        if has_oneof:
            message.oneof_decl.add(name="either")
            # Members of a oneof stand together, at least for protobuf in C++, which CEL is made with.
            ordered = sorted(message.field, key=lambda f: f.HasField("oneof_index") and not f.proto3_optional)
            for one, kept in zip(message.field, [F.FromString(f.SerializeToString()) for f in ordered], strict=True):
                one.CopyFrom(kept)
            synthetic = [f for f in message.field if f.proto3_optional]
        for made in synthetic:
            made.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{made.name}")

    def _typed(self, made: FieldDescriptorProto, kind: Any, parts: list[str]) -> None:
        if kind == F.TYPE_ENUM:
            made.type, made.type_name = F.TYPE_ENUM, f".{PACKAGE}.Color"
        elif kind == F.TYPE_MESSAGE:
            made.type, made.type_name = F.TYPE_MESSAGE, f".{PACKAGE}.{self.random.choice(parts)}"
        elif isinstance(kind, str):
            made.type, made.type_name = F.TYPE_MESSAGE, f".google.protobuf.{kind.capitalize()}"
        else:
            made.type = kind

    def _default(self, made: FieldDescriptorProto, kind: int) -> None:
        value = self.random.choice(POOLS[kind][1])
        if self.random.random() < 0.5 or kind == F.TYPE_BYTES or (isinstance(value, float) and 0 < abs(value) < 1e-30):
            return
        made.default_value = str(value).lower() if isinstance(value, bool | float) else str(value)


def _camel(name: str) -> str:
    return "".join(p.capitalize() if p else "" for p in name.split("_")) if "_" in name else name[:1].upper() + name[1:]


# ------------------------------------------------------------------------------------------------- rows


class Rows:
    """Fills messages; what a field refers to is often there."""

    def __init__(self, random: Random, schema: Schema) -> None:
        self.random = random
        self.schema = schema
        self.names: list[str] = []

    def world(self) -> World:
        random = self.random
        named = []
        for resource in self.schema.resources.values():
            for pattern in resource.patterns:
                for ids in [(x, y) for x in IDS for y in IDS]:
                    name = "/".join(
                        ids[0 if i < 2 else 1] if s.startswith("{") else s
                        for i, s in enumerate(pattern.text.split("/"))
                    )
                    named.append((resource, name))
        chosen = list(dict.fromkeys((r.message, n) for r, n in random.sample(named, 22)))
        self.names = [n for _, n in chosen]
        rows = []
        for message, name in chosen:
            resource = self.schema.resources[message]
            row = Row(
                resource, name, self._named(resource, name), random.choice(["", "users/ada", "users/bob", "keys/k"])
            )
            row.request = self._named(resource, name) if random.random() < 0.8 else row.message
            rows.append(row)
        callers = [
            Caller(),
            Caller(
                Kind.USER, "users/ada", frozenset({"editor", "a"}), "users/ada/sessions/1", True, NOW / 1e6 - 3600.0
            ),
            Caller(Kind.ANONYMOUS, "users/bob", frozenset(), "users/bob/sessions/2", False, NOW / 1e6 + 5.0),
            Caller(
                Kind.USER,
                "users/a",
                frozenset(random.sample(["a", "b", "é", "a'b", "%s", ""], 3)),
                "",
                random.random() < 0.5,
                1.0,
            ),
        ]
        return World(self.schema, rows, callers, NOW)

    def _named(self, resource: Resource, name: str) -> Any:
        message = self.message(resource.descriptor, 0)
        setattr(message, resource.name_field, name)
        return message

    def message(self, descriptor: Descriptor, depth: int) -> Any:
        message = self.schema.message_class(descriptor.full_name)()
        for one in descriptor.fields:
            if self.random.random() < (0.3 if depth < 2 else 0.6):
                continue
            self._fill(message, one, depth)
        return message

    def _fill(self, message: Any, one: FieldDescriptor, depth: int) -> None:
        random = self.random
        if is_map(one):
            value = one.message_type.fields_by_name["value"]
            for key in random.sample(["", "a", "b", "k", "é", "a'b", "%s"], random.randint(0, 3)):
                if value.message_type is not None:
                    if depth < 3:
                        getattr(message, one.name)[key].CopyFrom(self.message(value.message_type, depth + 1))
                else:
                    getattr(message, one.name)[key] = self._scalar(value)
        elif one.is_repeated:
            for _ in range(random.randint(0, 3)):
                if one.message_type is None:
                    getattr(message, one.name).append(self._scalar(one))
                elif depth < 3:
                    getattr(message, one.name).append(self.message(one.message_type, depth + 1))
        elif one.message_type is None:
            setattr(message, one.name, self._scalar(one))
        elif one.message_type.full_name == "google.protobuf.Timestamp":
            stamp = random.choice(TIMES)
            _set(getattr(message, one.name), stamp // 10**6, stamp % 10**6 * 1000)
        elif one.message_type.full_name == "google.protobuf.Duration":
            span = random.choice(SPANS)
            seconds, micros = divmod(abs(span), 10**6)
            sign = -1 if span < 0 else 1
            _set(getattr(message, one.name), sign * seconds, sign * micros * 1000)
        elif depth < 3:
            getattr(message, one.name).CopyFrom(self.message(one.message_type, depth + 1))
            getattr(message, one.name).SetInParent()

    def _scalar(self, one: FieldDescriptor) -> Any:
        random = self.random
        if one.enum_type is not None:
            closed = one.enum_type.is_closed
            return random.choice([0, 1, 2, -5, 7] if closed else [0, 1, 2, -5, 7, 77, 2**31 - 1, -(2**31)])
        if one.name.startswith("ref") and random.random() < 0.8:
            return random.choice(self.names)
        return random.choice(POOLS[one.type][1])


def _set(message: Any, seconds: int, nanos: int) -> None:
    message.seconds, message.nanos = seconds, nanos
    message.SetInParent()


# ------------------------------------------------------------------------------------------------- rules


@dataclass(frozen=True)
class Part:
    """An expression, and what it is made of."""

    text: str
    kind: str
    parts: tuple[Part, ...] = ()
    free: frozenset[str] = field(default_factory=frozenset)
    """Variables of quantifiers that it needs from outside."""

    def walk(self) -> Iterator[Part]:
        yield self
        for part in self.parts:
            yield from part.walk()


def _part(text: str, kind: str, *parts: Part, bound: str = "") -> Part:
    free = frozenset().union(*(p.free for p in parts)) - {bound}
    return Part(text, kind, parts, free)


class Rules:
    """Makes rules of one resource. `request`: whether they may speak of what the resource would become."""

    def __init__(self, random: Random, schema: Schema, resource: Resource, *, request: bool) -> None:
        self.random = random
        self.schema = schema
        self.resource = resource
        self.request = request
        self.index = {r.message: i for i, r in enumerate(schema.resources.values())}
        self.scope: list[tuple[str, str, Descriptor | None]] = []
        """Variables of quantifiers: name, kind, message."""
        self.lookups = 0

    def rule(self) -> Part:
        self.lookups = 0
        return self.value("bool", self.random.choice([1, 2, 3, 3, 4]))

    def value(self, kind: str, depth: int) -> Part:
        """An expression of a scalar kind."""
        random = self.random
        ways: list[Callable[[str, int], Part | None]] = [self._field, self._field, self._given]
        if depth <= 0:
            ways += [self._constant, self._constant]
        else:
            ways += [self._constant, self._item, self._element, self._if]
            ways += {
                "bool": [
                    self._logic, self._logic, self._logic, self._not, self._compared, self._compared, self._compared,
                    self._compared, self._in, self._in, self._contained, self._contained, self._has, self._has, self._exists,
                    self._quantified, self._quantified, self._text, self._text,
                ],
                "int": [self._size, self._size],
                "string": [self._joined],
                "timestamp": [self._shifted, self._shifted],
                "duration": [self._shifted, self._shifted],
            }.get(kind, [])  # fmt: skip
        for _ in range(6):
            made = random.choice(ways)(kind, depth)
            if made is not None:
                return made
        return self._constant(kind, depth)

    # Leaves.

    def _constant(self, kind: str, depth: int) -> Part:
        random = self.random
        match kind:
            case "bool":
                text = random.choice(["true", "false"])
            case "int":
                text = random.choice(
                    [*map(str, INT64), "Color.RED", "Color.CRIMSON", "Color.GREY", "shop.v1.Color.COLD", "77"]
                )
            case "uint":
                text = f"{random.choice(UINT64)}u"
            case "double":
                text = repr(random.choice([d for d in DOUBLES if d == d and abs(d) != float("inf")]))
            case "string":
                text = _quoted(random, random.choice(STRINGS))
            case "bytes":
                text = 'b"' + "".join(f"\\x{b:02x}" for b in random.choice(BYTES)) + '"'
            case "timestamp":
                moment = (EPOCH + timedelta(microseconds=random.choice(TIMES))).isoformat().replace("+00:00", "Z")
                text = f'timestamp("{moment}")'
            case _:
                span = random.choice(SPANS)
                body = f"{abs(span) // 10**6}.{abs(span) % 10**6:06}s"
                text = f'duration("{"-" if span < 0 else ""}{body}")'
        return Part(text, kind)

    def _given(self, kind: str, depth: int) -> Part | None:
        named = {
            "bool": ["caller.verified"],
            "string": [
                "caller.name", "caller.id", "caller.kind", "owner", "parent", *(f"path.{v}" for v in variables_of(self.resource)),
            ],
            "timestamp": ["now"],
            "duration": ["caller.session_age"],
        }.get(kind)  # fmt: skip
        return Part(self.random.choice(named), kind) if named else None

    def _element(self, kind: str, depth: int) -> Part | None:
        found = [n for n, k, _ in self.scope if k == kind]
        if not found:
            return None
        name = self.random.choice(found)
        return Part(name, kind, free=frozenset({name}))

    # Messages.

    def message(self, depth: int) -> tuple[Part, Descriptor, bool]:
        """A message, its type, and whether it is a whole resource."""
        random = self.random
        scoped = [(n, d) for n, k, d in self.scope if k == "message" and d is not None]
        if scoped and random.random() < 0.5:
            name, descriptor = random.choice(scoped)
            return Part(name, "message", free=frozenset({name})), descriptor, False
        if depth > 0 and random.random() < 0.3 and self.lookups < 5:
            other = random.choice(list(self.schema.resources.values()))
            name = self._name_of(other, depth - 1)
            if name is not None:
                self.lookups += 1
                return (
                    _part(f"get{MARK}{self.index[other.message]}({name.text})", "message", name),
                    other.descriptor,
                    True,
                )
        if depth > 0 and random.random() < 0.4:
            below = self._below(depth - 1)
            if below is not None:
                return below
        root = "request" if self.request and random.random() < 0.4 else "resource"
        return Part(root, "message"), self.resource.descriptor, True

    def _below(self, depth: int) -> tuple[Part, Descriptor, bool] | None:
        of, descriptor, _ = self.message(depth)
        fields = [f for f in descriptor.fields if f.message_type is not None and not _timely(f)]
        maps = [f for f in fields if is_map(f) and _kind(f.message_type.fields_by_name["value"]) == "message"]
        plain = [f for f in fields if not f.is_repeated]
        if maps and (not plain or self.random.random() < 0.5):
            one = self.random.choice(maps)
            key = self._key(depth)
            text = f"{of.text}.{one.name}[{key.text}]"
            value = one.message_type.fields_by_name["value"].message_type
            return _part(text, "message", of, key), value, False
        if plain:
            one = self.random.choice(plain)
            return _part(f"{of.text}.{one.name}", "message", of), one.message_type, False
        return None

    def _key(self, depth: int) -> Part:
        if self.random.random() < 0.6:
            return Part(_quoted(self.random, self.random.choice(["a", "b", "k", "é", "a'b", "%s", "no", ""])), "string")
        return self.value("string", depth - 1)

    def _name_of(self, other: Resource, depth: int) -> Part | None:
        """A name whose shape is that of `other`'s names."""
        random = self.random
        if random.random() < 0.35:
            found = self._reference(other, depth)
            if found is not None:
                return found
        segments = random.choice(other.patterns).text.split("/")
        variables = list(variables_of(self.resource))
        patterns = self.resource.patterns
        if (
            other.descriptor.name == "B"
            and len(patterns) == 1
            and patterns[0].parent == "as/{a}"
            and random.random() < 0.3
        ):
            return Part(f'(parent + "/bs/" + path.{random.choice(variables)})', "string")
        texts: list[Part] = []
        literal = ""
        for i, segment in enumerate(segments):
            slash = "/" if i else ""
            if segment.startswith("{"):
                value = self._id(depth)
                if value is None:
                    literal += slash + random.choice([*IDS, "nobody"])
                else:
                    texts.append(Part(_quoted(random, literal + slash), "string"))
                    texts.append(value)
                    literal = ""
            else:
                literal += slash + segment
        if literal:
            texts.append(Part(_quoted(random, literal), "string"))
        return _part(
            "(" + " + ".join(t.text for t in texts) + ")" if len(texts) > 1 else texts[0].text, "string", *texts
        )

    def _id(self, depth: int) -> Part | None:
        random = self.random
        way = random.random()
        variables = list(variables_of(self.resource))
        if way < 0.4 and variables:
            return Part(f"path.{random.choice(variables)}", "string")
        if way < 0.5:
            return Part("caller.id", "string")
        if way < 0.65:
            texts = [
                f
                for f in self.resource.descriptor.fields
                if _kind(f) == "string" and not f.is_repeated and not f.name.startswith("ref")
            ]
            texts = [f for f in texts if f.name != self.resource.name_field]
            if texts:
                return Part(f"resource.{random.choice(texts).name}", "string")
        return None

    def _reference(self, other: Resource, depth: int) -> Part | None:
        """A field that refers to `other`, or the name of one."""
        random = self.random
        of, descriptor = Part("resource", "message"), self.resource.descriptor
        if self.request and random.random() < 0.3:
            of = Part("request", "message")
        if depth > 0 and random.random() < 0.3 and self.lookups < 5:
            via = random.choice(list(self.schema.resources.values()))
            name = self._name_of(via, depth - 1)
            if name is not None:
                self.lookups += 1
                of = _part(f"get{MARK}{self.index[via.message]}({name.text})", "message", name)
                descriptor = via.descriptor
        for one in random.sample(list(descriptor.fields), len(descriptor.fields)):
            if self.schema.references.get(one.full_name) == other.type:
                return _part(f"{of.text}.{one.name}", "string", of)
        if descriptor is other.descriptor:
            return _part(f"{of.text}.{other.name_field}", "string", of)
        return None

    # Fields.

    def _field(self, kind: str, depth: int) -> Part | None:
        for _ in range(3):
            of, descriptor, whole = self.message(depth)
            found = [
                f for f in descriptor.fields if not f.is_repeated and _kind(f) == kind and (whole or not _timely(f))
            ]
            if found:
                return _part(f"{of.text}.{self.random.choice(found).name}", kind, of)
        return None

    def _item(self, kind: str, depth: int) -> Part | None:
        found = self._container("map", kind, depth - 1)
        if found is None:
            return None
        key = self._key(depth)
        if self.random.random() < 0.1:
            return _part(f"{found[0].text}.a", kind, found[0])
        return _part(f"{found[0].text}[{key.text}]", kind, found[0], key)

    def _container(self, shape: str, kind: str, depth: int) -> tuple[Part, str, Descriptor | None] | None:
        """A list or map of values of a kind, or of any: it, the kind and the message."""
        random = self.random
        if shape == "list" and kind in ("string", "") and random.random() < 0.2:
            return Part("caller.roles", "list"), "string", None
        for _ in range(3):
            of, descriptor, _ = self.message(depth)
            fields = []
            for one in descriptor.fields:
                if _timely(one) or not one.is_repeated or is_map(one) is not (shape == "map"):
                    continue
                value = one.message_type.fields_by_name["value"] if shape == "map" else one
                if _timely(value):
                    continue
                if kind in ("", _kind(value)):
                    fields.append((one, value))
            if fields:
                one, value = random.choice(fields)
                return _part(f"{of.text}.{one.name}", shape, of), _kind(value), value.message_type
        return None

    # Composites.

    def _if(self, kind: str, depth: int) -> Part:
        parts = (self.value("bool", depth - 1), self.value(kind, depth - 1), self.value(kind, depth - 1))
        return _part(f"({parts[0].text} ? {parts[1].text} : {parts[2].text})", kind, *parts)

    def _logic(self, kind: str, depth: int) -> Part:
        left, right = self.value("bool", depth - 1), self.value("bool", depth - 1)
        return _part(f"({left.text} {self.random.choice(['&&', '||'])} {right.text})", "bool", left, right)

    def _not(self, kind: str, depth: int) -> Part:
        of = self.value("bool", depth - 1)
        return _part(f"!({of.text})", "bool", of)

    def _compared(self, kind: str, depth: int) -> Part:
        of = self.random.choice(KINDS)
        left = self.value(of, depth - 1)
        right = left if self.random.random() < 0.1 else self.value(of, depth - 1)
        op = self.random.choice(["==", "!=", "<", "<=", ">", ">="])
        return _part(f"({left.text} {op} {right.text})", "bool", left, right)

    def _in(self, kind: str, depth: int) -> Part:
        of = self.random.choice(KINDS)
        value = self.value(of, depth - 1)
        options = tuple(self.value(of, min(depth - 1, 1)) for _ in range(self.random.choice([0, 1, 1, 2, 3])))
        if self.random.random() < 0.15:
            options = (*options, value)
        return _part(f"({value.text} in [{', '.join(o.text for o in options)}])", "bool", value, *options)

    def _contained(self, kind: str, depth: int) -> Part | None:
        if self.random.random() < 0.4:
            found = self._container("map", "", depth - 1)
            if found is None:
                return None
            key = self._key(depth)
            if self.random.random() < 0.3:
                return _part(f"has({found[0].text}.a)", "bool", found[0])
            return _part(f"({key.text} in {found[0].text})", "bool", key, found[0])
        of = self.random.choice(["string", "int"])
        found = self._container("list", of, depth - 1)
        if found is None:
            return None
        value = self.value(of, depth - 1)
        return _part(f"({value.text} in {found[0].text})", "bool", value, found[0])

    def _has(self, kind: str, depth: int) -> Part | None:
        of, descriptor, whole = self.message(depth)
        found = [f for f in descriptor.fields if (whole or not _timely(f)) and not _timely_inside(f)]
        return _part(f"has({of.text}.{self.random.choice(found).name})", "bool", of) if found else None

    def _exists(self, kind: str, depth: int) -> Part | None:
        if self.lookups >= 5:
            return None
        other = self.random.choice(list(self.schema.resources.values()))
        name = self._name_of(other, depth - 1)
        if name is None:
            return None
        self.lookups += 1
        return _part(f"exists{MARK}{self.index[other.message]}({name.text})", "bool", name)

    def _quantified(self, kind: str, depth: int) -> Part | None:
        if len(self.scope) >= 2:
            return None
        found = self._container("list", "", depth - 1)
        if found is None:
            return None
        over, of, descriptor = found
        name = f"v{len(self.scope)}"
        self.scope.append((name, of, descriptor))
        test = self.value("bool", depth - 1)
        if self.random.random() < 0.6 and of in KINDS:
            right = self.value(of, depth - 1)
            way = self.random.choice(["{0} == {1}", "{0} != {1}", "{0} < {1}", "{0} in [{1}, {0}]", "{0} in [{1}]"])
            test = _part(f"({way.format(name, right.text)})", "bool", Part(name, of, free=frozenset({name})), right)
        self.scope.pop()
        macro = self.random.choice(["exists", "all"])
        return _part(f"{over.text}.{macro}({name}, {test.text})", "bool", over, test, bound=name)

    def _text(self, kind: str, depth: int) -> Part:
        of, part = self.value("string", depth - 1), self.value("string", depth - 1)
        op = self.random.choice(["startsWith", "endsWith", "contains"])
        return _part(f"({of.text}).{op}({part.text})", "bool", of, part)

    def _size(self, kind: str, depth: int) -> Part | None:
        of = self.random.choice(["string", "bytes", "list", "map"])
        if of in ("list", "map"):
            found = self._container(of, "", depth - 1)
            if found is None:
                return None
            value = found[0]
        else:
            value = self.value(of, depth - 1)
        text = f"size({value.text})" if self.random.random() < 0.5 else f"({value.text}).size()"
        return _part(text, "int", value)

    def _joined(self, kind: str, depth: int) -> Part:
        left, right = self.value("string", depth - 1), self.value("string", depth - 1)
        return _part(f"({left.text} + {right.text})", "string", left, right)

    def _shifted(self, kind: str, depth: int) -> Part:
        ways = {
            "timestamp": [("timestamp", "+", "duration"), ("duration", "+", "timestamp"), ("timestamp", "-", "duration")],
            "duration": [("duration", "+", "duration"), ("duration", "-", "duration"), ("timestamp", "-", "timestamp")],
        }[kind]  # fmt: skip
        a, op, b = self.random.choice(ways)
        left, right = self.value(a, depth - 1), self.value(b, depth - 1)
        return _part(f"({left.text} {op} {right.text})", kind, left, right)


def _timely(one: FieldDescriptor) -> bool:
    return one.message_type is not None and one.message_type.full_name.startswith("google.protobuf.")


def _timely_inside(one: FieldDescriptor) -> bool:
    return is_map(one) and _timely(one.message_type.fields_by_name["value"])


def _kind(one: FieldDescriptor) -> str:
    if one.enum_type is not None:
        return "int"
    if one.message_type is not None:
        name = one.message_type.full_name
        return {"google.protobuf.Timestamp": "timestamp", "google.protobuf.Duration": "duration"}.get(name, "message")
    return POOLS[one.type][0]


def _quoted(random: Random, text: str) -> str:
    quote = random.choice("'\"")
    out = text.replace("\\", "\\\\").replace(quote, f"\\{quote}").replace("\n", "\\n").replace("\r", "\\r")
    if random.random() < 0.1:
        out = "".join(f"\\U{ord(c):08x}" for c in text)
    return f"{quote}{out}{quote}"


# ------------------------------------------------------------------------------------------------- cases

ACTIONS = ("get", "list", "watch", "create", "update", "delete")


@dataclass
class Case:
    """A schema with its rules, and what they are judged on."""

    file: FileDescriptorProto
    rules: dict[tuple[str, str, str], Part]
    """By message, field (or empty) and action."""
    world: World


def case(seed: int, *, ruled: float = 0.4) -> Case:
    """The case of a number: `ruled` is how many fields have rules of their own."""
    random = Random(seed)
    file = Schemas(random).made()
    schema = schema_of(file)
    rules: dict[tuple[str, str, str], Part] = {}
    for resource in schema.resources.values():
        for action in ACTIONS:
            made = Rules(random, schema, resource, request=action in ("create", "update"))
            rules[resource.message, "", action] = made.rule()
        for one in resource.descriptor.fields:
            if one.name != resource.name_field and random.random() < ruled:
                action = random.choice(["read", "read", "write"])
                rules[resource.message, one.name, action] = Rules(
                    random, schema, resource, request=action == "write"
                ).rule()
    world = Rows(random, schema).world()
    return Case(file, rules, world)


def with_rules(file: FileDescriptorProto, rules: dict[tuple[str, str, str], str]) -> FileDescriptorProto:
    """The file with these rules as its options."""
    out = FileDescriptorProto()
    out.CopyFrom(file)
    messages = {f"{out.package}.{m.name}": m for m in out.message_type}
    for (message, one, action), text in rules.items():
        if one:
            [found] = [f for f in messages[message].field if f.name == one]
            setattr(found.options.Extensions[options_pb2.field], action, text)
        else:
            setattr(messages[message].options.Extensions[options_pb2.resource], action, text)
    return out
