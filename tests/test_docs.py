"""What the pages tell a newcomer to write down is what Transom serves."""

from __future__ import annotations

import re
from pathlib import Path

from deploy.native.stack import PROJECT
from server.query.rules.checking import ACTIONS, rules_of
from server.schema.compilation import compile_app
from server.schema.model import Kind
from server.schema.reading import read


def test_the_whole_file_to_start_from_is_served_in_full(tmp_path: Path) -> None:
    page = (PROJECT / "docs" / "schema.md").read_text()
    [text] = re.findall(r"## A whole file to start from\n\n```proto\n(.*?)```", page, re.DOTALL)
    file = tmp_path / "proto" / "library" / "v1" / "library.proto"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    schema = read(compile_app(tmp_path))
    [service] = [s for s in schema.services if not s.own]
    assert [m.kind for m in service.methods] == [Kind.GET, Kind.LIST, Kind.CREATE, Kind.UPDATE, Kind.DELETE]
    assert all(m.http for m in service.methods)
    assert schema.warnings == ()
    assert set(rules_of(schema).resources["library.v1.Shelf"].actions) == set(ACTIONS)


def test_every_page_that_is_linked_is_there() -> None:
    for page in [PROJECT / "README.md", PROJECT / "ARCHITECTURE.md", *(PROJECT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
