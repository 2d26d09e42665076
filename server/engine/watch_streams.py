"""One watch, from its first message to its last.

A round begins with what there is, read page by page. Each page says which events it shows: all up to a position, and of those
that have no position yet, which ones. So the changes that follow are exactly those that it does not show. The stream reads
them from the log until it has come to where all watchers are, joins these, and says that it is in step (`synced`). From then
on every message has a resume token, which begins a later stream with its second half.

Where what was told may be wrong, because rights have changed or the log has, the stream says RESET and begins a new round.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import structlog

from server.caller import Caller
from server.engine.refusals import absent
from server.engine.resources import Call, Resources
from server.engine.watch_views import CURRENT, NOTHING, RESET, Asked, Group, Moment, Told, View
from server.engine.watching import RESETS, Tail, Watcher, Watching, draining
from server.errors import Exhausted, Expired, Invalid, NotFound, Unavailable
from server.query import resume_tokens
from server.query.resume_tokens import Place
from server.store.event_log import Ends, Entry, Stretch
from server.store.log_tail import PASSING
from server.store.selections import Selection
from server.store.watch_pages import WAITING_MAX, WatchPage

log = structlog.get_logger("watch")

PAGE = 500
"""Resources that are read at a time of what there is."""

BOOKMARK_SECONDS = 15
"""After so long without anything to tell, a watcher is told how far it is: its token stays fresh, and so does its connection."""


AGAIN_SECONDS = 15
"""After so long it is asked anew who calls, whatever was announced: a session may have come to its end by itself."""

UNSURE_SECONDS = 1
"""After so long it is asked again where nobody could say."""


class Log(Protocol):
    """The event log; see server/store/event_log.py."""

    def after(self, position: int, types: frozenset[str]) -> Awaitable[Stretch]: ...
    def ends(self) -> Awaitable[Ends]: ...


class Pages(Protocol):
    """What there is; see server/store/queries.py."""

    def watched(
        self, selection: Selection, name: str, after: str, size: int, types: Sequence[str], reader: str | None
    ) -> Awaitable[WatchPage]: ...


@dataclass(frozen=True)
class Streams:
    """What streams are made of."""

    resources: Resources
    watching: Watching
    tail: Tail
    log: Log
    pages: Pages
    turns: AbstractAsyncContextManager[None]
    """Of those who read what there is: lists share their connections."""

    def open(self, asked: Asked, watcher: Watcher, bound: str, token: str, *, anew: bool = False) -> Stream:
        """A new stream. `anew`: where the token is too old, it says RESET and begins anew. Raises Invalid for what cannot be
        asked for."""
        if asked.name and asked.parent:
            raise Invalid.field("parent", "a name is given; leave one of them empty", "PARENT_WITH_NAME")
        if asked.name:
            self.resources.decisions.check_name(asked.resource, asked.name)
        return Stream(self, self.watching.view(asked), watcher, resume_tokens.digest(bound), token, anew=anew)


class Stream:
    """One watcher's messages."""

    def __init__(
        self, streams: Streams, view: View, watcher: Watcher, bound: bytes, token: str, *, anew: bool = False
    ) -> None:
        self._on = streams
        self._view = view
        self._watcher = watcher
        self._bound = bound
        self._token = token
        self._anew = anew
        self._position = 0
        self._pages: list[tuple[str, int]] = []
        self._standing = view.kind.standing(watcher.caller)
        self._synced = False
        self._due = 0
        self._again = streams.watching.now() + AGAIN_SECONDS * 1_000_000
        self._types = frozenset({view.resource.message, *view.kind.depends})

    @property
    def message(self) -> str:
        """The resource's message."""
        return self._view.resource.message

    @property
    def token(self) -> str:
        """Where to go on after what was told last; empty where that cannot be said yet."""
        if not self._synced:
            return ""
        log = self._on.watching.log
        history = (log.history.fingerprint, log.history.timeline)
        return resume_tokens.sealed(
            log.key, self._bound, self._standing.digest, history, self._position, self._watcher.skip
        )

    @property
    def sharing(self) -> tuple[bytes, bytes] | None:
        """What a token depends on beside the position: those for whom it is the same have the same tokens. None where nobody
        else has."""
        return None if self._watcher.skip or not self._synced else (self._bound, self._standing.digest)

    async def told(self) -> AsyncGenerator[Told, None]:
        """What is told, until who reads goes or is refused.

        Raises Invalid, NotFound, Denied, Unauthenticated, Precondition (QUERY_TOO_EXPENSIVE); Expired (RESUME_TOKEN_EXPIRED);
        Exhausted (WATCH_TOO_SLOW, WATCHES_EXCEEDED); Unavailable.
        """
        watching, watcher, resource = self._on.watching, self._watcher, self._view.resource
        watching.admit(watcher, resource.message)
        try:
            await self._on.tail.followed()
            place, fresh = None, True
            try:
                place = await self._resumed() if self._token else None
            except Expired:
                if not self._anew:
                    raise
                fresh = False
            if place is not None:
                # Whether the caller may watch at all is asked as it is of who begins anew.
                await self._asking()
                if place.standing != self._standing.digest or not await self._rights_held(place):
                    place, fresh = None, False
            while True:
                watcher.reset = False
                self._synced = False
                watcher.skip.clear()
                self._pages = []
                if not fresh:
                    RESETS.inc()
                    yield Told(RESET)
                if place is None:
                    async for told in self._state(watcher.caller.name if fresh else None):
                        yield told
                else:
                    self._position = place.position
                    watcher.skip.update(place.told)
                async for told in self._changes():
                    yield told
                place, fresh = None, False
        finally:
            watching.dismiss(watcher, resource.message)

    async def _resumed(self) -> Place:
        ends = await self._on.log.ends()
        history = (ends.history.fingerprint, ends.history.timeline)
        place = resume_tokens.opened(ends.key, self._token, self._bound, history)
        if not ends.trimmed <= place.position <= ends.numbered:
            raise resume_tokens.expired()
        return place

    async def _rights_held(self, place: Place) -> bool:
        """Whether the caller's rights are what they were there, as far as rules look up other resources: what was written since
        would be told by the present ones, also what was already overwritten before these were given."""
        alone, depends = Group(self._view, self._standing), self._view.kind.depends
        position = place.position
        while alone.depends:
            found = await self._after(position, depends)
            for entry in found.entries:
                if entry.id not in place.told and await self._judged(entry, alone, own=False) is None:
                    return False
            if found.reached >= found.numbered:
                break
            position = found.reached
        return True

    async def _after(self, position: int, types: frozenset[str]) -> Stretch:
        """The next events. Raises Expired where they are kept no more, or the log is another."""
        found = await self._on.log.after(position, types)
        if found.trimmed > position or found.timeline != self._on.watching.log.history.timeline:
            raise resume_tokens.expired()
        return found

    async def _asking(self) -> bytes | None:
        """Who asks, for the store. Raises Denied, Unauthenticated."""
        return await self._on.resources.access.listing(Call(self._watcher.caller), self._view.resource, "watch")

    # What there is.

    async def _state(self, reader: str | None) -> AsyncGenerator[Told, None]:
        resources, view, watcher = self._on.resources, self._view, self._watcher
        resource, asked, now = view.resource, view.asked, self._on.watching.now
        after, first = "", True
        while True:
            asking = await self._asking()
            filters = (view.filter,) if view.filter else ()
            selection = Selection(resource, view.below, filters, asking, asked.deleted, now(), "watch")
            async with self._on.turns:
                page = await self._on.pages.watched(selection, asked.name, after, PAGE, sorted(self._types), reader)
            if len(page.waiting) > WAITING_MAX:
                raise Unavailable("The event log is far behind.", reason="EVENTS_BEHIND", retry_after=5.0)
            rows = resources.lists.shown(resource, page.rows, asking)
            more = not asked.name and (len(page.rows) >= PAGE or len(page.rows) > len(rows))
            if first:
                self._position = page.numbered
                if not rows:
                    async for told in self._nothing():
                        yield told
            last = rows[-1].name if more else ""
            self._pages.append((last, page.numbered))
            for id, message, name in page.waiting:
                if message == resource.message:
                    known = name > after and (not more or name <= last) and self._takes(name)
                else:  # what rules look up is shown by all of the page, and by none before it
                    known = first and not more and Group(view, self._standing).looks_at(message, name)
                if known:
                    watcher.skip.add(id)
            if resource.snapshot_of:
                rows = await resources.access.snapshots(Call(watcher.caller), resource, rows)
            for row in rows:
                yield Told(CURRENT, row.name, row.payload)
                if watcher.drained:
                    raise draining(self.token)
            if not more:
                return
            after, first = last, False
            await self._look()

    async def _nothing(self) -> AsyncGenerator[Told, None]:
        """Where nothing was found, there may be nobody to ask it of."""
        resources, asked, call = self._on.resources, self._view.asked, Call(self._watcher.caller)
        resource = asked.resource
        if asked.name:
            # A filter may hide it from the watch, and is no reason to refuse it.
            try:
                payload = await resources.get(call, resource, asked.name)
            except NotFound:
                raise absent(resource, asked.name) from None
            if resource.singleton(asked.name) and not asked.filter:
                [stored] = await resources.records.find([(resource, asked.name)], call.caller.name)
                if stored is None:
                    yield Told(CURRENT, asked.name, payload)
        elif self._view.below.parent is not None:
            await resources.lists.check_parent(call, resource, asked.parent)

    # What changes.

    async def _changes(self) -> AsyncGenerator[Told, None]:
        """Returns where all must begin anew."""
        watching, watcher, view = self._on.watching, self._watcher, self._view
        alone = Group(view, self._standing)
        while watcher.group is None or self._position < watcher.since:
            found = await self._after(self._position, self._types)
            for entry in found.entries:
                own = entry.resource_type == view.resource.message
                known = self._knows(entry.id, entry.position, entry.name if own else "")
                if known and len(self._pages) < 2:
                    continue
                judged = await self._judged(entry, alone, own=own and not known and self._takes(entry.name))
                if judged is None:
                    return
                for told in judged:
                    self._position = entry.position
                    yield told
            self._position = found.reached
            await self._look()
            if watcher.reset:
                return
            if watcher.group is None and found.reached >= found.numbered:
                watching.join(watcher, view, self._standing, self._position)
        self._pages = []
        self._synced = True
        yield Told(NOTHING, synced=True)
        async for told in self._live():
            yield told

    async def _live(self) -> AsyncGenerator[Told, None]:
        watching, watcher = self._on.watching, self._watcher
        self._put_off()
        while True:
            one = await watcher.box.get()
            if one is not None:
                if one.position <= self._position and one.id:
                    watcher.skip.discard(one.id)
                    continue
                self._position = one.position
                if one.id in watcher.skip:
                    watcher.skip.discard(one.id)
                    continue
                yield one
                self._put_off()
                if watching.now() >= self._again:
                    await self._look()
                    if watcher.reset:
                        return
                continue
            if watcher.slow:
                raise Exhausted(
                    "Changes come faster than you read them; go on with the last resume token.",
                    reason="WATCH_TOO_SLOW",
                    metadata={"resume_token": self.token},
                )
            await self._look()
            if watcher.reset:
                return
            if not watcher.box and watching.now() >= self._due:
                self._position = max(self._position, watching.told)
                yield Told(NOTHING)
                self._put_off()

    def _put_off(self) -> None:
        # Those who began together need not go on together.
        self._due = self._on.watching.now() + int(BOOKMARK_SECONDS * random.uniform(0.7, 1) * 1_000_000)

    async def _look(self) -> None:
        """Looks whether the server goes away and whether the caller is still who it was: asked where there was something to
        hear of it, and now and then. Where its rights are others, the watcher is reset."""
        watcher = self._watcher
        if watcher.drained:
            raise draining(self.token)
        now = self._on.watching.now()
        if not watcher.suspect and now < self._again:
            return
        watcher.suspect, self._again = False, now + AGAIN_SECONDS * 1_000_000
        try:
            caller: Caller = await watcher.again()
        except PASSING:
            watcher.suspect, self._again = True, now + UNSURE_SECONDS * 1_000_000
            return
        if caller == watcher.caller:
            return
        watcher.caller = caller
        await self._asking()
        standing = self._view.kind.standing(caller)
        if standing.digest != self._standing.digest:
            self._on.watching.part(watcher)
            self._standing, watcher.reset = standing, True

    async def _judged(self, entry: Entry, alone: Group, *, own: bool) -> list[Told] | None:
        """What is told of an event that is read from the log; None where all must begin anew. `own`: it is about what is asked
        for. Raises Refusal where it cannot be said for now."""
        moment = Moment(entry, self._on.resources.schema.message_class(entry.resource_type).FromString)
        alone.forget(entry.resource_type, entry.name)
        try:
            if alone.concerned(moment) or (own and entry.owner is None):
                return None
            told = await self._view.judge(moment, [alone], self._on.watching.now()) if own else []
        except PASSING:
            raise
        except (
            Exception
        ) as fault:  # as of those who are told by the tail; who went on with the token would meet it again
            log.error(
                "an event cannot be told", position=entry.position, type=entry.resource_type, cause=repr(fault)[:200]
            )
            return None
        return [one for one in told if one is not None]

    def _knows(self, id: int, position: int, name: str) -> bool:
        """Whether what it began with shows the event; of a resource that is not of its own kind, no `name` is given."""
        if id in self._watcher.skip:
            self._watcher.skip.discard(id)
            return True
        if not self._pages or not name:
            return False
        at = bisect_left(self._pages, name, hi=len(self._pages) - 1, key=lambda page: page[0])
        return position <= self._pages[at][1]

    def _takes(self, name: str) -> bool:
        pattern = self._view.resource.pattern_of(name)
        return pattern is not None and self._view.takes(name, pattern.parent_of(name))
