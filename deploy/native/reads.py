"""Where the API servers of a stack read from, as their metrics count it."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

_LINE = re.compile(r'^(transom_reads_total|transom_hot_looks_total)\{(?:source|outcome)="(\w+)"\} (\S+)$', re.MULTILINE)


class Numbers(Protocol):
    """The ports of a stack, by name."""

    def __getitem__(self, name: str, /) -> int: ...


@dataclass(frozen=True)
class Reads:
    """Reads since the servers started, by where they were answered, and looks for hot rows that found none."""

    redis: int
    replica: int
    primary: int
    misses: int

    @property
    def hit_rate(self) -> float | None:
        """Of the looks for hot rows; None where there were none."""
        looks = self.redis + self.misses
        return self.redis / looks if looks else None


def reads(ports: Numbers, servers: Iterable[str]) -> Reads | None:
    """Of these API servers (`api-1`) together; None if none of them answers."""
    counts: dict[tuple[str, str], int] = {}
    for server in servers:
        url = f"http://127.0.0.1:{ports[f'{server}-metrics']}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=1) as reply:
                text = reply.read().decode()
        except OSError:
            continue
        for metric, label, value in _LINE.findall(text):
            counts[metric, label] = counts.get((metric, label), 0) + int(float(value))
    if not counts:
        return None
    redis, replica, primary = (counts.get(("transom_reads_total", s), 0) for s in ("redis", "replica", "primary"))
    return Reads(redis, replica, primary, counts.get(("transom_hot_looks_total", "miss"), 0))
