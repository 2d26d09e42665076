"""Makes .venv with Transom in it: `python3 -m deploy.native.venv EXTRA,…`, run by the machine's own Python.

Nothing is done where pyproject.toml is still what was installed. Only the standard library is at hand here.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
VENV = PROJECT / ".venv"
PYTHON_MIN = (3, 11)


def main(extras: str) -> None:
    """Brings .venv up to date. Ends the process, saying why, where that cannot be done."""
    digest = hashlib.sha256((PROJECT / "pyproject.toml").read_bytes() + str(PROJECT).encode()).hexdigest()
    if _installed(extras, digest):
        return
    if sys.version_info < PYTHON_MIN:
        sys.exit(f"Python {'.'.join(map(str, PYTHON_MIN))} or newer is needed; this is {sys.version.split()[0]}")
    (PROJECT / ".transom").mkdir(exist_ok=True)
    with (PROJECT / ".transom" / "venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _installed(extras, digest):
            return
        if not _runs():
            _say(f"making .venv with Python {sys.version.split()[0]}")
            _make()
        _say(f"installing Transom and what it needs into .venv ({extras})")
        pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        env = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}
        run = subprocess.run([*pip, "-e", f".[{extras}]"], cwd=PROJECT, env=env, check=False)
        if run.returncode:
            sys.exit("pip could not install it; what it says is above")
        (VENV / f"installed-{extras.replace(',', '-')}").write_text(digest)


def _installed(extras: str, digest: str) -> bool:
    """Whether these extras, and perhaps more, were installed from this very pyproject.toml."""
    stamps = [set(f.name.split("-")[1:]) for f in VENV.glob("installed-*") if f.read_text() == digest]
    return (VENV / "bin" / "transom").exists() and any(stamp >= set(extras.split(",")) for stamp in stamps)


def _runs() -> bool:
    """Whether .venv is whole: its Python may have gone with an upgrade, or its making been interrupted."""
    try:
        command = [str(VENV / "bin" / "python"), "-m", "pip", "--version"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _make() -> None:
    create = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    try:
        import ensurepip  # noqa: F401, Debian keeps it in a package of its own

        subprocess.run(create, check=True)
    except ImportError:
        subprocess.run([*create, "--without-pip"], check=True)
        _borrow_pip()


def _borrow_pip() -> None:
    """Puts pip into .venv from Debian's package of it, unpacked: nothing is installed on the machine."""
    from . import debian

    advice = "Python's venv module lacks pip on this machine: apt install python3-venv"
    if not debian.usable():
        sys.exit(advice)
    with tempfile.TemporaryDirectory() as folder:
        root, work = Path(folder) / "root", Path(folder) / "apt"
        root.mkdir()
        try:
            debian.refresh(work)
            debian.fetch(["python3-pip-whl"], root, work)
        except debian.PackageError as problem:
            sys.exit(f"{advice}\n{problem}")
        wheel = next((root / "usr/share/python-wheels").glob("pip-*.whl"))
        # A wheel is a zip file, and Python runs those.
        command = [str(VENV / "bin" / "python"), f"{wheel}/pip", "install", "-q", "--disable-pip-version-check", "pip"]
        subprocess.run(command, check=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
