"""Chromium without a window, for tests of what happens in a browser. No stack needs it.

As with the servers: what the machine has is used if it runs; else Debian's is unpacked below a folder of its own, without
root and with nothing installed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from . import debian
from .files import folder, remove, replace

PACKAGES = ("chromium-headless-shell", "fonts-dejavu-core")
PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
UNPACKED = Path("usr/lib/chromium/chromium-headless-shell")
"""Where the package has it; what stands in bin is a script that looks for it in the machine's own folders."""

FLAGS = (
    "--headless",
    "--no-sandbox",  # containers and root have no sandbox to give; the pages are ours
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""A browser that talks to nobody but the pages it is sent to."""


class BrowserError(Exception):
    """No browser is here or to be had; the text says what to install."""


@dataclass(frozen=True, slots=True)
class Browser:
    """A Chromium that runs: its program, and the environment it needs beside the machine's."""

    program: Path
    env: dict[str, str]


def browser(home: Path, progress: Callable[[str], None] = lambda _: None, *, machine: bool = True) -> Browser:
    """The Chromium to use, brought below `home`/browser where this machine has none; with `machine` off, in any case.

    Raises BrowserError.
    """
    if machine:
        for name in PROGRAMS:
            if (path := shutil.which(name)) and _runs(found := Browser(Path(path), {})):
                return found
    root = home / "browser"
    folder(home, mode=0o755)
    with (home / "browser.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test runs may start at once: one brings, the others wait
        if _runs(found := _unpacked(root)):
            return found
        _bring(root, home / "browser-apt", progress)
        if not _runs(found := _unpacked(root)):
            raise BrowserError(f"Chromium was unpacked below {root}, but does not run.\n{_advice()}")
    return found


def _unpacked(root: Path) -> Browser:
    if not debian.usable():
        return Browser(root / UNPACKED, {})
    libraries = [part for path in debian.libraries(root) for part in (path, path / "pulseaudio") if part.is_dir()]
    env = {
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "FONTCONFIG_FILE": str(root / "fonts.conf"),
    }
    return Browser(root / UNPACKED, env)


def _runs(found: Browser) -> bool:
    try:
        run = subprocess.run(
            [str(found.program), "--version"],
            capture_output=True,
            env={**os.environ, **found.env},
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return run.returncode == 0 and b"Chrom" in run.stdout


def _bring(root: Path, work: Path, progress: Callable[[str], None]) -> None:
    if not debian.usable():
        raise BrowserError(_advice())
    progress(f"this machine has no Chromium: unpacking Debian's below {root}")
    new = root.with_name(f"{root.name}.new")  # it gets its name when it is whole
    remove(root)
    remove(new)
    new.mkdir(parents=True)
    try:
        debian.refresh(work)
        debian.unpack(PACKAGES, new, work, progress)
    except debian.PackageError as problem:
        raise BrowserError(f"{problem}\n{_advice()}") from problem
    finally:
        remove(work)
    # Fontconfig's own file names the machine's folders, where there may be nothing.
    replace(new / "fonts.conf", _fonts(root))
    new.rename(root)


def _fonts(root: Path) -> str:
    folders = "".join(
        f"<dir>{escape(str(path))}</dir>" for path in (root / "usr/share/fonts", Path("/usr/share/fonts"))
    )
    aliases = "".join(
        f"<alias><family>{kind}</family><prefer><family>DejaVu {face}</family></prefer></alias>"
        for kind, face in (("sans-serif", "Sans"), ("serif", "Serif"), ("monospace", "Sans Mono"))
    )
    cache = f"<cachedir>{escape(str(root / 'fonts'))}</cachedir>"
    head = '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">'
    return f"{head}\n<fontconfig>{folders}{cache}{aliases}</fontconfig>\n"


def _advice() -> str:
    return "The tests of what happens in a browser need Chromium (Debian, Ubuntu: apt install chromium-headless-shell)."
