"""Views: what watchers ask for, shared by all who ask for the same; and who among them may see what.

Whether a change is in a view is decided once for all its watchers, but for what a rule or a field with a rule makes different
for each. A change is judged by the resource before it and after it: what was seen and is not any more is removed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from server.caller import Caller
from server.engine.access import Access
from server.engine.decisions import deleted
from server.engine.watch_lookups import Lookup, lookups, mentions
from server.query.filters import Filter
from server.query.parents import Below
from server.query.resume_tokens import digest
from server.query.rules.scene import Asking, Scene
from server.schema.classification import CHANGES
from server.schema.model import Resource, Schema
from server.store.event_log import Entry

if TYPE_CHECKING:
    from server.engine.watching import Watcher

NOTHING, CURRENT, CREATED, UPDATED, DELETED, REMOVED, RESET = range(len(CHANGES) + 1)
"""Numbers of transom.events.v1.Change."""

FOUND_MAX = 1_000
"""What a group remembers of what its rules looked up; beyond it, all is looked up anew."""

EVERYTHING = "everything"
"""The standing of those whom no rule shows less than there is."""


class Told:
    """One thing that watchers are told; the same for all who see it so."""

    __slots__ = ("change", "id", "name", "payload", "position", "rendered", "synced", "time", "verb")

    def __init__(
        self,
        change: int,
        name: str = "",
        payload: bytes | None = None,
        *,
        id: int = 0,
        position: int = 0,
        verb: str = "",
        time: int = 0,
        synced: bool = False,
    ) -> None:
        self.change = change
        self.name = name
        self.payload = payload
        self.id = id
        self.position = position
        self.verb = verb
        self.time = time
        self.synced = synced
        self.rendered: dict[Any, bytes] = {}
        """What it is as a message, by what else that depends on: made once, sent to many."""

    @property
    def size(self) -> int:
        """Bytes, about."""
        return 100 + len(self.name) + (len(self.payload) if self.payload is not None else 0)


@dataclass(frozen=True)
class Standing:
    """All of a caller that decides what they may see."""

    caller: Caller
    everything: bool
    """No rule shows them less than there is."""
    digest: bytes


class Moment:
    """A change and the messages of it, parsed when somebody looks."""

    __slots__ = ("_after", "_before", "_parse", "entry")

    def __init__(self, entry: Entry, parse: Any) -> None:
        self.entry = entry
        self._parse = parse
        self._after: Any = None
        self._before: Any = None

    @property
    def payloads(self) -> tuple[bytes | None, bytes | None]:
        """The resource before and after, where there was one and is."""
        entry = self.entry
        return (entry.payload, None) if entry.gone else (entry.before, entry.payload)

    @property
    def before(self) -> Any:
        """The message before; there must be one."""
        if self._before is None:
            self._before = self._parse(self.payloads[0])
        return self._before

    @property
    def after(self) -> Any:
        """The message after; there must be one."""
        if self._after is None:
            self._after = self._parse(self.payloads[1])
        return self._after

    def concerns(self, lookup: Lookup) -> bool:
        """Whether what was looked up so may be another now: it came, it went, or one of the fields has changed."""
        before, after = self.payloads
        if self.entry.owner is None:
            return True
        if before is None or after is None:
            return not lookup.above
        if lookup.fields is None:
            return True
        return any(getattr(self.before, name) != getattr(self.after, name) for name in lookup.fields)


@dataclass(eq=False)
class Group:
    """The watchers of one view who see the same."""

    view: View
    standing: Standing
    watchers: set[Watcher] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.asking = Asking(self.standing.caller, 0)
        known = self.view.known
        self.depends = (
            []
            if self.standing.everything
            else [(one, one.pattern(self.standing.caller, known)) for one in self.view.kind.lookups]
        )

    def looks_at(self, message: str, name: str) -> bool:
        """Whether its rules may look up the resource."""
        return any(one.message == message and pattern.fullmatch(name) for one, pattern in self.depends)

    def forget(self, message: str, name: str) -> None:
        """Has the resource looked up anew: it has changed, whether or not that concerns what was told."""
        self.asking.found.pop((message, name), None)

    def concerned(self, moment: Moment) -> bool:
        """Whether the change is one of what its rules look up."""
        name, message = moment.entry.name, moment.entry.resource_type
        return any(
            one.message == message and pattern.fullmatch(name) is not None and moment.concerns(one)
            for one, pattern in self.depends
        )


class Kind:
    """What is the same for all views of a resource."""

    def __init__(self, schema: Schema, resource: Resource, access: Access) -> None:
        self.resource = resource
        self.parse = schema.message_class(resource.message).FromString
        self._access = access
        rules = access.rules(resource)
        rule = rules.actions.get("watch")
        asked = [*([rule] if rule is not None else []), *(one for _, one in rules.reads)]
        if (original := access.original(resource)) is not None:
            asked += [one for _, one in access.rules(original).reads]
        self.lookups = lookups(resource, asked)
        self._law = digest("\n".join(f"{one.where} {one.action}: {one.text}" for one in asked))
        self.depends = frozenset(one.message for one in self.lookups)
        self._same = rule is not None and not (rule.of_row or rule.looks_up) and not access.veils(resource)
        self._ages = mentions(asked, "caller.session_age")
        self.hiding = rules.copies | {field.name for field, _ in rules.reads}
        """Fields that not everybody sees."""

    def standing(self, caller: Caller) -> Standing:
        """What of the caller decides what they see."""
        if caller.trusted or self._same:
            return Standing(caller, True, digest(EVERYTHING))
        age = caller.session_time if self._ages else 0.0
        only = replace(caller, session="", impersonator="", scopes=None, session_time=age)
        said = [self._law.hex(), only.kind.value, only.name, str(only.verified), str(age), *sorted(only.roles)]
        return Standing(only, False, digest("\n".join(said)))


@dataclass(frozen=True)
class Asked:
    """What somebody wants to watch."""

    resource: Resource
    parent: str = ""
    name: str = ""
    filter: str = ""
    deleted: bool = False
    """Whether what is deleted, and can be undeleted, is told of, too."""


class View:
    """What is asked for, and the groups of those who do."""

    def __init__(self, asked: Asked, kind: Kind, below: Below, filter: Filter | None, access: Access) -> None:
        self.asked = asked
        self.kind = kind
        self.resource = kind.resource
        self.below = below
        self.filter = filter
        self.groups: dict[Any, Group] = {}
        self._access = access
        self._pattern = re.compile(below.pattern) if below.pattern else None
        self._veiled = filter is not None and bool(filter.fields & kind.hiding)
        self.known = tuple((asked.name or asked.parent).split("/")) if asked.name or asked.parent else ()
        """Segments that all names begin with; `-` for any."""

    def takes(self, name: str, parent: str) -> bool:
        """Whether it is about the resource called `name`, below that parent."""
        if self.asked.name:
            return name == self.asked.name
        if self.below.parent is not None:
            return parent == self.below.parent
        return self._pattern is None or self._pattern.match(parent) is not None

    async def judge(self, moment: Moment, groups: Sequence[Group], now: int) -> list[Told | None]:
        """What each of the groups is told of the change: None for nothing. Raises Refusal where what rules look up cannot be
        had."""
        entry, access, resource = moment.entry, self._access, self.resource
        sides = [payload is not None and self._there(moment, i) for i, payload in enumerate(moment.payloads)]
        found = [sides[i] and (self._veiled or self._matches(moment, i, now)) for i in (0, 1)]
        if not any(found):
            return [None] * len(groups)
        scenes: list[list[Scene | None]] = [[None, None] for _ in groups]
        for group, both in zip(groups, scenes, strict=True):
            if group.standing.everything:
                continue
            asking = group.asking
            asking.now = now
            if len(asking.found) > FOUND_MAX:
                asking.found.clear()
            for i in (0, 1):
                if found[i]:
                    both[i] = Scene(asking, entry.name, read=_reading(moment, i), owner=entry.owner or "")
        held = await access.held(resource, "watch", [scene for both in scenes for scene in both])
        told: list[Told | None] = []
        shared: dict[tuple[int, int], Told] = {}
        for at, group in enumerate(groups):
            seen = [found[i] and (group.standing.everything or held[2 * at + i]) for i in (0, 1)]
            if self._veiled:
                for i in (0, 1):
                    if seen[i]:
                        scene = scenes[at][i]
                        hidden = await access.unseen(resource, scene) if scene is not None else frozenset()
                        seen[i] = self._matches(moment, i, now, hidden)
            change = _change(seen[0], seen[1], there=sides[1])
            if change == NOTHING:
                told.append(None)
                continue
            payload = None
            if change != REMOVED:
                i = 1 if seen[1] else 0
                payload = moment.payloads[i]
                assert payload is not None
                if not group.standing.everything:
                    scene = scenes[at][i]
                    assert scene is not None
                    payload = await access.shown_in(resource, scene, payload)
            key = (change, id(payload))
            if key not in shared:
                shared[key] = Told(
                    change, entry.name, payload, id=entry.id, position=entry.position, verb=entry.verb, time=entry.time
                )
            told.append(shared[key])
        return told

    def _there(self, moment: Moment, side: int) -> bool:
        """Whether the resource is there on that side of the change, for who did not ask for what is deleted."""
        if self.asked.deleted or not self.resource.soft_delete:
            return True
        return not deleted(self.resource, moment.after if side else moment.before)

    def _matches(self, moment: Moment, side: int, now: int, hidden: frozenset[str] = frozenset()) -> bool:
        if self.filter is None:
            return True
        message = moment.after if side else moment.before
        return self.filter.matches(moment.entry.name, message, hidden, now)


def _change(before: bool, after: bool, *, there: bool) -> int:
    """What has become of it for who saw it before or sees it after. `there`: it is not deleted."""
    if after:
        return UPDATED if before else CREATED
    if before:
        return REMOVED if there else DELETED
    return NOTHING


def _reading(moment: Moment, side: int) -> Any:
    return (lambda: moment.after) if side else (lambda: moment.before)
