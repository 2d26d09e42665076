"""CPU time of process trees, from /proc (proc(5)): Linux only."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds of one unit of /proc: what a single reading of one process may be off by."""


def used(roots: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """CPU seconds so far of each role: its processes, their descendants, and those of these that have ended.

    What a process used is its parent's from the moment it was waited for, so nothing is lost between two readings.
    Raises ProcessLookupError where one of the roots is gone.
    """
    own: dict[int, float] = {}
    children: dict[int, list[int]] = defaultdict(list)
    for pid in _pids():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children[int(fields[1])].append(pid)
        own[pid] = sum(map(int, fields[11:15])) * TICK  # utime, stime, and those of children that were waited for

    def tree(pid: int) -> float:
        return own[pid] + sum(tree(child) for child in children[pid])

    for role, pids in roots.items():
        if gone := [pid for pid in pids if pid not in own]:
            raise ProcessLookupError(f"a process of {role} has ended: {gone}")
    return {role: sum(map(tree, pids)) for role, pids in roots.items()}


def machine_busy() -> float:
    """CPU seconds so far that all cores together were busy, what the hypervisor took away included."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) * TICK


def model() -> str:
    """What the machine says its processor is."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return os.uname().machine


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
