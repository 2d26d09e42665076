"""Why a caller may or may not do something with a resource, for admins who were asked just that."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from server.caller import NOBODY, Caller, Kind
from server.engine.access import Access, Clock, Lookups
from server.engine.audit import Audit
from server.engine.granting import require_scope
from server.engine.refusals import refused
from server.errors import Invalid, NotFound, Refusal
from server.query.rules import tree
from server.query.rules.checking import ACTIONS, Rule
from server.query.rules.explaining import Part, explained
from server.query.rules.lowering import LOOKUPS_MAX
from server.query.rules.scene import Asking, Key, Scene
from server.schema.model import Resource, Schema
from server.schema.names import name_fault
from server.store.changes import Row
from server.store.keys import StoredKeys
from server.store.users import StoredUsers

RULE = "transom.admin.v1.Rule"
"""The message that the scope names."""

SESSION_AGE_MOST = 315_576_000
"""Seconds that a session may be supposed to be old: ten years."""

_CALLER = re.compile(r"(users|keys)/([^/\x00]{1,100})")
_HIDDEN = "not in your scopes"


class Why(StrEnum):
    """What an outcome rests on."""

    TRUSTED = "trusted"
    """No rule binds the caller, and it is within its scopes."""
    SCOPE_MISSING = "scope missing"
    NO_RULE = "no rule"
    """Nothing speaks of it, which denies."""
    RULE = "rule"


@dataclass(frozen=True, slots=True)
class RuleFound:
    """A rule as it was judged."""

    where: str
    text: str
    condition: str
    """As SQL, where pages are judged by it."""
    holds: bool
    part: Part | None
    """How it came to that; None where nobody asked."""


@dataclass(frozen=True, slots=True)
class ActionFound:
    """What would become of an action."""

    action: str
    refusal: Refusal | None
    """What the caller would be told; None where the action is allowed."""
    why: Why
    rule: RuleFound | None

    @property
    def field(self) -> str:
        """The field whose own rule refuses it, if that is why."""
        return self.refusal.metadata.get("field", "") if self.refusal is not None else ""


@dataclass(frozen=True, slots=True)
class FieldFound:
    """What the rules of a field say: None where it has no such rule, and the resource's count."""

    field: str
    read: RuleFound | None
    write: RuleFound | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """An answer."""

    caller: Caller
    disabled: bool
    """Whether the account is, so that it could not even call."""
    resource: Resource
    name: str
    row: Row | None
    asked: ActionFound
    others: tuple[ActionFound, ...]
    fields: tuple[FieldFound, ...]


@dataclass(frozen=True, slots=True)
class _Call:
    caller: Caller


class Explanations:
    """Explains what `Access` decides: it is asked what it would do, and the rules what they rest on."""

    def __init__(
        self,
        schema: Schema,
        access: Access,
        records: Lookups,
        users: StoredUsers,
        keys: StoredKeys,
        audit: Audit,
        clock: Clock,
    ) -> None:
        self._schema = schema
        self._access = access
        self._records = records
        self._users = users
        self._keys = keys
        self._audit = audit
        self._clock = clock

    async def explain(self, admin: Caller, subject: str, action: str, name: str, age: float = 0.0) -> Explanation:
        """What `subject` (`users/…`, `keys/…`; empty: nobody) may do with the resource called `name`, and why it may do
        `action` or not. `age`: how many seconds ago its session is supposed to have proved who it is.

        An update is judged as one that changes nothing, a creation as one of what is stored, by the subject. Values that
        are not within the admin's scopes are left out. Noted in the audit log.

        Raises NotFound where there is no such account or key, Invalid, and as `require_scope`.
        """
        require_scope(admin, RULE, "explain")
        if action not in ACTIONS:
            raise Invalid.field("action", f"is none of {', '.join(ACTIONS)}", "UNKNOWN_ACTION")
        if not 0 <= age <= SESSION_AGE_MOST:
            raise Invalid.field("session_age", f"is not 0 to {SESSION_AGE_MOST} s", "OUT_OF_RANGE")
        resource = self._resource(name)
        caller, disabled = await self._caller(subject, age)
        await self._audit.note(
            "access_explained", actor=admin.name, target=subject, details={"action": action, "resource": name}
        )
        [row] = await self._records.find([(resource, name)], None)
        judging = _Judging(
            self._schema, self._access, self._records, Asking(caller, self._clock()), resource, name, row
        )
        veiled = _Veil(admin, resource)
        rules = self._access.rules(resource)
        found = [await judging.action(one, explain=one == action) for one in ACTIONS]
        fields: dict[str, FieldFound] = {}
        for field, rule in rules.reads:
            fields[field.name] = FieldFound(field.name, await judging.rule(rule), None)
        for field, rule in rules.writes:
            before = fields.get(field.name, FieldFound(field.name, None, None))
            fields[field.name] = replace(before, write=await judging.rule(rule))
        return Explanation(
            caller,
            disabled,
            resource,
            name,
            row if veiled.open([resource.message]) else row and Row(row.name, b"", row.version, ""),
            next(veiled.action(rules.actions.get(action), one) for one in found if one.action == action),
            tuple(one for one in found if one.action != action),
            tuple(fields.values()) if not caller.trusted else (),
        )

    def _resource(self, name: str) -> Resource:
        fault = name_fault(name)
        resource = None if fault else self._schema.resource_of(name)
        if resource is None:
            raise Invalid.field("resource_name", fault or "is no name of a resource of this schema", "NAME_INVALID")
        return resource

    async def _caller(self, subject: str, age: float) -> tuple[Caller, bool]:
        """The caller as authentication would tell it, and whether its account is disabled or on its way out."""
        if not subject:
            return NOBODY, False
        named = _CALLER.fullmatch(subject)
        if named is None:
            raise Invalid.field(
                "caller", "is neither users/{user} nor keys/{key}, nor empty for nobody", "NAME_INVALID"
            )
        if named[1] == "keys":
            key = await self._keys.one(named[2])
            if key is None:
                raise NotFound("There is no such key.", resource=("transom.dev/Key", subject))
            return Caller(Kind.KEY, subject, frozenset((key.role,)), scopes=_maybe(key.scopes)), False
        user = await self._users.one(named[2])
        if user is None:
            raise NotFound("There is no such account.", resource=("transom.dev/User", subject))
        caller = Caller(
            Kind.ANONYMOUS if user.anonymous else Kind.USER,
            subject,
            frozenset(user.roles),
            verified=user.verified,
            session_time=self._clock() / 1e6 - age,
            scopes=_maybe(user.scopes),
        )
        return caller, user.disabled_time is not None or user.delete_time is not None


class _Judging:
    """One row and one caller."""

    def __init__(
        self,
        schema: Schema,
        access: Access,
        records: Lookups,
        asking: Asking,
        resource: Resource,
        name: str,
        row: Row | None,
    ) -> None:
        self._class = schema.message_class
        self._access = access
        self._records = records
        self._asking = asking
        self._resource = resource
        self._name = name
        self._row = row

    async def action(self, action: str, *, explain: bool) -> ActionFound:
        """What would become of the action, and the rule it rests on."""
        caller, refusal = self._asking.caller, None
        try:
            await self._tried()[action]()
        except Refusal as told:
            refusal = told
        if caller.trusted:
            missing = not caller.in_scope(self._resource.message, action)
            return ActionFound(action, refusal, Why.SCOPE_MISSING if missing else Why.TRUSTED, None)
        rule = self._access.rules(self._resource).actions.get(action)
        if rule is None:
            return ActionFound(action, refusal, Why.NO_RULE, None)
        return ActionFound(action, refusal, Why.RULE, await self.rule(rule, explain=explain))

    async def rule(self, rule: Rule, *, explain: bool = False) -> RuleFound:
        """The rule as it is judged, with all that it looks up looked up."""
        part = None
        for _ in range(LOOKUPS_MAX + 1):
            scene = self._scene(rule)
            part = explained(rule, scene)
            if not scene.wanted:
                break
            wanted = list(dict.fromkeys((r.message, n) for r, n in scene.wanted))
            by_message = {r.message: r for r, _ in scene.wanted}
            await self._look_up([(by_message[m], n) for m, n in wanted])
        assert part is not None
        return RuleFound(rule.where, rule.text, rule.condition, part.value == "true", part if explain else None)

    def _tried(self) -> dict[str, Callable[[], Awaitable[Any]]]:
        """What each action asks of Access, as the engine does."""
        access, resource, name, row = self._access, self._resource, self._name, self._row
        call = _Call(self._asking.caller)

        def there() -> Row:
            if row is None:
                raise NotFound(f"{name} does not exist.", metadata={"name": name}, resource=(resource.type, name))
            return row

        async def shown(action: str) -> None:
            if action == "list":
                await access.listing(call, resource)
            elif not call.caller.trusted and action not in access.rules(resource).actions:
                raise refused(call.caller, resource, action)
            if await access.seen(call.caller, resource, there(), action) is None:
                raise NotFound(f"{name} is left out.", reason="LEFT_OUT", resource=(resource.type, name))

        async def update() -> None:
            found = there()
            changing = await access.changing(call, resource, found)
            await changing.check(self._message(found))

        async def create() -> None:
            await access.create(call, resource, name, self._made(), None)

        async def delete() -> None:
            await access.delete(call, resource, there())

        return {
            "get": lambda: access.get(call, resource, name),
            "list": lambda: shown("list"),
            "watch": lambda: shown("watch"),
            "create": create,
            "update": update,
            "delete": delete,
        }

    def _scene(self, rule: Rule) -> Scene:
        row, asking = self._row, self._asking
        if rule.action == "create":
            made = self._made()
            return Scene(asking, self._name, read=lambda: made, owner=asking.caller.name, request=made)
        if row is None:
            return Scene(asking, self._name)
        message = self._message(row)
        return Scene(asking, self._name, read=lambda: message, owner=row.owner, request=message)

    def _made(self) -> Any:
        """What a creation would store: what is there, or nothing but a name."""
        message = self._message(self._row) if self._row is not None else self._class(self._resource.message)()
        setattr(message, self._resource.name_field, self._name)
        return message

    def _message(self, row: Row) -> Any:
        return self._class(self._resource.message).FromString(row.payload)

    async def _look_up(self, wanted: Sequence[tuple[Resource, str]]) -> None:
        rows = await self._records.find(wanted, None)
        for (resource, name), row in zip(wanted, rows, strict=True):
            key: Key = (resource.message, name)
            found = None if row is None else self._class(resource.message).FromString(row.payload)
            self._asking.found[key] = found


class _Veil:
    """Leaves out what the admin may not read."""

    def __init__(self, admin: Caller, resource: Resource) -> None:
        self._admin = admin
        self._resource = resource

    def open(self, messages: Iterable[str]) -> bool:
        """Whether the admin may get resources of all these messages."""
        return all(self._admin.in_scope(message, "get") for message in messages)

    def action(self, rule: Rule | None, found: ActionFound) -> ActionFound:
        """The outcome, without the values that the admin may not read."""
        if rule is None or found.rule is None or found.rule.part is None:
            return found
        looked_at = {n.resource.message for n in tree.walk(rule.node) if isinstance(n, tree.Found | tree.Exists)}
        if self.open({self._resource.message, *looked_at}):
            return found
        return replace(found, rule=replace(found.rule, part=_veiled(found.rule.part)))


def _veiled(part: Part) -> Part:
    value = part.value if part.value in ("true", "false") else "error" if part.value.startswith("error") else _HIDDEN
    parts = tuple(map(_veiled, part.parts))
    return replace(part, source=part.source if not part.element else part.element, value=value, parts=parts)


def _maybe(scopes: Sequence[str] | None) -> frozenset[str] | None:
    return None if scopes is None else frozenset(scopes)
