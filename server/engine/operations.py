"""Operations (AIP-151): what methods answer that may take long. Here they are done when they are answered.

An operation is kept in the transaction of what it did, for its caller, who may ask for it again for a while.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from server.caller import Caller
from server.engine.decisions import Clock
from server.engine.identity import fresh_id
from server.engine.resources import Call, Resources
from server.engine.retelling import Retelling, deleted
from server.errors import Invalid, NotFound, Precondition, Unauthenticated
from server.query import pages
from server.schema.model import Method
from server.store.joined import Joined
from server.store.operations import ListedOperation, StoredOperation
from server.store.transactions import Transaction

PAGE_MAX = 100
"""Operations of one page: each holds what its method answered."""

OPERATION = "google.longrunning.Operation"
COLLECTION = "operations"

_NAME = re.compile(r"operations/([a-z][a-z0-9]{19})")
_FILTER = re.compile(r"\s*(?:done\s*=\s*(true|false))?\s*", re.IGNORECASE)
_BEGUN = ("create_time", "start_time", "begin_time")
_ENDED = ("end_time", "update_time", "finish_time", "complete_time", "completion_time")
_PROGRESS = ("progress_percent", "progress_percentage", "percent_complete", "percent_completed", "progress")
_DONE = ("DONE", "SUCCEEDED", "COMPLETED", "SUCCESSFUL", "FINISHED")
_INTEGERS = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)


class Stored(Protocol):
    """The store, as operations need it; see server/store/operations.py."""

    def keep(self, within: Transaction, operation: StoredOperation) -> Awaitable[None]: ...
    def find(self, id: str) -> Awaitable[StoredOperation | None]: ...
    def list(
        self, caller: str | None, done: bool | None, before: str, limit: int
    ) -> Awaitable[list[ListedOperation]]: ...
    def delete(self, id: str) -> Awaitable[bool]: ...
    def sweep(self) -> Awaitable[int]: ...


class Operations:
    """Those of an app's methods."""

    def __init__(self, resources: Resources, stored: Stored, clock: Clock, page_size: int, page_size_max: int) -> None:
        self._schema = resources.schema
        self._stored = stored
        self._clock = clock
        self._retelling = Retelling(resources)
        self._page_size, self._page_size_max = min(page_size, PAGE_MAX), min(page_size_max, PAGE_MAX)

    async def carried_out(
        self,
        resources: Resources,
        call: Call,
        method: Method,
        request: Any,
        do: Callable[[Resources], Awaitable[bytes]],
        *,
        validate_only: bool = False,
    ) -> bytes:
        """The operation, serialized, that is done by what `do` answers: the message `method.answer`. It writes by the
        resources it is given. What is only validated is no operation to ask for: it has no name."""
        begun = self._clock()
        if validate_only:
            return self._done("", method, request, await do(resources), begun)
        async with Joined(resources.records) as joined:
            answer = await do(resources.over(joined))
            id = fresh_id(begun)
            operation = self._done(f"{COLLECTION}/{id}", method, request, answer, begun)
            if call.caller.known:
                transaction = await joined.begun()
                gone = sorted(deleted(method, request))
                await self._stored.keep(transaction, StoredOperation(id, call.caller.name, True, operation, gone))
                transaction.callers.add(call.caller.name)
        return operation

    async def get(self, call: Call, name: str) -> Any:
        """The operation called `name`, as its caller may see what it did now; admins and keys see those of others.

        Raises Invalid, NotFound, Unauthenticated.
        """
        operations = await self._shown(call, [await self._mine(call.caller, name)])
        if not operations:
            raise _absent(name)
        return operations[0]

    async def list(self, call: Call, name: str, filter: str, size: int, token: str) -> tuple[Sequence[Any], str]:
        """The caller's own operations, or those of all for admins and keys, newest first; and the next page's token. `filter`
        is `done=true`, `done=false` or empty. What an operation did may be hidden by now: then it is left out. A page is cut
        short where it would be larger than PAGE_BYTES_MAX.

        Raises Invalid, Unauthenticated.
        """
        caller = _known(call.caller)
        if name not in ("", COLLECTION):
            raise Invalid.field("name", f"must be {COLLECTION}", "INVALID_NAME")
        asked = _FILTER.fullmatch(filter) if len(filter) <= 100 else None
        if asked is None:
            raise Invalid.field("filter", "must be done=true or done=false", "INVALID_FILTER")
        size = pages.size_of(size, self._page_size, self._page_size_max)
        bound = f"{COLLECTION}\n{caller.name}\n{filter}"
        before = pages.opened(token, bound)
        done = None if asked[1] is None else asked[1].lower() == "true"
        whose = None if _sees_all(caller, "list") else caller.name
        rows = await self._stored.list(whose, done, before, size)
        return await self._shown(call, rows), pages.sealed(bound, rows[-1].id) if rows and rows[-1].more else ""

    async def delete(self, call: Call, name: str) -> None:
        """Forgets an operation that is done; what it did stays. Raises Invalid, NotFound, Unauthenticated, and Precondition
        while it is under way."""
        row = await self._mine(call.caller, name, "delete")
        if not await self._stored.delete(row.id):
            raise Precondition(f"{name} is not done.", reason="OPERATION_NOT_DONE", metadata={"name": name})

    async def cancel(self, call: Call, name: str) -> None:
        """Tries to cancel an operation. What is done stays done, which is no error: clients look at the outcome.

        Raises Invalid, NotFound, Unauthenticated.
        """
        await self._mine(call.caller, name, "cancel")

    async def sweep(self) -> int:
        """Deletes the operations that were done too long ago; how many it were."""
        return await self._stored.sweep()

    async def _mine(self, caller: Caller, name: str, action: str = "get") -> StoredOperation:
        caller = _known(caller)
        found = _NAME.fullmatch(name)
        if found is None:
            raise Invalid.field("name", f"must look like {COLLECTION}/{{operation}}", "INVALID_NAME")
        row = await self._stored.find(found[1])
        if row is None or (row.caller != caller.name and not _sees_all(caller, action)):
            raise _absent(name)
        return row

    async def _shown(self, call: Call, rows: Sequence[StoredOperation]) -> Sequence[Any]:
        """The operations, without those that did what the caller may not see now."""
        operation = self._schema.message_class(OPERATION)
        shown, gone = [], []
        for row in rows:
            told = operation.FromString(row.payload)
            if row.caller == call.caller.name or self._retelling.in_scope(call.caller, told):
                shown.append(told)
                gone.append(row.deleted)
        refused = await self._retelling.all_shown(call, shown, gone=gone)
        return [told for told, why in zip(shown, refused, strict=True) if why is None]

    def _done(self, name: str, method: Method, request: Any, answer: bytes, begun: int) -> bytes:
        operation = self._schema.message_class(OPERATION)(name=name, done=True)
        operation.response.type_url, operation.response.value = f"type.googleapis.com/{method.answer}", answer
        if method.operation is not None and method.operation.metadata:
            metadata = self._schema.message_class(method.operation.metadata)()
            result = self._schema.message_class(method.answer).FromString(answer)
            self._tell(metadata, method, request, result, begun)
            operation.metadata.type_url = f"type.googleapis.com/{method.operation.metadata}"
            operation.metadata.value = metadata.SerializeToString(deterministic=True)
        data: bytes = operation.SerializeToString(deterministic=True)
        return data

    def _tell(self, metadata: Any, method: Method, request: Any, result: Message, begun: int) -> None:
        """Fills what Google's APIs usually say of an operation, by the names and the types of fields."""
        resource = method.resource
        target = ""
        if resource is not None:
            holder = result if result.DESCRIPTOR.full_name == resource.message else request
            target = next((v for f in (resource.name_field, "name", "parent") if (v := _text(holder, f))), "")
        texts = {"verb": method.kind.value, "target": target, "api_version": _version(method)}
        texts |= {resource.singular: target} if resource is not None else {}
        for field in metadata.DESCRIPTOR.fields:
            if field.is_repeated:
                continue
            if field.message_type is not None:
                if field.message_type.full_name == result.DESCRIPTOR.full_name and result.ByteSize():
                    getattr(metadata, field.name).CopyFrom(result)
                elif field.message_type.full_name == "google.protobuf.Timestamp":
                    if field.name in _BEGUN:
                        getattr(metadata, field.name).FromMicroseconds(begun)
                    elif field.name in _ENDED:
                        getattr(metadata, field.name).FromMicroseconds(self._clock())
            elif field.type == FieldDescriptor.TYPE_STRING:
                setattr(metadata, field.name, texts.get(field.name, ""))
            elif field.cpp_type in _INTEGERS and field.name in _PROGRESS:
                setattr(metadata, field.name, 100)
            elif field.enum_type is not None and field.name == "state":
                ended = [v for v in field.enum_type.values if v.name.endswith(_DONE)]
                setattr(metadata, field.name, ended[0].number if ended else 0)


def _text(message: Any, field: str) -> str:
    known = message.DESCRIPTOR.fields_by_name.get(field)
    plain = known is not None and known.type == FieldDescriptor.TYPE_STRING and not known.is_repeated
    return str(getattr(message, field)) if plain else ""


def _version(method: Method) -> str:
    """`v1beta1` of `acme.things.v1beta1.Things.CreateThing`."""
    return next((part for part in method.full_name.split(".") if re.fullmatch(r"v\d+\w*", part)), "")


def _known(caller: Caller) -> Caller:
    if not caller.known:
        raise Unauthenticated("Operations are their callers' own: sign in first.")
    return caller


def _sees_all(caller: Caller, action: str) -> bool:
    return caller.trusted and caller.in_scope(OPERATION, action)


def _absent(name: str) -> NotFound:
    return NotFound(f"{name} does not exist.", metadata={"name": name}, resource=(OPERATION, name))
