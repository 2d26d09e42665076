"""Watch, declared by an app's schema or asked of transom.data.v1: request → stream of the engine → messages.

A message is put together from stored bytes, as a List's reply is. What is the same for many watchers is put together once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from server.caller import Caller
from server.engine import views
from server.engine.authentication import Authentication
from server.engine.resources import Call, Resources
from server.engine.tokens import digest
from server.engine.watch_streams import Stream, Streams
from server.engine.watch_views import NOTHING, Asked, Told
from server.engine.watching import Watcher
from server.query.pages import frame, varint
from server.schema.classification import changes_of
from server.schema.model import Method
from server.services.current import current
from server.services.rest_streams import ended_in_band, last_event
from server.services.standard.parsing import calling, parser

Behavior = Callable[[bytes, Any], AsyncGenerator[bytes, None]]

Entry = Callable[[Call], Awaitable[None]]
"""Whether who calls may call the method at all. Raises the refusal of who may not."""

_ASKED = {
    "parent": FieldDescriptor.TYPE_STRING,
    "name": FieldDescriptor.TYPE_STRING,
    "filter": FieldDescriptor.TYPE_STRING,
    "show_deleted": FieldDescriptor.TYPE_BOOL,
    "resume_token": FieldDescriptor.TYPE_STRING,
}
"""Fields of requests that are served, where they have these types."""


class Watches:
    """Opens streams for who calls now."""

    def __init__(self, streams: Streams, callers: Authentication) -> None:
        self.resources: Resources = streams.resources
        self._streams = streams
        self._callers = callers

    async def messages(
        self,
        context: Any,
        asked: Asked,
        bound: str,
        token: str,
        form: Form,
        shape: views.Shape | None = None,
        *,
        entry: Entry,
    ) -> AsyncGenerator[bytes, None]:
        """The messages of a watch. `bound` is what its tokens are good for, beside the resources that are asked for. `entry`
        is asked at once, whenever who calls may not be what it was, and every AGAIN_SECONDS."""
        await entry(calling())
        watcher = self.watcher(entry)
        parts = (bound, asked.resource.message, asked.parent, asked.name, asked.filter, str(asked.deleted))
        last = last_event(context)
        stream = self._streams.open(
            asked, watcher, "\n".join(f"{len(p)}:{p}" for p in parts), last or token, anew=bool(last)
        )

        async def rendered() -> AsyncGenerator[bytes, None]:
            async with aclosing(stream.told()) as told:
                async for one in told:
                    yield form.rendered(one, stream, shape)

        async with aclosing(ended_in_band(rendered(), form.refused)) as messages:
            async for message in messages:
                yield message

    def watcher(self, entry: Entry | None = None) -> Watcher:
        """Who calls now, as a watcher."""
        call, asked, callers = current(), calling(), self._callers
        authorization = call.authorization
        if authorization is None and (token := call.cookies.token(call.cookie)) is not None:
            authorization = f"Bearer {token}"
        address = call.address

        async def again() -> Caller:
            caller = await callers.caller(authorization, address)
            if entry is not None:  # also of who is the same: the method's rule may look at others' resources
                await entry(replace(asked, caller=caller))
            return caller

        hashed = digest(authorization.partition(" ")[2]) if authorization and call.caller.known else b""
        return Watcher(call.caller, call.caller.name or address, hashed, again)

    def behavior(self, method: Method) -> Behavior:
        """What serves a method of the schema that watches."""
        resources, resource = self.resources, method.resource
        assert resource is not None
        request_type = resources.schema.message_class(method.request).DESCRIPTOR
        served = {name for name, kind in _ASKED.items() if _is(request_type, name, kind)}
        shaping, shaped = views.shaping(resources.schema, method), views.served(request_type)
        parsed = parser(resources, method, {*served, *shaped}, checked=True)
        form = Form(resources.schema.message_class(method.response).DESCRIPTOR, method.items_field)
        access = resources.access
        ruled = access.rule_of(method) is not None

        async def watch(data: bytes, context: Any) -> AsyncGenerator[bytes, None]:
            request = parsed(data)
            shape = shaping(request) if shaped else None

            async def entry(call: Call) -> None:
                if ruled and not call.caller.trusted:
                    await access.call(call, method, request)

            said = {name: getattr(request, name) for name in served}
            asked = Asked(
                resource,
                said.get("parent", ""),
                said.get("name", ""),
                said.get("filter", ""),
                said.get("show_deleted", False),
            )
            async with aclosing(
                self.messages(context, asked, method.path, said.get("resume_token", ""), form, shape, entry=entry)
            ) as messages:
                async for message in messages:
                    yield message

        return watch


class Form:
    """How messages of one type are put together."""

    def __init__(self, message: Descriptor, resource_field: str, *, packed: bool = False) -> None:
        """`packed`: the resource is a google.protobuf.Any."""
        fields = message.fields_by_name
        self._resource = fields[resource_field].number
        self._packed = packed
        self._name = fields["name"].number
        self._token = fields["resume_token"].number
        self._synced = _number(message, "synced", FieldDescriptor.TYPE_BOOL)
        self._verb = _number(message, "verb", FieldDescriptor.TYPE_STRING)
        self._error = _status(message)
        time = fields.get("change_time")
        kind = time.message_type if time is not None and not time.is_repeated else None
        stamped = kind is not None and kind.full_name == "google.protobuf.Timestamp"
        self._time = time.number if time is not None and stamped else 0
        change = fields["change"]
        self._changes = [
            varint(change.number << 3) + varint(value)
            if isinstance(value, int)
            else frame(change.number, value.encode())
            for value in changes_of(change) or ()
        ]

    def refused(self, status: bytes) -> bytes | None:
        """The message that says why the stream ends; None where there is no place for it."""
        return frame(self._error, status) if self._error else None

    def rendered(self, told: Told, stream: Stream, shape: views.Shape | None) -> bytes:
        """The message. `shape` makes of a resource what is shown of it."""
        sharing = None if shape else stream.sharing
        if sharing is None:
            return self._base(told, stream, shape) + self._place(stream)
        found = told.rendered.get((self, sharing))
        if found is None:
            base = told.rendered.get(self)
            if base is None:
                base = told.rendered[self] = self._base(told, stream, None)
            found = told.rendered[self, sharing] = base + self._place(stream)
        return found

    def _place(self, stream: Stream) -> bytes:
        token = stream.token
        return frame(self._token, token.encode()) if token else b""

    def _base(self, told: Told, stream: Stream, shape: views.Shape | None) -> bytes:
        out = [self._changes[told.change - 1]] if told.change != NOTHING else []
        if told.name:
            out.append(frame(self._name, told.name.encode()))
        if told.payload is not None:
            payload = shape(told.payload) if shape else told.payload
            if self._packed:
                url = f"type.googleapis.com/{stream.message}"
                payload = frame(1, url.encode()) + (frame(2, payload) if payload else b"")
            out.append(frame(self._resource, payload))
        if told.synced and self._synced:
            out.append(varint(self._synced << 3) + b"\1")
        if told.verb and self._verb:
            out.append(frame(self._verb, told.verb.encode()))
        if told.time and self._time:
            seconds, micros = divmod(told.time, 1_000_000)
            stamp = b"\x08" + varint(seconds) + (b"\x10" + varint(micros * 1000) if micros else b"")
            out.append(frame(self._time, stamp))
        return b"".join(out)


def _number(message: Descriptor, name: str, kind: int) -> int:
    return int(message.fields_by_name[name].number) if _is(message, name, kind) else 0


def _status(message: Descriptor) -> int:
    """The number of the field that says why a stream ends: `error`, a google.rpc.Status. 0 where there is none."""
    field = message.fields_by_name.get("error")
    if field is None or field.is_repeated or field.message_type is None:
        return 0
    return int(field.number) if field.message_type.full_name == "google.rpc.Status" else 0


def _is(message: Descriptor, name: str, kind: int) -> bool:
    field = message.fields_by_name.get(name)
    return field is not None and field.type == kind and not field.is_repeated
