"""What JSON over REST says and gRPC has no word for: which names a body had, `null` among their values.

The edge sends them along as a tree (edge/rest.lua): `title!,size(w),box()` of {"title": null, "size": {"w": 1}, "box": {}}. Those
of a batch or a commit it tells part by part, by the place of each that has other names than the one before it:
`requests!(0(book(name)),7(book(name,title!)))`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet

from server.errors import VIOLATIONS_MAX, Invalid, Violation
from server.schema.columns import is_map
from server.schema.model import Method, Schema

Tree = dict[str, "Tree | bool"]
"""Names and, of objects and arrays of them, the names within; of other values whether they are more than `null`."""


class Parts(dict[str, "Tree | bool"]):
    """Of an array of objects their trees, by the place, from 0, from which on they are so."""

    def spread(self, count: int) -> list[Tree]:
        """The tree of each of so many objects. Raises Invalid for what the edge does not write."""
        out: list[Tree] = []
        for place, tree in self.items():
            if not place.isdecimal() or not isinstance(tree, dict) or bool(out) is not (int(place) > 0):
                raise Invalid("The names in the body cannot be read.", reason="MALFORMED_REQUEST")
            out += out[-1:] * (min(int(place), count) - len(out))
            out.append(tree)
        out += out[-1:] * (count - len(out))
        return out[:count]


LEVELS = 100
"""Of a tree; the edge tells fewer."""

MANY = "*"
"""Of a body that has more names than are sent along."""

KEPT, KEPT_CHARACTERS = 512, 256
"""How many tellings are remembered, of all methods, and how long they may be: a client says the same names again and again."""

_PARTS = re.compile(r"([\w%]*)(!?)([,()]|$)", re.ASCII)
_KEY = "`(?:[^`]|``)*`"
_LISTED = re.compile(f"((?:{_KEY}|[^,`])+)(?:,|$)")
_CAPITAL = re.compile(f"{_KEY}|[A-Z]")
_PERHAPS_CAPITAL = re.compile("_[a-z]")
_WHOLE = "google.protobuf."
"""Of messages that are one value in JSON, or in which any name may stand."""


class Body:
    """The JSON body of a method's requests."""

    def __init__(self, schema: Schema, method: Method) -> None:
        self._request = schema.pool.FindMessageTypeByName(method.request)
        self._bodies = method.bodies
        self._resource_field = method.resource_field
        self._names = _names(schema.image)

    def check(self, told: str) -> None:
        """Raises Invalid for names that the schema does not know, or knows as one and the same."""
        if told not in ("", MANY):
            self._looked_at(told)

    def known(self, told: str) -> bytes:
        """The same for bodies with the same names: what is told has them in any order."""
        return told.encode() if told == MANY else json.dumps(_tree(told), sort_keys=True).encode()

    def mask(self, request: Any, told: str | None, path: str) -> list[str] | None:
        """The mask of an update: the one that is given, else what its body speaks of; None where there is neither.

        Fields that a body names are set or, where they are `null`, cleared. Objects are merged, as in RFC 7396: of a message
        the fields named, of a map the keys, where `null` takes one away; arrays and all else are replaced. `path` is that of
        the call over REST, with its query. Raises Invalid where there are too many names to be told.
        """
        given = list(request.update_mask.paths) if "update_mask" in self._request.fields_by_name else []
        if told is None:
            return given or None
        resource = self._request.fields_by_name[self._resource_field]
        tree = self._resource(told, resource) if told != MANY else None
        mask = masked(given, tree, getattr(request, resource.name), "update_mask")
        return self._as_written(given, path) if any("`" in one for one in given) else mask

    def parts(self, told: str, field: str, count: int) -> Sequence[Tree | None]:
        """The names in each of the `count` parts of a batch or a commit, the repeated `field` of the request; None where they are
        too many to be told so. Raises Invalid."""
        if told != MANY:
            tree, body = self._looked_at(told)
            found = within(tree, self._request.fields_by_name[field]) if body == "*" else None
            if isinstance(found, Parts):
                return found.spread(count)
        return [None] * count

    @staticmethod
    def _as_written(given: list[str], path: str) -> list[str]:
        """The mask with its keys in backticks as they were before the translation, which takes a capital letter in a key,
        too, for one of a name: `_` and a small one. Raises Invalid where that cannot be told."""
        query = parse_qs(urlsplit(path).query)
        written = next((query[name][-1] for name in ("updateMask", "update_mask") if name in query), "")
        if written:
            return [_CAPITAL.sub(_small, one[1]) for one in _LISTED.finditer(written)]
        if any(_PERHAPS_CAPITAL.search(key) for one in given for key in re.findall(_KEY, one)):
            raise Invalid.field(
                "update_mask",
                "must be in the query, not in the body, where a key has `_` or capital letters",
                "INVALID_PATH",
            )
        return given

    def _looked_at(self, told: str) -> tuple[Tree, str]:
        """The names that are told, not to be changed, and which of the bodies they are. Raises Invalid."""
        return _kept(self, told) if len(told) <= KEPT_CHARACTERS else self.look(told)

    def look(self, told: str) -> tuple[Tree, str]:
        """The names that are told, and to which field of the request the body that has them goes. Raises Invalid."""
        tree = _tree(told)
        return tree, self._body(tree)

    def _resource(self, told: str, resource: FieldDescriptor) -> Tree:
        """Of the names in a body those in the resource."""
        tree, body = self._looked_at(told)
        if body == "*":
            return within(tree, resource)
        return tree if body == resource.name else {}

    def _body(self, tree: Tree) -> str:
        """Which of the bodies of its bindings it is: the first that knows all the names. Raises Invalid where none does."""
        found: list[Violation] = []
        for body in self._bodies or ("",):
            unknown = list(_unknown(tree, *self._root(body), self._names))
            if not unknown:
                return body
            found = found or unknown
        raise Invalid.fields(sorted(found, key=lambda violation: violation.field)[:VIOLATIONS_MAX])

    def _root(self, body: str) -> tuple[Descriptor | None, str]:
        """The message that the body is, None for what has no fields, and the beginning of the paths of its fields."""
        if body == "*":
            return self._request, ""
        field = self._request.fields_by_name.get(body)
        return (field.message_type, f"{body}.") if field is not None else (None, "")


def within(tree: Tree, field: Any) -> Tree:
    """Of the names of a message those in one of its fields, told by its descriptor."""
    found = next((tree[name] for name in (field.json_name, field.name) if name in tree), {})
    return found if isinstance(found, dict) else {}


def masked(given: list[str], tree: Tree | None, message: Any, where: str) -> list[str]:
    """The mask of a message in a body: the one that is given, else what its names speak of. Takes out of the message what the
    translation makes of `null` in maps. Raises Invalid of the field `where` if there is no mask, and the names are not known."""
    if tree is not None:
        _strip(tree, message)
    if given:
        return given
    if tree is None:
        raise Invalid.field(where, "is required for a body of so many names", "REQUIRED")
    return list(_paths(tree, message.DESCRIPTOR, ""))


def check(tree: Tree, message: Descriptor, where: str) -> None:
    """Raises Invalid for names that a message has not, or that are one and the same; their paths begin with `where`."""
    if found := list(_unknown(tree, message, f"{where}.", frozenset())):
        raise Invalid.fields(sorted(found, key=lambda violation: violation.field)[:VIOLATIONS_MAX])


@lru_cache(maxsize=KEPT)
def _kept(body: Body, told: str) -> tuple[Tree, str]:
    return body.look(told)  # what is refused is not kept


def _tree(told: str) -> Tree:
    """Raises Invalid for what the edge does not write."""
    tree: Tree = {}
    levels, at, name = [tree], 0, ""
    while found := _PARTS.match(told, at):
        written, null, mark = found.groups()
        if written:
            name = written if "%" not in written else "" if written == "%" else _name(written)
            if name in levels[-1]:
                raise Invalid("The body has an object with two values for one name.", reason="MALFORMED_REQUEST")
            levels[-1][name] = not null
        if mark == "(":
            below: Tree = Parts() if null else {}
            levels[-1][name] = below
            levels.append(below)
        elif mark == ")":
            levels.pop()
        if not levels or len(levels) > LEVELS or (not mark and len(levels) > 1):
            break
        if not mark:
            return tree
        at = found.end()
    raise Invalid("The names in the body cannot be read.", reason="MALFORMED_REQUEST")


def _name(written: str) -> str:
    try:
        return str(json.loads(f'"{unquote(written, errors="strict")}"', strict=False))
    except ValueError as fault:
        raise Invalid("A name in the body is not text.", reason="MALFORMED_REQUEST") from fault


@lru_cache(maxsize=4096)
def _fields(message: Descriptor) -> Mapping[str, FieldDescriptor]:
    return {name: field for field in message.fields for name in (field.json_name, field.name)}


@lru_cache(maxsize=4)
def _names(image: bytes) -> frozenset[str]:
    """The names of all fields that any message of a schema's image has, by which an Any may have them."""

    def of(messages: Iterable[DescriptorProto]) -> Iterator[str]:
        for message in messages:
            yield from (name for field in message.field for name in (field.name, field.json_name))
            yield from of(message.nested_type)

    return frozenset(name for file in FileDescriptorSet.FromString(image).file for name in of(file.message_type))


def _unknown(tree: Tree, message: Descriptor | None, path: str, anywhere: frozenset[str]) -> Iterator[Violation]:
    """Names that are not of the message's fields, or that are two names of one. Of an Any, whose type is not told, those that
    no message has `anywhere`; it is not looked at further in."""
    if message is not None and message.full_name == "google.protobuf.Any":
        for name in tree.keys() - anywhere - {"@type", "value"}:
            yield Violation(f"{path}{_shown(name)}", "is a field of no message", "UNKNOWN_FIELD")
        return
    if message is not None and (message.full_name.startswith(_WHOLE) or message.full_name == "google.api.HttpBody"):
        return
    fields, seen = _fields(message) if message is not None else {}, set()
    for name, below in tree.items():
        field = fields.get(name)
        if field is None:
            what = message.full_name if message is not None else "this body"
            yield Violation(f"{path}{_shown(name)}", f"is not a field of {what}", "UNKNOWN_FIELD")
        elif field.number in seen:
            yield Violation(f"{path}{field.name}", "is there under both of its names", "AMBIGUOUS_FIELD")
        else:
            seen.add(field.number)
            if isinstance(below, dict) and is_map(field):
                assert field.message_type is not None
                holder = field.message_type.fields_by_name["value"]
                for key, value in below.items():
                    if isinstance(value, dict) and holder.message_type is not None:
                        yield from _unknown(value, holder.message_type, f"{path}{field.name}[{_shown(key)}].", anywhere)
            elif isinstance(below, Parts):
                for place, part in below.items():
                    if isinstance(part, dict):
                        yield from _unknown(part, field.message_type, f"{path}{field.name}[{place}].", anywhere)
            elif isinstance(below, dict) and field.message_type is not None:
                yield from _unknown(below, field.message_type, f"{path}{field.name}.", anywhere)


def _shown(name: str) -> str:
    return name[:100].encode(errors="replace").decode()


def _paths(tree: Tree, message: Descriptor, path: str) -> Iterator[str]:
    fields = _fields(message)
    for name, below in tree.items():
        field = fields[name]
        here = path + field.name
        if not isinstance(below, dict) or field.message_type is None or (field.is_repeated and not is_map(field)):
            yield here
        elif is_map(field):
            for key in below:
                doubled = key.replace("`", "``")
                yield f"{here}.`{doubled}`"
        elif field.message_type.full_name.startswith(_WHOLE):
            yield here
        elif below:
            yield from _paths(below, field.message_type, f"{here}.")
        else:
            yield f"{here}."  # {}: it is there, with whatever it has


def _strip(tree: Tree, message: Any) -> None:
    """Takes out what the translation makes of `null` in a map: an entry of default value."""
    fields = _fields(message.DESCRIPTOR)
    for name, below in tree.items():
        field = fields[name]
        if not isinstance(below, dict) or field.message_type is None:
            continue
        if is_map(field):
            entries = getattr(message, field.name)
            gone = {key for key, value in below.items() if value is False}
            for key in [key for key in entries if _in_json(key) in gone]:
                del entries[key]
        elif field.is_repeated or field.message_type.full_name.startswith(_WHOLE):
            continue
        elif message.HasField(field.name):
            _strip(below, getattr(message, field.name))


def _small(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith("`") else f"_{found[0].lower()}"


def _in_json(key: str | int | bool) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)
