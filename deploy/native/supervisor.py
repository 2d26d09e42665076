"""Starts programs in order, keeps them running, stops them in reverse. Says what it does in `status.json`.

If the supervisor itself is killed, its processes live on, writing to their logs; the next supervisor finds them by
the notes they left, keeps those that are still what it would start, and replaces the others: in their turn, where
they can go on serving meanwhile. The same happens on purpose when the product has changed (`renew`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .files import replace
from .logs import rotate, size, tail
from .machine import ancestors, birth, marked
from .place import Place
from .process import Process, forget, left
from .program import Program

BACKOFF_MAX = 10.0
"""Longest pause before a restart, in seconds."""
STABLE = 30.0
"""Seconds a process must live for its past failures to be forgiven."""
SETTLING = 10.0
"""Longest wait, in seconds, until a replaced process does its work again; then the next is replaced all the same."""
FIRST_TRIES = 3
"""So often may a process fail before it was ever ready; then the start as a whole has failed."""


class StartError(Exception):
    """A program could not be started; the text says which and shows the end of its log."""


@dataclass
class Kept:
    """One program and what is known of its process."""

    program: Program
    state: str = "waiting"  # waiting, starting, ready, restarting, done, stopped, failed
    process: Process | None = None
    old: Process | None = None
    """What an earlier supervisor left running under this name and has yet to make room."""
    leaving: asyncio.Task[None] | None = None
    """The end of one whose successor runs already."""
    adopted: bool = False
    """Whether the process was left by an earlier supervisor."""
    log_start: int = 0
    """Where in its log the last run begins."""
    restarts: int = 0
    took: float = 0.0
    """Seconds from its start until it was ready."""
    first_ready: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Keeps the programs of one stack. A `throwaway` one is killed at its end: nobody wants its data any more."""

    def __init__(
        self, place: Place, programs: Sequence[Program], about: Mapping[str, object], *, throwaway: bool = False
    ) -> None:
        self.place = place
        self.about = dict(about)
        self.throwaway = throwaway
        self.phase = "starting"
        self.error = ""
        self.kept = {program.name: Kept(program) for program in programs}
        self.leaving = False
        """Whether the end leaves all processes running, for a successor."""
        self._stopping = asyncio.Event()
        self._since = time.time()
        for kept in self.kept.values():
            for need in kept.program.needs:
                if need not in self.kept:
                    raise ValueError(f"{kept.program.name} needs {need}, which is not part of this stack")

    def stop(self) -> None:
        """Asks for the end; `run` then returns once everything has stopped."""
        self.leaving = False
        self._stopping.set()

    def renew(self) -> None:
        """Asks for an end that leaves everything running; nothing happens where an end is near already."""
        if not self._stopping.is_set():
            self.leaving = True
            self._stopping.set()

    async def run(self) -> bool:
        """Runs until `stop` is asked for; False where the start failed, after everything was stopped again."""
        await self._take_over()
        self._tell()
        wanted = [] if self._stopping.is_set() else list(self.kept.values())
        keepers = [asyncio.create_task(self._keep(kept)) for kept in wanted]
        rotation = asyncio.create_task(self._rotate())
        try:
            await self._until_ready(keepers)
            if not self._stopping.is_set():
                self.phase = "ready"
                self._tell()
                await self._stopping.wait()
        except StartError as failed:
            self.error = str(failed)
            self.stop()
        finally:
            if not self.leaving:
                self.phase = "stopping"
                self._tell()
            for task in [*keepers, rotation]:
                task.cancel()
            await asyncio.gather(*keepers, rotation, return_exceptions=True)
            if not self.leaving:
                await asyncio.gather(*(self._end(kept) for kept in self.kept.values()))
                self.phase = "failed" if self.error else "stopped"
                self._tell()
        return not self.error

    async def _take_over(self) -> None:
        """Adopts what an earlier supervisor left running; ends what is no longer wanted."""
        unwanted = []
        for name, process in left(self.place).items():
            kept = self.kept.get(name)
            if kept and kept.program.in_turn:
                kept.old = process
            elif kept and kept.program.outlives and kept.program.fingerprint == process.fingerprint:
                kept.process, kept.adopted = process, True
            else:
                unwanted.append((name, process))
        await asyncio.gather(*(process.stop() for _, process in unwanted))
        for name, _ in unwanted:
            forget(name, self.place)
        known = {os.getpid(), *(p.pid for kept in self.kept.values() for p in (kept.process, kept.old) if p)}
        for pid in marked("=".join(self.place.mark)):
            # Not below any we know: it was started in the very moment in which its supervisor died, before the note
            # was written.
            if known.isdisjoint(ancestors(pid)):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGTERM)

    async def _until_ready(self, keepers: Sequence[asyncio.Task[None]]) -> None:
        async def all_ready() -> None:
            for kept in self.kept.values():
                await kept.first_ready.wait()

        goals = [asyncio.create_task(all_ready()), asyncio.create_task(self._stopping.wait())]
        try:
            while not any(goal.done() for goal in goals):
                for keeper in keepers:
                    if keeper.done():
                        keeper.result()  # raises StartError; that of a step that is done returns nothing
                pending = [task for task in (*goals, *keepers) if not task.done()]
                await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for goal in goals:
                goal.cancel()
            await asyncio.gather(*goals, return_exceptions=True)

    async def _keep(self, kept: Kept) -> None:
        """Has the program running for as long as the stack lives; raises StartError if it never gets ready."""
        program = kept.program
        for need in program.needs:
            await self.kept[need].first_ready.wait()
        if kept.old is not None:
            await self._replace(kept, kept.old)
        failures = 0
        while True:
            begun = time.monotonic()
            try:
                if kept.process is None or not kept.process.alive():
                    kept.adopted = False
                    kept.log_start = size(self._log(program))
                    self._now(kept, "starting")
                    await asyncio.to_thread(program.prepare)
                    kept.process = Process.spawn(program, self.place)
                    self._tell()
                await self._ready(kept)
            except Exception as problem:
                failures += 1
                if not kept.first_ready.is_set() and (failures >= FIRST_TRIES or program.once):
                    self._now(kept, "failed")
                    raise StartError(self._said(program, problem)) from problem
            else:
                kept.took = time.monotonic() - begun
                kept.first_ready.set()
                if program.once:
                    self._now(kept, "done")
                    return
                self._now(kept, "ready")
                assert kept.process is not None
                await kept.process.exited()
                failures = 1 if time.monotonic() - begun > STABLE else failures + 1
            if kept.process and kept.process.alive():
                await kept.process.stop()
            kept.process = None
            kept.restarts += 1
            self._now(kept, "restarting")
            await asyncio.sleep(min(BACKOFF_MAX, 0.1 * 2**failures))

    async def _replace(self, kept: Kept, old: Process) -> None:
        """Ends what an earlier supervisor left running, when its turn has come; keeps it where nothing has changed."""
        for name in kept.program.follows:
            await self.kept[name].first_ready.wait()
            until = time.monotonic() + SETTLING
            settled = self.kept[name].program.settled
            while time.monotonic() < until and not await asyncio.to_thread(settled):  # noqa: ASYNC110, nothing tells
                await asyncio.sleep(0.1)
        if kept.program.outlives and old.fingerprint == kept.program.fingerprint:
            kept.process, kept.adopted = old, old.alive()
        elif kept.program.succeeds and old.alive():
            kept.leaving = asyncio.create_task(self._leave(old, kept.program.succeeds))
        else:
            await old.stop()
        kept.old = None

    async def _leave(self, old: Process, seconds: float) -> None:
        """Returns when a process that has a successor has ended by itself, or was ended when its time was over."""
        try:
            await asyncio.wait_for(old.exited(), seconds)
        except (TimeoutError, asyncio.CancelledError):
            await old.stop()
            raise

    async def _ready(self, kept: Kept) -> None:
        """Returns once the process is ready (a step: once it has done its work); raises StartError if it will not be."""
        program, process = kept.program, kept.process
        assert process is not None
        exited = asyncio.create_task(process.exited())
        pause = 0.02
        try:
            async with asyncio.timeout(program.patience):
                if program.once:
                    await exited
                    if process.code:
                        raise StartError(f"ended with {process.code}")
                while not program.once and not exited.done() and not await asyncio.to_thread(program.ready):
                    await asyncio.wait([exited], timeout=pause)
                    pause = min(0.2, pause * 1.3)
                if not program.once and exited.done():
                    raise StartError(f"ended with {process.code} before it was ready")
                await asyncio.to_thread(program.after)
        except TimeoutError:
            raise StartError(f"was not ready after {program.patience:.0f} s") from None
        finally:
            exited.cancel()
            await asyncio.gather(exited, return_exceptions=True)

    async def _end(self, kept: Kept) -> None:
        """Stops one program after all that need it."""
        name, program = kept.program.name, kept.program
        for other in self.kept.values():
            if name in other.program.needs and not self.throwaway:
                await other.over.wait()
        if kept.leaving is not None:
            kept.leaving.cancel()
            await asyncio.gather(kept.leaving, return_exceptions=True)
        for process in (kept.old, kept.process):
            if process is not None:
                await process.stop(program.kill_signal if self.throwaway else None)
                await asyncio.to_thread(program.tidy)
        kept.old = kept.process = None
        forget(name, self.place)
        if kept.state not in ("failed", "done"):
            self._now(kept, "stopped")
        kept.over.set()

    async def _rotate(self) -> None:
        while True:
            await asyncio.sleep(5)
            await asyncio.to_thread(rotate, self.place.logs)

    def _said(self, program: Program, problem: Exception) -> str:
        reason = str(problem) or type(problem).__name__
        since = self.kept[program.name].log_start
        end = "\n".join(f"  {line}" for line in tail(self._log(program), 15, since))
        return f"{program.name}: {reason}" + (f"\n{end}" if end else "")

    def _log(self, program: Program) -> Path:
        return self.place.logs / f"{program.name}.log"

    def _now(self, kept: Kept, state: str) -> None:
        kept.state = state
        self._tell()

    def _tell(self) -> None:
        processes = []
        for name, kept in self.kept.items():
            process = kept.process or kept.old
            processes.append(
                {
                    "name": name,
                    "state": kept.state,
                    "address": kept.program.address,
                    "step": kept.program.once,
                    "pid": process.pid if process else None,
                    "started": process.started if process else None,
                    "adopted": kept.adopted,
                    "restarts": kept.restarts,
                    "took": round(kept.took, 3),
                }
            )
        status = {
            "phase": self.phase,
            "error": self.error,
            "pid": os.getpid(),
            "born": birth(os.getpid()),
            "since": self._since,
            **self.about,
            "processes": processes,
        }
        replace(self.place.status, json.dumps(status))
