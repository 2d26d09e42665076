"""What clients of one schema see of the next: the verdict of `buf breaking`, image against image; no registry is asked.

WIRE is what breaks clients that speak protobuf, installed mobile apps first; WIRE_JSON is that and what breaks those that
speak JSON (https://buf.build/docs/breaking/rules).
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from server.schema.compilation import SchemaError, buf
from server.schema.reading import is_imported


class Breaks(StrEnum):
    """Whom a change breaks, the fewest first."""

    NONE = "none"
    JSON = "json"
    """Clients that speak JSON: web pages, scripts."""
    WIRE = "wire"
    """Every client of the old schema."""


@dataclass(frozen=True, slots=True)
class Break:
    """One thing that breaks clients."""

    breaks: Breaks
    where: str
    """File, line and column."""
    rule: str
    """As buf calls it."""
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason} [{self.rule}]"


def breaks(old: bytes, new: bytes) -> list[Break]:
    """What breaks clients of the image `old` where `new` is served; of the app's own files.

    Raises SchemaError where buf cannot tell.
    """
    with tempfile.TemporaryDirectory(prefix="transom-breaking-") as folder:
        for name, image in (("old", old), ("new", new)):
            (Path(folder) / f"{name}.binpb").write_bytes(_plain(image))
        wire = {found.rule_and_place for found in _found(Path(folder), "WIRE")}
        return [
            Break(Breaks.WIRE if _wire(found, wire) else Breaks.JSON, found.where, found.rule, found.reason)
            for found in _found(Path(folder), "WIRE_JSON")
        ]


def verdict(found: list[Break]) -> Breaks:
    """Whom all of it breaks."""
    return max((b.breaks for b in found), key=list(Breaks).index, default=Breaks.NONE)


@dataclass(frozen=True, slots=True)
class _Found:
    where: str
    rule: str
    reason: str

    @property
    def rule_and_place(self) -> tuple[str, str]:
        return self.rule.replace("_WIRE_JSON_", "_WIRE_"), self.where


def _wire(found: _Found, wire: set[tuple[str, str]]) -> bool:
    return found.rule_and_place in wire


def _found(folder: Path, category: str) -> Iterator[_Found]:
    command = [buf(), "breaking", "new.binpb", "--against", "old.binpb", "--error-format", "json", "--exclude-imports"]
    config = json.dumps({"version": "v2", "breaking": {"use": [category]}})
    run = subprocess.run([*command, "--config", config], capture_output=True, cwd=folder)
    if run.returncode not in (0, 100):
        raise SchemaError(run.stderr.decode(errors="replace").strip() or f"buf exited with {run.returncode}")
    for line in run.stdout.decode().splitlines():
        told = json.loads(line)
        where = told.get("path", "")
        if told.get("start_line"):
            where += f":{told['start_line']}:{told.get('start_column', 1)}"
        yield _Found(where, told["type"], told["message"])


def _plain(image: bytes) -> bytes:
    """The image with all that is not the app's own marked as imported, so that it is not compared."""
    files = FileDescriptorSet.FromString(image)
    kept = FileDescriptorSet()
    for file in files.file:
        mine = not is_imported(file) and not file.package.startswith("transom.")
        added = kept.file.add()
        added.CopyFrom(file)
        added.DiscardUnknownFields()
        # buf's extension of a file: its field 1 says whether it was imported (bufbuild/buf/alpha/image/v1).
        added.MergeFromString(bytes.fromhex("d2f603020800" if mine else "d2f603020801"))
    return kept.SerializeToString()
