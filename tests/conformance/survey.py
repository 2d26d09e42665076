"""What every service that Google publishes is understood as: how many of its standard methods are recognised, and why not."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from server.schema.compilation import SchemaError, compile_app
from server.schema.reading import read
from tests import google_apis

_SERVICE = re.compile(r"^service ", re.MULTILINE)
_NAMES = re.compile(r"[a-z]\w*(?:\.\w+)+\.(?=[A-Z])")


@dataclass
class Survey:
    """The counts. A method sounds standard by the verb that its name begins with."""

    packages: int = 0
    services: int = 0
    methods: int = 0
    sounding: int = 0
    recognised: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Why methods that sound standard are not."""
    refused: dict[str, str] = field(default_factory=dict)
    """Packages that are not served, and why."""


def surveyed() -> Survey:
    """Reads every package of services in google-proto-files, each as an app of its own."""
    out = Survey()
    for folder in _folders():
        with tempfile.TemporaryDirectory() as place:
            try:
                schema = read(compile_app(google_apis.app(Path(place) / "app", [folder])))
            except (SchemaError, FileNotFoundError) as fault:
                out.refused[folder] = str(fault).partition("\n")[0]
                continue
        package = folder.replace("/", ".")
        out.packages += 1
        for service in schema.services:
            if service.own or not service.name.startswith(f"{package}."):
                continue
            out.services += 1
            for method in service.methods:
                out.methods += 1
                out.sounding += method.kind.standard or bool(method.why_custom)
                if method.kind.standard:
                    out.recognised += 1
                    out.kinds[method.kind.value] += 1
                elif method.why_custom:
                    out.reasons[_NAMES.sub("", method.why_custom)] += 1
    return out


def _folders() -> Iterator[str]:
    source = google_apis.fetched()
    for folder in sorted({p.parent for p in source.rglob("*.proto")}):
        if any(_SERVICE.search(p.read_text()) for p in folder.glob("*.proto")):
            yield str(folder.relative_to(source))
