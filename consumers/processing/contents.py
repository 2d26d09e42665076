"""What processing finds and makes, and how one process tells another of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

CONTENT, JOB, RESULT = "content", "job.json", "result.json"
"""Files of the folder that two processes share: the bytes, what they are said to be, what was found."""

TITLE = 255
"""Characters of a title that a content gives itself."""
CODECS = 8
"""Codecs that are told of one recording."""


class Refused(Exception):
    """These bytes are not taken. `reason` is UPPER_SNAKE_CASE, `message` for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(slots=True)
class Metadata:
    """What was found out; 0 and "" where it does not apply. Pixels are those that are shown, times seconds."""

    width: int = 0
    height: int = 0
    duration: float = 0.0
    pages: int = 0
    detected_content_type: str = ""
    codecs: list[str] = field(default_factory=list)
    title: str = ""
    sample_rate: int = 0
    channels: int = 0
    frame_rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Variant:
    """A smaller form of it: the file called `name` in the shared folder."""

    name: str
    content_type: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Job:
    """Which bytes they are: a media type without parameters, and whether everybody will read them."""

    content_type: str
    public: bool

    def write(self, folder: Path) -> None:
        """Tells whoever works in `folder`."""
        (folder / JOB).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Job:
        """What was told."""
        return cls(**json.loads((folder / JOB).read_text()))


@dataclass(frozen=True, slots=True)
class Result:
    """What became of it. Where it is refused, `reason` says why and nothing else counts."""

    metadata: Metadata = field(default_factory=Metadata)
    variants: tuple[Variant, ...] = ()
    rewritten: bool = False
    """Whether the bytes in the shared folder are others now: without what not everybody shall read."""
    reason: str = ""
    message: str = ""

    def write(self, folder: Path) -> None:
        """Tells whoever asked for it; all of it or nothing."""
        (folder / f"{RESULT}.part").write_text(json.dumps(asdict(self)))
        (folder / f"{RESULT}.part").rename(folder / RESULT)

    @classmethod
    def read(cls, folder: Path) -> Result | None:
        """What was told; None where nothing was."""
        try:
            told = json.loads((folder / RESULT).read_text())
        except FileNotFoundError:
            return None
        metadata, variants = Metadata(**told.pop("metadata")), told.pop("variants")
        return cls(metadata=metadata, variants=tuple(Variant(**one) for one in variants), **told)


def title(text: object) -> str:
    """A title on one line, cut to TITLE characters; "" where there is none."""
    plain = "".join(c if c.isprintable() else " " for c in text) if isinstance(text, str) else ""
    return " ".join(plain.split())[:TITLE]
