"""What happens to a resource: one method per verb, one transaction per write.

Knows no event loop: it awaits nothing but the store, which may batch what many callers ask, so another runtime can
drive it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from server.caller import Caller
from server.engine.decisions import Asked, Clock, Decisions
from server.errors import AlreadyExists, NotFound, Precondition, Refusal, Stale
from server.query import pages
from server.schema.model import Resource, Schema
from server.store.changes import PAGE_BYTES_MAX, Change, Origin, Outcome, Page, Row

ATTEMPTS = 3
"""How often a change without an etag is decided on what was read before it is decided on what is locked: others may
change the same resource at the same time."""


class Records(Protocol):
    """The store, as the engine needs it; see server/store/records.py."""

    def get(self, resource: Resource, name: str, reader: str) -> Awaitable[Row | None]: ...
    def latest(self, resource: Resource, name: str) -> Awaitable[Row | None]: ...
    def page(self, resource: Resource, page: Page, reader: str | None) -> Awaitable[list[tuple[str, bytes, int]]]: ...
    def turn(self, resource: Resource, name: str) -> AbstractAsyncContextManager[object]: ...
    def write(self, change: Change) -> Awaitable[Outcome]: ...
    def revise(
        self, resource: Resource, name: str, decide: Callable[[Row], Change | None]
    ) -> Awaitable[Change | Row | None]: ...
    def commit(
        self, changes: Sequence[Change], extra: Sequence[tuple[str, Sequence[Any]]] = ()
    ) -> Awaitable[list[Outcome]]: ...


@dataclass(frozen=True, slots=True)
class Listing:
    """One page: names, serialized resources and versions, in order, and the token of the next page."""

    rows: list[tuple[str, bytes, int]]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Call:
    """Who asks, and by which request."""

    caller: Caller
    request_id: str = ""
    traceparent: str = ""

    @property
    def origin(self) -> Origin:
        """As it goes into events."""
        return Origin(self.caller.name, self.request_id, self.traceparent)


class Resources:
    """The engine of an app's resources."""

    def __init__(self, schema: Schema, records: Records, clock: Clock, page_size: int, page_size_max: int) -> None:
        self.schema = schema
        self.decisions = Decisions(schema, clock)
        self.records = records
        self._page_size, self._page_size_max = page_size, page_size_max

    async def get(self, call: Call, resource: Resource, name: str) -> bytes:
        """The resource called `name`, serialized.

        Raises Invalid for what is no name of this resource, NotFound.
        """
        self.decisions.check_name(resource, name)
        row = await self.records.get(resource, name, call.caller.name)
        if row is None:
            raise absent(resource, name)
        return row.payload

    async def list(
        self, call: Call, resource: Resource, parent: str, size: int, token: str, query: str = ""
    ) -> Listing:
        """A page of the resources below `parent`, in order of their names.

        `query` is whatever else the method's results depend on: the token is bound to it. Raises Invalid, and NotFound
        where there is no such parent.
        """
        pattern = self.decisions.below(resource, parent)
        size = pages.size_of(size, self._page_size, self._page_size_max)
        bound = f"{resource.message}\n{parent}\n{query}"
        after = pages.opened(token, bound)
        # One row more than wanted tells whether there is a next page, without a count.
        rows = await self.records.page(resource, Page(parent, after, size + 1), call.caller.name)
        kept = self.schema.parent_of(resource, pattern) if not rows and not token else None
        if kept and await self.records.get(kept, parent, call.caller.name) is None:
            raise absent(kept, parent)
        shown = _fitting(rows[:size])
        return Listing(shown, pages.sealed(bound, shown[-1][0]) if len(rows) > len(shown) else "")

    async def create(
        self,
        call: Call,
        resource: Resource,
        parent: str,
        id: str,
        message: Any,
        *,
        asked: Asked | None = None,
        id_field: str = "id",
        validate_only: bool = False,
    ) -> bytes:
        """The new resource, serialized, once it is committed.

        Raises Invalid, AlreadyExists, and NotFound where the parent does not exist.
        """
        brought = getattr(message, resource.name_field)
        for _ in range(ATTEMPTS):
            change = self.decisions.create(
                resource,
                message,
                parent=parent,
                id=id,
                owner=call.caller.name,
                origin=call.origin,
                asked=asked,
                id_field=id_field,
            )
            if validate_only:
                await self._could_create(change)
                return change.payload
            outcome = await self.records.write(change)
            if outcome is Outcome.DONE:
                return change.payload
            # A fresh id may be taken: one in 2^56 within a millisecond.
            if outcome is not Outcome.TAKEN or id or change.name == brought or resource.singleton(change.name):
                raise refusal(change, outcome)
            message.ClearField(resource.name_field)
        raise Stale("No free id was found; retry.", reason="CONCURRENT_CHANGE", retry_after=0.1)

    async def update(
        self,
        call: Call,
        resource: Resource,
        message: Any,
        paths: Sequence[str] | None,
        *,
        etag: str = "",
        asked: Asked | None = None,
        allow_missing: bool = False,
        validate_only: bool = False,
    ) -> bytes:
        """The resource as it is after the update, serialized, once it is committed.

        Raises Invalid, NotFound, and Stale where `etag` is given and another change came first.
        """
        name = getattr(message, resource.name_field)
        self.decisions.check_name(resource, name, f"{asked.resource_field}.{resource.name_field}" if asked else "name")
        # Updates of one resource wait for each other here, where that is cheap, rather than outdo each other.
        async with self.records.turn(resource, name):
            for _ in range(ATTEMPTS):
                row = await self.records.latest(resource, name)
                if row is None:
                    if not allow_missing:
                        raise absent(resource, name)
                    made = await self._create_missing(call, resource, message, asked, validate_only)
                    if made is None:
                        continue  # it came into being meanwhile
                    return made
                result, change = self.decisions.update(
                    resource, row, message, paths, etag=etag, origin=call.origin, asked=asked
                )
                if change is None or validate_only:
                    return result.SerializeToString(deterministic=True) if change else row.payload
                outcome = await self.records.write(change)
                if outcome is Outcome.DONE:
                    return change.payload
                if etag or outcome not in (Outcome.CHANGED, Outcome.ABSENT):
                    raise refusal(change, outcome)
            revised = await self.records.revise(
                resource,
                name,
                lambda row: self.decisions.update(
                    resource, row, message, paths, etag=etag, origin=call.origin, asked=asked
                )[1],
            )
            if revised is None:
                raise absent(resource, name)
            return revised.payload

    async def delete(
        self,
        call: Call,
        resource: Resource,
        name: str,
        *,
        etag: str = "",
        force: bool = False,
        allow_missing: bool = False,
        validate_only: bool = False,
    ) -> None:
        """Returns once it is gone, and with `force` all that is below it.

        Raises Invalid, NotFound, Stale, and Precondition where it has children and `force` is not given.
        """
        self.decisions.check_name(resource, name)
        change = self.decisions.delete(resource, name, etag=etag, force=force, origin=call.origin)
        if validate_only:
            row = await self.records.latest(resource, name)
            outcome = Outcome.ABSENT if row is None else Outcome.DONE
            if row is not None and change.expected not in (None, row.version):
                outcome = Outcome.CHANGED
        else:
            outcome = await self.records.write(change)
        if outcome is Outcome.DONE or (outcome is Outcome.ABSENT and allow_missing):
            return
        raise refusal(change, outcome)

    async def _could_create(self, change: Change) -> None:
        if await self.records.latest(change.resource, change.name) is not None:
            raise refusal(change, Outcome.TAKEN)
        if change.kept_parent and await self.records.latest(change.kept_parent, change.parent) is None:
            raise refusal(change, Outcome.ORPHAN)

    async def _create_missing(
        self, call: Call, resource: Resource, message: Any, asked: Asked | None, validate_only: bool
    ) -> bytes | None:
        """The resource that an update with allow_missing makes (AIP-134), or None where it is there after all."""
        pattern = resource.pattern_of(getattr(message, resource.name_field))
        assert pattern is not None
        name = getattr(message, resource.name_field)
        fresh = type(message)()
        fresh.CopyFrom(message)
        try:
            return await self.create(
                call,
                resource,
                pattern.parent_of(name),
                "" if pattern.singleton else name.rpartition("/")[2],
                fresh,
                asked=asked,
                id_field=f"{asked.resource_field}.{resource.name_field}" if asked else "name",
                validate_only=validate_only,
            )
        except AlreadyExists:
            return None


def _fitting(rows: list[tuple[str, bytes, int]]) -> list[tuple[str, bytes, int]]:
    """As many of the first rows as a reply may hold, at least one if there is one."""
    total = 0
    for i, (_, payload, _) in enumerate(rows):
        total += len(payload)
        if i and total > PAGE_BYTES_MAX:
            return rows[:i]
    return rows


def absent(resource: Resource, name: str) -> NotFound:
    """The refusal for a resource that is not there, or not for this caller."""
    return NotFound(f"{name} does not exist.", metadata={"name": name}, resource=(resource.type, name))


def refusal(change: Change, outcome: Outcome) -> Refusal:
    """What an outcome other than DONE means to the caller."""
    resource, name = change.resource, change.name
    match outcome:
        case Outcome.TAKEN:
            return AlreadyExists(f"{name} exists already.", metadata={"name": name}, resource=(resource.type, name))
        case Outcome.ORPHAN:
            kept = change.kept_parent or resource
            return absent(kept, change.parent)
        case Outcome.ABSENT:
            return absent(resource, name)
        case Outcome.OCCUPIED:
            return Precondition(
                f"{name} has children; delete them first, or with force where the method has it.",
                reason="HAS_CHILDREN",
                metadata={"name": name},
                resource=(resource.type, name),
            )
        case _:
            return Stale(
                "The resource changed since it was read; read it again and retry.",
                metadata={"name": name},
                resource=(resource.type, name),
            )
