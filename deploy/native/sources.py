"""What a running product was made from, as one short text that changes when any of it does."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .place import PROJECT
from .told import FILE

OWN = ("server", "edge", "consumers", "deploy", "proto", "envoy.yaml")
"""Of the project: the code of every process, and what is compiled into each schema."""
CODE = (".py", ".sql", ".proto", ".yaml")
READ = {"proto": (".proto",), "mails": (".txt", ".html")}
"""Of an app, what is read beside its Python: endings, by folder."""


def digest(app: Path) -> str:
    """Of the app: the protos, the mails, all Python except in seed/, and what it tells its processes, by content. Of the
    project: its code, by size and time."""
    found = hashlib.sha256()
    with suppress(FileNotFoundError):
        found.update((app / FILE).read_bytes())
    for path in _files(app):
        if path.suffix == ".py" or path.suffix in READ.get(path.relative_to(app).parts[0], ()):
            with suppress(FileNotFoundError):  # an editor may be saving it just now
                found.update(f"{path}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    for name in OWN:
        for path in _files(PROJECT / name):
            if path.suffix in CODE:
                with suppress(FileNotFoundError):
                    stat = path.stat()
                    found.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return found.hexdigest()[:16]


def _files(top: Path) -> Iterator[Path]:
    """Every file at or below `top`, in a fixed order; nothing hidden, nothing of a seed, nothing that Python made
    or that stands in an environment of it."""
    if top.is_file():
        yield top
    for folder, names, files in os.walk(top):
        if "pyvenv.cfg" in files:
            names.clear()
            continue
        names[:] = sorted(n for n in names if not n.startswith(".") and n != "__pycache__")
        if Path(folder) == top and "seed" in names:
            names.remove("seed")
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))
