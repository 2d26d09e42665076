"""An app's folder → its functions."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.apps.declarations import MARK, Implements, Task
from server.apps.named import Named
from server.apps.schedules import Scheduled
from server.apps.uploads import FILE, FILE_VERBS, Check
from server.schema.compilation import SchemaError
from server.schema.model import Schema

METHODS, TASKS = FILES = ("methods", "tasks")
"""The files an app's functions stand in. What a process does not run it need not import, nor what that imports."""

PACKAGE = "transom_app"
"""The name under which the folder is imported."""


@dataclass(frozen=True, slots=True)
class App:
    """The functions of an app."""

    methods: dict[str, Implements]
    """By full name of the method."""
    tasks: tuple[Task, ...]
    schedules: tuple[Scheduled, ...] = ()
    checks: tuple[Check, ...] = ()
    """What looks at uploaded files."""
    named: tuple[Named, ...] = ()
    """What runs tasks that are enqueued by name."""


def load(folder: Path, schema: Schema, files: Sequence[str] = FILES) -> App:
    """The functions of the app in `folder`: those of the `files` named, where these are there.

    Raises SchemaError, a line each, for a function that is for no method or no resource of the schema, or where
    two are for the same; and, with file and line, where the files cannot be imported.
    """
    _package(folder)
    faults: list[str] = []
    declared = list(_declared(folder, files, faults))
    if faults:
        raise SchemaError("\n".join(faults))
    own = {m.full_name: m for s in schema.services if not s.own for m in s.methods}
    methods: dict[str, Implements] = {}
    tasks: dict[str, Task] = {}
    schedules: dict[str, Scheduled] = {}
    checks: list[Check] = []
    named: dict[str, Named] = {}
    for one in declared:
        if isinstance(one, Implements):
            if one.method not in own:
                faults.append(f"methods.py: {one.method} is not a method of the app's services")
            elif own[one.method].server_streaming or own[one.method].client_streaming:
                faults.append(f"methods.py: {one.method} streams, and a function answers once")
            elif one.method in methods:
                faults.append(f"methods.py: {one.method} is implemented twice")
            methods[one.method] = one
        elif isinstance(one, Check):
            checks.append(one)
        elif isinstance(one, Named):
            if one.name in named:
                faults.append(f"tasks.py: there are two tasks called {one.name}")
            if one.payload and not _is_message(schema, one.payload):
                faults.append(f"tasks.py: {one.name}: {one.payload} is not a message of the schema")
            named[one.name] = one
        elif isinstance(one, Scheduled):
            if one.name in schedules:
                faults.append(f"tasks.py: there are two schedules called {one.name}")
            schedules[one.name] = one
        else:
            if one.resource_type == FILE and one.verb not in FILE_VERBS:
                faults.append(
                    f"tasks.py: {one.name}: {one.verb} is none of the verbs of files: {', '.join(FILE_VERBS)}"
                )
            elif one.resource_type not in schema.resources and one.resource_type != FILE:
                faults.append(f"tasks.py: {one.name}: {one.resource_type} is not a resource of the schema")
            elif one.name in tasks:
                faults.append(f"tasks.py: there are two tasks called {one.name}")
            tasks[one.name] = one
    if faults:
        raise SchemaError("\n".join(faults))
    return App(methods, tuple(tasks.values()), tuple(schedules.values()), tuple(checks), tuple(named.values()))


def _is_message(schema: Schema, name: str) -> bool:
    try:
        schema.message_class(name)
    except KeyError:
        return False
    return True


def _package(folder: Path) -> None:
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(folder.resolve())]
    for name in [n for n in sys.modules if n == PACKAGE or n.startswith(f"{PACKAGE}.")]:
        del sys.modules[name]
    sys.modules[PACKAGE] = package


def _declared(
    folder: Path, files: Sequence[str], faults: list[str]
) -> Iterable[Implements | Task | Named | Scheduled | Check]:
    for file in files:
        if (folder / f"{file}.py").exists():
            try:
                module = importlib.import_module(f"{PACKAGE}.{file}")
            except Exception as error:
                faults.append(_told(error, folder.resolve(), f"{file}.py"))
                continue
            for value in vars(module).values():
                mark = getattr(value, MARK, None)
                if isinstance(mark, Implements | Task | Named | Scheduled | Check) and _belongs(
                    mark.function.__module__, module.__name__
                ):
                    yield mark


def _belongs(defined: str, file: str) -> bool:
    """Whether a function that stands in one of FILES is declared there: it is defined in it, or in a further file of the app that
    it imports from, but for the other of FILES, which declares its own."""
    others = {f"{PACKAGE}.{name}" for name in FILES}
    return defined == file or (defined.startswith(f"{PACKAGE}.") and defined not in others)


def _told(error: Exception, folder: Path, file: str) -> str:
    """What an import came to grief over, in one line: the place in the app where it was, and why."""
    said = " ".join(str(error).split())
    places = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    why = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_relative_to(folder):
        places, why = [(Path(error.filename), error.lineno)], error.msg
    within = [(path.relative_to(folder), line) for path, line in places if path.is_relative_to(folder)]
    path, line = within[-1] if within else (Path(file), None)
    return f"{path}:{line}: {why}" if line else f"{path}: {why}"
