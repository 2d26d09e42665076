"""Resource names and their patterns (AIP-122, AIP-123)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

NAME_BYTES_MAX = 1024
"""Longest resource name, in bytes of UTF-8: it is the primary key of its table, and an index row has its bound."""

_VARIABLE = re.compile(r"\{([a-zA-Z][a-zA-Z0-9_]*)(=\*\*)?\}")
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,254}")


class PatternError(ValueError):
    """The pattern is not one; the text says why."""


@dataclass(frozen=True)
class Pattern:
    """One way a resource may be named, e.g. `sites/{site}/inspections/{inspection}`."""

    text: str

    def __post_init__(self) -> None:
        if not self.segments or any(not s for s in self.segments):
            raise PatternError(f"{self.text!r} has an empty segment")
        bare = _VARIABLE.sub("", self.text)
        if "{" in bare or "}" in bare:
            raise PatternError(f"{self.text!r} has a variable that is not a name in braces")

    @cached_property
    def segments(self) -> tuple[str, ...]:
        """What stands between the slashes."""
        return tuple(self.text.split("/"))

    @cached_property
    def singleton(self) -> bool:
        """Whether it names the one resource of its kind below its parent (AIP-156): it ends in a literal."""
        return "{" not in self.segments[-1]

    @cached_property
    def parent(self) -> str:
        """Pattern of the parent; empty at the top."""
        return "/".join(self.segments[: -1 if self.singleton else -2])

    @cached_property
    def collection(self) -> str:
        """The collection's segment, e.g. `inspections`."""
        return self.segments[-1 if self.singleton else -2] if len(self.segments) > 1 else self.segments[0]

    @cached_property
    def last(self) -> str:
        """What its last segment is called: the variable there, or the literal of a singleton."""
        found = _VARIABLE.search(self.segments[-1])
        return found.group(1) if found else self.segments[-1]

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        return re.compile(_regex_of(self.text))

    @cached_property
    def _parent_regex(self) -> re.Pattern[str]:
        return re.compile(_regex_of(self.parent))

    def matches(self, name: str) -> bool:
        """Whether `name` is a full name of this pattern; a `-` (wildcard, AIP-159) is not an id."""
        return self._regex.fullmatch(name) is not None

    def matches_parent(self, name: str) -> bool:
        """Whether `name` names a parent of this pattern."""
        return self._parent_regex.fullmatch(name) is not None

    @cached_property
    def _parents_regex(self) -> re.Pattern[str]:
        segments = self.parent.split("/")
        return re.compile("/".join(f"(?:-|{_regex_of(s)})" if "{" in s else re.escape(s) for s in segments))

    def matches_parents(self, name: str) -> bool:
        """Whether `name` names parents of this pattern, several of them: a `-` in it stands for any id (AIP-159)."""
        return "-" in name.split("/") and self._parents_regex.fullmatch(name) is not None

    def is_below(self, other: Pattern) -> bool:
        """Whether names of this pattern live directly below names of `other`, whatever their variables are called."""
        return self._parent_shape == other._shape

    @cached_property
    def _shape(self) -> tuple[str, ...]:
        return _shape(self.text)

    @cached_property
    def _parent_shape(self) -> tuple[str, ...]:
        return _shape(self.parent)

    def parent_of(self, name: str) -> str:
        """The parent's name, for a `name` of this pattern."""
        cut = 1 if self.singleton else 2
        return "/".join(name.split("/")[:-cut])

    def child(self, parent: str, id: str) -> str:
        """The name of the resource called `id` below `parent`."""
        tail = self.collection if self.singleton else f"{self.collection}/{id}"
        return f"{parent}/{tail}" if parent else tail


def id_fault(id: str) -> str | None:
    """What is wrong with an id that a client chose, or None.

    AIP-122 asks for RFC 1034 labels; schemas in the wild allow more (`A_b`), so every character that needs no
    escaping in a URL (RFC 3986, unreserved) will do. A schema that wants less says so with a constraint on the id.
    """
    if _ID.fullmatch(id):
        return None
    return "must be 1 to 255 of the characters A-Z a-z 0-9 . _ ~ - and begin with a letter or digit"


def name_fault(name: str) -> str | None:
    """What makes a resource name unusable whatever its pattern, or None."""
    if _UNUSABLE.search(name):
        return "must not contain control characters"
    if len(name.encode()) > NAME_BYTES_MAX:
        return f"must be at most {NAME_BYTES_MAX} bytes"
    return None


def _shape(pattern: str) -> tuple[str, ...]:
    return tuple("*" if s.startswith("{") else s for s in pattern.split("/"))


def _regex_of(pattern: str) -> str:
    out, at = "", 0
    for variable in _VARIABLE.finditer(pattern):
        out += re.escape(pattern[at : variable.start()])
        out += r".+" if variable.group(2) else r"(?!-(?:/|$))[^/]+"
        at = variable.end()
    return out + re.escape(pattern[at:])
