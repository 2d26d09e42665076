"""Writes of resources of any types at once: `transom.data.v1.DataService.Commit`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from server.engine.behaviors import copy_field, is_empty
from server.engine.decisions import Asked
from server.engine.identity import etag_of, version_of
from server.engine.refusals import absent
from server.engine.resources import Call, Resources, stale
from server.engine.transforms import TRANSFORMS_MAX, Transform
from server.engine.undeletion import undelete
from server.engine.units import WRITES_MAX, Unit, Units
from server.errors import Invalid, NotFound, Precondition
from server.schema.model import Kind, Resource, Schema
from server.schema.names import name_fault


@dataclass(frozen=True, slots=True)
class Create:
    """A resource to make below `parent`, called `id` or by a fresh one."""

    parent: str
    id: str
    message: Any


@dataclass(frozen=True, slots=True)
class Update:
    """A resource to change; `paths` None is what is populated."""

    message: Any
    paths: Sequence[str] | None
    allow_missing: bool = False
    etag: str = ""
    transforms: tuple[Transform, ...] = ()


@dataclass(frozen=True, slots=True)
class Delete:
    """A resource to delete."""

    name: str
    etag: str = ""
    force: bool = False
    allow_missing: bool = False


@dataclass(frozen=True, slots=True)
class Undelete:
    """A resource to undelete."""

    name: str
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Verify:
    """What must hold of a resource."""

    name: str
    exists: bool = True
    etag: str = ""


Write: TypeAlias = Create | Update | Delete | Undelete | Verify


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one write. Its length is that of the resource, in bytes."""

    resource: Resource | None = None
    payload: bytes = b""
    etag: str = field(default="")

    def __len__(self) -> int:
        return len(self.payload)


class Commits:
    """Commits of one schema's resources."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._schema: Schema = resources.schema
        self._methods = resources.methods

    def over(self, resources: Resources) -> Commits:
        """The same by another engine."""
        twin = copy.copy(self)
        twin._resources = resources
        return twin

    async def commit(self, call: Call, writes: Sequence[Write], *, validate_only: bool = False) -> list[Written]:
        """What became of the writes, in their order, once all are committed.

        Each is decided as if it was asked alone after those before it: whatever the single methods raise is raised, of that
        part of the request. Raises Invalid, too, for too many writes, and where the answer would be too large.
        """
        if not writes:
            raise Invalid.field("writes", "is required", "REQUIRED")
        if len(writes) > WRITES_MAX:
            raise Invalid.field("writes", f"must have at most {WRITES_MAX} items", "TOO_MANY")
        if sum(len(write.transforms) for write in writes if isinstance(write, Update)) > TRANSFORMS_MAX:
            raise Invalid.field("writes", f"must have at most {TRANSFORMS_MAX} transforms together", "TOO_MANY")
        names = [known for write in writes if (known := self._known(write)) is not None]
        parts = [(f"writes[{i}]", partial(self._write, call, write)) for i, write in enumerate(writes)]
        return await Units(self._resources).each(names, parts, rehearsal=validate_only)

    async def _write(self, call: Call, write: Write, unit: Unit) -> Written:
        match write:
            case Create():
                return await self._create(call, write, unit)
            case Update():
                return await self._update(call, write, unit)
            case Delete():
                with unit.part("delete"):
                    resource = self._of(write.name)
                    await self._methods.check(
                        unit.resources.access,
                        call,
                        Kind.DELETE,
                        resource,
                        name=write.name,
                        etag=write.etag,
                        force=write.force,
                        allow_missing=write.allow_missing,
                    )
                    payload = await unit.resources.delete(
                        call,
                        resource,
                        write.name,
                        etag=write.etag,
                        force=write.force,
                        allow_missing=write.allow_missing,
                        answered=resource.soft_delete,
                    )
                # Nothing is told of what was not deleted: it may be hidden.
                return self._written(unit, resource, write.name, payload) if payload else Written()
            case Undelete():
                with unit.part("undelete"):
                    resource = self._of(write.name)
                    await self._methods.check(
                        unit.resources.access, call, Kind.UNDELETE, resource, name=write.name, etag=write.etag
                    )
                    payload = await undelete(unit.resources, call, resource, write.name, etag=write.etag)
                return self._written(unit, resource, write.name, payload)
            case Verify():
                with unit.part("verify"):
                    return await self._verify(call, write, unit)

    async def _create(self, call: Call, write: Create, unit: Unit) -> Written:
        resource, message = self._typed(write.message), _copy(write.message)
        with unit.part("create"):
            await self._methods.check(
                unit.resources.access, call, Kind.CREATE, resource, message, parent=write.parent, id=write.id
            )
            payload = await unit.resources.create(
                call, resource, write.parent, write.id, message, asked=Asked(message, prefix="resource")
            )
        return self._written(unit, resource, getattr(message, resource.name_field), payload)

    async def _update(self, call: Call, write: Update, unit: Unit) -> Written:
        resource, message = self._typed(write.message), _copy(write.message)
        name = getattr(message, resource.name_field)
        with_etag = "etag" in resource.managed
        with unit.part("update"):
            if not write.transforms:
                await self._may_update(call, write, unit, resource, message)
            payload = await unit.resources.update(
                call,
                resource,
                message,
                write.paths,
                etag=write.etag or (message.etag if with_etag else ""),
                asked=Asked(message, prefix="resource", transforms=write.transforms),
                allow_missing=write.allow_missing,
            )
            if write.transforms:
                # Who could not ask for what transforms make, as a value, could not have them make it.
                asked, result = _copy(write.message), type(message).FromString(payload)
                for one in write.transforms:
                    whole = asked.DESCRIPTOR.fields_by_name[one.path.partition(".")[0]]
                    asked.ClearField(whole.name)
                    if not is_empty(result, whole):
                        copy_field(asked, result, whole)
                await self._may_update(call, write, unit, resource, asked)
        return self._written(unit, resource, name, payload)

    async def _may_update(self, call: Call, write: Update, unit: Unit, resource: Resource, message: Any) -> None:
        touched = [*write.paths, *(one.path for one in write.transforms)] if write.paths else ()
        await self._methods.check(
            unit.resources.access,
            call,
            Kind.UPDATE,
            resource,
            message,
            update_mask=touched,
            etag=write.etag,
            allow_missing=write.allow_missing,
        )

    async def _verify(self, call: Call, write: Verify, unit: Unit) -> Written:
        """Holds for what the caller may get; who may not is told the same as where there is nothing."""
        resource = self._of(write.name)
        await self._methods.check(unit.resources.access, call, Kind.GET, resource, name=write.name)
        row = await unit.rely(resource, write.name)
        try:
            shown = row and await unit.resources.access.get(call, resource, write.name)
        except NotFound:
            shown = None
        if not write.exists:
            if shown is not None:
                raise Precondition(
                    f"{write.name} exists.",
                    reason="EXISTS",
                    metadata={"name": write.name},
                    resource=(resource.type, write.name),
                )
            return Written()
        if row is None or shown is None:
            # Nobody is told by the kind of refusal whether such a thing could be there.
            await unit.resources.access.get(call, resource, write.name)
            raise absent(resource, write.name)
        if write.etag and version_of(write.etag) != row.version:
            raise stale(resource, write.name)
        return Written(etag=etag_of(row.version))

    @staticmethod
    def _written(unit: Unit, resource: Resource, name: str, payload: bytes) -> Written:
        row = unit.row(resource, name)
        return Written(resource if payload else None, payload, etag_of(row.version) if row is not None else "")

    def _typed(self, message: Any) -> Resource:
        return self._schema.resources[message.DESCRIPTOR.full_name]

    def _of(self, name: str) -> Resource:
        resource = None if name_fault(name) else self._schema.resource_of(name)
        if resource is None:
            raise Invalid.field("name", "is not the name of a resource of this schema", "INVALID_NAME")
        return resource

    def _known(self, write: Write) -> tuple[Resource, str] | None:
        """What is read and changed for a write, as far as it is a name of something."""
        if isinstance(write, Create):
            return None
        if isinstance(write, Update):
            resource = self._typed(write.message)
            name = getattr(write.message, resource.name_field)
            return (resource, name) if resource.pattern_of(name) and name_fault(name) is None else None
        found = None if name_fault(write.name) else self._schema.resource_of(write.name)
        return (found, write.name) if found is not None else None


def _copy(message: Any) -> Any:
    """A message of one's own: what decides a write may change it, and may do so more than once."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
