"""Who may do what with resources: the schema's rules, and the scopes of those whom no rule binds.

Deny by default; a rule that meets an error denies. Who may not get a resource is told that it does not exist, whatever
was asked; who may get it but not do what was asked is refused. A rule that no row can change the outcome of refuses the
call itself. Rules look at other resources as reads do (the replica within its bound, and always at what the caller wrote)
where something is read, and at the primary where something is written.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

import orjson
from google.protobuf.message import Message

from server.caller import Caller
from server.engine.behaviors import is_empty
from server.engine.changing import Changing
from server.engine.refusals import absent, refused, sign_in
from server.errors import Denied
from server.query.rules.checking import MethodRule, ResourceRules, Rule, Rules
from server.query.rules.lowering import LOOKUPS_MAX
from server.query.rules.scene import Asking, Fault, Key, Scene
from server.schema.model import Audience, Field, Method, Resource, Schema
from server.store.changes import Row, Shown

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Clock = Callable[[], int]
"""Microseconds since 1970, UTC."""


class Lookups(Protocol):
    """The store, as rules need it; see server/store/records.py."""

    def find(self, wanted: Sequence[tuple[Resource, str]], reader: str | None) -> Awaitable[list[Row | None]]: ...


class Asked(Protocol):
    """Who asks; see `server.engine.resources.Call`."""

    @property
    def caller(self) -> Caller: ...


class Access:
    """Judges by the rules of one schema."""

    def __init__(self, schema: Schema, rules: Rules, records: Lookups, clock: Clock) -> None:
        self._schema = schema
        self._rules = rules
        self._records = records
        self._clock = clock

    def over(self, records: Lookups) -> Access:
        """The same rules, judged on what `records` know."""
        twin = copy.copy(self)
        twin._records = records
        return twin

    def rules(self, resource: Resource) -> ResourceRules:
        """The rules of a resource."""
        return self._rules.resources[resource.message]

    def veils(self, resource: Resource) -> bool:
        """Whether there are fields that not everybody sees who may get it."""
        return bool(self.rules(resource).reads or self.original(resource))

    def original(self, resource: Resource) -> Resource | None:
        """The resource that it is a revision of, where that has fields that not everybody sees."""
        if not resource.snapshot_of or not self._rules.resources[resource.snapshot_of].reads:
            return None
        return self._schema.resources[resource.snapshot_of]

    # Reading.

    async def get(self, call: Asked, resource: Resource, name: str) -> Row:
        """The resource called `name`, its payload as the caller may see it.

        Raises NotFound both where it is absent and where it is hidden, Denied and Unauthenticated where no such resource
        could be seen.
        """
        caller = call.caller
        reader = caller.name
        if caller.trusted:
            self._in_scope(caller, resource, "get")
            [row] = await self._records.find([(resource, name)], reader)
            if row is None:
                raise absent(resource, name)
            return row
        rule = self._rule(caller, resource, "get")
        asking = self._asking(caller)
        if not rule.of_row:
            await self._open(caller, resource, rule, asking, reader)
        row = await self._read(asking, resource, name, rule, reader)
        if row is None:
            raise absent(resource, name)
        scene = self._scene(asking, resource, row)
        if rule.of_row and not await self._holds(rule, scene, reader):
            raise absent(resource, name)
        payload = await self._seen(resource, scene, row.payload, reader)
        return row if payload is row.payload else Row(row.name, payload, row.version, row.owner)

    async def get_all(self, call: Asked, resource: Resource, names: Sequence[str]) -> list[Row | None]:
        """As get, of each name; None where it raises NotFound. They are read together, and so is what rules look up."""
        caller = call.caller
        reader = caller.name
        wanted = [(resource, name) for name in names]
        if caller.trusted:
            self._in_scope(caller, resource, "get")
            return await self._records.find(wanted, reader)
        rule = self._rule(caller, resource, "get")
        asking = self._asking(caller)
        if not rule.of_row:
            await self._open(caller, resource, rule, asking, reader)
        rows = await self._records.find(wanted, reader)
        scenes = [None if row is None else self._scene(asking, resource, row) for row in rows]
        if rule.of_row:
            scenes = [
                s if holds else None for s, holds in zip(scenes, await self._all(rule, scenes, reader), strict=True)
            ]
        hidden: list[list[Field]] = [[] for _ in rows]
        for field, one in self.rules(resource).reads:
            set_in = [s if s and not is_empty(s.resource, field.descriptor) else None for s in scenes]
            for i, holds in enumerate(await self._all(one, set_in, reader)):
                if set_in[i] is not None and not holds:
                    hidden[i].append(field)
        shown = [
            None
            if row is None or scene is None
            else replace(row, payload=self._without(resource, row.payload, fields))
            if fields
            else row
            for row, scene, fields in zip(rows, scenes, hidden, strict=True)
        ]
        if self.original(resource) is None:
            return shown
        return [
            row
            and replace(
                row,
                payload=await self._with_snapshot(resource, asking, row.payload, reader),
            )
            for row in shown
        ]

    async def listing(self, call: Asked, resource: Resource, action: str = "list") -> bytes | None:
        """Who asks, as the store's conditions need it (`rules.sql.ASKING`, a JSON object); None where they are not needed:
        every row, whole, may be seen. Raises Denied and Unauthenticated where no row could be seen."""
        caller = call.caller
        if caller.trusted:
            self._in_scope(caller, resource, action)
            return None
        rule = self._rule(caller, resource, action)
        asking = self._asking(caller)
        if not rule.of_row:
            await self._open(caller, resource, rule, asking, caller.name)
            if not self.veils(resource):
                return None
        return told(asking)

    def shown(self, resource: Resource, payload: bytes, seen: str) -> bytes:
        """A listed resource as the caller may see it: `seen` has a 0 for each field with a read rule that does not hold."""
        if "0" not in seen:
            return payload
        reads = self.rules(resource).reads
        return self._without(resource, payload, [f for (f, _), bit in zip(reads, seen, strict=True) if bit == "0"])

    async def snapshots(self, call: Asked, resource: Resource, rows: Sequence[Shown]) -> list[Shown]:
        """Listed revisions, their snapshots as the caller may see the resource itself."""
        caller, original = call.caller, self.original(resource)
        if caller.trusted or original is None:
            return list(rows)
        names = {row.name: _above(resource, row.name) for row in rows}
        above = list(dict.fromkeys(names.values()))
        found = await self._records.find([(original, name) for name in above], caller.name)
        owners = {name: row.owner if row else "" for name, row in zip(above, found, strict=True)}
        asking = self._asking(caller)
        return [
            one._replace(
                payload=await self._with_snapshot(resource, asking, one.payload, caller.name, owners[names[one.name]])
            )
            for one in rows
        ]

    async def seen(self, caller: Caller, resource: Resource, row: Row, action: str = "get") -> bytes | None:
        """What the caller may see of a row; None where it is hidden. For what is not a call: events, exports."""
        if caller.trusted:
            return row.payload if caller.in_scope(resource.message, action) else None
        rule = self.rules(resource).actions.get(action)
        scene = self._scene(self._asking(caller), resource, row)
        if rule is None or not await self._holds(rule, scene, caller.name):
            return None
        return await self._seen(resource, scene, row.payload, caller.name)

    # Watching: one event is judged for many at once, who each keep what they have looked up.

    async def held(self, resource: Resource, action: str, scenes: Sequence[Scene | None]) -> list[bool]:
        """Whether the rule for the action holds in each scene that there is, as the primary has what it looks up."""
        rule = self.rules(resource).actions.get(action)
        return [False] * len(scenes) if rule is None else await self._all(rule, scenes, None)

    async def unseen(self, resource: Resource, scene: Scene) -> frozenset[str]:
        """The fields that nothing may be found by in a scene: those that who asks does not see, wholly."""
        unreadable = await self._unreadable(resource, scene, None)
        return self.rules(resource).copies | {field.name for field in unreadable}

    async def shown_in(self, resource: Resource, scene: Scene, payload: bytes) -> bytes:
        """A resource as who asks sees it, in a scene in which they may."""
        return await self._seen(resource, scene, payload, None)

    async def visible(self, caller: Caller, resource: Resource, rows: Sequence[Row]) -> list[bool]:
        """Which of the rows the caller may get, for an app's own methods."""
        if caller.trusted:
            return [caller.in_scope(resource.message, "get")] * len(rows)
        rule = self.rules(resource).actions.get("get")
        asking = self._asking(caller)
        return [
            rule is not None and await self._holds(rule, self._scene(asking, resource, row), caller.name)
            for row in rows
        ]

    async def redact(
        self, caller: Caller, resource: Resource, message: Any, owner: str, changed: Mapping[Key, Any] | None = None
    ) -> None:
        """Clears the fields of `message` that the caller may not see. `changed` are resources as they will be, None for one
        that will be gone: rules that look at these see them so."""
        if not caller.trusted and self.rules(resource).reads:
            asking = self._asking(caller)
            asking.found |= changed or {}
            scene = Scene(asking, _name(resource, message), read=lambda: message, owner=owner)
            for field in await self._unreadable(resource, scene, caller.name):
                message.ClearField(field.name)
        if not caller.trusted and self.original(resource) is not None:
            asking = self._asking(caller)
            for field in await self._hidden_of_snapshot(resource, asking, message, caller.name):
                message.snapshot.ClearField(field.name)

    # Writing.

    async def create(
        self, call: Asked, resource: Resource, name: str, message: Any, parent: tuple[Resource, str] | None
    ) -> None:
        """Judges what would be stored as `name`, below `parent` where that is kept.

        Raises Denied or Unauthenticated; NotFound of the parent where the caller may not even get that.
        """
        caller = call.caller
        if caller.trusted:
            return self._in_scope(caller, resource, "create")
        rule = self.rules(resource).actions.get("create")
        asking = self._asking(caller)
        scene = Scene(asking, name, read=lambda: message, owner=caller.name, request=message)
        if rule is None or not await self._holds(rule, scene, None):
            if parent is not None and not await self.readable(call, *parent):
                raise absent(*parent)
            raise refused(caller, resource, "create")
        for field, one in self.rules(resource).writes:
            value = getattr(message, field.name)
            given = not is_empty(message, field.descriptor) and (field.initial is None or value != field.initial)
            if given and not await self._holds(one, scene, None):
                raise refused(caller, resource, "create", field.name)
        return None

    async def admit(self, call: Asked, resource: Resource, action: str) -> None:
        """Raises Denied or Unauthenticated where the caller could do this with no such resource: to be asked before one is
        looked for, so that what is there and what is not are answered alike."""
        caller = call.caller
        if caller.trusted:
            return self._in_scope(caller, resource, action)
        rule = self.rules(resource).actions.get("get")
        if rule is None or not (rule.of_row or await self._holds(rule, Scene(self._asking(caller)), None)):
            raise refused(caller, resource, action)
        return None

    async def changing(self, call: Asked, resource: Resource, row: Row) -> Changing:
        """Begins to judge an update of `row`. Raises NotFound where the caller may not get it."""
        caller = call.caller
        if caller.trusted:
            self._in_scope(caller, resource, "update")
            return Changing(self, caller, resource, row, None, ())
        asking = self._asking(caller)
        scene = await self._gettable(caller, resource, row, asking)
        hidden = await self._unreadable(resource, scene, None)
        veiled = await self._hidden_of_snapshot(resource, asking, scene.resource, None)
        return Changing(self, caller, resource, row, asking, hidden, veiled)

    async def changed(self, caller: Caller, resource: Resource, row: Row, asking: Asking, result: Any) -> None:
        """Judges an update on what is stored and on what would be. Raises Denied or Unauthenticated."""
        stored = self._schema.message_class(resource.message).FromString(row.payload)
        rule = self.rules(resource).actions.get("update")
        for message in (stored, result):
            scene = Scene(asking, row.name, read=partial(_itself, message), owner=row.owner, request=result)
            if rule is None or not await self._holds(rule, scene, None):
                raise refused(caller, resource, "update")
        scene = Scene(asking, row.name, read=lambda: stored, owner=row.owner, request=result)
        for field, one in self.rules(resource).writes:
            differs = getattr(stored, field.name) != getattr(result, field.name)
            if (differs or _presence_differs(field, stored, result)) and not await self._holds(one, scene, None):
                raise refused(caller, resource, "update", field.name)

    async def delete(self, call: Asked, resource: Resource, row: Row) -> None:
        """Judges the deletion of `row`. Raises NotFound where the caller may not get it, Denied, Unauthenticated."""
        caller = call.caller
        if caller.trusted:
            return self._in_scope(caller, resource, "delete")
        asking = self._asking(caller)
        scene = await self._gettable(caller, resource, row, asking)
        rule = self.rules(resource).actions.get("delete")
        if rule is None or not await self._holds(rule, scene, None):
            raise refused(caller, resource, "delete")
        return None

    async def readable(self, call: Asked, resource: Resource, name: str, reader: str | None = None) -> bool:
        """Whether there is such a resource and the caller may get it. `reader` as for the store: None for the primary."""
        [row] = await self._records.find([(resource, name)], reader)
        if row is None:
            return False
        if call.caller.trusted:
            return True
        rule = self.rules(resource).actions.get("get")
        scene = self._scene(self._asking(call.caller), resource, row)
        return rule is not None and await self._holds(rule, scene, reader)

    # Calling.

    def rule_of(self, method: Method) -> MethodRule | None:
        """Who may call the method, where the schema says so."""
        return self._rules.methods.get(method.path)

    async def call(self, call: Asked, method: Method, request: Any) -> None:
        """Judges the call of a method by its own rule; one that has none is for trusted callers, in their scopes.

        Raises Denied, Unauthenticated, and NotFound where the request names a resource that the caller may not get.
        """
        caller = call.caller
        if caller.trusted:
            service, _, name = method.full_name.rpartition(".")
            if not caller.in_scope(service, name):
                raise Denied(
                    "This is not in your scopes.", reason="SCOPE_MISSING", metadata={"method": method.full_name}
                )
            return
        rule = self.rule_of(method)
        if rule is not None and await self._may_call(call, rule, request):
            return
        if not caller.known:
            raise sign_in()
        raise Denied("You may not call this.", reason="ACCESS_DENIED", metadata={"method": method.full_name})

    async def _may_call(self, call: Asked, rule: MethodRule, request: Any) -> bool:
        caller = call.caller
        if rule.rule is None:
            if rule.role:
                return rule.role in caller.roles
            return rule.audience is Audience.PUBLIC or (rule.audience is Audience.SIGNED_IN and caller.known)
        asking = self._asking(caller)
        name = getattr(request, rule.subject_field) if rule.subject is not None else ""
        scene = Scene(asking, name, request=request)
        if rule.subject is not None and rule.rule.of_row:
            resource = rule.subject
            await self.admit(call, resource, "get")
            [row] = await self._records.find([(resource, name)], None) if resource.pattern_of(name) else [None]
            if row is None:
                raise absent(resource, name)
            scene = self._scene(asking, resource, row)
            scene.request = request
            get = self._rule(caller, resource, "get")
            if not await self._holds(get, scene, None):
                raise absent(resource, name)
        return await self._holds(rule.rule, scene, None)

    # How.

    def _asking(self, caller: Caller) -> Asking:
        return Asking(caller, self._clock())

    def _scene(self, asking: Asking, resource: Resource, row: Row) -> Scene:
        parse = self._schema.message_class(resource.message).FromString
        return Scene(asking, row.name, read=lambda: parse(row.payload), owner=row.owner)

    def _rule(self, caller: Caller, resource: Resource, action: str) -> Rule:
        rule = self.rules(resource).actions.get(action)
        if rule is None:
            raise refused(caller, resource, action)
        return rule

    async def _open(self, caller: Caller, resource: Resource, rule: Rule, asking: Asking, reader: str | None) -> None:
        """Raises the refusal of the call where a rule that depends on no row does not hold."""
        if not await self._holds(rule, Scene(asking), reader):
            raise refused(caller, resource, rule.action)

    async def _read(self, asking: Asking, resource: Resource, name: str, rule: Rule, reader: str | None) -> Row | None:
        """The row, read together with what the rule will look up, as far as the name alone tells that."""
        scene = Scene(asking, name)
        if rule.of_row and rule.looks_up:
            try:
                rule.holds(scene)
            except Fault:
                pass  # it is for what it wants that it was asked
        row, *found = await self._records.find([(resource, name), *scene.wanted], reader)
        self._keep(asking, scene.wanted, found)
        return row

    async def _holds(self, rule: Rule, scene: Scene, reader: str | None) -> bool:
        """Whether the rule holds, after as many rounds of looking up as it needs."""
        for _ in range(LOOKUPS_MAX + 1):
            scene.wanted = []
            try:
                return rule.holds(scene) is True
            except Fault:
                if not scene.wanted:
                    return False
            self._keep(scene.asking, scene.wanted, await self._records.find(scene.wanted, reader))
        return False

    async def _all(self, rule: Rule, scenes: Sequence[Scene | None], reader: str | None) -> list[bool]:
        """Whether the rule holds, of each scene that there is; what the scenes of one call want is looked up together."""
        held = [False] * len(scenes)
        left = [(i, scene) for i, scene in enumerate(scenes) if scene is not None]
        for _ in range(LOOKUPS_MAX + 1):
            again: list[tuple[int, Scene]] = []
            wanted: dict[Key, Resource] = {}
            for i, scene in left:
                scene.wanted = []
                try:
                    held[i] = rule.holds(scene) is True
                except Fault:
                    if scene.wanted:
                        again.append((i, scene))
                        wanted |= {(resource.message, name): resource for resource, name in scene.wanted}
            if not again:
                break
            look = [(resource, name) for (_, name), resource in wanted.items()]
            found = await self._records.find(look, reader)
            for asking in {id(scene.asking): scene.asking for _, scene in again}.values():
                self._keep(asking, look, found)
            left = again
        return held

    def _keep(self, asking: Asking, wanted: Sequence[tuple[Resource, str]], found: Sequence[Row | None]) -> None:
        for (resource, name), row in zip(wanted, found, strict=True):
            message = None if row is None else self._schema.message_class(resource.message).FromString(row.payload)
            asking.found[resource.message, name] = message

    async def _gettable(self, caller: Caller, resource: Resource, row: Row, asking: Asking) -> Scene:
        """The scene of a row that is to be written. Raises NotFound where the caller may not get it."""
        rule = self._rule(caller, resource, "get")
        scene = self._scene(asking, resource, row)
        if not await self._holds(rule, scene, None):
            raise absent(resource, row.name) if rule.of_row else refused(caller, resource, "get")
        return scene

    async def _unreadable(self, resource: Resource, scene: Scene, reader: str | None) -> list[Field]:
        reads = self.rules(resource).reads
        return [field for field, rule in reads if not await self._holds(rule, scene, reader)]

    async def _seen(self, resource: Resource, scene: Scene, payload: bytes, reader: str | None) -> bytes:
        if self.original(resource) is not None:
            payload = await self._with_snapshot(resource, scene.asking, payload, reader)
        reads = self.rules(resource).reads
        if not reads:
            return payload
        message = scene.resource
        hidden = [
            field
            for field, rule in reads
            if not is_empty(message, field.descriptor) and not await self._holds(rule, scene, reader)
        ]
        return self._without(resource, payload, hidden) if hidden else payload

    async def _with_snapshot(
        self, resource: Resource, asking: Asking, payload: bytes, reader: str | None, owner: str | None = None
    ) -> bytes:
        """A revision, its snapshot as the one who asks may see the resource itself."""
        message = self._schema.message_class(resource.message).FromString(payload)
        hidden = await self._hidden_of_snapshot(resource, asking, message, reader, owner)
        for field in hidden:
            message.snapshot.ClearField(field.name)
        return message.SerializeToString(deterministic=True) if hidden else payload

    async def veiled(self, caller: Caller, resource: Resource, message: Any) -> frozenset[str]:
        """The fields that a revision keeps from the caller, as they stand at the primary."""
        if caller.trusted:
            return frozenset()
        hidden = await self._hidden_of_snapshot(resource, self._asking(caller), message, None)
        return frozenset(field.name for field in hidden)

    async def _hidden_of_snapshot(
        self, resource: Resource, asking: Asking, message: Any, reader: str | None, owner: str | None = None
    ) -> list[Field]:
        """The fields of a revision's snapshot that the one who asks may not see, by the rules of the resource that it was
        taken of, judged on it as it was then. `owner` is that resource's, whoever made the revision; None where it is to be
        read."""
        original = self.original(resource)
        if original is None or not message.HasField("snapshot"):
            return []
        snapshot, name = message.snapshot, _above(resource, _name(resource, message))
        if owner is None:
            [row] = await self._records.find([(original, name)], reader)
            owner = row.owner if row else ""  # of what has gone meanwhile nobody is the owner
        scene = Scene(asking, name, read=partial(_itself, snapshot), owner=owner)
        return [f for f in await self._unreadable(original, scene, reader) if not is_empty(snapshot, f.descriptor)]

    def _without(self, resource: Resource, payload: bytes, fields: Sequence[Field]) -> bytes:
        message: Message = self._schema.message_class(resource.message).FromString(payload)
        for field in fields:
            message.ClearField(field.name)
        return message.SerializeToString(deterministic=True)

    @staticmethod
    def _in_scope(caller: Caller, resource: Resource, action: str) -> None:
        if not caller.in_scope(resource.message, action):
            raise Denied(
                "This is not in your scopes.",
                reason="SCOPE_MISSING",
                metadata={"resource": resource.type, "action": action},
            )


def told(asking: Asking) -> bytes:
    """Who asks, as a JSON object with the columns of `rules.sql.ASKING`."""
    caller = asking.caller
    return orjson.dumps(
        {
            "name": caller.name,
            "id": caller.id,
            "kind": caller.kind.value,
            "roles": sorted(caller.roles),
            "verified": caller.verified,
            "session_age": asking.session_age,
            "now": (_EPOCH + timedelta(microseconds=asking.now)).isoformat(),
        }
    )


def _itself(message: Any) -> Any:
    return message


def _name(resource: Resource, message: Any) -> str:
    return str(getattr(message, resource.name_field))


def _above(revision: Resource, name: str) -> str:
    """The name of the resource that a revision is one of."""
    pattern = revision.pattern_of(name)
    return pattern.parent_of(name) if pattern else ""


def _presence_differs(field: Field, one: Any, other: Any) -> bool:
    if not field.descriptor.has_presence:
        return False
    return bool(one.HasField(field.name) != other.HasField(field.name))
