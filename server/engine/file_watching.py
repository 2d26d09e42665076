"""Watching one file: what it is, then what becomes of it.

An event of a file says only that there is something to read: the file is read anew, for who watches and by the rights they
have then. So what is told is always true when it is told, and a resume token need only say what was told last: it never grows
old, and no position of the event log is in it.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from server.engine.files import FILE, File, Files
from server.engine.watch_streams import AGAIN_SECONDS, BOOKMARK_SECONDS
from server.engine.watch_views import CREATED, CURRENT, DELETED, NOTHING, REMOVED, UPDATED
from server.engine.watching import Tail, Watcher, Watching, draining
from server.errors import Exhausted, NotFound, Unavailable
from server.query import resume_tokens

_HISTORY = 0, 0
"""Of the tokens: they are good in every history, since they name what was told."""
_KEY = b""
"""Nor are they signed: only what the file is now is told after one, whatever it says."""


@dataclass(frozen=True, slots=True)
class FileTold:
    """One thing that a watcher of a file is told."""

    change: int
    file: File | None = None
    synced: bool = False


@dataclass(frozen=True)
class FileStreams:
    """What streams of files are made of."""

    files: Files
    watching: Watching
    tail: Tail

    def open(self, name: str, watcher: Watcher, token: str) -> FileStream:
        """A new stream, which goes on after what the token says was told; from the beginning where it is empty."""
        return FileStream(self, name, watcher, token)


class FileStream:
    """One watcher's messages."""

    def __init__(self, streams: FileStreams, name: str, watcher: Watcher, token: str) -> None:
        self._on = streams
        self._name = name
        self._watcher = watcher
        self._resumed = token
        self._bound = resume_tokens.digest(f"{FILE}\n{name}")
        self._known: File | None = None
        """As it was told last; None where the caller may not read it, or it is gone."""
        self._again = self._due = 0

    @property
    def token(self) -> str:
        """Where to go on after what was told last."""
        return resume_tokens.sealed(_KEY, self._bound, _digest(self._known), _HISTORY, 0)

    async def told(self) -> AsyncGenerator[FileTold, None]:
        """What is told, until who reads goes or is refused.

        Raises what Files.get does; Invalid (INVALID_RESUME_TOKEN); Unauthenticated as soon as the session ends; Exhausted
        (WATCHES_EXCEEDED); Unavailable.
        """
        on, watcher = self._on, self._watcher
        on.watching.admit(watcher, FILE)
        on.watching.listen(watcher, FILE, self._name)
        try:
            # What is committed after the file was read has an event that wakes the watcher.
            await on.tail.followed()
            place = resume_tokens.opened(_KEY, self._resumed, self._bound, _HISTORY) if self._resumed else None
            self._known = file = await on.files.get(watcher.caller, self._name)
            if place is None:
                yield FileTold(CURRENT, file)
            elif place.standing != _digest(file):
                yield FileTold(CREATED if place.standing == _digest(None) else UPDATED, file)
            yield FileTold(NOTHING, synced=True)
            async for told in self._live():
                yield told
        finally:
            on.watching.unlisten(watcher, FILE, self._name)
            on.watching.dismiss(watcher, FILE)

    async def _live(self) -> AsyncGenerator[FileTold, None]:
        watcher, now = self._watcher, self._on.watching.now
        self._put_off()
        self._again = now() + AGAIN_SECONDS * 1_000_000
        while True:
            if watcher.drained:
                raise draining(self.token)
            told = await self._look()
            if told is None and now() >= self._due:
                told = FileTold(NOTHING)
            if told is not None:
                yield told
                self._put_off()
            await watcher.box.get()

    async def _look(self) -> FileTold | None:
        """Looks at who calls and at the file, each where there was something to hear of it, and now and then: what somebody may
        read because of others' resources changes without an event of the file. Raises Unauthenticated, Denied."""
        watcher, now = self._watcher, self._on.watching.now()
        if not (watcher.stale or watcher.reset or watcher.suspect or now >= self._again):
            return None
        asking = watcher.suspect or now >= self._again
        watcher.stale = watcher.reset = watcher.suspect = False
        self._again = now + AGAIN_SECONDS * 1_000_000
        try:
            if asking:
                watcher.caller = await watcher.again()
            return await self._read()
        except (Unavailable, Exhausted):
            watcher.suspect = True  # nobody can say: it is asked again at the next look
            return None

    async def _read(self) -> FileTold | None:
        known, files = self._known, self._on.files
        try:
            file = await files.get(self._watcher.caller, self._name)
        except NotFound:
            if known is None:
                return None
            told = FileTold(REMOVED) if await files.exists(self._name) else FileTold(DELETED, known)
            self._known = None
            return told
        self._known = file
        if known is None:
            return FileTold(CREATED, file)
        return FileTold(UPDATED, file) if file != known else None

    def _put_off(self) -> None:
        # Those who began together need not go on together.
        self._due = self._on.watching.now() + int(BOOKMARK_SECONDS * random.uniform(0.7, 1) * 1_000_000)


def _digest(file: File | None) -> bytes:
    """Eight bytes that stand for what was told of a file; for all servers of one release the same."""
    return resume_tokens.digest(repr(file))
