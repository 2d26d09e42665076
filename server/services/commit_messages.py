"""transom.data.v1.Commit: its messages → what the engine is asked, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import ListValue, Value
from transom.data.v1 import commit_pb2 as pb

from server.engine import bounds
from server.engine.bodies import Tree, check, masked
from server.engine.commits import Create, Delete, Undelete, Update, Verify, Write, Written
from server.engine.masks import implied
from server.engine.transforms import Operation, Transform
from server.errors import Invalid
from server.schema.model import Schema

PREFIX = "type.googleapis.com/"

_OPERATIONS = {
    "increment": Operation.INCREMENT,
    "maximum": Operation.MAXIMUM,
    "minimum": Operation.MINIMUM,
    "append_missing_elements": Operation.APPEND_MISSING,
    "remove_all_from_array": Operation.REMOVE_ALL,
    "set_to_server_value": Operation.COMMIT_TIME,
}


def writes(schema: Schema, request: pb.CommitRequest, names: Sequence[Tree | None] | None = None) -> list[Write]:
    """What is asked for. Over REST `names` are those in each write, None of one where they are not known. Raises Invalid, naming
    the part of the request."""
    asked = [
        _write(schema, one, f"writes[{i}]", names[i] if names else None, names is not None)
        for i, one in enumerate(request.writes)
    ]
    bounds.check_all((one.message for one in asked if isinstance(one, Create | Update)), request.ByteSize())
    return asked


def response(written: Sequence[Written]) -> pb.CommitResponse:
    """What is answered."""
    return pb.CommitResponse(
        results=[
            pb.WriteResult(
                resource=Packed(type_url=f"{PREFIX}{one.resource.message}", value=one.payload)
                if one.resource
                else None,
                etag=one.etag,
            )
            for one in written
        ]
    )


def _write(schema: Schema, one: pb.Write, part: str, names: Tree | None, rest: bool) -> Write:
    match one.WhichOneof("act"):
        case "create":
            create, where = one.create, f"{part}.create.resource"
            message = _unpacked(schema, create.resource, where)
            if names is not None:
                check(_of_resource(names, "create"), message.DESCRIPTOR, where)
            return Create(create.parent, create.id, message)
        case "update":
            update, where = one.update, f"{part}.update.resource"
            message, mask = _unpacked(schema, update.resource, where), list(update.update_mask.paths)
            if rest:
                mask = _mask(schema, mask, names, message, f"{part}.update")
            return Update(
                message,
                mask or None,
                update.allow_missing,
                update.etag,
                tuple(_transform(t, f"{part}.update.transforms[{i}]", i) for i, t in enumerate(update.transforms)),
            )
        case "delete":
            delete = one.delete
            return Delete(delete.name, delete.etag, delete.force, delete.allow_missing)
        case "undelete":
            return Undelete(one.undelete.name, one.undelete.etag)
        case "verify":
            verify = one.verify
            exists = verify.exists if verify.WhichOneof("condition") == "exists" else True
            if verify.WhichOneof("condition") == "etag" and not verify.etag:
                raise Invalid.field(f"{part}.verify.etag", "is required", "REQUIRED")
            return Verify(verify.name, exists, verify.etag)
    raise Invalid.field(part, "must create, update, delete, undelete or verify", "REQUIRED")


def _mask(schema: Schema, given: list[str], names: Tree | None, message: Any, part: str) -> list[str]:
    """The mask of an update over REST: the one that is given, else what is named; none where that is what is populated, as any
    client may mean without a mask."""
    found = _of_resource(names, "update") if names is not None else None
    if found is not None:
        check(found, message.DESCRIPTOR, f"{part}.resource")
    spoken = masked(given, found, message, f"{part}.update_mask")
    own = schema.resources[message.DESCRIPTOR.full_name].name_field
    spoken = [path for path in spoken if path != own]
    return given or (spoken if {*spoken, own} != {*implied(message), own} else [])


def _of_resource(names: Tree, act: str) -> Tree:
    """Of the names in a write those in its resource, without that which says its type."""
    write = names.get(act)
    resource = write.get("resource") if isinstance(write, dict) else None
    return {name: below for name, below in resource.items() if name != "@type"} if isinstance(resource, dict) else {}


def _unpacked(schema: Schema, packed: Packed, where: str) -> Any:
    """The resource in an Any. Raises Invalid where it is none of this schema."""
    if not packed.type_url:
        raise Invalid.field(where, "is required", "REQUIRED")
    resource = schema.resources.get(packed.type_url.rpartition("/")[2])
    if resource is None:
        raise Invalid.field(where, f"{packed.type_url[:200]!r} is no resource of this schema", "UNKNOWN_TYPE")
    try:
        return schema.message_class(resource.message).FromString(packed.value)
    except DecodeError as fault:
        raise Invalid.field(where, "cannot be decoded", "MALFORMED_RESOURCE") from fault


def _transform(one: pb.FieldTransform, where: str, at: int) -> Transform:
    name = one.WhichOneof("transform")
    if name is None:
        raise Invalid.field(where, "must say what to make of the field", "REQUIRED")
    operation = _OPERATIONS[name]
    if operation is Operation.COMMIT_TIME and one.set_to_server_value != pb.FieldTransform.COMMIT_TIME:
        raise Invalid.field(f"{where}.{name}", "is not valid", "INVALID_OPERAND")
    operand = None if operation is Operation.COMMIT_TIME else _plain(getattr(one, name))
    return Transform(f"transforms[{at}]", one.field, operation, operand)


def _plain(value: Value | ListValue) -> Any:
    """A value as Python has JSON's: numbers are floats."""
    if isinstance(value, ListValue):
        return [_plain(item) for item in value.values]
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return {key: _plain(item) for key, item in value.struct_value.fields.items()}
    if kind == "list_value":
        return _plain(value.list_value)
    return None if kind in (None, "null_value") else getattr(value, kind)
