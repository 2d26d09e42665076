"""What a schema says, as frozen data: resources, fields, methods, services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from server.schema.names import Pattern


class Behavior(StrEnum):
    """Field behaviours (AIP-203) that the engine enforces."""

    REQUIRED = auto()
    OUTPUT_ONLY = auto()
    INPUT_ONLY = auto()
    IMMUTABLE = auto()
    IDENTIFIER = auto()


class OnDelete(StrEnum):
    """What becomes of a resource whose checked reference leads to one that is deleted."""

    RESTRICT = auto()
    CASCADE = auto()
    CLEAR = auto()


@dataclass(frozen=True, slots=True)
class Reference:
    """A checked reference: every name in the field is that of a resource that exists."""

    message: str
    """The resource referred to."""
    on_delete: OnDelete


@dataclass(frozen=True, slots=True)
class FileReference:
    """A reference to files: every name in the field, or where `steps` lead in it, is that of a complete file that it takes."""

    on_delete: OnDelete
    """RESTRICT or CLEAR."""
    content_types: tuple[str, ...] = ()
    """Media types, `image/*` for all of a kind; any where there are none."""
    size_bytes_max: int = 0
    """0 for no bound."""
    steps: tuple[FieldDescriptor, ...] = ()
    """From the field's message down to what has the names; none where it is the field itself."""

    def takes(self, content_type: str) -> bool:
        """Whether the field takes files of a media type, given without parameters and in lower case."""
        kind = content_type.partition("/")[0]
        return not self.content_types or content_type in self.content_types or f"{kind}/*" in self.content_types


@dataclass(frozen=True, slots=True)
class Index:
    """A declared index of a resource."""

    paths: tuple[tuple[str, bool], ...]
    """Paths of fields, from the resource, and whether each descends."""
    unique: bool = False
    everywhere: bool = False
    """Not within one parent."""


@dataclass(frozen=True, slots=True)
class Field:
    """One top-level field of a resource and the column it is kept in."""

    number: int
    name: str
    descriptor: FieldDescriptor
    behaviors: frozenset[Behavior]
    column: str
    column_type: str
    default: str | None
    """The column's default as SQL; None where it may be NULL."""
    initial: Any = None
    """The value in a new resource where the request gives none; None for none."""
    rules: tuple[tuple[str, str], ...] = ()
    """Its access rules: `read` or `write`, and the expression."""
    search: bool = False
    """Whether words are looked for in it."""
    reference: Reference | None = None
    """Where its references are checked."""
    files: tuple[FileReference, ...] = ()
    """Where it, or what is in it, refers to files."""


class Managed(StrEnum):
    """Fields the engine keeps itself, where a resource has them under their standard name (AIP-148, AIP-154)."""

    UID = "uid"
    ETAG = "etag"
    CREATE_TIME = "create_time"
    UPDATE_TIME = "update_time"
    DELETE_TIME = "delete_time"
    PURGE_TIME = "purge_time"
    EXPIRE_TIME = "expire_time"
    """Of what was deleted softly, as AIP-164 had it before it said purge_time."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One message with `google.api.resource`, and the table it is kept in."""

    message: str
    type: str
    patterns: tuple[Pattern, ...]
    singular: str
    plural: str
    name_field: str
    fields: tuple[Field, ...]
    managed: frozenset[Managed]
    table_schema: str
    table_name: str
    descriptor: Descriptor
    comment: str = ""
    rules: tuple[tuple[str, str], ...] = ()
    """Its access rules: an action, or `read` or `write` for several, and the expression."""
    outlives_owner: bool = False
    """Whether it stays when the account that created it is deleted."""
    hot: bool = False
    """Whether the same few are read again and again: then they are kept in Redis."""
    retention: int = 0
    """Seconds for which it can be undeleted; 0 where it is deleted for good at once. Else it is marked first (AIP-164)."""
    expires: bool = False
    """Whether its `expire_time`, which clients set, ends it (AIP-214)."""
    ttl: bool = False
    """Whether its `ttl` may be given in place of the `expire_time`."""
    snapshot_of: str = ""
    """The message of the resource that it is a revision of (AIP-162): its field `snapshot` holds that as it was."""
    revisions: int = 0
    """How many revisions of it are kept, where the schema has a resource of these; else 0."""
    indexes: tuple[Index, ...] = ()

    @property
    def soft_delete(self) -> bool:
        """Whether what is deleted is kept for a while, marked."""
        return self.retention > 0

    @property
    def ends(self) -> bool:
        """Whether a time can come at which it goes by itself: it is kept with each."""
        return self.soft_delete or self.expires

    def pattern_of(self, name: str) -> Pattern | None:
        """The pattern that `name` is of, if any."""
        return next((p for p in self.patterns if p.matches(name)), None)

    def singleton(self, name: str) -> bool:
        """Whether `name` is that of the only such resource below its parent (AIP-156)."""
        pattern = self.pattern_of(name)
        return pattern is not None and pattern.singleton

    def pattern_below(self, parent: str) -> Pattern | None:
        """The pattern of this resource's names below `parent`, if any."""
        return next((p for p in self.patterns if p.matches_parent(parent)), None)


class Kind(StrEnum):
    """What a method is, as its descriptor tells."""

    GET = auto()
    LIST = auto()
    CREATE = auto()
    UPDATE = auto()
    DELETE = auto()
    UNDELETE = auto()
    PURGE = auto()
    BATCH_GET = auto()
    BATCH_CREATE = auto()
    BATCH_UPDATE = auto()
    BATCH_DELETE = auto()
    SEARCH = auto()
    ROLLBACK = auto()
    WATCH = auto()
    CUSTOM = auto()
    BUILT_IN = auto()

    @property
    def standard(self) -> bool:
        """Whether the engine serves it."""
        return self not in (Kind.CUSTOM, Kind.BUILT_IN)


class Audience(StrEnum):
    """Those who are often meant by who may call a method."""

    PUBLIC = auto()
    SIGNED_IN = auto()


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call a method, as its option says: one of these."""

    audience: Audience | None = None
    role: str = ""
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """What a google.longrunning.Operation says of its outcome: full names of messages."""

    response: str
    metadata: str
    """Empty where the schema does not say one, or one that it does not have."""


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC.

    The `*_field` names are those of the request message that play a part in a
    standard method; empty where the request has none.
    """

    path: str
    """As on the wire: `/inspect.v1.InspectionService/GetSite`."""
    name: str
    kind: Kind
    request: str
    response: str
    client_streaming: bool = False
    server_streaming: bool = False
    safe: bool = False
    """Repeating it has no further effect: the edge may retry it."""
    answer: str = ""
    """The message that it answers in the end: the response, or what an Operation responds."""
    resource: Resource | None = None
    resource_field: str = ""
    id_field: str = ""
    items_field: str = ""
    """Of the response of a List, a Search or a batch: the repeated field, of resources; of that of a Watch: the field of the
    resource. Empty where there is none."""
    requests_field: str = ""
    """Of a batch: the repeated field of requests, or of names."""
    each: Method | None = None
    """Of a batch of requests: what one of them asks for, as a method of its own."""
    operation: Operation | None = None
    """Where it answers a google.longrunning.Operation: of what."""
    fields: frozenset[str] = frozenset()
    """Names of all fields of the request."""
    http: tuple[tuple[str, str], ...] = ()
    """Verb and path template of each REST binding."""
    bodies: tuple[str, ...] = ()
    """What JSON bodies of its REST bindings are: a field of the request or, `*`, the request itself."""
    access: Access | None = None
    """Who may call it; None where the schema says nothing of it."""
    references: Mapping[str, str] = field(default_factory=dict)
    """Types of the resources that fields of the request refer to, by field."""
    why_custom: str = ""
    """Where its name is that of a standard method but its shape is not: what differs."""
    comment: str = ""

    @property
    def full_name(self) -> str:
        """As in code: `inspect.v1.InspectionService.GetSite`."""
        return self.path[1:].replace("/", ".")


@dataclass(frozen=True, slots=True)
class Service:
    """One proto service."""

    name: str
    methods: tuple[Method, ...]
    own: bool
    """Transom's own, in contrast to the app's."""


@dataclass(frozen=True)
class Schema:
    """All that is served: the app's resources and services, and Transom's own services."""

    pool: DescriptorPool
    resources: Mapping[str, Resource]
    """By full name of the message."""
    services: tuple[Service, ...]
    behaviors: Mapping[str, frozenset[Behavior]] = field(default_factory=dict)
    """Of every field of every message that has any, by full name."""
    warnings: tuple[str, ...] = ()
    references: Mapping[str, str] = field(default_factory=dict)
    """Types of the resources that fields of resources refer to, by the field's full name."""
    terms: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """Words and what they mean in rules, by package."""
    image: bytes = field(default=b"", repr=False)
    """The FileDescriptorSet that it was read from."""
    _classes: dict[str, type[Message]] = field(default_factory=dict, repr=False)

    def message_class(self, name: str) -> Any:
        """The class of the message called `name`. Raises KeyError where there is none."""
        if name not in self._classes:
            self._classes[name] = message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))
        return self._classes[name]

    def methods(self) -> list[Method]:
        """Every method of every service."""
        return [m for s in self.services for m in s.methods]

    def resource_of(self, name: str) -> Resource | None:
        """The resource whose pattern `name` is of; the first in order of message names where several fit."""
        return next((r for r in self.resources.values() if r.pattern_of(name)), None)

    def parent_of(self, resource: Resource, pattern: Pattern) -> Resource | None:
        """The stored resource that `resource`, named by `pattern`, lives below, if it is one of this schema: the one of
        its own package where several versions of an API use the same names."""
        found = [r for r in self.resources.values() if any(pattern.is_below(p) for p in r.patterns)]
        return next((r for r in found if r.table_schema == resource.table_schema), found[0] if found else None)

    def children_of(self, resource: Resource) -> tuple[Resource, ...]:
        """The resources that live directly below `resource`."""
        return tuple(r for r in self.resources.values() if any(self.parent_of(r, p) is resource for p in r.patterns))
