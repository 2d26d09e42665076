"""The supervisor as a process of its own, started by `stack.Stack`.

    python -m deploy.native STATE LOCK detached|attached|ending

On SIGHUP it starts anew, with the plan and the code as they are then, and leaves running what need not be replaced.
LOCK is the inherited descriptor of the state's lock. An attached one ends when its standard input does, and
then kills what it started and removes the state; an ending one only stops what an earlier one left running.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

from . import process
from .binaries import servers
from .files import clear, replace
from .place import Place
from .ports import claim
from .s3 import unobstructed
from .supervisor import Supervisor
from .topology import Topology

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


async def main(state: Path, how: str) -> bool:
    """Runs the stack that the plan in `state` describes; False where it did not start."""
    attached = how == "attached"
    place = Place(state)
    plan = place.planned()
    with ExitStack() as closing:
        try:
            left = bool(process.left(place))
            ports, held = claim(place.ports, plan["edge_port"], running=left, fits=unobstructed)
            closing.enter_context(held)
            topology = Topology(place, ports, Path(plan["app"]), servers(Path(plan["home"])), plan["edge_host"])
            made_from = {"sources": plan.get("sources", "")}
            about = made_from | {"edge": f"http://127.0.0.1:{ports['edge']}", "app": plan["app"], "state": str(state)}
            supervisor = Supervisor(place, topology.programs(plan["parts"]), about, throwaway=attached)
        except Exception as problem:
            replace(place.status, json.dumps({"phase": "failed", "error": str(problem), "processes": []}))
            raise
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, supervisor.stop)
        loop.add_signal_handler(signal.SIGHUP, supervisor.renew)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if how == "ending":
            supervisor.stop()
        if attached:
            # A thread of its own, which nobody waits for: it may sit in a read for ever.
            alone = threading.Event()
            threading.Thread(target=_until_end_of_input, args=(alone, loop, supervisor), daemon=True).start()
        good = await supervisor.run()
        if supervisor.leaving:
            # In its own place, by the same number and with the lock in its hands: at no moment is nobody in charge.
            # What is asked of it meanwhile, its successor hears.
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            os.execv(sys.executable, [sys.executable, "-m", "deploy.native", *sys.argv[1:]])  # noqa: S606
        if attached and alone.is_set():  # whoever started it can no longer clean up
            clear(place.state)
        return good


def _until_end_of_input(alone: threading.Event, loop: asyncio.AbstractEventLoop, supervisor: Supervisor) -> None:
    while os.read(0, 1024):
        pass
    alone.set()
    loop.call_soon_threadsafe(supervisor.stop)


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main(Path(sys.argv[1]), sys.argv[3])) else 1)
