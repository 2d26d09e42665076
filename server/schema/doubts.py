"""What a schema says that can be served, but that its author hardly means. Pure; a line for each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from server.schema.model import Kind, Method, Resource, Schema
from server.schema.names import Pattern

_TEMPLATE = re.compile(r"\{([^{}=]+)(?:=([^{}]*))?\}")


def doubts(schema: Schema, files: Iterable[FileDescriptorProto]) -> Iterator[str]:
    """The doubts about an app's schema; `files` are its own."""
    yield from _folders(files)
    yield from _orphans(schema)
    resources = schema.resources.values()
    by_collection: dict[str, list[Resource]] = {}
    for resource in resources:
        for collection in {p.collection for p in resource.patterns}:
            by_collection.setdefault(collection, []).append(resource)
    for service in schema.services:
        if not service.own:
            file = schema.pool.FindServiceByName(service.name).file.name
            for method in service.methods:
                for fault in _paths(method, schema, by_collection):
                    yield f"{file}: {method.full_name}: google.api.http: {fault}"


def _folders(files: Iterable[FileDescriptorProto]) -> Iterator[str]:
    # Another file's import, and every generator's output, goes by the folder; everything else by the package.
    for file in files:
        folder, wanted = file.name.rpartition("/")[0], file.package.replace(".", "/")
        if folder != wanted:
            place = f"the folder proto/{wanted}" if wanted else "proto/ itself"
            yield f"{file.name}: its package is {file.package or 'none'}: the file belongs in {place}"


def _orphans(schema: Schema) -> Iterator[str]:
    """Names below a parent that nothing is called like, though something has the same variable.

    A parent whose variable nobody has is somebody else's resource, as projects/{project} often is.
    """
    named: dict[str, list[tuple[Resource, Pattern]]] = {}
    for resource in schema.resources.values():
        for pattern in resource.patterns:
            named.setdefault(pattern.last, []).append((resource, pattern))
    for resource in schema.resources.values():
        for pattern in resource.patterns:
            if not pattern.parent.endswith("}") or schema.parent_of(resource, pattern):
                continue
            like = [(r, p) for r, p in named.get(Pattern(pattern.parent).last, ()) if not p.singleton]
            if any(r.table_schema == resource.table_schema for r, _ in like):
                meant = " or ".join(sorted({repr(p.text) for _, p in like}))
                yield (
                    f"{resource.descriptor.file.name}: {resource.message}: google.api.resource: pattern "
                    f"{pattern.text!r}: no resource is called {pattern.parent!r}; is it below {meant}?"
                )


def _paths(method: Method, schema: Schema, by_collection: dict[str, list[Resource]]) -> Iterator[str]:
    for verb, path in method.http:
        for variable, glob in _TEMPLATE.findall(path):
            glob = glob or "*"
            possible = _possible(method, schema, variable, glob, by_collection)
            if possible and not any(_may_be(glob.split("/"), _shape(text)) for text in possible):
                names = " or ".join(repr(text) for text in possible[:3])
                yield f"{verb} {path!r}: {{{variable}={glob}}} can never be {names}"


def _possible(
    method: Method, schema: Schema, variable: str, glob: str, by_collection: dict[str, list[Resource]]
) -> list[str]:
    """Patterns of what the variable of a path may hold; none where that cannot be told."""
    resource = method.resource
    if resource is not None:
        if method.kind in (Kind.LIST, Kind.CREATE):
            return [p.parent for p in resource.patterns if p.parent] if variable == "parent" else []
        named = f"{method.resource_field}.{resource.name_field}" if method.resource_field else "name"
        return [p.text for p in resource.patterns] if variable == named else []
    if method.kind is not Kind.CUSTOM or variable != "name":
        return []
    # A custom method does not say what it is about, but the collection in its path does.
    segments = glob.split("/")
    found = by_collection.get(segments[-2], []) if len(segments) > 1 and segments[-1] == "*" else []
    package = schema.pool.FindMessageTypeByName(method.request).file.package
    near = [r for r in found if r.descriptor.file.package == package]
    return [p.text for r in near for p in r.patterns if p.collection == segments[-2]]


def _shape(pattern: str) -> list[str]:
    return ["**" if "=**}" in s else "*" if "{" in s else s for s in pattern.split("/")]


def _may_be(glob: Sequence[str], shape: Sequence[str]) -> bool:
    """Whether some name is of both; `**` is any number of segments, and everything after it is taken for granted."""
    for one, other in zip(glob, shape, strict=False):
        if "**" in (one, other):
            return True
        if one != other and "*" not in (one, other):
            return False
    return len(glob) == len(shape) or "**" in (*glob[len(shape) :], *shape[len(glob) :])
