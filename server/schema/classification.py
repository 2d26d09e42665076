"""What an RPC is, from its descriptor alone.

A method is standard when both its name and its shape are those of AIP-131
(Get), 132 (List), 133 (Create), 134 (Update), 135 (Delete), 136's Search,
162 (Rollback), 164 (Undelete), 165 (Purge) or 231 to 235 (batches), or those
of Watch, for which there is no AIP: docs/events.md says them. The name
counts in full: `ListUsableThings` answers things, but hardly all of them, and
`DeleteStatefile` may be told a deployment without wanting it deleted. What
writes may answer a google.longrunning.Operation of its answer (AIP-151). A
method with a standard verb but another shape is custom, and says why: an
author who meant a standard method learns what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from server.schema.columns import is_map, snake
from server.schema.model import Kind, Operation, Resource

EMPTY = "google.protobuf.Empty"

_VERBS = {
    "BatchGet": Kind.BATCH_GET,
    "BatchCreate": Kind.BATCH_CREATE,
    "BatchUpdate": Kind.BATCH_UPDATE,
    "BatchDelete": Kind.BATCH_DELETE,
    "Get": Kind.GET,
    "List": Kind.LIST,
    "Create": Kind.CREATE,
    "Update": Kind.UPDATE,
    "Delete": Kind.DELETE,
    "Undelete": Kind.UNDELETE,
    "Purge": Kind.PURGE,
    "Search": Kind.SEARCH,
    "Rollback": Kind.ROLLBACK,
    "Watch": Kind.WATCH,
}

_READS = (Kind.GET, Kind.LIST, Kind.SEARCH, Kind.BATCH_GET, Kind.WATCH)

CHANGES = ("CURRENT", "CREATED", "UPDATED", "DELETED", "REMOVED", "RESET")
"""What a watcher can be told has become of a resource: names of the values of transom.events.v1.Change, in their order from 1."""


@dataclass(frozen=True, slots=True)
class Classified:
    """The finding."""

    kind: Kind
    resource: Resource | None = None
    resource_field: str = ""
    id_field: str = ""
    items_field: str = ""
    requests_field: str = ""
    each: Classified | None = None
    """Of a batch of requests: what one of them is, as a method of its own."""
    why_custom: str = ""

    @property
    def safe(self) -> bool:
        """Whether its kind alone says that it may be repeated."""
        return self.kind in _READS


@dataclass(frozen=True, slots=True)
class _Method:
    """A method as its shape is looked at."""

    descriptor: MethodDescriptor
    noun: str
    request: Descriptor
    answer: Descriptor | None
    """What it answers in the end; None where an Operation does not say."""
    resources: Mapping[str, Resource]
    references: Mapping[str, str]


def classified(
    method: MethodDescriptor,
    resources: Mapping[str, Resource],
    references: Mapping[str, str],
    operation: Operation | None,
    answer: Descriptor | None,
    *,
    own: bool,
) -> Classified:
    """What `method` is. `references` are the resource types that its request's fields refer to, by field name; `answer` what
    it answers in the end, where it answers an `operation` first."""
    if own:
        return Classified(Kind.BUILT_IN)
    verb = next((v for v in _VERBS if method.name.startswith(v) and method.name[len(v) :][:1].isupper()), "")
    if not verb:
        return Classified(Kind.CUSTOM)
    if method.client_streaming or (method.server_streaming and _VERBS[verb] is not Kind.WATCH):
        return Classified(Kind.CUSTOM, why_custom="it streams")
    if operation is not None and _VERBS[verb] in _READS:
        return Classified(Kind.CUSTOM, why_custom="it reads, and answers a google.longrunning.Operation")
    about = _Method(method, method.name[len(verb) :], method.input_type, answer, resources, references)
    try:
        return _SHAPES[_VERBS[verb]](about)
    except _Differs as difference:
        return Classified(Kind.CUSTOM, why_custom=str(difference))


class _Differs(Exception):
    """The shape is not the standard one; the text says where."""


def _get(method: _Method) -> Classified:
    resource = _answered(method)
    _named(method.noun, resource, _singulars(resource), "answers", "AIP-131")
    _string(method.request, "name", "AIP-131")
    return Classified(Kind.GET, resource)


def _list(method: _Method) -> Classified:
    resource, items = _paged(method, "AIP-132")
    _named(method.noun, resource, _plurals(resource), "lists", "AIP-132")
    if any(p.parent for p in resource.patterns):
        _string(method.request, "parent", "AIP-132")
    return Classified(Kind.LIST, resource, items_field=items)


def _search(method: _Method) -> Classified:
    resource, items = _paged(method, "AIP-136")
    _named(method.noun, resource, _plurals(resource), "lists", "AIP-136")
    if "query" not in method.request.fields_by_name and "filter" not in method.request.fields_by_name:
        raise _Differs("its request has neither a field 'query' nor a field 'filter'")
    return Classified(Kind.SEARCH, resource, items_field=items)


def _create(method: _Method) -> Classified:
    resource = _answered(method)
    _named(method.noun, resource, _singulars(resource), "creates", "AIP-133")
    return _creates(method.request, resource, method.noun)


def _creates(request: Descriptor, resource: Resource, noun: str) -> Classified:
    body = _body(request, resource, "AIP-133")
    if any(p.parent for p in resource.patterns):
        _string(request, "parent", "AIP-133")
    ids = [f"{body}_id", f"{snake(resource.singular)}_id", f"{snake(noun)}_id", "id"]
    id_field = next((i for i in ids if i in request.fields_by_name), "")
    if id_field:
        _string(request, id_field, "AIP-133")
    return Classified(Kind.CREATE, resource, resource_field=body, id_field=id_field)


def _update(method: _Method) -> Classified:
    resource = _answered(method)
    _named(method.noun, resource, _singulars(resource), "updates", "AIP-134")
    return _updates(method.request, resource)


def _updates(request: Descriptor, resource: Resource) -> Classified:
    body = _body(request, resource, "AIP-134")
    mask = request.fields_by_name.get("update_mask")
    if mask is not None and (mask.message_type is None or mask.message_type.full_name != "google.protobuf.FieldMask"):
        raise _Differs("its update_mask is not a google.protobuf.FieldMask (AIP-134)")
    return Classified(Kind.UPDATE, resource, resource_field=body)


def _delete(method: _Method) -> Classified:
    _string(method.request, "name", "AIP-135")
    resource = _deleted(method, _singulars, "AIP-135")
    if method.answer is None or method.answer.full_name not in (EMPTY, resource.message):
        raise _Differs(
            f"it answers {_said(method)}, neither google.protobuf.Empty nor what it deletes (AIP-135, AIP-164)"
        )
    return Classified(Kind.DELETE, resource)


def _undelete(method: _Method) -> Classified:
    resource = _answered(method)
    _named(method.noun, resource, _singulars(resource), "answers", "AIP-164")
    _string(method.request, "name", "AIP-164")
    if not resource.soft_delete:
        raise _Differs("its resource has no google.protobuf.Timestamp 'delete_time' (AIP-164)")
    return Classified(Kind.UNDELETE, resource)


def _purge(method: _Method) -> Classified:
    resource = _collected(method, "purges", "AIP-165")
    _string(method.request, "filter", "AIP-165")
    if any(p.parent for p in resource.patterns):
        _string(method.request, "parent", "AIP-165")
    force = method.request.fields_by_name.get("force")
    if force is None or force.type != FieldDescriptor.TYPE_BOOL:
        raise _Differs("its request has no bool field 'force' (AIP-165)")
    count = method.answer.fields_by_name.get("purge_count") if method.answer else None
    if count is None or count.cpp_type not in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64):
        raise _Differs(f"it answers {_said(method)}, which has no purge_count (AIP-165)")
    return Classified(Kind.PURGE, resource)


def _rollback(method: _Method) -> Classified:
    resource = _answered(method)
    if resource.snapshot_of:
        resource = method.resources[resource.snapshot_of]
    _named(method.noun, resource, _singulars(resource), "answers", "AIP-162")
    _string(method.request, "name", "AIP-162")
    if "revision_id" in method.request.fields_by_name:  # as it was said before revisions were resources
        _string(method.request, "revision_id", "AIP-162")
    if not resource.revisions:
        raise _Differs("its resource has no resource of its revisions in this schema (AIP-162)")
    return Classified(Kind.ROLLBACK, resource)


def _watch(method: _Method) -> Classified:
    if not method.descriptor.server_streaming or method.answer is None:
        raise _Differs("it does not answer a stream")
    items = [
        f
        for f in method.answer.fields
        if f.message_type and f.message_type.full_name in method.resources and not f.is_repeated
    ]
    if len(items) != 1:
        raise _Differs(f"what it answers, {_said(method)}, does not have exactly one field of a resource")
    resource = method.resources[items[0].message_type.full_name]
    _named(method.noun, resource, _plurals(resource), "tells of", "as a List or a Get is")
    if "name" in method.request.fields_by_name:
        _string(method.request, "name", "of the one to watch")
    elif any(p.parent for p in resource.patterns):
        _string(method.request, "parent", "AIP-132")
    _string(method.request, "resume_token", "where to go on")
    for name in ("name", "resume_token"):
        field = method.answer.fields_by_name.get(name)
        if field is None or field.type != FieldDescriptor.TYPE_STRING or field.is_repeated:
            raise _Differs(f"what it answers, {_said(method)}, has no string field {name!r}")
    change = method.answer.fields_by_name.get("change")
    if change is None or change.is_repeated or changes_of(change) is None:
        raise _Differs(
            f"what it answers, {_said(method)}, has no field 'change' that is a transom.events.v1.Change, an enum with values "
            f"named {', '.join(CHANGES)}, or a string"
        )
    return Classified(Kind.WATCH, resource, items_field=items[0].name)


def changes_of(field: FieldDescriptor) -> tuple[int, ...] | tuple[str, ...] | None:
    """How a field says each of CHANGES, in their order: by the number of an enum's value of that name, which may have words
    before it (`BOOK_CHANGE_CREATED`), or by the name itself. None where it cannot."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return CHANGES
    if field.enum_type is None:
        return None
    numbers = {value.name.rpartition("_")[2]: value.number for value in field.enum_type.values}
    found = tuple(numbers.get(name, 0) for name in CHANGES)
    return found if all(found) else None


def _batch_get(method: _Method) -> Classified:
    resource, items = _several(method, "AIP-231")
    _named(method.noun, resource, _plurals(resource), "answers", "AIP-231")
    _strings(method.request, "names", "AIP-231")
    return Classified(Kind.BATCH_GET, resource, items_field=items, requests_field="names")


def _batch_create(method: _Method) -> Classified:
    return _batch_of(
        method, Kind.BATCH_CREATE, lambda r, resource: _creates(r, resource, _singular(r, "Create")), "AIP-233"
    )


def _batch_update(method: _Method) -> Classified:
    return _batch_of(method, Kind.BATCH_UPDATE, _updates, "AIP-234")


def _batch_of(
    method: _Method, kind: Kind, each: Callable[[Descriptor, Resource], Classified], source: str
) -> Classified:
    resource, items = _several(method, source)
    _named(method.noun, resource, _plurals(resource), "answers", source)
    return Classified(
        kind, resource, items_field=items, requests_field="requests", each=each(_requests(method, source), resource)
    )


def _batch_delete(method: _Method) -> Classified:
    resource = _collected(method, "deletes", "AIP-235")
    items = ""
    if method.answer is None or method.answer.full_name != EMPTY:
        _, items = _several(method, "AIP-235")
    if "requests" not in method.request.fields_by_name:
        _strings(method.request, "names", "AIP-235")
        return Classified(Kind.BATCH_DELETE, resource, items_field=items, requests_field="names")
    _string(_requests(method, "AIP-235"), "name", "AIP-235")
    return Classified(
        Kind.BATCH_DELETE,
        resource,
        items_field=items,
        requests_field="requests",
        each=Classified(Kind.DELETE, resource),
    )


_SHAPES: Mapping[Kind, Callable[[_Method], Classified]] = {
    Kind.GET: _get,
    Kind.LIST: _list,
    Kind.SEARCH: _search,
    Kind.CREATE: _create,
    Kind.UPDATE: _update,
    Kind.DELETE: _delete,
    Kind.UNDELETE: _undelete,
    Kind.PURGE: _purge,
    Kind.ROLLBACK: _rollback,
    Kind.WATCH: _watch,
    Kind.BATCH_GET: _batch_get,
    Kind.BATCH_CREATE: _batch_create,
    Kind.BATCH_UPDATE: _batch_update,
    Kind.BATCH_DELETE: _batch_delete,
}


def _said(method: _Method) -> str:
    return method.answer.full_name if method.answer else "an Operation of nobody knows what"


def _answered(method: _Method) -> Resource:
    resource = method.resources.get(method.answer.full_name) if method.answer else None
    if resource is None:
        raise _Differs(f"it answers {_said(method)}, which is not a stored resource")
    return resource


def _several(method: _Method, source: str) -> tuple[Resource, str]:
    """The resource of which it answers several, and the field that has them."""
    items = [
        f
        for f in (method.answer.fields if method.answer else ())
        if f.is_repeated and not is_map(f) and f.message_type and f.message_type.full_name in method.resources
    ]
    if len(items) != 1:
        raise _Differs(f"its response does not have exactly one repeated field of a resource ({source})")
    return method.resources[items[0].message_type.full_name], items[0].name


def _paged(method: _Method, source: str) -> tuple[Resource, str]:
    resource, items = _several(method, source)
    assert method.answer is not None
    if "next_page_token" not in method.answer.fields_by_name:
        raise _Differs("its response has no next_page_token (AIP-158)")
    _string(method.request, "page_token", "AIP-158")
    size = method.request.fields_by_name.get("page_size")
    if size is None or size.type != FieldDescriptor.TYPE_INT32 or size.is_repeated:
        raise _Differs("its request has no int32 field 'page_size' (AIP-158)")
    return resource, items


def _requests(method: _Method, source: str) -> Descriptor:
    field = method.request.fields_by_name.get("requests")
    if field is None or not field.is_repeated or field.message_type is None or is_map(field):
        raise _Differs(f"its request has no repeated field 'requests' of messages ({source})")
    return field.message_type


def _deleted(method: _Method, words: Callable[[Resource], frozenset[str]], source: str) -> Resource:
    """The resource that `name` refers to, or else that the method is named for."""
    referred = method.references.get("name", "")
    package = method.descriptor.containing_service.file.package
    for resource in method.resources.values():
        if resource.type == referred:
            _named(method.noun, resource, words(resource), "refers to", source)
            return resource
    for resource in method.resources.values():
        if not referred and resource.descriptor.file.package == package and _folded(method.noun) in words(resource):
            return resource
    raise _Differs(f"no resource of this schema is named by it ({source})")


def _collected(method: _Method, does: str, source: str) -> Resource:
    """The resource of whose collection the method is named."""
    package = method.descriptor.containing_service.file.package
    for resource in method.resources.values():
        if resource.descriptor.file.package == package and _folded(method.noun) in _plurals(resource):
            return resource
    raise _Differs(f"no resource of this schema is what it {does} ({source})")


def _singular(request: Descriptor, verb: str) -> str:
    """The noun of a request's name: `Book` of `CreateBookRequest`."""
    return str(request.name.removeprefix(verb).removesuffix("Request"))


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


def _strings(message: Descriptor, name: str, source: str) -> None:
    field = message.fields_by_name.get(name)
    if field is None or field.type != FieldDescriptor.TYPE_STRING or not field.is_repeated:
        raise _Differs(f"its request has no repeated string field {name!r} ({source})")


def _body(message: Descriptor, resource: Resource, source: str) -> str:
    fields = [
        f.name
        for f in message.fields
        if f.message_type and f.message_type.full_name == resource.message and not f.is_repeated
    ]
    if len(fields) != 1:
        raise _Differs(f"its request does not have exactly one field of {resource.descriptor.name} ({source})")
    return fields[0]
