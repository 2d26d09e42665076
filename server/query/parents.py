"""Where a List looks: below one resource, below several (AIP-159), or everywhere."""

from __future__ import annotations

import re
from dataclasses import dataclass

from server.schema.model import Resource


@dataclass(frozen=True, slots=True)
class Below:
    """Whose children are looked at."""

    parent: str | None
    """One parent's name, empty at the top; None for several."""
    prefix: str = ""
    """Of several: what all names of the children begin with; it ends in a slash, or is empty."""
    pattern: str = ""
    """Of several: the regular expression, as Postgres has it, of the parents' names; empty where any will do."""

    def condition(self, parameters: list[str | None]) -> str:
        """The condition in SQL over rows `t`; what it needs is added to the statement's parameters."""

        def given(value: str) -> str:
            parameters.append(value)
            return f"${len(parameters)}::text"

        if self.parent is not None:
            return f"t._parent = {given(self.parent)}"
        parts = []
        if self.prefix:
            # `0` is the character after `/`: in "C" order, all that begins with a/b/ lies between that and a/b0.
            parts.append(f"t.name >= {given(self.prefix)} and t.name < {given(self.prefix[:-1] + '0')}")
        if self.pattern:
            parts.append(f"t._parent ~ {given(self.pattern)}")
        return " and ".join(parts) or "true"


EVERYWHERE = Below(None)


def several(resource: Resource, parent: str) -> Below | None:
    """The parents that `parent` stands for, where a `-` in it stands for ids; None where it is not so."""
    if not any(pattern.matches_parents(parent) for pattern in resource.patterns):
        return None
    segments = parent.split("/")
    prefix = "/".join([*segments[: segments.index("-")], ""])
    return Below(None, prefix, f"^{'/'.join('[^/]+' if s == '-' else re.escape(s) for s in segments)}$")
