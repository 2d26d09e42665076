"""What a rule is judged on: the call, and one row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from server.caller import Caller
from server.schema.model import Resource

Key = tuple[str, str]
"""Message and name of a resource that is looked up."""


class Fault(Exception):
    """A rule met an error: a look-up or a key that finds nothing, a time out of range. It denies."""


class Asking:
    """Who asks, and when: what is the same for every row of a call."""

    __slots__ = ("caller", "found", "now")

    def __init__(self, caller: Caller, now: int) -> None:
        self.caller = caller
        self.now = now
        """Microseconds since 1970."""
        self.found: dict[Key, Any] = {}
        """What was looked up so far: messages, None for what does not exist."""

    @property
    def session_age(self) -> int | None:
        """Microseconds since the session last proved who it is; None without a session."""
        began = int(self.caller.session_time * 1e6)
        return max(self.now - began, 0) if began else None


class Scene:
    """One row as a rule sees it.

    `read` gives its message, and is called at most once, only where a rule looks into it; None where the row is not read
    yet. Whatever is asked of such a row but its name is a fault, and still what must be looked up is learned.
    """

    __slots__ = ("_message", "_read", "asking", "name", "owner", "request", "wanted")

    def __init__(
        self,
        asking: Asking,
        name: str = "",
        *,
        read: Callable[[], Any] | None = None,
        owner: str | None = None,
        request: Any = None,
    ) -> None:
        self.asking = asking
        self.name = name
        self.owner = owner
        self.request = request
        self._read = read
        self._message: Any = None
        self.wanted: list[tuple[Resource, str]] = []
        """What was asked for and is not looked up yet."""

    @property
    def resource(self) -> Any:
        """The row's message. Raises Fault where it is not read yet."""
        if self._message is None:
            if self._read is None:
                raise Fault
            self._message = self._read()
        return self._message

    def look_up(self, resource: Resource, name: str) -> Any:
        """The resource called `name`; None where there is none. Raises Fault where nobody has looked yet."""
        found = self.asking.found
        key = (resource.message, name)
        if key not in found:
            self.wanted.append((resource, name))
            raise Fault
        return found[key]
