"""Watching: every watcher of this process, and the one who tells them.

The tail of the event log hands each event over once (`tell`). It is judged once for each view, and for each group of those who
see the same; what comes of that goes to the mailboxes of their watchers, and their streams (watch_streams.py) take it from there.
Whoever does not read in time is let go, so that nobody makes others wait.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Protocol

from prometheus_client import Counter, Gauge

from server.caller import Caller
from server.engine.access import Access, Clock
from server.engine.lists import Lists
from server.engine.watch_views import NOTHING, Asked, Group, Kind, Moment, Standing, Told, View
from server.errors import Exhausted, Unavailable
from server.query.parents import EVERYWHERE
from server.schema.model import Resource, Schema
from server.store.consistency import History
from server.store.event_log import Ends, Entry
from server.store.mailboxes import Mailbox

WATCHES_MAX, WATCHES_MAX_OF_ONE = 5_000, 500
"""Watches of one process, and of one caller there; nobody's are counted by address."""

WAITING_MAX, WAITING_BYTES_MAX = 1_000, 4 << 20
"""What may wait to be told to one watcher: events, and bytes of them. Beyond that its stream ends."""

WATCHES = Gauge("transom_watches", "Watches under way.", ["resource"])
TOLD = Counter("transom_watch_told_total", "Changes that were put in watchers' mailboxes.")
SLOW = Counter("transom_watch_overflows_total", "Watches that ended because they did not read in time.")
RESETS = Counter("transom_watch_resets_total", "Watches that began anew within their stream.")


class Tail(Protocol):
    """What follows the log; see server/store/log_tail.py."""

    def followed(self) -> Awaitable[None]: ...


Again = Callable[[], Awaitable[Caller]]
"""Who calls, asked anew. Raises Unauthenticated where the token has ended."""


class Watcher:
    """One watch: what it waits for, and what it was found out about it. Its stream alone reads it."""

    __slots__ = (
        "again",
        "box",
        "caller",
        "digest",
        "drained",
        "group",
        "reset",
        "since",
        "skip",
        "slow",
        "stale",
        "suspect",
        "who",
    )

    def __init__(self, caller: Caller, who: str, digest: bytes, again: Again) -> None:
        self.box: Mailbox[Told] = Mailbox(WAITING_MAX, WAITING_BYTES_MAX)
        self.caller = caller
        self.who = who
        """By what its watches are counted."""
        self.digest = digest
        """Of its token; empty without one."""
        self.again = again
        self.group: Group | None = None
        """Whose events it is told; None while it reads the log by itself."""
        self.since = 0
        """Events after this position are put in its mailbox."""
        self.skip: set[int] = set()
        """Events that it was told of already, by what it began with: ids."""
        self.reset = False
        """What it was told may be wrong: it must begin anew."""
        self.suspect = False
        """Its caller may not be what it was."""
        self.slow = False
        self.stale = False
        """What it listens for has changed."""
        self.drained = False


class Watching:
    """The watchers of one process. It hears the log's tail, and what is announced of callers."""

    def __init__(self, schema: Schema, access: Access, lists: Lists, clock: Clock) -> None:
        self._schema = schema
        self._access = access
        self._lists = lists
        self._clock = clock
        self._kinds: dict[str, Kind] = {}
        self._views: dict[Asked, View] = {}
        self._by_message: dict[str, dict[Asked, View]] = {}
        self._dependent: dict[str, set[Group]] = {}
        self._listening: defaultdict[tuple[str, str], set[Watcher]] = defaultdict(set)
        self._wanted: Counts[str] = Counts()
        self._types: frozenset[str] = frozenset()
        self._watchers: set[Watcher] = set()
        self._counts: Counts[str] = Counts()
        self._draining = False
        self.log = Ends(0, 0, History(0, 0), b"")
        """The log that is followed, as it was found."""
        self._telling = 0
        self._told = 0

    # Of streams.

    @property
    def told(self) -> int:
        """What was wanted up to this position is in the mailboxes."""
        return self._told

    def kind(self, resource: Resource) -> Kind:
        """What is the same for all who watch a resource's kind."""
        found = self._kinds.get(resource.message)
        if found is None:
            found = self._kinds[resource.message] = Kind(self._schema, resource, self._access)
        return found

    def view(self, asked: Asked) -> View:
        """What is asked for, shared with others who ask for it. Raises Invalid."""
        found = self._views.get(asked)
        if found is None:
            resource = asked.resource
            below = EVERYWHERE if asked.name else self._lists.below(resource, asked.parent)
            filter = self._lists.filter(resource, asked.filter) if asked.filter else None
            found = View(asked, self.kind(resource), below, filter, self._access)
        return found

    def admit(self, watcher: Watcher, message: str) -> None:
        """Counts a watcher of what has that message. Raises Exhausted where there are too many, Unavailable where the server goes
        away."""
        if self._draining:
            raise draining()
        if len(self._watchers) >= WATCHES_MAX or self._counts[watcher.who] >= WATCHES_MAX_OF_ONE:
            whose = "You have" if len(self._watchers) < WATCHES_MAX else "This server has"
            raise Exhausted(f"{whose} too many watches under way.", reason="WATCHES_EXCEEDED", retry_after=5.0)
        self._watchers.add(watcher)
        self._counts[watcher.who] += 1
        self._want(message, 1)
        WATCHES.labels(message).inc()

    def dismiss(self, watcher: Watcher, message: str) -> None:
        """Forgets a watcher that was admitted."""
        self.part(watcher)
        self._watchers.discard(watcher)
        self._counts[watcher.who] -= 1
        if not self._counts[watcher.who]:
            del self._counts[watcher.who]
        self._want(message, -1)
        WATCHES.labels(message).dec()

    def listen(self, watcher: Watcher, message: str, name: str) -> None:
        """From now on, and until `unlisten`, an event of what is called so wakes the watcher: of what no schema declares, whose
        events only say that it must be read again. The watcher was admitted for the message."""
        self._listening[message, name].add(watcher)

    def unlisten(self, watcher: Watcher, message: str, name: str) -> None:
        """Ends `listen`."""
        listening = self._listening[message, name]
        listening.discard(watcher)
        if not listening:
            del self._listening[message, name]

    def join(self, watcher: Watcher, view: View, standing: Standing, position: int) -> None:
        """From now on events of the view after `watcher.since` come to its mailbox; those up to `position` it knows."""
        watcher.box.clear()
        watcher.slow = False  # what did not fit is read from the log
        view = self._views.setdefault(view.asked, view)
        self._by_message.setdefault(view.resource.message, {})[view.asked] = view
        key = None if standing.everything else standing.caller
        group = view.groups.get(key)
        if group is None:
            group = view.groups[key] = Group(view, standing)
            for message in view.kind.depends if group.depends else ():
                self._dependent.setdefault(message, set()).add(group)
        group.watchers.add(watcher)
        watcher.group = group
        # What is being told at this moment may have passed it by.
        watcher.since = max(self._telling, position)

    def part(self, watcher: Watcher) -> None:
        """No more events come to its mailbox."""
        group, watcher.group = watcher.group, None
        watcher.box.clear()
        if group is None:
            return
        group.watchers.discard(watcher)
        if group.watchers:
            return
        view = group.view
        view.groups.pop(None if group.standing.everything else group.standing.caller, None)
        for message in view.kind.depends:
            self._dependent.get(message, set()).discard(group)
        if not view.groups:
            self._views.pop(view.asked, None)
            self._by_message.get(view.resource.message, {}).pop(view.asked, None)

    def now(self) -> int:
        """Microseconds since 1970."""
        return self._clock()

    def _want(self, message: str, many: int) -> None:
        resource = self._schema.resources.get(message)
        for one in {message, *(self.kind(resource).depends if resource is not None else ())}:
            self._wanted[one] += many
        self._types = frozenset(message for message, count in self._wanted.items() if count > 0)

    # Of the log's tail.

    def types(self) -> frozenset[str]:
        """The messages of all resources that are watched or that rights depend on."""
        return self._types

    def begin(self, ends: Ends) -> None:
        """What was told may be wrong: everybody begins anew."""
        self.log = ends
        self._telling = self._told = ends.numbered
        self._reset(list(self._watchers))

    def decisive(self) -> frozenset[str]:
        """Those of the messages that rights depend on."""
        return frozenset(message for message, groups in self._dependent.items() if groups)

    def foresee(self, entries: Sequence[Entry]) -> None:
        """Has those begin anew whose rights one of these changes, before what came before it is told."""
        for entry in entries:
            if looking := self._looking(entry):
                moment = self._moment(entry)
                with suppress(Exception):  # what cannot be read is met again when it is told
                    self._reset(_not_knowing(entry, [group for group in looking if group.concerned(moment)]))

    async def tell(self, entry: Entry) -> None:
        """Tells an event to all whom it concerns, or, where it raises Refusal, to nobody."""
        self._telling = max(self._telling, entry.position)
        resource = self._schema.resources.get(entry.resource_type)
        if resource is None:
            for watcher in self._listening.get((entry.resource_type, entry.name), ()):
                watcher.stale = True
                watcher.box.wake()
            return
        moment = self._moment(entry)
        looking = self._looking(entry)
        for group in looking:
            group.forget(entry.resource_type, entry.name)
        concerned = [group for group in looking if group.concerned(moment)]
        pattern = resource.pattern_of(entry.name)
        parent = pattern.parent_of(entry.name) if pattern is not None else ""
        views = [v for v in self._by_message.get(entry.resource_type, {}).values() if v.takes(entry.name, parent)]
        if entry.owner is None:  # it does not say what was before
            concerned += [group for view in views for group in view.groups.values()]
            views = []
        found: list[tuple[Group, Told | None]] = []
        now = self._clock()
        for view in views:
            groups = list(view.groups.values())
            found += zip(groups, await view.judge(moment, groups, now), strict=True)
        # From here on nothing waits: all are told, or none.
        self._reset(_not_knowing(entry, concerned))
        for group in looking:
            if group.view.resource.message != entry.resource_type:
                self._put(group, None, entry)
        for group, told in found:
            self._put(group, told, entry)

    def fail(self, entry: Entry) -> None:
        """What nobody can be told of: those whom it may concern begin anew."""
        views = self._by_message.get(entry.resource_type, {}).values()
        groups = [*self._looking(entry), *(group for view in views for group in view.groups.values())]
        for group in groups:
            group.forget(entry.resource_type, entry.name)
        self._reset([watcher for group in groups for watcher in group.watchers])

    def reach(self, position: int) -> None:
        """All that was wanted is in the mailboxes, up to the position."""
        self._told = position
        self._telling = max(self._telling, position)

    def pulse(self) -> None:
        """Lets all who have nothing to tell look at the time."""
        for watcher in self._watchers:
            if not watcher.box:
                watcher.box.wake()

    def _looking(self, entry: Entry) -> list[Group]:
        """Those whose rules may look up what it is about."""
        message, name = entry.resource_type, entry.name
        return [group for group in self._dependent.get(message, ()) if group.looks_at(message, name)]

    def _moment(self, entry: Entry) -> Moment:
        kind = self._kinds.get(entry.resource_type)
        return Moment(entry, kind.parse if kind else self._schema.message_class(entry.resource_type).FromString)

    def _put(self, group: Group, told: Told | None, entry: Entry) -> None:
        count = 0
        for watcher in list(group.watchers):
            if watcher.since >= entry.position:
                continue
            one = told
            if watcher.skip and entry.id in watcher.skip:
                one = Told(NOTHING, id=entry.id, position=entry.position)
            if one is None:
                continue
            if watcher.box.put(one):
                count += 1
            else:
                SLOW.inc()
                self.part(watcher)
                watcher.slow = True
                watcher.box.wake()
        TOLD.inc(count)

    def _reset(self, watchers: Iterable[Watcher]) -> None:
        for watcher in watchers:
            self.part(watcher)
            watcher.reset = True
            watcher.box.wake()

    # Of announcements (server/store/announcements.py): who may not be who they were is asked anew.

    def heard(self) -> None:
        """Some announcements may not have been heard."""
        self._suspect(list(self._watchers))

    def forget(self, digests: Iterable[bytes]) -> None:
        """Tokens with these SHA-256 have ended."""
        ended = set(digests)
        self._suspect([w for w in self._watchers if w.digest in ended])

    def changed(self, names: Iterable[str]) -> None:
        """Callers with these resource names are not what they were."""
        these = set(names)
        self._suspect([w for w in self._watchers if w.caller.name in these or w.caller.impersonator in these])

    def _suspect(self, watchers: Iterable[Watcher]) -> None:
        for watcher in watchers:
            watcher.suspect = True
            watcher.box.wake()

    # Of the server.

    def drain(self) -> None:
        """Ends all streams, for their clients to go on elsewhere, and admits no more."""
        self._draining = True
        for watcher in self._watchers:
            watcher.drained = True
            watcher.box.wake()


def _not_knowing(entry: Entry, groups: Iterable[Group]) -> list[Watcher]:
    """Those of the groups' watchers that what they began with does not show the event; of their own kind, a part of that may, and
    a part not."""
    return [
        watcher
        for group in groups
        for watcher in group.watchers
        if watcher.since < entry.position
        and (entry.id not in watcher.skip or group.view.resource.message == entry.resource_type)
    ]


def draining(token: str = "") -> Unavailable:
    """The refusal of a server that goes away; of a stream that has a token."""
    return Unavailable(
        "This server goes away; go on at another with the last resume token.",
        reason="SERVER_DRAINING",
        retry_after=0.1,
        metadata={"resume_token": token} if token else {},
    )
