"""Measures every cell once a round, in an order that differs from round to round."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from . import load
from .cells import Access, Cell, Sample, System, Wrong
from .cpu import machine_busy, used
from .h2load import Generator

WARM_SECONDS = 1.0
IDLE_TRIES = 5
"""How often the idle systems are looked at, until no process of theirs is replaced meanwhile."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to measure."""

    rounds: int
    seconds: float
    """What one measurement should take."""
    clients: int
    idle_seconds: float
    seed: int
    access: Access = Access.OWNER


@dataclass(slots=True)
class Round:
    """What one round gave: a sample for each cell, and CPU seconds a second of each system's roles when idle."""

    samples: dict[str, Sample] = field(default_factory=dict)
    idle: dict[str, dict[str, float]] = field(default_factory=dict)


def measured(
    plan: Plan,
    systems: Sequence[System],
    wanted: Sequence[Cell],
    generator: Generator,
    progress: Callable[[str], None],
) -> list[Round]:
    """The rounds. Raises Wrong where a system does not do what is asked."""
    shuffled = random.Random(plan.seed)
    rounds = []
    for number in range(1, plan.rounds + 1):
        found = Round(idle=_idle(systems, plan.idle_seconds))
        order = shuffled.sample(wanted, len(wanted))
        for place, cell in enumerate(order, 1):
            progress(f"round {number}/{plan.rounds}, {place}/{len(order)}: {cell.key}")
            found.samples[cell.key] = _sample(plan, cell, systems, found.idle[cell.system.name], generator)
        rounds.append(found)
    return rounds


def _idle(systems: Sequence[System], seconds: float) -> dict[str, dict[str, float]]:
    """CPU seconds a second of every role while nobody calls. Raises Wrong where processes are replaced all the time."""
    for _ in range(IDLE_TRIES):
        before, start = {s.name: used(s.processes()) for s in systems}, time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - start
        after = {s.name: used(s.processes()) for s in systems}
        found = {name: {r: (v - before[name][r]) / took for r, v in roles.items()} for name, roles in after.items()}
        if all(value >= 0 for roles in found.values() for value in roles.values()):
            return found  # else a process was replaced meanwhile: what the new one used says nothing of the old one's
    raise Wrong("the processes of a system do not stay")


def _sample(
    plan: Plan, cell: Cell, systems: Sequence[System], idle: Mapping[str, float], generator: Generator
) -> Sample:
    system, operation, wire = cell.system, cell.operation, cell.wire
    requests = [system.request(operation, wire, client) for client in range(plan.clients)]
    system.probe(operation, wire)
    warm = load.run(generator, requests, seconds=WARM_SECONDS)
    system.settle()
    # As many as should take the time, so that all of them are answered and none is cut off.
    count = max(10, round(warm.per_second * plan.seconds / plan.clients))
    before, calls_before = _reading(system, systems), system.calls(operation)
    loaded = load.run(generator, requests, seconds=plan.seconds, count=count)
    system.settle()
    after, calls_after = _reading(system, systems), system.calls(operation)
    _all_counted(cell, loaded.requests, calls_before, calls_after)
    reply_bytes = system.probe(operation, wire)
    window = after.time - before.time
    per_request = 1e6 / loaded.requests
    gross = {role: after.own[role] - before.own[role] for role in before.own}
    return Sample(
        requests=loaded.requests,
        per_second=loaded.per_second,
        p50_ms=loaded.percentile(0.50),
        p99_ms=loaded.percentile(0.99),
        cpu={role: (value - idle[role] * window) * per_request for role, value in gross.items()},
        cpu_gross=sum(gross.values()) * per_request,
        generator=loaded.cpu * per_request,
        strangers=max(0.0, (after.others - before.others - loaded.cpu) / window),
        reply_bytes=reply_bytes,
    )


@dataclass(frozen=True, slots=True)
class _Reading:
    time: float
    own: dict[str, float]
    """CPU seconds so far by role of the system that is measured."""
    others: float
    """CPU seconds so far of all that is no system under test."""


def _reading(system: System, systems: Sequence[System]) -> _Reading:
    time_, busy = time.monotonic(), machine_busy()
    every = {s.name: used(s.processes()) for s in systems}
    return _Reading(time_, every[system.name], busy - sum(sum(roles.values()) for roles in every.values()))


def _all_counted(cell: Cell, requests: int, before: Mapping[str, int], after: Mapping[str, int]) -> None:
    """Raises Wrong unless the system itself counted these requests, and every one as a success.

    Over gRPC a refusal is an HTTP 200, too: the load generator cannot tell.
    """
    if not after:
        return
    grown = {code: after[code] - before.get(code, 0) for code in after if after[code] != before.get(code, 0)}
    if grown != {"OK": requests}:
        raise Wrong(f"{cell.key}: {requests} requests were sent, the servers counted {grown}")
