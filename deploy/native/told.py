"""What the team of an app tells its processes on this machine: the file `.env` in the app's folder.

One setting a line, `TRANSOM_NAME=value`; empty lines and lines that begin with # are comments, quotes around a whole
value are not part of it. Where the stack itself knows better (addresses, passwords), the file is not asked.
"""

from __future__ import annotations

import re
from pathlib import Path

FILE = ".env"

_LINE = re.compile(r"(?:export\s+)?(TRANSOM_[A-Z0-9_]+)\s*=\s*(.*)")


class ToldError(Exception):
    """The file is not as it must be; the text names it and the line, and never what the line says."""


def told(app: Path) -> dict[str, str]:
    """The settings of the app's file; none where there is no file. Raises ToldError."""
    file = app / FILE
    try:
        text = file.read_text()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as problem:
        raise ToldError(f"{file}: cannot be read ({type(problem).__name__})") from problem
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ToldError(f"{file}:{number}: is not TRANSOM_NAME=value")
        value = match[2]
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        found[match[1]] = value
    return found
