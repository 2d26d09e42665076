"""The way in: start, look at and stop one stack.

stack = Stack(Path("/tmp/x"), parts=COMPONENTS)
with stack.running():
    stack.env["TRANSOM_POSTGRES"]
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import process
from .binaries import servers
from .files import clear, remove, replace
from .logs import tail
from .machine import birth
from .place import PROJECT, Place
from .ports import Ports, PortsError, refuse_taken, remembered
from .program import Program
from .sources import digest
from .told import ToldError, told
from .topology import COMPONENTS, EVERYTHING, PRODUCT, Topology

__all__ = ["COMPONENTS", "EVERYTHING", "HOME", "PROJECT", "Stack", "StackError"]

HOME = PROJECT / ".transom"
"""Where stacks and unpacked servers are kept unless told otherwise."""

Status = dict[str, Any]
Report = Callable[[Status], None]


class StackError(Exception):
    """The stack did not start, or did not stop; the text says which part, and shows the end of its log."""


class Stack:
    """One stack in the folder `state`, running or not."""

    def __init__(
        self,
        state: Path,
        *,
        edge_port: int = 0,
        edge_host: str = "127.0.0.1",
        app: Path = PROJECT / "examples" / "inspect",
        parts: Sequence[str] = EVERYTHING,
        home: Path = HOME,
    ) -> None:
        self.place = Place(state.absolute())
        self.edge_port, self.edge_host, self.app = edge_port, edge_host, app.absolute()
        self.parts, self.home = tuple(parts), home
        self._said_before = 0  # bytes in the supervisor's log
        self._child: subprocess.Popen[bytes] | None = None  # its pipe is what an attached stack hangs on

    @classmethod
    def of(cls, state: Path) -> Stack:
        """The stack in `state` as it was last started."""
        try:
            plan = Place(state).planned()
        except (OSError, ValueError):
            return cls(state)
        app, home = Path(plan["app"]), Path(plan["home"])
        return cls(
            state, edge_port=plan["edge_port"], edge_host=plan["edge_host"], app=app, parts=plan["parts"], home=home
        )

    @property
    def ports(self) -> Ports:
        """Its ports; there are none before its first start."""
        ports = remembered(self.place.ports)
        if ports is None:
            raise StackError(f"{self.place.state}: no stack was ever started here")
        return ports

    @property
    def topology(self) -> Topology:
        return Topology(self.place, self.ports, self.app, servers(self.home), self.edge_host)

    @property
    def api_servers(self) -> tuple[str, ...]:
        """The names of its API servers."""
        return self.topology.api_servers

    @property
    def env(self) -> dict[str, str]:
        """TRANSOM_* for a process of the product on this stack. Holds passwords."""
        try:
            return self.topology.env()
        except ToldError as problem:
            raise StackError(str(problem)) from problem

    @property
    def addresses(self) -> dict[str, str]:
        """Address of each process, by name."""
        return {p["name"]: p["address"] for p in self.status()["processes"]}

    @property
    def edge(self) -> str:
        """URL of the edge."""
        return f"http://127.0.0.1:{self.ports['edge']}"

    @property
    def mailbox(self) -> str:
        """URL of the mail catcher."""
        return f"http://127.0.0.1:{self.ports['mailbox']}"

    def status(self) -> Status:
        """What the supervisor last said; phase "stopped" if there is none, whatever it said last."""
        try:
            said: Status = json.loads(self.place.status.read_text())
        except (OSError, ValueError):
            return {"phase": "stopped", "processes": [], "error": ""}
        if said["phase"] in ("starting", "ready", "stopping") and birth(said["pid"]) != said["born"]:
            said["phase"] = "abandoned"  # the supervisor was killed; its processes may be alive
            for told in said["processes"]:
                if not process.Process.found(told["name"], self.place):
                    told |= {"pid": None, "state": "stopped"}
        return said

    def start(
        self,
        *,
        attached: bool = False,
        report: Report = lambda _: None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> bool:
        """Starts what does not run yet and returns once all is ready; False if all was.

        Where the product runs but was made from other sources than are there now, it is replaced, while its servers
        stay; if the new one would not start, the old one stays, too.

        The stack stays until `stop`; with `attached` it goes when this process does, however that ends.
        `progress` hears of downloads, `report` of every change of status. Raises StackError.
        """
        if not self.place.plan.exists():  # nor shall a start that cannot be leave a stack behind
            try:
                refuse_taken(self.edge_port)
            except PortsError as problem:
                raise StackError(str(problem)) from problem
        try:
            told(self.app)
        except ToldError as problem:
            raise StackError(str(problem)) from problem
        self.place.make()
        servers(self.home, progress)
        plan = {
            "edge_port": self.edge_port,
            "edge_host": self.edge_host,
            "app": str(self.app),
            "parts": list(self.parts),
            "home": str(self.home),
        }
        sources = digest(self.app) if {*self.parts} & {*PRODUCT} else ""
        lock = self._lock()
        if lock is None:
            running = self.place.planned()
            running.pop("sources", None)
            if running != plan:
                raise StackError(
                    f"a stack with app {running['app']}, its edge on {running['edge_host']}, runs in {self.place.state}; "
                    "stop it first, or use another port"
                )
            with self.place.alone():
                if self.status()["phase"] != "ready":
                    self._wait_ready(None, report)
                if self.status().get("sources", "") == sources:
                    return False
                progress("what is served has changed")
                self._carry_out(self.topology.rehearsal(self.parts), report, "What ran before goes on running.")
                replace(self.place.plan, json.dumps(plan | {"sources": sources}))
                self._renew(sources, report)
                self._carry_out(self.topology.settling(self.parts), report, "The new servers are there all the same.")
            return True
        replace(self.place.plan, json.dumps(plan | {"sources": sources}))
        self.place.status.unlink(missing_ok=True)
        self._child = child = self._supervise("attached" if attached else "detached", lock)
        self._wait_ready(child, report)
        return True

    def _lock(self) -> int | None:
        """The lock, waited for where a killed supervisor is still dying: it goes with the last of its threads."""
        until = time.monotonic() + 5
        while (lock := self.place.lock()) is None:
            if self.status()["phase"] != "abandoned" or time.monotonic() > until:
                break
            time.sleep(0.02)
        return lock

    def _carry_out(self, steps: Sequence[Program], report: Report, otherwise: str) -> None:
        """Runs steps beside the supervisor. Raises StackError where one fails, with what is so `otherwise`."""
        told: list[dict[str, Any]] = []
        for step in steps:
            told.append({"name": step.name, "state": "starting", "took": 0.0})
            report({"processes": told})
            begun = time.monotonic()
            run = subprocess.run(
                list(step.command),
                env=dict(step.env),
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
            if run.returncode:
                lines = run.stdout.decode(errors="replace").splitlines()[-40:]
                said = "".join(f"\n  {line}" for line in lines)
                raise StackError(f"{step.name}: ended with {run.returncode}{said}\n{otherwise}")
            told[-1] |= {"state": "done", "took": time.monotonic() - begun}
            report({"processes": told})

    def _renew(self, sources: str, report: Report) -> None:
        """Has the supervisor begin anew, with the plan as it is now; returns once all is ready."""
        status = self.status()
        if status["phase"] == "ready":
            os.kill(status["pid"], signal.SIGHUP)
        until = time.monotonic() + 60
        while self.status().get("sources") != sources:
            if (lock := self.place.lock()) is not None:
                if self.status()["phase"] != "abandoned":
                    os.close(lock)
                    raise StackError("the stack was stopped meanwhile")
                # It did not survive that (one of an older version ends by this signal): what it left is taken over.
                self._child = child = self._supervise("detached", lock)
                self._wait_ready(child, report)
                return
            if time.monotonic() > until:
                raise StackError("the supervisor has not begun anew after 60 s")
            time.sleep(0.05)
        self._wait_ready(None, report)

    def _supervise(self, how: str, lock: int) -> subprocess.Popen[bytes]:
        # The lock is handed over by inheritance: at no moment can another start get in between.
        with open(self.place.logs / "supervisor.log", "ab") as log:
            self._said_before = log.tell()
            child = subprocess.Popen(
                [sys.executable, "-m", "deploy.native", str(self.place.state), str(lock), how],
                cwd=PROJECT,
                stdin=subprocess.PIPE if how == "attached" else subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[lock],
                start_new_session=True,
            )
        os.close(lock)
        return child

    def _wait_ready(self, child: subprocess.Popen[bytes] | None, report: Report) -> None:
        last = None
        while True:
            gone = child is not None and child.poll() is not None
            status = self.status()
            if status != last and status["processes"]:
                report(status)
                last = status
            if status["phase"] == "ready":
                return
            if status["phase"] == "failed" or gone:
                end = "\n".join(tail(self.place.logs / "supervisor.log", 15, self._said_before))
                raise StackError(status["error"] or f"the supervisor ended:\n{end}")
            if child is None and (lock := self.place.lock()) is not None:
                os.close(lock)
                raise StackError("the stack was stopped while it started")
            time.sleep(0.05)

    def stop(self, *, report: Report = lambda _: None) -> bool:
        """Stops everything and returns once it has; False if nothing ran."""
        if not self.place.state.exists():
            return False
        status = self.status()
        if status["phase"] in ("starting", "ready", "stopping"):
            os.kill(status["pid"], signal.SIGTERM)
        elif not process.left(self.place):
            return False
        elif (lock := self._lock()) is not None:  # nobody watches over them any more
            self._supervise("ending", lock).wait()
        until = time.monotonic() + 60
        while (lock := self.place.lock()) is None:
            report(self.status())
            if time.monotonic() > until:
                raise StackError("the stack has not stopped after 60 s")
            if self._child:
                self._child.poll()  # else it stays as a zombie
            time.sleep(0.05)
        os.close(lock)
        return True

    def clean(self) -> None:
        """Stops the stack and removes all it has kept."""
        self.stop()
        if self.place.state.exists():
            clear(self.place.state)

    @contextmanager
    def running(self) -> Iterator[Stack]:
        """The stack, for as long as the block lasts; then it is gone, with its state."""
        try:
            self.start(attached=True)
            yield self
        finally:
            self.clean()


def forget_servers(home: Path = HOME) -> None:
    """Removes the servers that were unpacked below `home`, and the tests' browser; what needs them brings them again."""
    for name in ("root", "servers.json", "browser"):
        remove(home / name)


def _main(word: str, state: Path) -> None:
    """Components for an experiment: `python -m deploy.native.stack up|down|clean STATE`; `up` prints export lines."""
    stack = Stack(state, parts=COMPONENTS)
    if word == "up":
        stack.start(progress=lambda said: print(said, file=sys.stderr))
        for name, value in stack.env.items():
            print(f"export {name}={shlex.quote(value)}")
    elif word == "down":
        stack.stop()
    elif word == "clean":
        stack.clean()
    else:
        sys.exit(_main.__doc__)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
