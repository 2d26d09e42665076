"""Debian's packages, unpacked into a folder: no root, nothing installed. Works on Debian and what descends from it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

LEFT_OUT = re.compile(
    r"libc6|libc-bin|libc-l10n|locales|libcrypt1|libgcc-s1|gcc-\d+-base|libllvm.*|libz3.*|perl.*|libperl.*|python.*"
    r"|libpython.*|dpkg|tar|passwd|adduser|debconf|openssl|logrotate|socat|procps|ssl-cert|postgresql-(client-)?common"
    r"|init-system-helpers|sysvinit-utils|lsb-base|libpam.*|.*-dev|.*-doc"
)
"""Pulled in by packages we want, but not needed to run their servers here. The C library above all must stay the
machine's own: a second one in one process crashes it."""


class PackageError(Exception):
    """The packages could not be had; the text says why."""


def usable() -> bool:
    """Whether this machine has what unpacking needs."""
    return all(shutil.which(tool) for tool in ("apt-get", "dpkg", "dpkg-deb"))


def newest_postgres(work: Path) -> str:
    """Name of the Postgres server package of this release (`postgresql-15`)."""
    said = _run(["apt-cache", *_options(work), "depends", "postgresql"])
    found = re.search(r"Depends: (postgresql-\d+)", said)
    if not found:
        raise PackageError("apt knows no package postgresql")
    return found[1]


def refresh(work: Path) -> None:
    """Fetches the package lists into `work`, which is apt's whole state for us."""
    for name in ("state/lists/partial", "cache/archives/partial", "debs"):
        (work / name).mkdir(parents=True, exist_ok=True)
    (work / "nothing").touch()
    _run(["apt-get", *_options(work), "update"])


def unpack(packages: Sequence[str], root: Path, work: Path, progress: Callable[[str], None]) -> None:
    """Unpacks `packages`, and what they need that this machine lacks, below `root`."""
    wanted = _needed(packages, work)
    progress(f"downloading {len(wanted)} packages")
    fetch(wanted, root, work)


def fetch(packages: Sequence[str], root: Path, work: Path) -> None:
    """Unpacks these very packages (`name` or `name=version`) below `root`."""
    debs = work / "debs"
    _run(["apt-get", *_options(work), "download", *packages], cwd=debs)
    for deb in sorted(debs.glob("*.deb")):
        _run(["dpkg", "-x", str(deb), str(root)])
        deb.unlink()


def triplet() -> str:
    """This machine's folder of libraries, e.g. x86_64-linux-gnu."""
    arch = _run(["dpkg", "--print-architecture"]).strip()
    special = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu", "armhf": "arm-linux-gnueabihf"}
    return special.get(arch) or next((p.name for p in Path("/usr/lib").glob("*-linux-gnu*")), f"{arch}-linux-gnu")


def libraries(root: Path) -> tuple[Path, ...]:
    """Folders below `root` that hold shared libraries."""
    name = triplet()
    return tuple(p for p in (root / "usr/lib" / name, root / "lib" / name) if p.is_dir())


def _needed(packages: Sequence[str], work: Path) -> list[str]:
    # Asked against what is installed here, apt says exactly what is missing. Where the machine's own packages are in
    # no state to be added to, ask again as if nothing were installed, and take it all.
    for status in ("/var/lib/dpkg/status", str(work / "nothing")):
        command = ["apt-get", *_options(work, status), "install", "-s", "--no-install-recommends", *packages]
        try:
            said = _run(command)
        except PackageError:
            if status == str(work / "nothing"):
                raise
            continue
        # "Inst redis-server (5:7.0.15 …)", or "Inst libpq5 [15.18] (15.20 …)" where an older one is installed
        found = re.findall(r"^Inst (\S+) (?:\[[^]]*\] )?\((\S+)", said, re.MULTILINE)
        names = {name: version for name, version in found if not LEFT_OUT.fullmatch(name)}
        # One that is installed already is not in the list: it is wanted all the same, its server was not usable.
        return [f"{name}={version}" for name, version in names.items()] + [p for p in packages if p not in names]
    raise AssertionError


def _options(work: Path, status: str = "/var/lib/dpkg/status") -> list[str]:
    pairs = {
        "Dir::State": f"{work}/state",
        "Dir::State::status": status,
        "Dir::Cache": f"{work}/cache",
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "root",  # else root's apt becomes _apt, who may not write here
    }
    return ["-q", *(part for name, value in pairs.items() for part in ("-o", f"{name}={value}"))]


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    env = {**os.environ, "LC_ALL": "C"}
    run = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, check=False)
    if run.returncode:
        said = "\n".join((run.stderr or run.stdout).strip().splitlines()[-5:])
        raise PackageError(f"{command[0]} failed:\n{said}")
    return run.stdout
