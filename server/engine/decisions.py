"""What a write shall do, decided in pure code: a request and what is stored → a Change, or a refusal."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.message import Message

from server.engine import expiry, file_names, masks, transforms
from server.engine.behaviors import Behaviors, is_empty
from server.engine.columns import Columns
from server.engine.identity import etag_of, fresh_id, fresh_uid, version_of
from server.engine.transforms import Transform
from server.engine.validation import Validation
from server.errors import VIOLATIONS_MAX, AlreadyExists, Invalid, NotFound, Precondition, Stale, Violation
from server.schema.model import Behavior, Field, Managed, Resource, Schema
from server.schema.names import Pattern, id_fault, name_fault
from server.store.changes import Act, Change, Origin, Referred, ReferredFile, Row

RESOURCE_BYTES_MAX = 3 << 20
"""Bytes of one resource, serialized: clients of gRPC receive 4 MiB unless told otherwise. What is sent at once is bounded more
narrowly; entries of maps and items that are appended add up."""

_REVISION = re.compile("r[0-9a-f]{13}")
"""Ids of revisions that are written with a change (revisions.py): whoever had one of them first would keep the change off."""

_FILE = re.compile(r"files/([^/\x00]{1,64})")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

REFERENCES_MAX = 1000
"""Resources that one change may newly refer to."""

Clock = Callable[[], int]
"""Microseconds since 1970, UTC."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The request that carries a resource, so that constraints on either are checked together, with paths from it."""

    message: Any
    resource_field: str = ""
    prefix: str = ""
    """Where the resource stands in a request that does not know its type: leads the paths in place of the field."""
    transforms: tuple[Transform, ...] = ()
    """What to make of fields, after all else."""

    def path(self, field: str) -> str:
        """That of a field of the resource, from the request."""
        where = self.resource_field or self.prefix
        return f"{where}.{field}" if where else field

    def prefixed(self, violations: Sequence[Violation]) -> list[Violation]:
        """Violations of the resource, with paths from the request."""
        return [Violation(self.path(v.field), v.description, v.reason) for v in violations]


class Decisions:
    """The decisions of one schema. Pure but for the clock and the dice."""

    def __init__(self, schema: Schema, clock: Clock) -> None:
        self.schema = schema
        self.behaviors = Behaviors(schema)
        self._validation = Validation()
        self._clock = clock
        self._columns = {m: Columns(r) for m, r in schema.resources.items()}
        self._parents = {(m, p.text): schema.parent_of(r, p) for m, r in schema.resources.items() for p in r.patterns}
        self._initial = {
            m: [(f.descriptor, f.initial) for f in r.fields if f.initial is not None]
            for m, r in schema.resources.items()
        }
        self._checked = {
            m: [(f, schema.resources[f.reference.message]) for f in r.fields if f.reference is not None]
            for m, r in schema.resources.items()
            if any(f.reference is not None for f in r.fields)
        }
        self._filed = {
            m: [(f, reference) for f in r.fields for reference in f.files]
            for m, r in schema.resources.items()
            if any(f.files for f in r.fields)
        }

    def parse(self, resource: Resource, payload: bytes) -> Any:
        """The message of a stored payload."""
        return self.schema.message_class(resource.message).FromString(payload)

    def check_request(self, message: Message) -> None:
        """Raises Invalid for a request that lacks what is REQUIRED or violates its constraints."""
        self.check_batch(message, "")

    def check_batch(self, message: Message, requests_field: str) -> None:
        """As check_request, but for what the requests in a field of it lack or violate: each is looked at by itself."""
        violations = self._with_constraints(self.behaviors.missing(message), message)
        if requests_field:
            violations = [v for v in violations if not v.field.startswith(f"{requests_field}[")]
        if violations:
            raise Invalid.fields(violations)

    def check_name(self, resource: Resource, name: str, field: str = "name") -> None:
        """Raises Invalid where `name` is not one of the resource's patterns."""
        if not name:
            raise Invalid.field(field, "is required", "REQUIRED")
        fault = name_fault(name)
        if fault is None and resource.pattern_of(name) is None:
            fault = f"must look like {' or '.join(p.text for p in resource.patterns)}"
        if fault is not None:
            raise Invalid.field(field, fault, "INVALID_NAME")

    def below(self, resource: Resource, parent: str) -> Pattern:
        """The pattern of the resource's names below `parent`. Raises Invalid where there is none."""
        fault = name_fault(parent)
        pattern = resource.pattern_below(parent)
        if fault is None and pattern is None:
            wanted = sorted({p.parent for p in resource.patterns if p.parent})
            fault = f"must look like {' or '.join(wanted)}" if wanted else "must be empty"
        if fault is not None or pattern is None:
            raise Invalid.field("parent", fault or "is wrong", "INVALID_PARENT")
        return pattern

    def create(
        self,
        resource: Resource,
        message: Any,
        *,
        parent: str,
        id: str,
        owner: str,
        origin: Origin,
        asked: Asked | None = None,
        id_field: str = "id",
        trusted: bool = False,
        verb: str = "created",
        current: bytes = b"",
    ) -> Change:
        """The change that makes `message` a resource below `parent`, called `id` or, where that is empty, by a fresh id.

        `message` becomes what will be stored. With `trusted`, OUTPUT_ONLY fields are kept as given (but for those the
        engine manages). `current` is, of a revision, the resource that it is one of. Raises Invalid.
        """
        now = self._clock()
        pattern = self.below(resource, parent)
        if not id and not pattern.singleton:
            id = self._named(resource, pattern, message, parent) or fresh_id(now)
        if not pattern.singleton and (fault := id_fault(id)):
            raise Invalid.field(id_field, fault, "INVALID_ID")
        if resource.snapshot_of and not trusted and _REVISION.fullmatch(id):
            raise Invalid.field(id_field, "is of the form that is kept for revisions nobody asks for", "INVALID_ID")
        name = pattern.child(parent, id)
        fault = name_fault(name)
        if fault is None and not pattern.matches(name):
            fault = f"must make a name like {pattern.text}"
        if fault is not None:
            raise Invalid.field(id_field, fault, "INVALID_NAME")
        # What this schema does not know it does not keep: it might become a field that clients may not set.
        message.DiscardUnknownFields()
        if not trusted:
            self.behaviors.clear(message)
            if resource.snapshot_of:  # it is what the resource is, never what a client says
                message.snapshot.ParseFromString(current)
        for field, value in self._initial[resource.message]:
            if is_empty(message, field):
                setattr(message, field.name, value)
        if asked is not None and asked.transforms:
            transforms.apply(resource, message, asked.transforms, now, self.behaviors)
        setattr(message, resource.name_field, name)
        uid = self._born(resource, message, now)
        self._check(message, asked, stored=bool(resource.snapshot_of))
        if resource.expires:
            expiry.settle(message, None, now, asked or Asked(message), ttl=resource.ttl)
        self.behaviors.forget(message)
        change = self._inserted(resource, message, pattern, uid, now, owner, origin, verb)
        return self._referring(change, message, None, asked)

    def made(self, resource: Resource, message: Any, owner: str, origin: Origin, verb: str = "created") -> Change:
        """The change that stores `message`, which has its name and was checked, as it is but for what the engine manages."""
        pattern = resource.pattern_of(getattr(message, resource.name_field))
        assert pattern is not None
        now = self._clock()
        uid = self._born(resource, message, now)
        return self._inserted(resource, message, pattern, uid, now, owner, origin, verb)

    def implied(self, resource: Resource, name: str) -> Any:
        """The resource called `name` as it is where nobody has said anything of it: a singleton (AIP-156)."""
        message = self.schema.message_class(resource.message)()
        setattr(message, resource.name_field, name)
        for field, value in self._initial[resource.message]:
            setattr(message, field.name, value)
        if Managed.ETAG in resource.managed:
            message.etag = etag_of(0)
        return message

    def _born(self, resource: Resource, message: Any, now: int) -> str:
        """Gives a new resource what the engine manages; its uid is answered."""
        uid = fresh_uid()
        if Managed.UID in resource.managed:
            message.uid = uid
        if Managed.CREATE_TIME in resource.managed:
            message.create_time.FromMicroseconds(now)
        self._stamp(resource, message, now, now)
        return uid

    def _inserted(
        self,
        resource: Resource,
        message: Any,
        pattern: Pattern,
        uid: str,
        now: int,
        owner: str,
        origin: Origin,
        verb: str,
    ) -> Change:
        name = getattr(message, resource.name_field)
        payload = message.SerializeToString(deterministic=True)
        if not resource.snapshot_of:  # a revision is as large as what it is of
            _check_size(payload, 0)
        return Change(
            act=Act.INSERT,
            resource=resource,
            name=name,
            verb=verb,
            origin=origin,
            payload=payload,
            version=now,
            time=_rfc3339(now),
            values=self._columns[resource.message].values(message),
            parent=pattern.parent_of(name),
            owner=owner,
            uid=uid,
            kept_parent=self._parents[resource.message, pattern.text],
        )

    def update(
        self,
        resource: Resource,
        row: Row,
        message: Any,
        paths: Sequence[str] | None,
        *,
        etag: str,
        origin: Origin,
        asked: Asked | None = None,
        trusted: bool = False,
        kept: frozenset[str] = frozenset(),
        verb: str = "updated",
    ) -> tuple[Any, Change | None]:
        """What `row` becomes when it takes over `paths` of `message`, and the change that does it; None where nothing changes.

        `paths` None takes over what is populated (AIP-134); fields in `kept` stay as they are. Raises Invalid, and Stale
        where `etag` is given and is not the row's.
        """
        if etag and version_of(etag) != row.version:
            raise Stale(
                "The resource changed since it was read; read it again and retry.", resource=(resource.type, row.name)
            )
        stored = self.parse(resource, row.payload)
        if deleted(resource, stored):
            raise gone(resource, row.name)
        result = self.parse(resource, row.payload)
        message.DiscardUnknownFields()
        skip = kept | {resource.name_field, *resource.managed}
        if resource.snapshot_of:
            skip |= {"snapshot"}
        if not trusted:
            skip |= self.behaviors.hidden(resource)
        masks.apply(result, message, masks.implied(message) if paths is None else list(paths), skip)
        now = self._clock()
        if asked is not None and asked.transforms:
            transforms.apply(resource, result, asked.transforms, now, self.behaviors)
        if not trusted:
            self.behaviors.restore(result, stored)
            if violations := self.behaviors.changed(result, stored):
                raise Invalid.fields((asked or Asked(result)).prefixed(violations))
        if result == stored:
            return stored, None
        version = row.version + 1
        self._stamp(resource, result, version, now)
        self._check(result, asked, stored=True)
        if resource.expires:
            expiry.settle(result, stored, now, asked or Asked(result), ttl=resource.ttl)
        self.behaviors.forget(result)
        change = self._replaced(Act.REPLACE, resource, row, result, now, origin, verb)
        return result, self._referring(change, result, stored, asked)

    def _referring(self, change: Change, message: Any, stored: Any, asked: Asked | None) -> Change:
        """The change, with what it newly refers to. Raises Invalid for what is no name of such a resource."""
        asked = asked or Asked(message)
        change = self._referring_files(change, message, stored, asked)
        checked = self._checked.get(change.resource.message)
        if checked is None:
            return change
        refers: list[Referred] = []
        for field, target in checked:
            several = field.descriptor.is_repeated
            names = list(getattr(message, field.name)) if several else [getattr(message, field.name)]
            known = set() if stored is None else _names_in(stored, field)
            for i, name in enumerate(names):
                path = asked.path(f"{field.name}[{i}]" if several else field.name)
                if name in known or (not name and not several):
                    continue
                if name_fault(name) is not None or target.pattern_of(name) is None:
                    wanted = " or ".join(p.text for p in target.patterns)
                    raise Invalid.field(path, f"must look like {wanted}", "INVALID_NAME")
                if target is not change.resource or name != change.name:
                    known.add(name)
                    refers.append(Referred(path, target, name))
            if len(refers) > REFERENCES_MAX:
                raise Invalid.field(
                    asked.path(field.name), f"refers to more than {REFERENCES_MAX} resources at once", "TOO_MANY"
                )
        return replace(change, refers=tuple(refers)) if refers else change

    def _referring_files(self, change: Change, message: Any, stored: Any, asked: Asked) -> Change:
        """The change, with the files that it newly refers to. Raises Invalid for what is no name of a file."""
        files: list[ReferredFile] = []
        for field, reference in self._filed.get(change.resource.message, ()):
            known = set() if stored is None else {name for _, name in file_names.of(stored, field, reference)}
            for where, name in file_names.of(message, field, reference):
                if name in known:
                    continue
                known.add(name)
                path = asked.path(where)
                found = _FILE.fullmatch(name)
                if found is None:
                    raise Invalid.field(path, "must look like files/{file}", "INVALID_NAME")
                files.append(ReferredFile(path, reference, found[1]))
            if len(files) > REFERENCES_MAX:
                raise Invalid.field(
                    asked.path(field.name), f"refers to more than {REFERENCES_MAX} files at once", "TOO_MANY"
                )
        return replace(change, files=tuple(files)) if files else change

    def detached(self, resource: Resource, row: Row, file: str, origin: Origin) -> Change:
        """The change that takes references to the file of this name out of `row`."""
        message = self.parse(resource, row.payload)
        for field, reference in self._filed[resource.message]:
            file_names.remove(message, field, reference, file)
        now = self._clock()
        self._stamp(resource, message, row.version + 1, now)
        return self._replaced(Act.REPLACE, resource, row, message, now, origin, "updated")

    def cleared(self, resource: Resource, row: Row, gone: Mapping[str, Collection[str]], origin: Origin) -> Change:
        """The change that takes references to what is `gone`, names by message, out of `row`."""
        message = self.parse(resource, row.payload)
        for field, target in self._checked[resource.message]:
            names = gone.get(target.message, ())
            if field.descriptor.is_repeated:
                items = getattr(message, field.name)
                items[:] = [name for name in items if name not in names]
            elif getattr(message, field.name) in names:
                message.ClearField(field.name)
        now = self._clock()
        self._stamp(resource, message, row.version + 1, now)
        return self._replaced(Act.REPLACE, resource, row, message, now, origin, "updated")

    def _replaced(
        self, act: Act, resource: Resource, row: Row, result: Any, now: int, origin: Origin, verb: str
    ) -> Change:
        payload = result.SerializeToString(deterministic=True)
        if act is Act.REPLACE:
            _check_size(payload, len(row.payload))
        return Change(
            act=act,
            resource=resource,
            name=row.name,
            verb=verb,
            origin=origin,
            payload=payload,
            version=row.version + 1,
            expected=row.version,
            time=_rfc3339(now),
            values=self._columns[resource.message].values(result),
        )

    def delete(
        self,
        resource: Resource,
        name: str,
        *,
        etag: str,
        force: bool,
        origin: Origin,
        verb: str = "deleted",
        regardless: bool = False,
        unbidden: bool = False,
    ) -> Change:
        """The change that removes `name` for good; with `force`, all that is below it too, `regardless` of what refers to it, or
        `unbidden` by anybody."""
        return Change(
            act=Act.REMOVE_TREE if force else Act.REMOVE,
            resource=resource,
            name=name,
            verb=verb,
            origin=origin,
            expected=version_of(etag) if etag else None,
            regardless=regardless,
            unbidden=unbidden,
        )

    def deleted(self, resource: Resource, row: Row, *, force: bool, origin: Origin) -> Change:
        """What deleting `row` as it is means: the change that removes it or, where it can be undeleted, that marks it; with
        `force`, also what is below it.

        Raises NotFound where it is deleted already (AIP-164).
        """
        if not resource.soft_delete:
            return self.delete(resource, row.name, etag=etag_of(row.version), force=force, origin=origin)
        if deleted(resource, self.parse(resource, row.payload)):
            raise NotFound(
                f"{row.name} is deleted already.", metadata={"name": row.name}, resource=(resource.type, row.name)
            )
        return self.marked(resource, row, self._clock(), origin, force=force)

    def marked(self, resource: Resource, row: Row, when: int, origin: Origin, *, force: bool = False) -> Change:
        """The change that marks `row` as deleted at `when` (microseconds since 1970)."""
        message = self.parse(resource, row.payload)
        message.delete_time.FromMicroseconds(when)
        for purged in {Managed.PURGE_TIME, Managed.EXPIRE_TIME} & resource.managed:
            getattr(message, purged).FromMicroseconds(when + resource.retention * 1_000_000)
        self._stamp(resource, message, row.version + 1, when)
        return self._replaced(Act.MARK_TREE if force else Act.MARK, resource, row, message, when, origin, "deleted")

    def unmarked(self, resource: Resource, row: Row, origin: Origin) -> Change:
        """The change that undeletes `row`. Raises AlreadyExists where it is not deleted (AIP-164)."""
        message = self.parse(resource, row.payload)
        if not deleted(resource, message):
            raise AlreadyExists(
                f"{row.name} is not deleted.",
                reason="NOT_DELETED",
                metadata={"name": row.name},
                resource=(resource.type, row.name),
            )
        for one in {Managed.DELETE_TIME, Managed.PURGE_TIME, Managed.EXPIRE_TIME} & resource.managed:
            message.ClearField(one)
        now = self._clock()
        self._stamp(resource, message, row.version + 1, now)
        pattern = resource.pattern_of(row.name)
        assert pattern is not None
        change = self._replaced(Act.UNMARK, resource, row, message, now, origin, "undeleted")
        return replace(change, parent=pattern.parent_of(row.name), kept_parent=self.schema.parent_of(resource, pattern))

    def _named(self, resource: Resource, pattern: Pattern, message: Any, parent: str) -> str:
        """The id of the name that the message brings itself, if it is one below `parent` and the client's to give."""
        name = getattr(message, resource.name_field)
        holder = resource.descriptor.fields_by_name[resource.name_field]
        if Behavior.OUTPUT_ONLY in self.behaviors.of(holder):
            return ""
        if not name or not pattern.matches(name) or pattern.parent_of(name) != parent:
            return ""
        return str(name.rpartition("/")[2])

    @staticmethod
    def _stamp(resource: Resource, message: Any, version: int, now: int) -> None:
        if Managed.ETAG in resource.managed:
            message.etag = etag_of(version)
        if Managed.UPDATE_TIME in resource.managed:
            message.update_time.FromMicroseconds(now)

    def _check(self, message: Any, asked: Asked | None, *, stored: bool = False) -> None:
        """Constraints of the resource as it would be stored and, with it in its place, of the request that asks for it."""
        if asked is None or not asked.resource_field:
            violations = self.behaviors.missing(message, stored=stored)
            if violations := self._with_constraints(violations, message):
                raise Invalid.fields(asked.prefixed(violations) if asked else violations)
            return
        whole = asked.message
        if getattr(whole, asked.resource_field) is not message:
            whole = type(whole)()
            whole.CopyFrom(asked.message)
            getattr(whole, asked.resource_field).CopyFrom(message)
        violations = self.behaviors.missing(whole, stored=stored)
        if violations:  # the resource's come first
            first = asked.prefixed(self.behaviors.missing(message, stored=stored))
            named = {v.field for v in first}
            violations = first + [v for v in violations if v.field not in named]
        if violations := self._with_constraints(violations, whole):
            raise Invalid.fields(violations)

    def _with_constraints(self, violations: list[Violation], message: Message) -> list[Violation]:
        """The violations and those of the constraints, but not of a field that is missing anyway."""
        if len(violations) < VIOLATIONS_MAX:
            named = {v.field for v in violations}
            violations = violations + [v for v in self._validation.violations(message) if v.field not in named]
        return violations[:VIOLATIONS_MAX]


def deleted(resource: Resource, message: Any) -> bool:
    """Whether a stored resource is deleted softly."""
    return resource.soft_delete and bool(message.HasField("delete_time"))


def unreferable(one: Referred) -> Precondition:
    """The refusal of a reference to what is not there, or not for this caller."""
    return Precondition(
        f"{one.path}: {one.name} does not exist.",
        reason="REFERENCE_NOT_FOUND",
        metadata={"field": one.path, "name": one.name},
        resource=(one.target.type, one.name),
    )


def _names_in(message: Any, field: Field) -> set[str]:
    value = getattr(message, field.name)
    return set(value) if field.descriptor.is_repeated else {value}


def gone(resource: Resource, name: str) -> Precondition:
    """The refusal of what cannot be done with a resource that is deleted softly."""
    return Precondition(
        f"{name} is deleted; undelete it first.",
        reason="DELETED",
        metadata={"name": name},
        resource=(resource.type, name),
    )


def _check_size(payload: bytes, before: int) -> None:
    """Raises Invalid for a resource that would be too large. One that is already may become smaller."""
    if RESOURCE_BYTES_MAX < len(payload) > before:
        raise Invalid(
            f"The resource would have {len(payload)} bytes; {RESOURCE_BYTES_MAX} are the most.",
            reason="RESOURCE_TOO_LARGE",
        )


def _rfc3339(micros: int) -> str:
    return (_EPOCH + timedelta(microseconds=micros)).isoformat()
