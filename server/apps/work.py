"""What an app's function sees of the system: a unit of work.

It reads at once and gathers what shall change; all of it commits in one transaction when the function has returned,
and only if nothing that was read and changed was changed by others meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from google.protobuf import json_format
from google.protobuf.message import Message

from server.apps.templates import Templates
from server.caller import Caller
from server.engine.identity import fresh_id
from server.engine.refusals import absent
from server.engine.resources import Call as Calling
from server.engine.resources import Resources, refusal
from server.engine.tasks import RESERVED, enqueue
from server.errors import Invalid, Stale
from server.schema.model import Resource, Schema
from server.store import mails
from server.store.changes import PAGE_BYTES_MAX, Act, Change, Outcome, Page, Row
from server.store.task_handlers import required
from server.store.tasks import key_required

LIST_MAX = 10_000
"""Resources that `list` answers at most; a collection that is larger is refused rather than cut."""
LIST_BYTES_MAX = 64 << 20
"""And their bytes, about."""

CHANGES_MAX = 500
"""Changes of one unit of work."""

RECIPIENTS_CHARS, ADDRESS_CHARS, SUBJECT_CHARS, TEXT_CHARS, ATTACHMENTS_MAX = 1000, 254, 500, 1 << 20, 10
"""Bounds of a mail. Its HTML may be as long as its text."""


class Files(Protocol):
    """The files, as an app's function needs them."""

    async def store(self, id: str, filename: str, content_type: str, data: bytes, owner: str) -> Any: ...
    async def read(self, name: str, *, variant: str = "") -> bytes: ...


class Accounts(Protocol):
    """The accounts, as an app's function needs them."""

    async def find(self, user: str) -> Any: ...


class Tasks(Protocol):
    """The tasks by name, as an app's function needs them."""

    async def holding(self, handler: str, unique_key: str) -> str: ...


class Contended(Stale):
    """What was read was changed by others before it could be committed: decide again."""

    reason = "CONCURRENT_CHANGE"
    retry_after = 0.1


@dataclass(frozen=True, slots=True)
class Event:
    """One committed change, as a task receives it."""

    id: str
    """Identity: the same when the event is delivered again."""
    position: int
    resource_type: str
    verb: str
    name: str
    resource: Any
    """The resource as it was after that change; before it, where it was deleted. Of a file (transom.files.v1.File) what it is
    now, None where it is gone."""
    caller: str
    request_id: str
    traceparent: str
    time: datetime

    @classmethod
    def of(cls, event: Any, schema: Schema) -> Event:
        """From the message on the wire (transom.events.v1.Event)."""
        return cls.about(event, schema.message_class(event.resource_type).FromString(event.payload))

    @classmethod
    def about(cls, event: Any, resource: Any) -> Event:
        """From the message on the wire, and the resource that it is about."""
        return cls(
            id=event.id,
            position=event.position,
            resource_type=event.resource_type,
            verb=event.verb,
            name=event.name,
            resource=resource,
            caller=event.caller,
            request_id=event.request_id,
            traceparent=event.traceparent,
            time=event.create_time.ToDatetime(tzinfo=UTC),
        )


class Work:
    """One unit of work. Not for use after `commit`."""

    def __init__(
        self,
        call: Calling,
        resources: Resources,
        files: Files,
        accounts: Accounts,
        *,
        templates: Templates | None = None,
        tasks: Tasks | None = None,
    ) -> None:
        """Without `templates` there are none that a mail could be made of; without `tasks` none has a unique key."""
        self._call = call
        self._templates = templates or Templates()
        self._resources = resources
        self._files = files
        self._accounts = accounts
        self._rows: dict[str, Row | None] = {}
        """What was read or will be, by name: what was read once is not read again. None where it is deleted here."""
        self._changes: list[Change] = []
        self._statements: list[tuple[str, Sequence[Any]]] = []
        self._tasks = tasks
        self._keyed: dict[tuple[str, str], str] = {}
        """Tasks with unique keys that were asked for here, by function and key."""
        self.tell_progress: Callable[[float, str], Awaitable[None]] | None = None
        """Who is told of progress; set by whoever runs a task."""

    @property
    def caller(self) -> Caller:
        """Who acts."""
        return self._call.caller

    @property
    def now(self) -> datetime:
        """The time, UTC."""
        return datetime.now(UTC)

    async def get(self, name: str) -> Any:
        """The resource called `name`, as it was when it was first read here, changes gathered here included.

        Raises Invalid, NotFound.
        """
        resource = self._of(name)
        row = self._rows[name] if name in self._rows else await self._resources.records.latest(resource, name)
        if row is None:
            raise absent(resource, name)
        self._rows[name] = row
        return self._resources.decisions.parse(resource, row.payload)

    async def list(self, type: str, parent: str = "") -> list[Any]:
        """All resources of the message `type` directly below `parent`, in order of their names; changes gathered here are
        included, but for what is created here.

        Raises Invalid for a type that is none, or more than LIST_MAX resources.
        """
        resource = self._typed(type)
        self._resources.decisions.below(resource, parent)
        out: list[Any] = []
        after, total = "", 0
        while True:
            rows = await self._resources.records.page(resource, Page(parent, after, 1000), None)
            for name, payload, version, _ in rows:
                row = self._rows.setdefault(name, Row(name, payload, version, ""))
                if row is not None:
                    out.append(self._resources.decisions.parse(resource, row.payload))
            read = sum(len(row.payload) for row in rows)
            if len(rows) < 1000 and read <= PAGE_BYTES_MAX:  # else it was cut, by one or the other
                return out
            total += read
            if len(out) >= LIST_MAX or total >= LIST_BYTES_MAX:
                raise Invalid(
                    f"{parent or type} holds more than {LIST_MAX} resources; that is too many for one unit of work."
                )
            after = rows[-1].name

    def create(
        self, type: str, parent: str, id: str, fields: Mapping[str, Any] | Message, event: str = "created"
    ) -> Any:
        """The resource as it will be; OUTPUT_ONLY fields may be given. An empty `id` asks for a fresh one.

        `fields` speak ProtoJSON, as in `update`, or are a whole message. Raises Invalid.
        """
        resource = self._typed(type)
        message = self._message(resource, fields)
        self._gather(
            self._resources.decisions.create(
                resource,
                message,
                parent=parent,
                id=id,
                owner=self.caller.name,
                origin=self._call.origin,
                trusted=True,
                verb=event,
            )
        )
        return message

    def update(self, message: Any, fields: Mapping[str, Any], event: str = "updated", etag: str = "") -> Any:
        """`message`, which was read here, as it will be with `fields`; OUTPUT_ONLY and IMMUTABLE ones may be given.

        `fields` speak ProtoJSON: enums by name, timestamps as text; a datetime or a message does too, and None clears.
        An `etag` that is given and is not the resource's raises Stale. Raises Invalid.
        """
        resource = self._typed(message.DESCRIPTOR.full_name)
        name = getattr(message, resource.name_field)
        row = self._read(name)
        paths = [_field_name(resource, key) for key in fields]
        result, change = self._resources.decisions.update(
            resource,
            row,
            self._message(resource, fields),
            paths,
            etag=etag,
            origin=self._call.origin,
            trusted=True,
            verb=event,
        )
        if change is not None:
            self._gather(change)
        return result

    def delete(self, message: Any, force: bool = False) -> None:
        """Deletes `message`, which was read here; with `force`, what is below it too. It is marked where it can be undeleted.

        Raises NotFound where it is deleted already.
        """
        resource = self._typed(message.DESCRIPTOR.full_name)
        row = self._read(getattr(message, resource.name_field))
        self._gather(self._resources.decisions.deleted(resource, row, force=force, origin=self._call.origin))

    def undelete(self, message: Any) -> Any:
        """`message`, which was read here and is deleted, as it will be when that is undone. Raises AlreadyExists where it is not
        deleted."""
        resource = self._typed(message.DESCRIPTOR.full_name)
        row = self._read(getattr(message, resource.name_field))
        change = self._resources.decisions.unmarked(resource, row, self._call.origin)
        self._gather(change)
        return self._resources.decisions.parse(resource, change.payload)

    def mail(
        self,
        to: str,
        subject: str = "",
        text: str = "",
        attachments: Sequence[str] = (),
        *,
        html: str = "",
        template: str = "",
        data: Mapping[str, Any] | None = None,
        language: str = "",
        reply_to: str = "",
    ) -> None:
        """Queues a mail; it is sent once this work is committed and its `attachments`, names of files, were looked at.

        Its subject, text and, where there shall be some, HTML are given, or made of the app's `template`, filled in with
        `data`, in the `language` if the app has it (docs/mail.md). Raises Invalid; TemplateFault where the template cannot
        be filled in.
        """
        if template:
            if subject or text or html:
                raise Invalid.field("template", "takes the place of subject, text and html")
            written = self._templates.write(template, data or {}, language)
            subject, text, html = written.subject, written.text, written.html
        for field, value, most, least in (
            ("to", to, RECIPIENTS_CHARS, 1),
            ("subject", subject, SUBJECT_CHARS, 1),
            ("text", text, TEXT_CHARS, 1),
            ("html", html, TEXT_CHARS, 0),
            ("reply_to", reply_to, ADDRESS_CHARS, 0),
        ):
            if not least <= len(value) <= most or "\0" in value:
                raise Invalid.field(field, f"must be {least} to {most} characters, none of them NUL")
            if field not in ("text", "html") and ("\n" in value or "\r" in value):
                raise Invalid.field(field, "must be on one line")
        if len(attachments) > ATTACHMENTS_MAX:
            raise Invalid.field("attachments", f"must be at most {ATTACHMENTS_MAX}")
        id = fresh_id(int(self.now.timestamp() * 1e6))
        self._statements += mails.queued(
            id,
            to,
            subject,
            text,
            html=html,
            reply_to=reply_to,
            attachments=attachments,
            caller=self.caller.name,
            request_id=self._call.request_id,
            traceparent=self._call.traceparent,
        )

    def enqueue(
        self,
        task: str,
        payload: Any = None,
        *,
        delay: timedelta = timedelta(0),
        at: datetime | None = None,
        priority: int | None = None,
    ) -> str:
        """Has the app's `@task` of that name run once this work is committed, not before `at` or `delay` later; the name of the
        task, `tasks/{task}`.

        `payload` is what JSON can say, or a message. Of those that are due, higher priorities (-100 to 100; as the
        `@task` has it, where none is said) come first. Raises Invalid; the commit, Precondition (TASK_UNKNOWN) where no worker
        has declared such a task, though some have declared others.
        """
        return self._enqueue(task, payload, delay=delay, at=at, priority=priority)

    async def enqueue_once(
        self,
        task: str,
        unique_key: str,
        payload: Any = None,
        *,
        delay: timedelta = timedelta(0),
        at: datetime | None = None,
        priority: int | None = None,
    ) -> str:
        """As `enqueue`, unless a task of that name with that key has not ended: then there is no new one, and the name is that
        one's, unchanged. Raises Invalid, Unavailable; the commit, as for `enqueue`, and Stale where the task of that name came
        or went meanwhile: then the function runs again."""
        if not unique_key:
            raise Invalid.field("unique_key", "must not be empty")
        if (task, unique_key) in self._keyed:
            return self._keyed[task, unique_key]
        name = await self._tasks.holding(task, unique_key) if self._tasks else ""
        if not name:
            name = self._enqueue(task, payload, delay=delay, at=at, priority=priority, unique_key=unique_key)
        # What is answered here is what holds then: whoever tells the name to others must not be wrong.
        self._statements.append(key_required(name.rpartition("/")[2], task, unique_key))
        self._keyed[task, unique_key] = name
        return name

    def _enqueue(self, task: str, payload: Any, **options: Any) -> str:
        if task.startswith(RESERVED):
            raise Invalid.field("task", "is a schedule's: operators run those")
        if isinstance(payload, Message):
            payload = json_format.MessageToDict(payload, descriptor_pool=self._resources.schema.pool)
        name, statements = enqueue(
            self.now,
            task,
            payload,
            caller=self.caller.name,
            request_id=self._call.request_id,
            traceparent=self._call.traceparent,
            **options,
        )
        self._statements += [required(task), *statements]
        return name

    async def progress(self, part: float, text: str = "") -> None:
        """Says how far this task is, 0 to 1, with at most 200 characters of text: at once, not with the commit, and at most
        twice a second (what comes sooner is left out). Anywhere but in a `@task`, nothing."""
        if self.tell_progress is not None:
            await self.tell_progress(min(max(part, 0.0), 1.0), text.replace("\0", "")[:200])

    async def store_file(self, id: str, filename: str, content_type: str, data: bytes, owner: str = "") -> str:
        """Keeps `data` as a file and answers its name. At once, not with the commit: an `id` that was given before
        answers the file of then, so a function that runs again makes no second one."""
        file = await self._files.store(id, filename, content_type, data, owner or self.caller.name)
        return str(file.name)

    async def read_file(self, name: str, variant: str = "") -> bytes:
        """The bytes of a file; of its `variant` where it has that (docs/files.md). Of an upload that was not looked at yet they
        are those that were sent: who passes them on waits for its `ready`. Raises NotFound, and Precondition where it is not
        complete, was rejected, or has more than 32 MiB."""
        return await self._files.read(name, variant=variant) if variant else await self._files.read(name)

    async def account(self, user: str) -> Any:
        """The account called `users/{user}`, with its `email` and `display_name`; None where there is none."""
        return await self._accounts.find(user)

    async def visible(self, messages: Sequence[Any]) -> Sequence[Any]:
        """Those of the resources, all of one type and read here, that the caller may get by the schema's rules. A unit of
        work itself reads with the app's own rights."""
        if not messages:
            return []
        resource = self._typed(messages[0].DESCRIPTOR.full_name)
        rows = [await self._whole(resource, getattr(m, resource.name_field)) for m in messages]
        found = [row for row in rows if row is not None]
        may = dict(
            zip(
                (r.name for r in found), await self._resources.access.visible(self.caller, resource, found), strict=True
            )
        )
        return [m for m in messages if may.get(getattr(m, resource.name_field))]

    async def show(self, message: Any) -> None:
        """Clears the fields of a resource that the caller will not be allowed to see once this is committed, before it is
        answered."""
        resource = self._resources.schema.resources[message.DESCRIPTOR.full_name]
        name = getattr(message, resource.name_field)
        row = self._rows.get(name)
        if row is None or not row.owner:
            row = await self._resources.records.latest(resource, name)
        written = {change.name for change in self._changes}
        changed = {
            (of.message, name): one and self._resources.decisions.parse(of, one.payload)
            for name, one in self._rows.items()
            if (one is None or name in written) and (of := self._of(name))
        }
        # Of what is not stored nobody is the owner.
        await self._resources.access.redact(self.caller, resource, message, row.owner if row else "", changed)

    async def _whole(self, resource: Resource, name: str) -> Row | None:
        """The row of what was read here, its owner included, which lists do not read."""
        row = self._rows.get(name)
        if row is None or not row.owner:
            return await self._resources.records.latest(resource, name)
        return row

    async def commit(self, extra: Sequence[tuple[str, Sequence[Any]]] = (), *, rehearsal: bool = False) -> None:
        """Does all that was gathered, and the `extra` statements, in one transaction, or nothing; a rehearsal takes all of it
        back.

        Raises Contended where something was changed by others since it was read here, AlreadyExists, NotFound,
        Precondition.
        """
        if not self._changes and not self._statements and not extra:
            return
        outcomes = await self._resources.records.commit(self._changes, [*extra, *self._statements], rehearsal=rehearsal)
        for change, outcome in zip(self._changes, outcomes, strict=False):
            if outcome in (Outcome.CHANGED, Outcome.ABSENT):
                raise Contended(f"{change.name} was changed meanwhile; retry.", metadata={"name": change.name})
            if outcome is not Outcome.DONE:
                raise refusal(change, outcome)

    def _gather(self, change: Change) -> None:
        if len(self._changes) >= CHANGES_MAX:
            raise Invalid(f"A unit of work may make at most {CHANGES_MAX} changes.")
        self._changes.append(change)
        if change.act not in (Act.REMOVE, Act.REMOVE_TREE):
            self._rows[change.name] = Row(change.name, change.payload, change.version, change.owner)
        else:
            below = [name for name in self._rows if name.startswith(f"{change.name}/")]
            self._rows |= dict.fromkeys([change.name, *below])

    def _read(self, name: str) -> Row:
        row = self._rows.get(name)
        if row is None:
            raise ValueError(f"{name} was not read in this unit of work, or is deleted in it: get it first")
        return row

    def _typed(self, type: str) -> Resource:
        resource = self._resources.schema.resources.get(type)
        if resource is None:
            raise Invalid.field("type", f"{type} is not a resource of this schema")
        return resource

    def _of(self, name: str) -> Resource:
        resource = self._resources.schema.resource_of(name)
        if resource is None:
            raise Invalid.field("name", "is not the name of a resource of this schema", "INVALID_NAME")
        self._resources.decisions.check_name(resource, name)
        return resource

    def _message(self, resource: Resource, fields: Mapping[str, Any] | Message) -> Any:
        message = self._resources.schema.message_class(resource.message)()
        if isinstance(fields, Message):
            message.CopyFrom(fields)
            return message
        plain = {}
        for key, value in fields.items():
            name = _field_name(resource, key)
            if isinstance(value, datetime):
                getattr(message, name).FromDatetime(value.astimezone(UTC))
            elif isinstance(value, Message):
                getattr(message, name).CopyFrom(value)
            elif value is not None:
                plain[key] = value
        try:
            json_format.ParseDict(plain, message, descriptor_pool=self._resources.schema.pool)
        except json_format.ParseError as fault:
            raise Invalid(f"The fields for {resource.message} are wrong: {fault}") from fault
        return message


class Call(Work):
    """One call of a custom method: a unit of work with the request that asks for it."""

    def __init__(
        self,
        call: Calling,
        resources: Resources,
        files: Files,
        accounts: Accounts,
        request: Any,
        response: type[Any],
        *,
        templates: Templates | None = None,
        tasks: Tasks | None = None,
    ) -> None:
        super().__init__(call, resources, files, accounts, templates=templates, tasks=tasks)
        self.request = request
        """The request message; what is REQUIRED is there, and its constraints hold."""
        self.response = response
        """The class of the response message."""


def _field_name(resource: Resource, key: str) -> str:
    for field in resource.descriptor.fields:
        if key in (field.name, field.json_name):
            return field.name
    raise Invalid.field(key, f"is not a field of {resource.message}")
