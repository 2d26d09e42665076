"""Webhooks, as admins look after them: whom events are posted to, what became of them, and having them posted again."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from server.caller import Caller
from server.engine.audit import Audit
from server.engine.granting import require_scope
from server.engine.identity import etag_of, fresh_id
from server.engine.sealing import Seal
from server.engine.text import line, refuse
from server.engine.webhook_events import PING, WebhookEvents, ping
from server.engine.webhook_signing import new_secret, written
from server.errors import AlreadyExists, Denied, Exhausted, Expired, Invalid, NotFound, Precondition, Stale, Violation
from server.query import pages
from server.store.webhook_deliveries import StoredDeliveries, StoredDelivery
from server.store.webhook_fanning import ENDPOINTS_MAX
from server.store.webhook_posts import Network, may_reach
from server.store.webhooks import StoredEndpoint, StoredEndpoints

ENDPOINT = "transom.webhooks.v1.WebhookEndpoint"
"""What scopes call it."""
COLLECTION, DELIVERIES = "webhookEndpoints", "deliveries"
URL_MAX, DESCRIPTION_MAX = 2000, 300
"""Characters."""
PINGS_MAX = 10
"""Pings of an endpoint that wait."""
REPLAYS_MAX = 10
"""Parts of the log that an endpoint is told again at one time."""
OVERLAP, OVERLAP_MAX = timedelta(days=1), timedelta(days=7)
"""How long the secret before signs, too, where nobody says, and at most."""
CHANGEABLE = ("url", "event_types", "filter", "description")
"""Fields that admins change."""

_ID = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_URL = re.compile(r"https?://[\x21-\x7e]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an endpoint is to be, where `paths` name it."""

    paths: frozenset[str]
    url: str = ""
    types: tuple[str, ...] = ()
    filter: str = ""
    description: str = ""
    etag: str = ""


class Webhooks:
    """What admins may do. All raise Unavailable where the database is away, and as `require_scope`."""

    def __init__(
        self,
        endpoints: StoredEndpoints,
        deliveries: StoredDeliveries,
        events: WebhookEvents,
        seal: Seal,
        audit: Audit,
        micros: Callable[[], int],
        networks: Sequence[Network] = (),
        *,
        days: float = 14.0,
        page_size: int = 50,
        page_size_max: int = 1000,
    ) -> None:
        self._endpoints = endpoints
        self._deliveries = deliveries
        self._events = events
        self._seal = seal
        self._audit = audit
        self._micros = micros
        self._networks = networks
        self._days = days
        self._page_size, self._page_size_max = page_size, page_size_max

    async def create(self, caller: Caller, id: str, wanted: Wanted) -> tuple[StoredEndpoint, str]:
        """A new endpoint and its secret. Raises Invalid; Denied (SCOPE_REQUIRED) where the caller may not watch what it is told
        of; AlreadyExists; Exhausted (TOO_MANY_ENDPOINTS); Precondition (SECRET_NOT_SET)."""
        require_scope(caller, ENDPOINT, "create")
        if id and not _ID.fullmatch(id):
            why = "must be 1 to 63 small letters, digits and hyphens, a letter first, no hyphen last"
            raise Invalid.field("webhook_endpoint_id", why, "INVALID_ID")
        id = id or fresh_id(self._micros())
        types = self._checked(caller, wanted.url, wanted.types, wanted.filter, wanted.description)
        secret = new_secret()
        note = self._audit.statement(
            "webhook_created", actor=caller.name, target=_name(id), details={"host": _host(wanted.url)}
        )
        made = await self._endpoints.create(
            id,
            wanted.url,
            types,
            wanted.filter,
            wanted.description,
            caller.name,
            self._seal.seal(secret, id),
            ENDPOINTS_MAX,
            note,
        )
        if made is None:
            raise Exhausted(f"There are {ENDPOINTS_MAX} endpoints, the most there can be.", reason="TOO_MANY_ENDPOINTS")
        if not made:
            raise AlreadyExists(
                "There is such an endpoint already.", resource=("transom.dev/WebhookEndpoint", _name(id))
            )
        return await self._one(_name(id)), written(secret)

    async def get(self, caller: Caller, name: str) -> StoredEndpoint:
        """One of them. Raises Invalid, NotFound."""
        require_scope(caller, ENDPOINT, "get")
        return await self._one(name)

    async def list(self, caller: Caller, size: int, token: str) -> tuple[Sequence[StoredEndpoint], str]:
        """A page of them by name, and the next page's token. Raises Invalid."""
        require_scope(caller, ENDPOINT, "list")
        size = pages.size_of(size, self._page_size, self._page_size_max)
        rows = await self._endpoints.page(pages.opened(token, COLLECTION), size + 1)
        return rows[:size], pages.sealed(COLLECTION, rows[size - 1].id) if len(rows) > size else ""

    async def update(self, caller: Caller, name: str, wanted: Wanted) -> StoredEndpoint:
        """Changes an endpoint, whose owner is then the caller. Raises as `create`; NotFound; Stale where it is not the one of
        the etag, or is changed at the same time."""
        require_scope(caller, ENDPOINT, "update")
        stored = await self._one(name)
        if wanted.etag and wanted.etag != etag_of(stored.version):
            raise Stale("The endpoint has changed since it was read.")
        url = wanted.url if "url" in wanted.paths else stored.url
        types: Sequence[str] = wanted.types if "event_types" in wanted.paths else stored.types
        filter = wanted.filter if "filter" in wanted.paths else stored.filter
        description = wanted.description if "description" in wanted.paths else stored.description
        # What waits and what is replayed goes where the caller says from now on: they must be allowed to know that, too.
        self._may_watch(caller, {one if one == "*" else one.rpartition(".")[0] for one in stored.types})
        types = self._checked(caller, url, types, filter, description)
        note = self._audit.statement("webhook_updated", actor=caller.name, target=name, details={"host": _host(url)})
        args = (url, types, filter, description, caller.name)
        if not await self._endpoints.update(stored.id, stored.version, *args, note):
            raise Stale("The endpoint has changed since it was read.")
        return await self._one(name)

    async def delete(self, caller: Caller, name: str) -> None:
        """Deletes it with its log. Raises Invalid, NotFound."""
        require_scope(caller, ENDPOINT, "delete")
        note = self._audit.statement("webhook_deleted", actor=caller.name, target=name)
        if not await self._endpoints.delete(_id(name), note):
            raise _none(name)

    async def pause(self, caller: Caller, name: str) -> StoredEndpoint:
        """Posts nothing to it until it is resumed. Raises Invalid, NotFound."""
        require_scope(caller, ENDPOINT, "pause")
        note = self._audit.statement("webhook_paused", actor=caller.name, target=name)
        await self._endpoints.pause(_id(name), note)
        return await self._one(name)

    async def resume(self, caller: Caller, name: str, skip: bool = False) -> StoredEndpoint:
        """Goes on with it where it was or, with `skip`, with what comes. Raises Invalid, NotFound; Expired (EVENTS_GONE)
        where events in between are not kept any more."""
        require_scope(caller, ENDPOINT, "resume")
        note = self._audit.statement(
            "webhook_resumed", actor=caller.name, target=name, details={"skip": "yes"} if skip else {}
        )
        if await self._endpoints.resume(_id(name), skip, note) is None:
            raise Expired(
                "Some of what happened meanwhile is not kept any more; resume with skip.", reason="EVENTS_GONE"
            )
        return await self._one(name)

    async def rotate(self, caller: Caller, name: str, overlap: timedelta | None) -> tuple[StoredEndpoint, str]:
        """Another secret, and for how long the one before signs, too. Raises Invalid, NotFound, Stale."""
        require_scope(caller, ENDPOINT, "rotate")
        overlap = OVERLAP if overlap is None else overlap
        if not timedelta(0) <= overlap <= OVERLAP_MAX:
            raise Invalid.field("overlap", f"must be 0 to {OVERLAP_MAX.days} days", "OUT_OF_RANGE")
        stored, secret = await self._one(name), new_secret()
        note = self._audit.statement("webhook_secret_rotated", actor=caller.name, target=name)
        sealed = self._seal.seal(secret, stored.id)
        if not await self._endpoints.rotate(stored.id, sealed, stored.secret, stored.version, overlap, note):
            raise Stale("The endpoint has changed since it was read.")
        return await self._one(name), written(secret)

    async def ping(self, caller: Caller, name: str) -> StoredDelivery:
        """Has something posted that tells nothing. Raises Invalid, NotFound, Exhausted (PINGS_WAITING); Precondition
        (ENDPOINT_NOT_ACTIVE) where it would not be posted."""
        require_scope(caller, ENDPOINT, "ping")
        stored, now = await self._one(name), self._micros()
        if stored.state != "active":
            raise Precondition(f"The endpoint is {stored.state}; resume it first.", reason="ENDPOINT_NOT_ACTIVE")
        body = ping(name, datetime.fromtimestamp(now / 1e6, UTC))
        made = await self._deliveries.ping(stored.id, f"ping_{fresh_id(now)}", PING, body, PINGS_MAX)
        if made is None:
            raise Exhausted(f"{PINGS_MAX} pings wait already.", reason="PINGS_WAITING")
        return await self._delivery(f"{name}/{DELIVERIES}/{made}")

    async def delivery(self, caller: Caller, name: str) -> StoredDelivery:
        """What became of one event. Raises Invalid, NotFound."""
        require_scope(caller, ENDPOINT, "get")
        return await self._delivery(name)

    async def deliveries(
        self, caller: Caller, parent: str, state: str, size: int, token: str
    ) -> tuple[Sequence[StoredDelivery], str]:
        """A page of them, the newest first, and the next page's token. Raises Invalid, NotFound."""
        require_scope(caller, ENDPOINT, "get")
        endpoint = (await self._one(parent, "parent")).id
        size, query = pages.size_of(size, self._page_size, self._page_size_max), f"{parent} {state}"
        after = pages.opened(token, query)
        rows = await self._deliveries.page(endpoint, state, int(after) if after else 1 << 62, size + 1)
        return rows[:size], pages.sealed(query, str(rows[size - 1].id)) if len(rows) > size else ""

    async def replay(self, caller: Caller, name: str) -> StoredDelivery:
        """Has one event posted again, or now where it waits. Raises Invalid, NotFound; Denied as `create`."""
        require_scope(caller, ENDPOINT, "replay")
        endpoint, id = _delivery_id(name)
        stored = await self._delivery(name)
        if stored.type != PING:
            self._may_watch(caller, [stored.type.rpartition(".")[0]])
        note = self._audit.statement("webhook_replayed", actor=caller.name, target=name)
        if not await self._deliveries.again(endpoint, id, note):
            raise _none(name, "WebhookDelivery")
        return await self._delivery(name)

    async def replay_range(
        self, caller: Caller, name: str, start: datetime | None, end: datetime | None
    ) -> tuple[int, int]:
        """Has what was written in a range of time posted, in order; after which position of the log, and up to which.
        Raises Invalid, NotFound, Exhausted (TOO_MANY_REPLAYS); Expired (EVENTS_GONE, with `kept_after`) where some of it is
        kept no more."""
        require_scope(caller, ENDPOINT, "replay")
        if start is None:
            raise Invalid.field("start_time", "is required", "REQUIRED")
        if end is not None and end <= start:
            raise Invalid.field("end_time", "must be after start_time", "OUT_OF_RANGE")
        id = _id(name)
        found = await self._endpoints.around(start, end)
        if isinstance(found, datetime):
            since = found.astimezone(UTC).isoformat().replace("+00:00", "Z")
            raise Expired(
                f"Not all events of that time are kept any more: begin after {since}.",
                reason="EVENTS_GONE",
                metadata={"kept_after": since},
            )
        after, until = found
        told = {"start": start.isoformat(), "end": end.isoformat() if end else ""}
        note = self._audit.statement("webhook_replayed", actor=caller.name, target=name, details=told)
        done = await self._endpoints.replay(id, after, None if end is None else until, REPLAYS_MAX, note)
        if done is None:
            raise Exhausted(f"{REPLAYS_MAX} parts are told again already.", reason="TOO_MANY_REPLAYS")
        if not done:
            raise _none(name)
        return after, until

    async def sweep(self) -> int:
        """Forgets what was delivered or given up long ago; how many it were."""
        return await self._deliveries.sweep(self._days)

    def _checked(self, caller: Caller, url: str, types: Sequence[str], filter: str, description: str) -> Sequence[str]:
        refuse(
            self._url(url),
            line("webhook_endpoint.description", description, DESCRIPTION_MAX),
        )
        types, messages = self._events.checked(types, filter)
        self._may_watch(caller, messages)
        return types

    def _may_watch(self, caller: Caller, messages: Iterable[str]) -> None:
        for message in messages:
            if not caller.in_scope(message, "watch"):
                scope = f"{message}:watch"
                raise Denied(f"This needs the scope {scope}.", reason="SCOPE_REQUIRED", metadata={"scope": scope})

    def _url(self, url: str) -> Violation | None:
        """What is wrong with it, as far as it tells by itself; where its name leads is looked at when something is posted."""

        def wrong(why: str, reason: str = "INVALID_URL") -> Violation:
            return Violation("webhook_endpoint.url", why, reason)

        if not url:
            return wrong("is required", "REQUIRED")
        if len(url) > URL_MAX:
            return wrong(f"has more than {URL_MAX} characters", "TOO_LONG")
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host = None
        if not _URL.fullmatch(url) or not host or "\\" in url:
            return wrong("is no https URL in ASCII")
        if "@" in parts.netloc or "#" in url:
            return wrong("must have no user and no fragment")
        if parts.scheme != "https" and not self._networks:
            return wrong("must be https", "HTTPS_REQUIRED")
        try:
            address = str(ipaddress.ip_address(host))
        except ValueError:
            return None
        return None if may_reach(address, self._networks) else wrong("is no public address", "ADDRESS_NOT_ALLOWED")

    async def _one(self, name: str, field: str = "name") -> StoredEndpoint:
        found = await self._endpoints.one(_id(name, field))
        if found is None:
            raise _none(name)
        return found

    async def _delivery(self, name: str) -> StoredDelivery:
        found = await self._deliveries.one(*_delivery_id(name))
        if found is None:
            raise _none(name, "WebhookDelivery")
        return found


def _host(url: str) -> str:
    """Of a URL what may be written down: its path and query may be known to few."""
    return urlsplit(url).netloc


def _name(id: str) -> str:
    return f"{COLLECTION}/{id}"


def _id(name: str, field: str = "name") -> str:
    collection, _, id = name.partition("/")
    if collection != COLLECTION or not _ID.fullmatch(id):
        raise Invalid.field(field, f"must look like {COLLECTION}/{{webhook_endpoint}}", "INVALID_NAME")
    return id


def _delivery_id(name: str) -> tuple[str, int]:
    endpoint, _, id = name.partition(f"/{DELIVERIES}/")
    if not (id.isascii() and id.isdecimal() and len(id) <= 18):
        raise Invalid.field(
            "name", f"must look like {COLLECTION}/{{webhook_endpoint}}/{DELIVERIES}/{{delivery}}", "INVALID_NAME"
        )
    return _id(endpoint), int(id)


def _none(name: str, type: str = "WebhookEndpoint") -> NotFound:
    return NotFound("There is no such thing.", resource=(f"transom.dev/{type}", name))
