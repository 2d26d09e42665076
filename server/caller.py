"""Who makes a call. The lowest floor: everything may know it, it knows nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What sort of caller it is."""

    NOBODY = "nobody"
    USER = "user"
    KEY = "key"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes the call, as authentication found it.

    `name` is a resource name (`users/ab12`, `keys/cd34`) and empty for nobody;
    `session` is the name of the session that spoke, empty for keys.
    """

    kind: Kind = Kind.NOBODY
    name: str = ""
    roles: frozenset[str] = frozenset()
    session: str = ""

    @property
    def known(self) -> bool:
        """Whether authentication found somebody."""
        return self.kind is not Kind.NOBODY


NOBODY = Caller()
SYSTEM = Caller(kind=Kind.SYSTEM, name="system", roles=frozenset({"admin", "service"}))
