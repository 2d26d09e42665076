"""The life of one resource through Google's client: created, got, listed, filtered, changed, deleted."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from google.api_core import exceptions
from google.protobuf import json_format

from server.schema.columns import snake
from server.schema.model import Behavior, Kind, Managed, Method, Resource, Schema
from server.schema.names import Pattern
from tests.conformance import seeds
from tests.conformance.samples import Samples, named

SECONDS = 30
"""For one call."""


class Differs(Exception):
    """What came is not what Google's API would answer; the text says how."""


@dataclass(frozen=True)
class Step:
    """One thing that was tried."""

    api: str
    road: str
    resource: str
    verb: str
    fault: str = ""


@dataclass
class Life:
    """The resources of one package, over one road."""

    schema: Schema
    package: str
    module: str
    road: str
    client: Callable[[str], Any]
    """The client of a service, by its short name; None where there is none."""
    project: str = field(default_factory=lambda: f"p{secrets.token_hex(4)}")
    _steps: list[Step] = field(default_factory=list)
    _parents: dict[str, str] = field(default_factory=dict)
    """The name of one living resource of each message."""

    def __post_init__(self) -> None:
        self._samples = Samples(self.schema)
        self._methods: dict[tuple[str, Kind], tuple[str, Method]] = {}
        for service in self.schema.services:
            if service.name.rpartition(".")[0] != self.package:
                continue
            for method in service.methods:
                if method.resource is not None and method.kind.standard:
                    one = (service.name.rpartition(".")[2], method)
                    self._methods.setdefault((method.resource.message, method.kind), one)

    def steps(self) -> list[Step]:
        """What was tried, for every resource that can be created."""
        for resource in self.schema.resources.values():
            if resource.descriptor.file.package == self.package:
                if (resource.message, Kind.CREATE) in self._methods:
                    for pattern in resource.patterns[:2]:
                        self._live(resource, pattern)
                elif all(p.singleton for p in resource.patterns):
                    self._only(resource)
        return self._steps

    # One resource.

    def _live(self, resource: Resource, pattern: Pattern) -> None:
        parent = self._try(resource, "its parent", lambda: self._parent(resource, pattern))
        if parent is None:
            return
        made = self._try(resource, "create", lambda: [self._created(resource, pattern, parent) for _ in range(3)])
        if made is None:
            return
        first, _, last = made
        self._try(resource, "get", lambda: self._got(resource, first))
        self._try(resource, "list", lambda: self._listed(resource, parent, made))
        self._try(resource, "filter", lambda: self._filtered(resource, parent, first, made))
        self._try(resource, "update", lambda: self._updated(resource, first))
        self._try(resource, "delete", lambda: self._deleted(resource, last))

    def _only(self, resource: Resource) -> None:
        """A singleton, which is there as soon as its parent is."""
        for pattern in resource.patterns[:1]:
            parent = self._try(resource, "its parent", lambda p=pattern: self._parent(resource, p))  # type: ignore[misc]
            if parent is not None and (resource.message, Kind.GET) in self._methods:
                name = pattern.child(parent, "")
                got = self._try(resource, "get", lambda n=name: self._call(resource, Kind.GET, {"name": n}))  # type: ignore[misc]
                if got is not None:
                    self._try(resource, "update", lambda g=got: self._updated(resource, g))  # type: ignore[misc]

    def _parent(self, resource: Resource, pattern: Pattern) -> str:
        """The name of a parent below which `resource` can live; made for it where it is kept here."""
        above = self.schema.parent_of(resource, pattern)
        if above is None or not pattern.parent:
            return named(Pattern(pattern.parent), self.project) if pattern.parent else ""
        if above.message not in self._parents:
            below = next(p for p in above.patterns if pattern.is_below(p))
            if (above.message, Kind.CREATE) not in self._methods:
                if below.singleton and (above.message, Kind.GET) in self._methods:
                    return below.child(self._parent(above, below), "")
                return seeds.name_of(below)
            made = self._created(above, below, self._parent(above, below))
            self._parents[above.message] = made.name
        return self._parents[above.message]

    def _created(self, resource: Resource, pattern: Pattern, parent: str) -> Any:
        _, method = self._methods[resource.message, Kind.CREATE]
        id = f"x{secrets.token_hex(4)}"
        body = self._samples.resource(resource, f"text of {id}")
        holder = resource.descriptor.fields_by_name[resource.name_field]
        behaviors = self.schema.behaviors.get(holder.full_name, frozenset())
        if not method.id_field and Behavior.OUTPUT_ONLY not in behaviors:
            body[resource.name_field] = pattern.child(parent, id)
        given: dict[str, Any] = {method.resource_field: body}
        if "parent" in method.fields:
            given["parent"] = parent
        if method.id_field:
            given[method.id_field] = id
        made = self._call(resource, Kind.CREATE, given)
        if not made.name.startswith(f"{parent}/" if parent else ""):
            raise Differs(f"{made.name} is not below {parent}")
        if method.id_field and made.name != pattern.child(parent, id):
            raise Differs(f"asked to be called {id}, it is called {made.name}")
        return made

    def _got(self, resource: Resource, made: Any) -> None:
        if (resource.message, Kind.GET) in self._methods:
            got = self._call(resource, Kind.GET, {"name": made.name})
            if got != made:
                raise Differs(f"got {_told(got)}, created {_told(made)}")

    def _listed(self, resource: Resource, parent: str, made: list[Any]) -> None:
        if (resource.message, Kind.LIST) in self._methods:
            names = [one.name for one in self._pages(resource, parent, page_size=2)]
            if [n for n in sorted(names) if n in {m.name for m in made}] != sorted(m.name for m in made):
                raise Differs(f"listed {names}, created {[m.name for m in made]}")

    def _filtered(self, resource: Resource, parent: str, first: Any, made: list[Any]) -> None:
        _, method = self._methods.get((resource.message, Kind.LIST), ("", None))
        if method is None or "filter" not in method.fields:
            return
        plain = self._samples.plain(resource)
        asked = [f'name = "{first.name}"'] + ([f'{plain} = "{getattr(first, plain)}"'] if plain else [])
        for text in asked:
            names = [one.name for one in self._pages(resource, parent, filter=text)]
            if names != [first.name]:
                raise Differs(f"{text} lists {names}")
        if "order_by" in method.fields:
            names = [n.name for n in self._pages(resource, parent, order_by="name desc", page_size=2)]
            mine = [n for n in names if n in {m.name for m in made}]
            if mine != sorted((m.name for m in made), reverse=True):
                raise Differs(f"in the order of 'name desc': {names}")

    def _pages(self, resource: Resource, parent: str, **asked: Any) -> list[Any]:
        _, method = self._methods[resource.message, Kind.LIST]
        return list(self._call(resource, Kind.LIST, asked | ({"parent": parent} if "parent" in method.fields else {})))

    def _updated(self, resource: Resource, made: Any) -> None:
        plain = self._samples.plain(resource)
        if (resource.message, Kind.UPDATE) not in self._methods or not plain:
            return
        _, method = self._methods[resource.message, Kind.UPDATE]
        body = {resource.name_field: made.name, plain: "changed"}
        given: dict[str, Any] = {method.resource_field: body}
        if "update_mask" in method.fields:
            given["update_mask"] = _camel(plain)  # as ProtoJSON has it
        changed = self._call(resource, Kind.UPDATE, given)
        wanted, found = _told(made) | {plain: "changed"}, _told(changed)
        if _unstamped(resource, found) != _unstamped(resource, wanted):
            raise Differs(f"changed to {found}, wanted {wanted}")
        if Managed.ETAG in resource.managed and changed.etag == made.etag:
            raise Differs("it has changed, and its etag has not")

    def _deleted(self, resource: Resource, made: Any) -> None:
        if (resource.message, Kind.DELETE) not in self._methods:
            return
        _, method = self._methods[resource.message, Kind.DELETE]
        self._call(resource, Kind.DELETE, {"name": made.name} | ({"force": True} if "force" in method.fields else {}))
        if (resource.message, Kind.GET) not in self._methods:
            return
        try:
            left = self._call(resource, Kind.GET, {"name": made.name})
        except exceptions.NotFound:
            return
        if not resource.soft_delete or not left.delete_time:
            raise Differs("it is deleted, and still there")

    # How.

    def _call(self, resource: Resource, kind: Kind, given: dict[str, Any]) -> Any:
        service, method = self._methods[resource.message, kind]
        client = self.client(service)
        if client is None:
            raise Differs(f"Google's package has no client of {service} for this road")
        request = self._request(method, given)
        answer = getattr(client, snake(method.name))(request=request, timeout=SECONDS, retry=None)
        return answer.result(timeout=SECONDS) if method.operation is not None else answer

    def _request(self, method: Method, given: dict[str, Any]) -> Any:
        descriptor = self.schema.message_class(method.request).DESCRIPTOR
        full = self._samples.required(descriptor, given)
        kind = _class(self.module, descriptor.full_name.removeprefix(f"{self.package}."))
        raw = (kind.pb() if hasattr(kind, "pb") else kind)()
        json_format.ParseDict(full, raw, ignore_unknown_fields=True)
        return kind.wrap(raw) if hasattr(kind, "wrap") else raw

    def _try(self, resource: Resource, verb: str, tried: Callable[[], Any]) -> Any:
        try:
            result = tried()
        except (exceptions.GoogleAPICallError, Differs, json_format.ParseError, TypeError, ValueError) as fault:
            text = f"{type(fault).__name__}: {fault}" if not isinstance(fault, Differs) else str(fault)
            self._steps.append(Step(self.package, self.road, resource.descriptor.name, verb, text.replace("\n", " ")))
            return None
        if verb != "its parent":
            self._steps.append(Step(self.package, self.road, resource.descriptor.name, verb))
        return result


def _class(module: str, path: str) -> Any:
    at: Any = importlib.import_module(f"{module}.types")
    for name in path.split("."):
        at = getattr(at, name)
    return at


def _told(message: Any) -> dict[str, Any]:
    """A message of Google's clients as plain data, without what is empty."""
    raw = type(message).pb(message) if hasattr(type(message), "pb") else message
    return json_format.MessageToDict(raw, preserving_proto_field_name=True)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _unstamped(resource: Resource, told: dict[str, Any]) -> dict[str, Any]:
    # A singleton is made by its first update.
    stamps = {Managed.ETAG, Managed.CREATE_TIME, Managed.UPDATE_TIME} & resource.managed
    return {name: value for name, value in told.items() if name not in stamps}


def failed(steps: list[Step]) -> Iterator[Step]:
    """The steps that did not go as they should."""
    return (step for step in steps if step.fault)
