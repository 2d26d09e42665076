"""Which APIs can be served side by side: no path of REST may be two methods'."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from server.schema.model import Schema

_BRACES = re.compile(r"\{[^{}=]+(?:=([^{}]*))?\}")

SIZE = 7
"""APIs of one group: all of it is read by every server at its start."""

Paths = frozenset[tuple[str, str]]


def paths(schema: Schema) -> Paths:
    """Verb and shape of every path of REST that the app's methods have."""
    own = (s for s in schema.services if not s.own)
    return frozenset((v, _BRACES.sub(lambda f: f[1] or "*", p)) for s in own for m in s.methods for v, p in m.http)


def grouped(wanted: Iterable[tuple[str, Paths]]) -> list[list[str]]:
    """The names, in as few groups as come about by putting each into the first where it fits."""
    groups: list[tuple[list[str], set[tuple[str, str]]]] = []
    for name, here in wanted:
        for names, there in groups:
            if len(names) < SIZE and not any(
                v == w and _meet(p.split("/"), q.split("/")) for v, p in here for w, q in there
            ):
                names.append(name)
                there |= here
                break
        else:
            groups.append(([name], set(here)))
    return [names for names, _ in groups]


def _meet(one: Sequence[str], other: Sequence[str]) -> bool:
    if "**" in "".join(one) or "**" in "".join(other):
        return one[:2] == other[:2]
    return len(one) == len(other) and all(a == b or "*" in (a, b) for a, b in zip(one, other, strict=True))
