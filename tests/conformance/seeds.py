"""What lives without being created: in Google's services it is there with the project. Here it is the app's seed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path

from server.schema.model import Kind, Resource, Schema
from server.schema.names import Pattern
from tests.conformance.samples import Samples, named

PROJECT = "seeded"
"""The first id of every name that is seeded."""


def name_of(pattern: Pattern) -> str:
    """What the seeded resource of a pattern is called."""
    return named(pattern, PROJECT)


def seeded(schema: Schema, packages: Collection[str]) -> Iterator[tuple[Resource, Pattern]]:
    """The resources that nothing creates, those above before those below, each by every pattern that has a parent."""
    created = {m.resource.message for m in schema.methods() if m.resource and m.kind is Kind.CREATE}
    mine = [r for r in schema.resources.values() if r.descriptor.file.package in packages and r.message not in created]
    names = [(r, p) for r in mine for p in r.patterns if not p.singleton]
    found: set[tuple[str, str]] = set()
    for resource, pattern in sorted(names, key=lambda one: len(one[1].segments)):
        above = schema.parent_of(resource, pattern)
        if above is None or any((p.text, above.message) in found and pattern.is_below(p) for p in above.patterns):
            found.add((pattern.text, resource.message))
            yield resource, pattern


def write(app: Path, schema: Schema, packages: Collection[str]) -> None:
    """Writes the seed of an app made of these packages."""
    samples = Samples(schema)
    folder = app / "seed"
    folder.mkdir()
    lines = [
        json.dumps(samples.resource(resource, "text") | {resource.name_field: name_of(pattern)})
        for resource, pattern in seeded(schema, packages)
    ]
    (folder / "parents.jsonl").write_text("".join(f"{line}\n" for line in lines))
