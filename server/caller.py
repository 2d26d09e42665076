"""Who makes a call. The lowest floor: everything may know it, it knows nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What sort of caller it is."""

    NOBODY = "nobody"
    ANONYMOUS = "anonymous"
    """An account that nobody can sign in to yet: its data is kept until it is upgraded or swept."""
    USER = "user"
    KEY = "key"
    SYSTEM = "system"


ADMIN = "admin"
"""The role whose callers no rule binds, only their scopes."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes the call, as authentication found it.

    `name` is a resource name (`users/ab12`, `keys/cd34`) and empty for nobody; `session` is the name of the session
    that spoke, empty for keys.
    """

    kind: Kind = Kind.NOBODY
    name: str = ""
    roles: frozenset[str] = frozenset()
    session: str = ""
    verified: bool = False
    """Whether the account has proved that its e-mail address is its own."""
    session_time: float = 0.0
    """When the session began or last proved who it is, Unix time; 0 without a session."""
    scopes: frozenset[str] | None = None
    """What a trusted caller may do: `<resource message>:<action>`, either part may be `*`. None: everything."""
    impersonator: str = ""
    """The admin who acts as this account; empty where it acts itself."""

    @property
    def known(self) -> bool:
        """Whether authentication found somebody."""
        return self.kind is not Kind.NOBODY

    @property
    def id(self) -> str:
        """The last segment of the name."""
        return self.name.rpartition("/")[2]

    @property
    def account(self) -> bool:
        """Whether it is an account, with or without a way to sign in."""
        return self.kind in (Kind.USER, Kind.ANONYMOUS)

    @property
    def trusted(self) -> bool:
        """Whether it is bound by its scopes rather than by rules: keys, admins, the system."""
        return self.kind in (Kind.KEY, Kind.SYSTEM) or ADMIN in self.roles

    def in_scope(self, resource: str, action: str) -> bool:
        """Whether a trusted caller may do `action` with resources of the message `resource`."""
        scopes = self.scopes
        return scopes is None or not scopes.isdisjoint((f"{resource}:{action}", f"{resource}:*", f"*:{action}", "*:*"))


NOBODY = Caller()
SYSTEM = Caller(kind=Kind.SYSTEM, name="system", roles=frozenset({ADMIN, "service"}))
OPERATOR = Caller(kind=Kind.SYSTEM, name="operator", roles=frozenset({ADMIN, "service"}))
"""Who works on the installation's own machine, with its passwords."""
