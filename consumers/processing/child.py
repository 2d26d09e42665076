"""`python -m consumers.processing.child FOLDER`: processes the bytes in a folder, within limits, and writes what it found.

It may be killed by what it reads: nothing else is in this process.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import traceback
import zipfile
from pathlib import Path

from consumers.processing.contents import CONTENT, Job, Metadata, Refused, Result, Variant

MEMORY = 1 << 30
"""Bytes of address space."""
CPU = 30
"""Seconds of computing."""
WRITTEN = 64 << 20
"""Bytes of one file that it writes; none of its variants is near that."""
BEGINNING = 8192
"""Bytes in which a content's type shows."""
PICTURE_BYTES_MAX = 100 << 20
"""Bytes of a picture: it may have to be in memory as a whole."""


_PARENT_GONE = 1
"""PR_SET_PDEATHSIG of Linux' prctl."""


def main(folder: Path, parent: int = 0) -> None:
    """Processes what is in `folder`; ends with the process `parent`, if one is given."""
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_GONE, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it was over before
            sys.exit("nobody waits for it")
    job = Job.read(folder)
    written = max(WRITTEN, (folder / CONTENT).stat().st_size if job.public else 0)
    for limit, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, CPU),
        (resource.RLIMIT_FSIZE, written),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most + CPU if limit == resource.RLIMIT_CPU else most))
    try:
        result = processed(folder, job)
    except ImportError as missing:  # this worker is not made for it: the media extra of Transom is not installed
        sys.exit(f"{missing}: pip install 'transom[media]'")
    except Refused as refused:
        result = Result(reason=refused.reason, message=refused.message)
    except MemoryError:
        result = Result(reason="TOO_COSTLY", message="Processing the file would take too much memory.")
    except Exception:  # a fault of a decoder that it has no name for
        traceback.print_exc()
        result = Result(reason="UNPROCESSABLE", message="The file is damaged.")
    result.write(folder)


def processed(folder: Path, job: Job) -> Result:
    """What becomes of the content in `folder`. Raises Refused."""
    import filetype

    from server.engine.content_types import ANYTHING, disagreement

    content = folder / CONTENT
    with content.open("rb") as opened:
        first = opened.read(BEGINNING)
    seen = disagreement(job.content_type, first)
    if seen is not None:
        raise Refused("CONTENT_TYPE_MISMATCH", f"The content is said to be {job.content_type} and is {seen}.")
    detected = filetype.guess_mime(first) or ""
    of = job.content_type if job.content_type != ANYTHING else detected
    metadata, variants, rewritten = _by_type(content, of, folder, job.public)
    metadata.detected_content_type = detected
    return Result(metadata, tuple(variants), rewritten)


def _by_type(content: Path, of: str, folder: Path, public: bool) -> tuple[Metadata, list[Variant], bool]:
    # Each library is large and takes time to load: only the one that is needed.
    from consumers.processing import stripping

    if of.startswith("image/") and of != "image/svg+xml":
        from consumers.processing import pictures

        format = pictures.FORMATS.get(of)
        if public and format not in stripping.STRIPPED:
            raise Refused("PUBLIC_TYPE_UNSUPPORTED", f"Of {of} it cannot be left out where it was taken: use JPEG.")
        if format is None:
            return Metadata(), [], False
        if content.stat().st_size > PICTURE_BYTES_MAX:
            raise Refused("IMAGE_TOO_LARGE", f"The picture has more than {PICTURE_BYTES_MAX >> 20} MiB.")
        _one_thing(content)
        metadata, variants, orientation = pictures.process(content, of, folder)
        rewritten = False
        if public:
            data = content.read_bytes()
            bare = stripping.stripped(data, format, orientation)
            if rewritten := bare != data:
                content.write_bytes(bare)
        return metadata, variants, rewritten
    if of == "application/pdf":
        from consumers.processing import documents

        return *documents.process(content, folder), False
    if of.startswith(("audio/", "video/")):
        from consumers.processing import recordings

        if of in recordings.CONTAINERS:
            metadata = recordings.process(content, of)
            family = recordings.CONTAINERS[of] == "mov"
            return metadata, [], public and family and stripping.blank(content)
    return Metadata(), [], False


def _one_thing(content: Path) -> None:
    """Raises Refused for a picture that is an archive, too, or a document: what one reader was shown is not what another sees."""
    with content.open("rb") as opened:
        if b"%PDF-" in opened.read(1024):
            raise Refused("POLYGLOT", "The picture is a document, too.")
    try:
        with zipfile.ZipFile(content) as archive:
            inside = len(archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return
    if inside:
        raise Refused("POLYGLOT", "The picture is an archive, too.")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
