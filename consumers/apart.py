"""Functions that need a core, in processes of their own."""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

PROCESSES = 2
"""Of one worker; it takes no more tasks that ask for one than it has processes for."""
_PARENT_GONE = 1
"""PR_SET_PDEATHSIG of Linux' prctl."""


class Apart:
    """The processes of one worker: each has one run at a time, so that the end of one run is no other's."""

    def __init__(self) -> None:
        self._idle: list[ProcessPoolExecutor] = []

    async def call(self, function: Callable[..., Any], payload: Any) -> Any:
        """What a function of the app returns. Raises what it raises, and BrokenProcessPool where its process ends; who stops
        waiting ends the process."""
        process = self._idle.pop() if self._idle else _process()
        try:
            result = await asyncio.get_running_loop().run_in_executor(process, _called, _place(function), payload)
        except (BrokenProcessPool, asyncio.CancelledError):  # over its time, or cancelled: it would go on
            for one in list((process._processes or {}).values()):
                one.kill()
            process.shutdown(wait=False, cancel_futures=True)
            raise
        except BaseException:
            self._idle.append(process)
            raise
        self._idle.append(process)
        return result

    def close(self) -> None:
        """Ends those that have nothing to do."""
        for process in self._idle:
            process.shutdown(wait=False, cancel_futures=True)


def _process() -> ProcessPoolExecutor:
    """Another process, not a fork, that ends with this one."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _follow, (os.getpid(),))


def _follow(parent: int) -> None:
    """In the other process: ends with `parent`, however that ends, and leaves it to that to end what runs before."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_GONE, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it was over before
            os._exit(1)
    # A signal to all of a worker's processes is a drain, no failure of what runs. Not SIG_IGN: that would be inherited.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)


def _place(function: Callable[..., Any]) -> tuple[str, str, str]:
    """Where another process finds a function of the app: the folder, the module, the name."""
    module = inspect.getfile(function)
    depth = function.__module__.count(".")
    folder = module
    for _ in range(max(1, depth)):
        folder = folder.rpartition("/")[0]
    return folder, function.__module__, function.__qualname__


def _called(place: tuple[str, str, str], payload: Any) -> Any:
    """In the other process: imports the app's file, and calls the function."""
    folder, module, name = place
    package = module.partition(".")[0]
    if package not in sys.modules:
        made = ModuleType(package)
        made.__path__ = [str(Path(folder))]
        sys.modules[package] = made
    return getattr(import_module(module), name)(payload)
