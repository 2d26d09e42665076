"""Google's own protos, as apps: fetched once from the npm registry, never committed.

`google-proto-files` is Google's package of what its services publish. It lies unpacked in `.transom/cache/`, which all
runs share.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from deploy.native.stack import HOME
from server.schema.compilation import shared_protos

PACKAGE = "google-proto-files@5.0.3"
FETCH_SECONDS = 120

_IMPORT = re.compile(r'^import\s+(?:public\s+)?"([^"]+)"\s*;', re.MULTILINE)


def app(folder: Path, packages: Iterable[str]) -> Path:
    """Makes `folder` an app out of nothing but Google's protos of `packages` (`google/iam/v1`), as they are.

    What they import comes along, but for what every app may import without carrying it.
    """
    source = fetched()
    carried = {path for path, _ in shared_protos()}
    wanted = [str(p.relative_to(source)) for package in packages for p in sorted((source / package).glob("*.proto"))]
    assert wanted, f"{PACKAGE} has none of the packages"
    while wanted:
        path = wanted.pop()
        target = folder / "proto" / path
        if path in carried or path.startswith("google/protobuf/") or target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, target)
        wanted += _IMPORT.findall(target.read_text())
    return folder


def fetched() -> Path:
    """The folder of the unpacked package: `google/…` lies in it. Skips the test where it was never fetched and npm is absent."""
    place = HOME / "cache" / PACKAGE.replace("@", "-")
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=place.parent) as temporary:
            folder = Path(temporary)
            _fetch(folder)
            try:
                # Whole or not at all, even if this run dies, or two fetch at the same time.
                os.rename(folder / "package", place)
            except OSError:
                assert place.exists(), "another run was first, or it is a fault"
    return place


def _fetch(folder: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip(f"Google's protos come from the npm registry ({PACKAGE}), and npm is not installed")
    command = ["npm", "pack", PACKAGE, "--silent", "--pack-destination", str(folder)]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_SECONDS)
    assert run.returncode == 0, f"npm pack {PACKAGE}: {run.stderr.strip()}"
    [archive] = folder.glob("*.tgz")
    with tarfile.open(archive) as files:
        protos = [m for m in files if m.isfile() and m.name.startswith("package/google/") and m.name.endswith(".proto")]
        files.extractall(folder, members=protos, filter="data")
