"""What the options of a resource say of how it is kept: indexes, how long, in how many revisions, which references. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from server.schema.columns import is_map
from server.schema.model import Behavior, Field, Index, Managed, OnDelete, Reference, Resource

INDEXES_MAX, INDEX_PATHS_MAX = 20, 8
"""Indexes of one resource, and paths of one index."""

RETENTION_SECONDS = 30 * 24 * 3600
"""How long what was deleted softly can be undeleted, where the schema says nothing (AIP-164 proposes 30 days)."""

RETENTION_MOST = 10 * 366 * 24 * 3600

REVISIONS = 100
"""How many revisions of a resource are kept, where the schema says nothing."""
REVISIONS_MAX = 10_000

FILE = "transom.dev/File"
"""The resource type of files."""

_KEPT_SOFTLY = frozenset({Managed.DELETE_TIME, Managed.PURGE_TIME, Managed.EXPIRE_TIME})


class Unkept(Exception):
    """An option that says what cannot be; the text says why."""


def retention(said: Any) -> int:
    """Seconds for which what is deleted can be undeleted. Raises Unkept."""
    if said is None or not said.HasField("retention"):
        return RETENTION_SECONDS
    seconds = int(said.retention.seconds)
    if not 0 < seconds <= RETENTION_MOST:
        raise Unkept("retention: must be a second to ten years")
    return seconds


def indexes(said: Any, message: Descriptor, fields: Sequence[tuple[Field, Any]]) -> Iterator[Index]:
    """The indexes that the options of a message and of its fields declare. Raises Unkept."""
    written = list(said.index) if said is not None else []
    if len(written) > INDEXES_MAX:
        raise Unkept(f"index: has more than {INDEXES_MAX}")
    for one in written:
        yield Index(tuple(_paths(one.fields, message)), one.unique, one.everywhere)
    for field, option in fields:
        if option is not None and (option.index or option.unique):
            _check_indexed(field.descriptor, option.unique)
            yield Index(((field.name, False),), option.unique)


def reference(field: FieldDescriptor, said: Any, referred: Any, types: Mapping[str, str]) -> Reference | None:
    """The checked reference that a field's option declares; `types` has the stored message of each resource type.

    Raises Unkept.
    """
    if said is None or not said.on_delete or (referred is not None and referred.type == FILE):
        return None
    if field.type != FieldDescriptor.TYPE_STRING:
        raise Unkept("on_delete: the field is no string")
    kind = referred.type if referred is not None else ""
    if kind not in types:
        raise Unkept("on_delete: needs a google.api.resource_reference to one resource type that is stored")
    label = said.DESCRIPTOR.fields_by_name["on_delete"].enum_type.values_by_number[said.on_delete].name
    return Reference(types[kind], OnDelete(label.lower()))


def with_lifetimes(resources: dict[str, Resource], undeleted: frozenset[str], deleted: frozenset[str]) -> None:
    """Settles, in place, what depends on the methods: `undeleted` and `deleted` are the messages that an Undelete or a Delete
    answers. A resource is deleted softly where it has a `delete_time` and one of them; it expires where it says so, or by a `ttl`
    beside its `expire_time`."""
    for name, resource in resources.items():
        soft = Managed.DELETE_TIME in resource.managed and name in undeleted | deleted
        field = resource.descriptor.fields_by_name.get("expire_time")
        behaviors = next((f.behaviors for f in resource.fields if f.name == "expire_time"), frozenset())
        settable = Managed.EXPIRE_TIME in resource.managed and Behavior.OUTPUT_ONLY not in behaviors
        ttl = resource.descriptor.fields_by_name.get("ttl")
        with_ttl = bool(
            settable
            and field is not None
            and ttl is not None
            and ttl.message_type is not None
            and ttl.message_type.full_name == "google.protobuf.Duration"
            and ttl.containing_oneof is not None
            and ttl.containing_oneof is field.containing_oneof
        )
        # A time alone may be that of a certificate, which is kept when it is over.
        expires = settable and (with_ttl or resource.expires)
        managed = resource.managed if soft else resource.managed - _KEPT_SOFTLY
        if settable or Managed.PURGE_TIME in managed:
            managed -= {Managed.EXPIRE_TIME}
        resources[name] = replace(
            resource, managed=managed, retention=resource.retention if soft else 0, expires=expires, ttl=with_ttl
        )


def with_revisions(resources: dict[str, Resource]) -> None:
    """Settles, in place, which resources are revisions of which (AIP-162): those with a field `snapshot` of the other message
    whose names are `{its name}/revisions/{revision}`."""
    for name, resource in list(resources.items()):
        field = resource.descriptor.fields_by_name.get("snapshot")
        of = resources.get(field.message_type.full_name) if field is not None and field.message_type else None
        if field is None or of is None or of is resource or field.is_repeated:
            continue
        if all(
            p.collection == "revisions" and any(p.is_below(above) for above in of.patterns) for p in resource.patterns
        ):
            # Revisions go where the resource goes, and not before.
            resources[name] = replace(resource, snapshot_of=of.message, outlives_owner=of.outlives_owner)
            resources[of.message] = replace(of, revisions=of.revisions or REVISIONS)
    for name, resource in resources.items():
        if resource.revisions and not any(r.snapshot_of == name for r in resources.values()):
            resources[name] = replace(resource, revisions=0)


def contradictions(resource: Resource, said: Any) -> Iterator[str]:
    """What the options of a resource, `said`, ask for that its schema has no place for, or that would undo each other."""
    if said is not None:
        if said.HasField("retention") and not resource.soft_delete:
            yield "retention: nothing undeletes it, and no Delete answers it with its `delete_time` (AIP-164)"
        if said.revisions and not resource.revisions:
            yield "revisions: the schema has no resource of its revisions (AIP-162)"
        if said.expires and not resource.expires:
            yield "expires: it has no `google.protobuf.Timestamp expire_time` that clients may set (AIP-214)"
    fields = {f.name: f for f in resource.fields}
    for index in resource.indexes:
        for head in (path.partition(".")[0] for path, _ in index.paths):
            if Behavior.INPUT_ONLY in fields[head].behaviors:
                yield f"index: {head!r} is INPUT_ONLY: it is never stored"
            if index.unique and any(kind == "read" for kind, _ in fields[head].rules):
                yield f"unique: {head!r} is hidden by a rule, and a value that is refused would tell who has it"
    for field in resource.fields:
        if field.search and Behavior.INPUT_ONLY in field.behaviors:
            yield f"search: {field.name!r} is INPUT_ONLY: it is never stored"


def _paths(text: str, message: Descriptor) -> Iterator[tuple[str, bool]]:
    parts = [part.split() for part in text.split(",")]
    if not text.strip() or len(parts) > INDEX_PATHS_MAX:
        raise Unkept(f"index: fields: must be 1 to {INDEX_PATHS_MAX} paths")
    for words in parts:
        if not words or len(words) > 2 or (len(words) == 2 and words[1] not in ("asc", "desc")):
            raise Unkept(f"index: fields: {' '.join(words)!r} is no path, with `desc` or without")
        field = _field(message, words[0])
        if len(parts) > 1 and (field.is_repeated or _is_document(field)):
            raise Unkept(f"index: fields: {words[0]!r} has no order; give it an index of its own")
        yield words[0], words[1:] == ["desc"]


def _field(message: Descriptor, path: str) -> FieldDescriptor:
    at: Descriptor | None = message
    field = None
    for name in path.split("."):
        field = at.fields_by_name.get(name) if at is not None else None
        if field is None:
            raise Unkept(f"index: fields: {path!r} leads to no field")
        at = None if field.is_repeated else field.message_type
    assert field is not None
    return field


def _check_indexed(field: FieldDescriptor, unique: bool) -> None:
    if unique and (field.is_repeated or _is_document(field)):
        raise Unkept("unique: values of this field have no order")


def _is_document(field: FieldDescriptor) -> bool:
    """Whether it is a message without an order of its own."""
    if field.message_type is None:
        return False
    name = field.message_type.full_name
    wrapper = name.startswith("google.protobuf.") and name.endswith("Value") and name.count(".") == 2
    structs = name in ("google.protobuf.Value", "google.protobuf.ListValue")
    return is_map(field) or structs or not (wrapper or name in _TIMES)


_TIMES = ("google.protobuf.Timestamp", "google.protobuf.Duration")
