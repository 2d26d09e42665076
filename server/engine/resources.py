"""What happens to a resource: one method per verb, one transaction per write.

Knows no event loop: it awaits nothing but the store, which may batch what many callers ask, so another runtime can
drive it.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from server.caller import Caller
from server.engine import singletons
from server.engine.access import Access
from server.engine.decisions import Asked, Clock, Decisions, deleted, unreferable
from server.engine.filing import FileReferrers
from server.engine.identity import version_of
from server.engine.lists import Lists, Queries
from server.engine.method_rules import MethodRules
from server.engine.refusals import absent
from server.errors import (
    VALUE_TAKEN,
    AlreadyExists,
    Denied,
    Invalid,
    NotFound,
    Precondition,
    Refusal,
    Stale,
    Unauthenticated,
)
from server.schema.model import Resource, Schema
from server.store.changes import Became, Change, Origin, Outcome, Page, Row, Shown
from server.store.transactions import Transaction

ATTEMPTS = 3
"""How often a change without an etag is decided on what was read before it is decided on what is locked: others may
change the same resource at the same time."""


class Records(Protocol):
    """The store, as the engine needs it; see server/store/records.py."""

    def get(self, resource: Resource, name: str, reader: str) -> Awaitable[Row | None]: ...
    def latest(self, resource: Resource, name: str) -> Awaitable[Row | None]: ...
    def find(self, wanted: Sequence[tuple[Resource, str]], reader: str | None) -> Awaitable[list[Row | None]]: ...
    def page(self, resource: Resource, page: Page, reader: str | None) -> Awaitable[list[Shown]]: ...
    def turn(self, resource: Resource, name: str) -> AbstractAsyncContextManager[object]: ...
    def write(self, change: Change) -> Awaitable[Became]: ...
    def revise(
        self, resource: Resource, name: str, decide: Callable[[Row], Awaitable[Change | None]]
    ) -> Awaitable[Change | Row | None]: ...
    def commit(
        self, changes: Sequence[Change], extra: Sequence[tuple[str, Sequence[Any]]] = (), *, rehearsal: bool = False
    ) -> Awaitable[list[Became]]: ...
    def transaction(self, *, rehearsal: bool = False) -> AbstractAsyncContextManager[Transaction]: ...


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

    def __init__(
        self,
        schema: Schema,
        records: Records,
        queries: Queries,
        access: Access,
        clock: Clock,
        page_size: int,
        page_size_max: int,
        replaced: Collection[str] = (),
        files: FileReferrers | None = None,
    ) -> None:
        """`replaced` are full names of methods in whose place the app has functions of its own; `files` says who may refer to
        which files."""
        self._files = files
        self.schema = schema
        self.methods = MethodRules(schema, replaced)
        self.decisions = Decisions(schema, clock)
        self.records = records
        self.access = access
        self.lists = Lists(schema, self.decisions, records, queries, access, clock, page_size, page_size_max)

    async def get(self, call: Call, resource: Resource, name: str) -> bytes:
        """The resource called `name`, serialized, as the caller may see it.

        Raises Invalid for what is no name of this resource, NotFound also where it is hidden (AIP-211), Denied,
        Unauthenticated.
        """
        self.decisions.check_name(resource, name)
        try:
            return (await self.access.get(call, resource, name)).payload
        except NotFound:
            if not resource.singleton(name):
                raise
        return await singletons.get(self, call, resource, name)

    def over(self, records: Records) -> Resources:
        """The same engine over other records."""
        twin = copy.copy(self)
        twin.records, twin.access = records, self.access.over(records)
        return twin

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

        Raises Invalid, AlreadyExists, NotFound where the parent does not exist or the caller may not get it, Denied,
        Unauthenticated.
        """
        brought = getattr(message, resource.name_field)
        current = await self._current(call, resource, parent) if resource.snapshot_of else None
        for _ in range(ATTEMPTS):
            change = self.decisions.create(
                resource,
                message,
                parent=parent,
                id=id,
                owner=current.owner if current else call.caller.name,
                origin=call.origin,
                asked=asked,
                id_field=id_field,
                current=current.payload if current else b"",
            )
            below = (change.kept_parent, change.parent) if change.kept_parent else None
            await self.access.create(call, resource, change.name, message, below)
            await self.refer(call, change)
            if validate_only:
                await self._could_create(change)
            outcome: Became = Outcome.DONE if validate_only else await self.records.write(change)
            if outcome is Outcome.DONE:
                return await self._shown(call, resource, message, change)
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

        Raises Invalid, NotFound, Denied, Unauthenticated, and Stale where `etag` is given and another change came first.
        """
        name = getattr(message, resource.name_field)
        self.decisions.check_name(resource, name, asked.path(resource.name_field) if asked else "name")
        await self.access.admit(call, resource, "update")
        # Updates of one resource wait for each other here, where that is cheap, rather than outdo each other.
        async with self.records.turn(resource, name):
            for _ in range(ATTEMPTS):
                row = await self.records.latest(resource, name)
                if row is None and resource.singleton(name):
                    there = await singletons.row(self, call, resource, name, None)
                    result, change = await self._decided(call, resource, there, message, paths, etag, asked)
                    if change is None or validate_only:
                        return result
                    made = self.decisions.parse(resource, change.payload)
                    # What it newly refers to is held until it is written.
                    refers, filed = change.refers, change.files
                    change = self.decisions.made(resource, made, there.owner, call.origin)
                    change = replace(change, refers=refers, files=filed)
                    outcome = await self.records.write(change)
                    if outcome is Outcome.DONE:
                        return await self._shown(call, resource, self.decisions.parse(resource, change.payload), change)
                    if outcome is not Outcome.TAKEN:
                        raise refusal(change, outcome)
                    continue  # it came into being meanwhile
                if row is None:
                    if not allow_missing:
                        raise absent(resource, name)
                    made = await self._create_missing(call, resource, message, asked, validate_only)
                    if made is None:
                        continue  # it came into being meanwhile
                    return made
                result, change = await self._decided(call, resource, row, message, paths, etag, asked)
                if change is None or validate_only:
                    return result
                outcome = await self.records.write(change)
                if outcome is Outcome.DONE:
                    return result
                if etag or outcome not in (Outcome.CHANGED, Outcome.ABSENT):
                    raise refusal(change, outcome)
            result = b""

            async def decide(row: Row) -> Change | None:
                nonlocal result
                result, change = await self._decided(call, resource, row, message, paths, etag, asked)
                return change

            if await self.records.revise(resource, name, decide) is None:
                raise absent(resource, name)
            return result

    async def _decided(
        self,
        call: Call,
        resource: Resource,
        row: Row,
        message: Any,
        paths: Sequence[str] | None,
        etag: str,
        asked: Asked | None,
    ) -> tuple[bytes, Change | None]:
        """What `row` becomes, as the caller may see it, and the change that does it; judged, not carried out."""
        changing = await self.access.changing(call, resource, row)
        touched = [one.path for one in asked.transforms] if asked else []
        kept = changing.kept(message, [*(paths or ()), *touched])
        result, change = self.decisions.update(
            resource, row, message, paths, etag=etag, origin=call.origin, asked=asked, kept=kept
        )
        await changing.check(result)
        await self.refer(call, change)
        shown = changing.shown(result)
        if shown is result:
            return change.payload if change else row.payload, change
        return shown.SerializeToString(deterministic=True), change

    async def refer(self, call: Call, change: Change | None) -> None:
        """Raises Precondition where something that the change refers to does not exist, or the caller may not get it: what is
        hidden is not to be told by a reference to it."""
        if change is None or not (change.refers or change.files):
            return
        if change.files and self._files is not None:
            await self._files.check(call.caller, change.files)
        rows = await self.records.find([(one.target, one.name) for one in change.refers], None)
        for one, row in zip(change.refers, rows, strict=True):
            if row is None or not (await self.access.visible(call.caller, one.target, [row]))[0]:
                raise unreferable(one)

    async def _shown(self, call: Call, resource: Resource, message: Any, change: Change) -> bytes:
        """What was created, as its maker may see it."""
        if call.caller.trusted or not self.access.veils(resource):
            return change.payload
        await self.access.redact(call.caller, resource, message, change.owner)
        return bytes(message.SerializeToString(deterministic=True))

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
        answered: bool = False,
    ) -> bytes:
        """Returns once it is gone, or marked where it can be undeleted, and with `force` all that is below it.

        Where it is `answered`: the resource, marked or as it was, as the caller may see it; empty where there was none.
        Raises Invalid, NotFound, Denied, Unauthenticated, Stale, and Precondition where it has children and `force` is not
        given.
        """
        self.decisions.check_name(resource, name)
        await self.access.admit(call, resource, "delete")
        async with self.records.turn(resource, name):
            for _ in range(ATTEMPTS):
                row = await self.records.latest(resource, name)
                try:
                    if row is None:
                        raise absent(resource, name)
                    await self.access.delete(call, resource, row)
                    # What was judged is what goes: not what it may have become since.
                    change = self.decisions.deleted(resource, row, force=force, origin=call.origin)
                except NotFound:
                    if allow_missing:
                        return b""  # so for what is hidden, too
                    raise
                if etag and version_of(etag) != row.version:
                    raise stale(resource, name)
                outcome: Became = Outcome.DONE if validate_only else await self.records.write(change)
                if outcome is Outcome.DONE:
                    return await self.shown(call, resource, row, change) if answered else b""
                if etag or outcome not in (Outcome.CHANGED, Outcome.ABSENT):
                    raise refusal(change, outcome)
        raise Stale("Others keep changing it; retry.", reason="CONCURRENT_CHANGE", retry_after=0.1)

    async def shown(self, call: Call, resource: Resource, row: Row, change: Change) -> bytes:
        """What `row` has become, as the caller may see it; as it was where it was removed."""
        became = replace(row, payload=change.payload or row.payload, version=change.version)
        return await self.access.seen(call.caller, resource, became) or b""

    async def _current(self, call: Call, revision: Resource, name: str) -> Row:
        """The resource called `name`, which a revision is made of. Raises NotFound where the caller may not get it."""
        resource = self.schema.resources[revision.snapshot_of]
        row = await self.records.latest(resource, name) if resource.pattern_of(name) else None
        if row is None or not await self.access.readable(call, resource, name):
            raise absent(resource, name)
        return row

    async def _could_create(self, change: Change) -> None:
        if await self.records.latest(change.resource, change.name) is not None:
            raise refusal(change, Outcome.TAKEN)
        if change.kept_parent:
            kept = change.kept_parent
            parent = await self.records.latest(kept, change.parent)
            if parent is None or deleted(kept, self.decisions.parse(kept, parent.payload)):
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
                id_field=asked.path(resource.name_field) if asked else "name",
                validate_only=validate_only,
            )
        except AlreadyExists as taken:
            if taken.reason == VALUE_TAKEN:
                raise
            return None
        except (Denied, Unauthenticated, NotFound):
            # Hidden is answered so, too: whether it is there is not to be told apart.
            raise absent(resource, name) from None
        except Invalid:
            # What is wrong with it is for those who could create it.
            kept = self.schema.parent_of(resource, pattern)
            below = (kept, pattern.parent_of(name)) if kept else None
            try:
                await self.access.create(call, resource, name, message, below)
            except Refusal:
                raise absent(resource, name) from None
            raise


def refusal(change: Change, outcome: Became) -> Refusal:
    """What an outcome other than DONE means to the caller."""
    if isinstance(outcome, Refusal):
        return outcome
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
            return stale(resource, name)


def stale(resource: Resource, name: str) -> Stale:
    """The refusal for what others changed first."""
    return Stale(
        "The resource changed since it was read; read it again and retry.",
        metadata={"name": name},
        resource=(resource.type, name),
    )
