"""A seed's files → what to load, all of it checked before anything is written. Pure.

accounts.jsonl   {"name": "users/ines", "email": …, "password": …, "displayName": …}
files.jsonl      {"name": "files/crack", "path": "photos/crack.jpg", "owner": "users/ines", "contentType": …}
*.jsonl          resources of the app: ProtoJSON, one to a line, each with its name

Accounts and files get names of their own when they are loaded; those above hold within the seed. Where a resource is named
by the id of an account, `{ines}` in its name stands for the id that users/ines gets.
"""

from __future__ import annotations

import json
import mimetypes
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from server.caller import SYSTEM
from server.engine.decisions import Decisions
from server.engine.references import References
from server.errors import Invalid
from server.schema.model import Resource
from server.schema.names import Pattern
from server.store.changes import Origin

ACCOUNTS, FILES = "accounts.jsonl", "files.jsonl"
USER, FILE = "transom.dev/User", "transom.dev/File"
_ID = re.compile(r"\{([^{}/]*)\}")
FAULTS_MAX = 100
"""Faults that are told at once."""


class SeedError(Exception):
    """The seed cannot be loaded; a line for each fault, with file, line and field."""


@dataclass(frozen=True, slots=True)
class SeedAccount:
    """An account; `name` holds within the seed."""

    name: str
    email: str
    password: str
    display_name: str


@dataclass(frozen=True, slots=True)
class SeedFile:
    """A file whose bytes are at `path` in the seed's folder; `name` and `owner` hold within the seed."""

    where: str
    name: str
    path: str
    content_type: str
    owner: str


@dataclass(frozen=True, slots=True)
class SeedResource:
    """A resource, whose name and references speak of accounts and files by their names in the seed."""

    where: str
    resource: Resource
    pattern: Pattern
    name: str
    """May hold ids of accounts, in braces: see `placed`."""
    message: Message


@dataclass(frozen=True, slots=True)
class Seed:
    """All that is to be loaded; resources in an order in which each comes after its parent."""

    accounts: tuple[SeedAccount, ...]
    files: tuple[SeedFile, ...]
    resources: tuple[SeedResource, ...]


def placed(name: str, names: Mapping[str, str]) -> str:
    """The name of a resource, once the accounts of the seed are called as in `names`: `teams/a/members/{ines}` is
    `teams/a/members/ab12` where `users/ines` is called `users/ab12`. An account that is not among them keeps its name."""
    return _ID.sub(lambda found: names.get(f"users/{found[1]}", found[1]).removeprefix("users/"), name)


def read_seed(texts: Mapping[str, str], decisions: Decisions, references: References) -> Seed:
    """The seed whose files have these texts, by file name. Raises SeedError with every fault there is."""
    reader = _Reader(decisions, references)
    accounts = tuple(reader.accounts(texts.get(ACCOUNTS, "")))
    files = tuple(reader.files(texts.get(FILES, "")))
    resources = [r for f in sorted(texts) if f not in (ACCOUNTS, FILES) for r in reader.resources(f, texts[f])]
    for one in resources:
        reader.check_references(one)
    if reader.faults:
        raise SeedError("\n".join(reader.faults[:FAULTS_MAX]))
    return Seed(accounts, files, tuple(sorted(resources, key=lambda r: r.name.count("/"))))


class _Reader:
    """One reading. Faults are gathered, so that an author sees all at once."""

    def __init__(self, decisions: Decisions, references: References) -> None:
        self._decisions = decisions
        self._references = references
        self._schema = decisions.schema
        self._seen: dict[str, str] = {}
        self.faults: list[str] = []

    def accounts(self, text: str) -> Iterator[SeedAccount]:
        fields = {"name": True, "email": True, "password": True, "displayName": False}
        for where, row in self._plain(ACCOUNTS, text, fields):
            if self._named(where, row["name"], "users/"):
                yield SeedAccount(row["name"], row["email"], row["password"], row.get("displayName", ""))

    def files(self, text: str) -> Iterator[SeedFile]:
        fields = {"name": True, "path": True, "owner": True, "contentType": False}
        for where, row in self._plain(FILES, text, fields):
            kind = row.get("contentType") or mimetypes.guess_type(row["path"])[0]
            if kind is None:
                self._fault(where, "contentType", f"cannot be told from {row['path']!r}: give it")
            elif row["owner"] not in self._seen:
                self._fault(where, "owner", f"{row['owner']} is not in {ACCOUNTS}")
            elif row["path"].startswith("/") or ".." in row["path"].split("/"):
                self._fault(where, "path", "leads out of the seed's folder")
            elif self._named(where, row["name"], "files/"):
                yield SeedFile(where, row["name"], row["path"], kind, row["owner"])

    def resources(self, file: str, text: str) -> Iterator[SeedResource]:
        for where, row in self._rows(file, text):
            name = row.get("name")
            if not isinstance(name, str) or not name:
                self._fault(where, "name", "is required")
            elif (resource := self._schema.resource_of(name)) is None or (pattern := resource.pattern_of(name)) is None:
                self._fault(where, "name", f"{name!r} fits no pattern of the schema")
            elif unknown := [id for id in _ID.findall(name) if f"users/{id}" not in self._seen]:
                self._fault(where, "name", f"users/{unknown[0]} is not in {ACCOUNTS}")
            elif self._named(where, name) and (message := self._message(where, resource, pattern, name, row)):
                yield SeedResource(where, resource, pattern, name, message)

    def check_references(self, one: SeedResource) -> None:
        """A fault for each reference to an account or file that the seed does not have."""
        for path, kind, name in self._references.of(one.message):
            if kind in (USER, FILE) and name not in self._seen:
                self._fault(one.where, path, f"{name} is not in {ACCOUNTS if kind == USER else FILES}")

    def _message(
        self, where: str, resource: Resource, pattern: Pattern, name: str, row: dict[str, Any]
    ) -> Message | None:
        """The row as a message; None where it is none, or is not as the schema wants it."""
        message: Message = self._schema.message_class(resource.message)()
        try:
            json_format.ParseDict(row, message, descriptor_pool=self._schema.pool)
            trial = type(message)()
            trial.CopyFrom(message)
            self._decisions.create(
                resource,
                trial,
                parent=pattern.parent_of(placed(name, {})),
                id="" if pattern.singleton else placed(name, {}).rpartition("/")[2],
                owner=SYSTEM.name,
                origin=Origin(),
                id_field="name",
                trusted=True,
            )
        except json_format.ParseError as fault:
            self.faults.append(f"{where}: {fault}")
            return None
        except Invalid as refused:
            for violation in refused.violations:
                self._fault(where, violation.field, violation.description)
            return None
        return message

    def _plain(self, file: str, text: str, fields: Mapping[str, bool]) -> Iterator[tuple[str, dict[str, str]]]:
        """Rows that have these fields, each a text; those marked true must be there."""
        for where, row in self._rows(file, text):
            wrong = [(f, "is not known here") for f in row if f not in fields]
            wrong += [(f, "is required") for f, needed in fields.items() if needed and not row.get(f)]
            wrong += [(f, "is not a text") for f, v in row.items() if f in fields and not isinstance(v, str)]
            for field, fault in wrong:
                self._fault(where, field, fault)
            if not wrong:
                yield where, row

    def _rows(self, file: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
        # Not splitlines(): it also breaks at separators that may stand within a JSON text.
        for number, line in enumerate(text.split("\n"), 1):
            where = f"{file}:{number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as fault:
                self.faults.append(f"{where}: is not JSON: {fault}")
                continue
            if isinstance(row, dict):
                yield where, row
            else:
                self.faults.append(f"{where}: is not a JSON object")

    def _named(self, where: str, name: str, beginning: str = "") -> bool:
        """Whether the name is new and begins so."""
        if not name.startswith(beginning) or name == beginning or (name.count("/") != 1 and beginning):
            self._fault(where, "name", f"must look like {beginning}…")
        elif name in self._seen:
            self._fault(where, "name", f"{name} is at {self._seen[name]} already")
        else:
            self._seen[name] = where
            return True
        return False

    def _fault(self, where: str, field: str, fault: str) -> None:
        self.faults.append(f"{where}: {field}: {fault}")
