"""What an RPC is, from its descriptor alone.

A method is standard when both its name and its shape are those of AIP-131
(Get), 132 (List), 133 (Create), 134 (Update) or 135 (Delete). The name counts
in full: `ListUsableThings` answers things, but hardly all of them, and
`DeleteStatefile` may be told a deployment without wanting it deleted. A method
with a standard verb but another shape is custom, and says why: an author who
meant a standard method learns what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from server.schema.columns import is_map, snake
from server.schema.model import Kind, Resource

_VERBS = {"Get": Kind.GET, "List": Kind.LIST, "Create": Kind.CREATE, "Update": Kind.UPDATE, "Delete": Kind.DELETE}


@dataclass(frozen=True, slots=True)
class Classified:
    """The finding."""

    kind: Kind
    resource: Resource | None = None
    resource_field: str = ""
    id_field: str = ""
    items_field: str = ""
    why_custom: str = ""

    @property
    def safe(self) -> bool:
        """Whether its kind alone says that it may be repeated."""
        return self.kind in (Kind.GET, Kind.LIST)


def classified(
    method: MethodDescriptor, resources: Mapping[str, Resource], references: Mapping[str, str], *, own: bool
) -> Classified:
    """What `method` is. `references` are the resource types that its request's fields refer to, by field name."""
    if own:
        return Classified(Kind.BUILT_IN)
    verb = next((v for v in _VERBS if method.name.startswith(v) and method.name[len(v) :][:1].isupper()), "")
    if not verb:
        return Classified(Kind.CUSTOM)
    if method.client_streaming or method.server_streaming:
        return Classified(Kind.CUSTOM, why_custom="it streams")
    try:
        return _SHAPES[_VERBS[verb]](method, method.name[len(verb) :], resources, references)
    except _Differs as difference:
        return Classified(Kind.CUSTOM, why_custom=str(difference))


class _Differs(Exception):
    """The shape is not the standard one; the text says where."""


def _get(method: MethodDescriptor, noun: str, resources: Mapping[str, Resource], _: Mapping[str, str]) -> Classified:
    resource = _answered(method, resources)
    _named(noun, resource, _singulars(resource), "answers", "AIP-131")
    _string(method.input_type, "name", "AIP-131")
    return Classified(Kind.GET, resource)


def _list(method: MethodDescriptor, noun: str, resources: Mapping[str, Resource], _: Mapping[str, str]) -> Classified:
    items = [
        f
        for f in method.output_type.fields
        if f.is_repeated and not is_map(f) and f.message_type and f.message_type.full_name in resources
    ]
    if len(items) != 1:
        raise _Differs("its response does not have exactly one repeated field of a resource (AIP-132)")
    resource = resources[items[0].message_type.full_name]
    _named(noun, resource, _plurals(resource), "lists", "AIP-132")
    if "next_page_token" not in method.output_type.fields_by_name:
        raise _Differs("its response has no next_page_token (AIP-158)")
    _string(method.input_type, "page_token", "AIP-158")
    size = method.input_type.fields_by_name.get("page_size")
    if size is None or size.type != FieldDescriptor.TYPE_INT32 or size.is_repeated:
        raise _Differs("its request has no int32 field 'page_size' (AIP-158)")
    if any(p.parent for p in resource.patterns):
        _string(method.input_type, "parent", "AIP-132")
    return Classified(Kind.LIST, resource, items_field=items[0].name)


def _create(method: MethodDescriptor, noun: str, resources: Mapping[str, Resource], _: Mapping[str, str]) -> Classified:
    resource = _answered(method, resources)
    _named(noun, resource, _singulars(resource), "creates", "AIP-133")
    body = _body(method.input_type, resource, "AIP-133")
    if any(p.parent for p in resource.patterns):
        _string(method.input_type, "parent", "AIP-133")
    ids = [f"{body}_id", f"{snake(resource.singular)}_id", f"{snake(noun)}_id", "id"]
    id_field = next((i for i in ids if i in method.input_type.fields_by_name), "")
    if id_field:
        _string(method.input_type, id_field, "AIP-133")
    return Classified(Kind.CREATE, resource, resource_field=body, id_field=id_field)


def _update(method: MethodDescriptor, noun: str, resources: Mapping[str, Resource], _: Mapping[str, str]) -> Classified:
    resource = _answered(method, resources)
    _named(noun, resource, _singulars(resource), "updates", "AIP-134")
    body = _body(method.input_type, resource, "AIP-134")
    mask = method.input_type.fields_by_name.get("update_mask")
    if mask is not None and (mask.message_type is None or mask.message_type.full_name != "google.protobuf.FieldMask"):
        raise _Differs("its update_mask is not a google.protobuf.FieldMask (AIP-134)")
    return Classified(Kind.UPDATE, resource, resource_field=body)


def _delete(
    method: MethodDescriptor, noun: str, resources: Mapping[str, Resource], references: Mapping[str, str]
) -> Classified:
    _string(method.input_type, "name", "AIP-135")
    if method.output_type.full_name != "google.protobuf.Empty":
        raise _Differs(f"it answers {method.output_type.full_name}, not google.protobuf.Empty (AIP-135)")
    referred = references.get("name", "")
    package = method.containing_service.file.package
    for resource in resources.values():
        if resource.type == referred:
            _named(noun, resource, _singulars(resource), "refers to", "AIP-135")
            return Classified(Kind.DELETE, resource)
        if not referred and resource.descriptor.file.package == package and _folded(noun) in _singulars(resource):
            return Classified(Kind.DELETE, resource)
    raise _Differs("no resource of this schema is named by it (AIP-135)")


_SHAPES = {Kind.GET: _get, Kind.LIST: _list, Kind.CREATE: _create, Kind.UPDATE: _update, Kind.DELETE: _delete}


def _answered(method: MethodDescriptor, resources: Mapping[str, Resource]) -> Resource:
    resource = resources.get(method.output_type.full_name)
    if resource is None:
        raise _Differs(f"it answers {method.output_type.full_name}, which is not a stored resource")
    return resource


def _named(noun: str, resource: Resource, words: frozenset[str], does: str, source: str) -> None:
    if _folded(noun) not in words:
        raise _Differs(f"it is not named for what it {does}, {resource.descriptor.name} ({source})")


def _singulars(resource: Resource) -> frozenset[str]:
    """What one such resource may be called in the name of a method, folded.

    By its message or type, or more shortly by its place in its names: `GetBucket` answers a `LogBucket`, whose names
    end in `buckets/{bucket}`.
    """
    words = [resource.singular, resource.descriptor.name, resource.type.rpartition("/")[2]]
    return frozenset(map(_folded, [*words, *(p.last for p in resource.patterns)]))


def _plurals(resource: Resource) -> frozenset[str]:
    """What many of them may be called: as in English or as the schema says; or as one of them, which some schemas do."""
    singulars = _singulars(resource)
    said = [resource.plural, *(p.collection for p in resource.patterns)]
    english = [form for word in singulars for form in (f"{word}s", f"{word}es", f"{word[:-1]}ies")]
    return singulars | frozenset(map(_folded, said)) | frozenset(english)


def _folded(word: str) -> str:
    """Without the differences between CamelCase, lowerCamelCase and lower_snake_case."""
    return word.replace("_", "").lower()


def _string(message: Descriptor, name: str, source: str) -> None:
    field = message.fields_by_name.get(name)
    if field is None or field.type != FieldDescriptor.TYPE_STRING or field.is_repeated:
        raise _Differs(f"its request has no string field {name!r} ({source})")


def _body(message: Descriptor, resource: Resource, source: str) -> str:
    fields = [
        f.name
        for f in message.fields
        if f.message_type and f.message_type.full_name == resource.message and not f.is_repeated
    ]
    if len(fields) != 1:
        raise _Differs(f"its request does not have exactly one field of {resource.descriptor.name} ({source})")
    return fields[0]
