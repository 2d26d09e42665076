"""Which events an endpoint is told of, and in which words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog
from google.protobuf import json_format

from server.caller import ADMIN, OPERATOR, SYSTEM, Caller, Kind
from server.engine.access import Access
from server.engine.decisions import deleted
from server.errors import Invalid, Violation
from server.query.filters import Filters
from server.schema.model import Resource, Schema
from server.store.webhook_fanning import Listener, LoggedEvent, NewDelivery, Rights

TYPES_MAX = 50
"""Types of events of one endpoint."""
FILTER_MAX = 2000
"""Characters of a filter."""
BODY_MAX = 256 << 10
"""Bytes of what is posted; of a resource that makes it longer only the name is told."""
PING = "transom.webhooks.v1.Ping"
"""The type of what tells nothing."""

UNREADABLE = "EVENT_UNREADABLE"
"""The error of a delivery whose event cannot be read: it is not posted unless somebody replays it, then without the resource."""

CREATED, UPDATED, DELETED, REMOVED = "CREATED", "UPDATED", "DELETED", "REMOVED"
"""What has become of a resource for who is told, as transom.events.v1.Change has it."""

log = structlog.get_logger("webhooks")

_TYPE = re.compile(r"([A-Za-z_][A-Za-z0-9_.]{0,199})\.(\*|[a-z][a-z0-9_]{0,62})")


class WebhookEvents:
    """Of the resources of a schema."""

    def __init__(self, schema: Schema, access: Access) -> None:
        self._schema = schema
        self._access = access
        self._filters: dict[str, Filters] = {}
        self._unreadable = 0

    @property
    def messages(self) -> list[str]:
        """Those whose changes are told."""
        return sorted(self._schema.resources)

    def checked(self, types: Sequence[str], filter: str) -> tuple[list[str], list[str]]:
        """The types, each once, and the messages that they name. Raises Invalid for types of events that there are not, and
        for a filter that is none of the one resource it is for."""
        wrong = []
        if not 1 <= len(types) <= TYPES_MAX:
            wrong.append(Violation("webhook_endpoint.event_types", f"must be 1 to {TYPES_MAX}", "WRONG_NUMBER"))
        messages: list[str] = []
        for i, one in enumerate(types[:TYPES_MAX]):
            found = _TYPE.fullmatch(one)
            if one != "*" and (found is None or found[1] not in self._schema.resources):
                why = f"{one[:200]!r} is not '*', '<message>.*' or '<message>.<verb>' of a resource there is"
                wrong.append(Violation(f"webhook_endpoint.event_types[{i}]", why, "UNKNOWN_EVENT_TYPE"))
            messages.append(found[1] if found else "*")
        if wrong:
            raise Invalid.fields(wrong)
        messages = list(dict.fromkeys(messages))
        if len(filter) > FILTER_MAX:
            raise Invalid.field("webhook_endpoint.filter", f"has more than {FILTER_MAX} characters", "TOO_LONG")
        if filter:
            if len(messages) != 1 or messages == ["*"]:
                raise Invalid.field(
                    "webhook_endpoint.filter", "needs event types of one message", "FILTER_NEEDS_ONE_MESSAGE"
                )
            self._filters_of(messages[0]).parse(filter)
        return list(dict.fromkeys(types)), messages

    def told(
        self, listeners: Sequence[Listener], events: Sequence[LoggedEvent], rights: Sequence[Rights]
    ) -> tuple[list[NewDelivery], list[str]]:
        """As server.store.webhook_fanning.Decide."""
        owners = {one.name: _caller(one) for one in rights if ADMIN in one.roles}
        owners |= {OPERATOR.name: OPERATOR, SYSTEM.name: SYSTEM}
        made: list[NewDelivery] = []
        refused = [one.endpoint for one in listeners if one.owner not in owners]
        wanted = [one for one in listeners if one.owner in owners]
        for event in events:
            said: dict[str, bytes] = {}
            moment: _Moment | None = None
            for one in wanted:
                if not any(_is(event, type) for type in one.types):
                    continue
                if not owners[one.owner].in_scope(event.resource_type, "watch"):
                    continue
                error = ""
                try:
                    moment = moment or _Moment(event, self._schema)
                    change = self._change(one.filter, moment)
                    if change is None:
                        continue
                    if change not in said:
                        said[change] = self._body(moment, change)
                except Exception:  # the others are told all the same, and this one is where somebody sees it
                    log.exception("an event cannot be told", id=event.id, endpoint=one.endpoint)
                    self._unreadable += 1
                    change, error = UNREADABLE, UNREADABLE
                    said[change] = _unread(event)
                made.append(
                    NewDelivery(
                        one.endpoint,
                        f"evt_{event.id}",
                        f"{event.resource_type}.{event.verb}",
                        event.name,
                        event.position,
                        said[change],
                        error,
                    )
                )
        return made, refused

    def unreadable(self) -> int:
        """How many deliveries were made with UNREADABLE since this was asked last."""
        found, self._unreadable = self._unreadable, 0
        return found

    def _change(self, filter: str, moment: _Moment) -> str | None:
        """What has become of the resource for an endpoint with this filter; None where it was never among those asked for."""
        before, after = (
            side is not None and self._matches(filter, moment, side) for side in (moment.before, moment.after)
        )
        if after:
            return UPDATED if before else CREATED
        if not before:
            return None
        return DELETED if moment.after is None else REMOVED

    def _matches(self, filter: str, moment: _Moment, message: Any) -> bool:
        if not filter:
            return True
        resource = moment.resource
        try:
            found = self._filters_of(resource.message).parse(filter)
        except Invalid:  # the schema has changed: rather too much is told of than too little
            return True
        return found.matches(moment.event.name, message, self._hiding(resource))

    def _body(self, moment: _Moment, change: str) -> bytes:
        told = _head(moment.event, change)
        data = told["data"]
        if change != REMOVED:
            shown = self._shown(moment)
            body = _json(told | {"data": data | {"resource": shown}}) if shown is not None else b""
            if shown is not None and len(body) <= BODY_MAX:
                return body
            data["resourceOmitted"] = True
        return _json(told)

    def _shown(self, moment: _Moment) -> Any:
        """The resource as JSON, without fields that not everybody may read; None where it cannot be said."""
        message = type(moment.message)()
        message.CopyFrom(moment.message)
        for name in self._hiding(moment.resource):
            message.ClearField(name)
        try:
            return json_format.MessageToDict(message, descriptor_pool=self._schema.pool)
        except (TypeError, ValueError, json_format.Error):  # an Any of a type that this schema does not know
            return None

    def _hiding(self, resource: Resource) -> frozenset[str]:
        rules = self._access.rules(resource)
        return rules.copies | {field.name for field, _ in rules.reads}

    def _filters_of(self, message: str) -> Filters:
        if message not in self._filters:
            self._filters[message] = Filters(self._schema, self._schema.resources[message])
        return self._filters[message]


class _Moment:
    """An event and its messages; one that is deleted softly counts as gone."""

    def __init__(self, event: LoggedEvent, schema: Schema) -> None:
        self.event = event
        self.resource = schema.resources[event.resource_type]
        parse: Callable[[bytes], Any] = schema.message_class(event.resource_type).FromString
        self.message = parse(event.payload)
        """The resource after the change; before it, where it is gone."""
        after = None if event.gone or deleted(self.resource, self.message) else self.message
        if event.gone:
            before = self.message
        else:
            before = parse(event.before) if event.before is not None else None
        if before is not None and after is not None and deleted(self.resource, before):
            before = None
        self.before, self.after = before, after


def _head(event: LoggedEvent, change: str) -> dict[str, Any]:
    """What is told of every event."""
    data: dict[str, Any] = {
        "id": str(event.id),
        "position": str(event.position),
        "resourceType": event.resource_type,
        "verb": event.verb,
        "change": change,
        "name": event.name,
    }
    return {"type": f"{event.resource_type}.{event.verb}", "timestamp": _time(event.create_time), "data": data}


def _unread(event: LoggedEvent) -> bytes:
    told = _head(event, DELETED if event.gone else UPDATED)
    told["data"]["resourceOmitted"] = True
    return _json(told)


def ping(endpoint: str, time: datetime) -> bytes:
    """What tells nothing."""
    return _json({"type": PING, "timestamp": _time(time), "data": {"webhookEndpoint": endpoint}})


def _is(event: LoggedEvent, type: str) -> bool:
    message, _, verb = type.rpartition(".")
    return type == "*" or (message == event.resource_type and verb in ("*", event.verb))


def _caller(rights: Rights) -> Caller:
    scopes = None if rights.scopes is None else frozenset(rights.scopes)
    return Caller(kind=Kind.KEY, name=rights.name, roles=frozenset(rights.roles), scopes=scopes)


def _json(told: Any) -> bytes:
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def _time(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
