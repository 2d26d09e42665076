"""The CPU of a request as a picture: a bar for each cell, a colour for each kind of process."""

from __future__ import annotations

from pathlib import Path

from .cells import Operation
from .report import Result, Row

COLOURS = {
    "pocketbase": "#b8b8b8",
    "envoy": "#8e63ce",
    "API servers": "#2f6fde",
    "grpcio servers": "#9dbdf5",
    "postgres-1": "#1f9e89",
    "postgres-2": "#7fd0c0",
    "redis": "#d9483b",
    "relay": "#e59a2f",
    "rabbitmq": "#f3c74f",
}
OTHERS, OTHER_COLOUR = "others", "#dddddd"
NAMES = {"postgres-1": "Postgres primary", "postgres-2": "Postgres replica", "rabbitmq": "RabbitMQ", "redis": "Redis"}
NAMES |= {"envoy": "Envoy", "pocketbase": "PocketBase"}


def draw(result: Result, file: Path) -> None:
    """The picture as PNG. Whiskers: least and most of the rounds."""
    from matplotlib.figure import Figure

    operations = [o for o in Operation if any(row.operation is o for row in result.rows)]
    figure = Figure(figsize=(10, 1.2 + 1.9 * len(operations)), layout="constrained")
    axes = figure.subplots(len(operations), 1, squeeze=False)[:, 0]
    for axis, operation in zip(axes, operations, strict=True):
        rows = [row for row in result.rows if row.operation is operation][::-1]
        for place, row in enumerate(rows):
            left = 0.0
            for role, value in _parts(row).items():
                axis.barh(place, value, left=left, color=COLOURS.get(role, OTHER_COLOUR), height=0.72)
                left += value
            axis.errorbar(
                left, place, xerr=[[max(0.0, left - row.cpu.least)], [max(0.0, row.cpu.most - left)]],
                color="#333333", linewidth=1, capsize=2,
            )  # fmt: skip
            axis.annotate(
                f"{row.cpu.median:,.0f}", (max(left, row.cpu.most), place), xytext=(6, 0), textcoords="offset points",
                va="center", fontsize=8,
            )  # fmt: skip
        axis.set_yticks(range(len(rows)), [f"{row.system}, {row.wire}" for row in rows], fontsize=8)
        axis.set_title(f"{operation} of findings", loc="left", fontsize=10, fontweight="bold")
        axis.margins(x=0.08)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="x", labelsize=8)
    axes[-1].set_xlabel(
        f"CPU µs a request, all processes; median of {result.plan.rounds} rounds, {result.date}", fontsize=8
    )
    seen = {role for row in result.rows for role in _parts(row)}
    handles = [
        axes[0].barh(0, 0, color=COLOURS.get(role, OTHER_COLOUR), label=NAMES.get(role, role))
        for role in [*COLOURS, OTHERS]
        if role in seen
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=140)


def _parts(row: Row) -> dict[str, float]:
    """Roles with a colour of their own, in its order, and the rest together."""
    parts = {role: max(0.0, row.roles[role]) for role in COLOURS if role in row.roles}
    rest = sum(value for role, value in row.roles.items() if role not in COLOURS)
    return parts | ({OTHERS: rest} if rest >= 1 else {})
