"""Where one stack keeps what: the folder `.transom/<edge port>/`, its secrets, and what must lie elsewhere."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .files import folder, replace
from .machine import User, reachable, unprivileged

PROJECT = Path(__file__).resolve().parents[2]

SOCKET = re.compile(r"/[A-Za-z0-9_./-]{1,98}")
"""Paths of Unix sockets: the kernel takes 107 bytes (unix(7)); a comma divides hosts where Postgres is told them."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """Passwords of one stack, made at random once. Never printed, never logged."""

    postgres: str
    superuser: str
    replication: str
    redis: str
    amqp: str
    s3_access_key: str
    s3_secret_key: str
    cookie: str
    secret: str

    @classmethod
    def of(cls, file: Path) -> Secrets:
        """The secrets kept in `file` (readable by its owner alone), made where they are missing."""
        names = [f.name for f in fields(cls)]
        known = json.loads(file.read_text()) if file.exists() else {}
        if missing := [name for name in names if name not in known]:
            known |= {name: secrets.token_hex(16) for name in missing}
            replace(file, json.dumps(known), mode=0o600)
        return cls(**{name: known[name] for name in names})

    def __repr__(self) -> str:
        return "Secrets(…)"


@dataclass(frozen=True, slots=True)
class Place:
    """The state folder of one stack."""

    state: Path

    @property
    def logs(self) -> Path:
        return self.state / "log"

    @property
    def run(self) -> Path:
        """Who runs: a file per process."""
        return self.state / "run"

    @property
    def ports(self) -> Path:
        return self.state / "ports.json"

    @property
    def plan(self) -> Path:
        """What the stack consists of: written by who starts it, read by the supervisor."""
        return self.state / "plan.json"

    def planned(self) -> dict[str, Any]:
        """The plan of the last start. Raises OSError or ValueError where there is none to read."""
        plan: dict[str, Any] = json.loads(self.plan.read_text())
        return {"edge_host": "127.0.0.1"} | plan  # which plans of old do not tell

    @property
    def status(self) -> Path:
        return self.state / "status.json"

    @property
    def descriptor(self) -> Path:
        return self.state / "descriptor.binpb"

    @property
    def envoy(self) -> Path:
        return self.state / "envoy.yaml"

    @property
    def seeded(self) -> Path:
        """There once the app's seed was loaded completely."""
        return self.state / "seeded"

    @property
    def mark(self) -> tuple[str, str]:
        """Environment entry that every process of this stack carries."""
        return "TRANSOM_STACK", str(self.state)

    def make(self) -> None:
        """Makes the folders."""
        folder(self.state, mode=0o755)
        folder(self.logs)
        folder(self.run)

    def socket(self, folder: Path, name: str) -> Path | None:
        """The path of a Unix socket in a folder; None where its characters or its length are not good for every program that
        has to be told: then there is none."""
        path = folder / name
        return path if SOCKET.fullmatch(str(path)) else None

    def secrets(self) -> Secrets:
        return Secrets.of(self.state / "secrets.json")

    def data(self, name: str, owner: User | None = None) -> Path:
        """Where the data folder of one server is, made or not.

        Where `owner` could not walk to it (a clone below /root), it lies in /var/lib.
        """
        path = self.state / name
        return path if reachable(path, owner) else elsewhere(path)

    def make_data(self, name: str, owner: User | None = None) -> None:
        """Makes that folder, with no one but `owner` let in; one that lies elsewhere is linked from here."""
        path = self.state / name
        if not reachable(path, owner):
            link_elsewhere(path)
        folder(self.data(name, owner), owner=owner)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other start of this stack is in this block meanwhile; waits for it where there is one."""
        with open(self.state / "start", "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def lock(self) -> int | None:
        """Makes this process the one supervisor of the stack until the descriptor is closed; None if there is one."""
        descriptor = os.open(self.state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor


def elsewhere(path: Path) -> Path:
    """The folder that stands in for `path` at a place that everybody can walk to."""
    if path.is_symlink():
        return path.readlink()
    digest = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:12]
    return Path("/var/lib") / f"transom-{digest}"


def link_elsewhere(path: Path) -> Path:
    """Makes that folder, and `path` a link to it; `files.remove` removes both."""
    target = elsewhere(path)
    if not path.is_symlink():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)  # first the link: a folder without one would be found by nobody
    if not target.is_dir():
        folder(target, mode=0o755)
    return target


def shared_root(home: Path) -> Path:
    """Folder of the unpacked servers that all stacks below `home` use."""
    path = home / "root"
    return path if reachable(path, unprivileged()) else link_elsewhere(path)
