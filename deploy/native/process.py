"""One running process: started, found again after its supervisor died, watched, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from .files import replace
from .machine import birth
from .place import PROJECT, Place
from .program import Program

_NOTED = ("pid", "born", "fingerprint", "started", "stop_signal", "grace")


@dataclass
class Process:
    """A process known by number and birth, so that a signal never reaches a stranger."""

    pid: int
    born: str
    fingerprint: str
    started: float
    stop_signal: signal.Signals
    grace: float
    child: subprocess.Popen[bytes] | None = None

    @classmethod
    def spawn(cls, program: Program, place: Place) -> Process:
        """Starts `program` as leader of its own group, its output appended to its log, and writes down who it is."""
        user = program.user
        drop = {"user": user.uid, "group": user.gid, "extra_groups": []} if user else {}
        name, value = place.mark
        with open(place.logs / f"{program.name}.log", "ab") as log:
            child = subprocess.Popen(  # type: ignore[call-overload]
                list(program.command),
                env={**program.env, name: value},
                cwd="/" if user else PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **drop,
            )
        self = cls(
            child.pid,
            birth(child.pid) or "",
            program.fingerprint,
            time.time(),
            program.stop_signal,
            program.grace,
            child,
        )
        replace(_file(place, program.name), json.dumps({name: getattr(self, name) for name in _NOTED}))
        return self

    @classmethod
    def found(cls, name: str, place: Place) -> Process | None:
        """The process of that name that an earlier supervisor left running, if it still does."""
        try:
            record = json.loads(_file(place, name).read_text())
            self = cls(**{name: record[name] for name in _NOTED})
        except (OSError, ValueError, KeyError, TypeError):
            return None
        self.stop_signal = signal.Signals(self.stop_signal)
        return self if self.alive() else None

    def alive(self) -> bool:
        """Whether it runs."""
        if self.child is not None and self.child.poll() is not None:
            return False
        return bool(self.born) and birth(self.pid) == self.born

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs, or where it was not our child."""
        return self.child.poll() if self.child is not None else None

    async def exited(self) -> None:
        """Returns when it is gone."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # not on Linux, or gone already
            await self._seen_gone(0.2)
            return
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(descriptor, gone.set)
        try:
            if self.alive():
                await gone.wait()
            await self._seen_gone(0.01)  # the last of its threads may need a moment
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    async def _seen_gone(self, pause: float) -> None:
        while self.alive():  # noqa: ASYNC110, nothing tells
            await asyncio.sleep(pause)
        if self.child is None:  # a child it may be all the same: of this very process, before it became what it is
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)  # noqa: ASYNC222, returns at once

    def send(self, number: signal.Signals, *, group: bool = False) -> None:
        """Sends a signal to it, or to its whole group; to nobody if it is gone."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(self.pid, number)

    async def stop(self, number: signal.Signals | None = None) -> None:
        """Ends it: by its stop signal, or by `number`; by SIGKILL to its group when its grace is over."""
        self.send(number or self.stop_signal)
        try:
            await asyncio.wait_for(self.exited(), self.grace)
        except TimeoutError:
            self.send(signal.SIGKILL, group=True)
            await self.exited()


def forget(name: str, place: Place) -> None:
    """Removes the note of who ran under that name."""
    _file(place, name).unlink(missing_ok=True)


def left(place: Place) -> dict[str, Process]:
    """Everything that runs by the notes in `place`, by name."""
    names = [file.stem for file in place.run.glob("*.json")]
    return {name: process for name in names if (process := Process.found(name, place))}


def _file(place: Place, name: str) -> Path:
    return place.run / f"{name}.json"
