"""One process for each file: what a hostile one does, it does to that process, which has no settings and no secrets."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from consumers.processing.child import CPU
from consumers.processing.contents import Job, Result

SECONDS = 120.0
"""Longest life of such a process: it may wait for its turn on a busy machine, but not hang."""

_OVER = frozenset({signal.SIGXCPU, signal.SIGXFSZ})
_BROKEN = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})

CHILD = (sys.executable, "-I", "-m", "consumers.processing.child")


SAID, SAID_BYTES = "said", 2000
"""The file with what the process complained of, and how much of it is looked at."""


class Interrupted(Exception):
    """The process was ended from outside, or did not end: nothing is known of the file, and it may be tried again."""


_DUMPABLE = 4
"""PR_SET_DUMPABLE of Linux' prctl."""


def closed() -> bool:
    """Makes this process one whose environment and memory no other of its user reads (`/proc/…/environ`), as a child that a
    hostile file took over could; whether the system knows that."""
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_DUMPABLE, 0, 0, 0, 0) == 0)


async def processed(folder: Path, job: Job, child: Sequence[str] = CHILD) -> Result:
    """What becomes of `content` in `folder`, which then holds its variants. Raises Interrupted."""
    job.write(folder)
    with (folder / SAID).open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            *child,
            str(folder),
            str(os.getpid()),
            env={"PATH": os.environ.get("PATH", ""), "TMPDIR": str(folder), "LC_ALL": "C.UTF-8"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(SECONDS):
            code = await process.wait()
    except TimeoutError as over:
        raise Interrupted(f"processing did not end within {SECONDS:g} s") from over
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    result = Result.read(folder)
    if result is not None:
        return result
    if -code in _OVER:
        return Result(
            reason="TOO_COSTLY", message=f"Processing the file would take more than {CPU} seconds of computing."
        )
    if -code in _BROKEN:
        return Result(reason="UNPROCESSABLE", message="The file is damaged.")
    last = (folder / SAID).read_bytes()[-SAID_BYTES:].decode(errors="replace").strip().rpartition("\n")[2]
    raise Interrupted(f"processing did not come to an end (status {code}): {last}")
