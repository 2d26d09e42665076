"""Which fields a reply shows (AIP-157): those of a `read_mask`, or of a `view`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from server.engine import masks
from server.errors import Invalid
from server.schema.kinds import Kind, kind_of
from server.schema.model import Method, Schema

Shape = Callable[[bytes], bytes]
"""A serialized resource → the same, with only the fields that are to be shown."""

MASK, VIEW = "read_mask", "view"
_LARGE = frozenset({Kind.BYTES, Kind.MESSAGE, Kind.MAP, Kind.DYNAMIC, Kind.OPAQUE})


def served(request: Descriptor) -> frozenset[str]:
    """The fields of a request by which it can ask for less than the whole: its `read_mask`, a google.protobuf.FieldMask, and
    its `view`, an enum."""
    found = set()
    mask, view = request.fields_by_name.get(MASK), request.fields_by_name.get(VIEW)
    if (
        mask is not None
        and mask.message_type is not None
        and not mask.is_repeated
        and (mask.message_type.full_name == "google.protobuf.FieldMask")
    ):
        found.add(MASK)
    if view is not None and view.type == FieldDescriptor.TYPE_ENUM and not view.is_repeated:
        found.add(VIEW)
    return frozenset(found)


def shaping(schema: Schema, method: Method) -> Callable[[Any], Shape | None]:
    """What makes of a request of `method` the shape that its resources are answered in: None for the whole.

    A mask's paths are those of an `update_mask`, and `*` is everything. Of the views, FULL and what is not specified show
    everything; BASIC leaves out what may be large: repeated fields, maps, bytes and messages, but for times, durations and
    wrappers. A value of the enum may have its name before these words, as `BOOK_VIEW_BASIC` has.

    That raises Invalid for a path that leads nowhere, for another view, and where there are both.
    """
    assert method.resource is not None
    resource = method.resource
    request = schema.pool.FindMessageTypeByName(method.request)
    fields = served(request)
    make = schema.message_class(resource.message)
    views = _views(request) if VIEW in fields else {}
    basic = [f.name for f in resource.descriptor.fields if not f.is_repeated and kind_of(f) not in _LARGE]

    def shaped(paths: list[str]) -> Shape:
        def shape(payload: bytes) -> bytes:
            whole, part = make.FromString(payload), make()
            masks.apply(part, whole, paths, frozenset())
            return bytes(part.SerializePartialToString(deterministic=True))

        try:
            shape(b"")  # whether there are these paths does not depend on a resource
        except Invalid as fault:
            raise Invalid.fields([_of_mask(v) for v in fault.violations]) from None
        return shape

    def asked(request: Any) -> Shape | None:
        paths = list(request.read_mask.paths) if MASK in fields and request.HasField(MASK) else []
        view = request.view if VIEW in fields else 0
        if paths and view:
            raise Invalid.field(VIEW, "a read_mask is given; leave one of them empty", "VIEW_WITH_MASK")
        if paths and paths != ["*"]:
            return shaped(paths)
        match views.get(view):
            case "BASIC":
                return shaped(basic)
            case "FULL" | "UNSPECIFIED":
                return None
        if not view:
            return None
        raise Invalid.field(VIEW, "is not served; there are BASIC and FULL", "VIEW_NOT_SUPPORTED")

    return asked


def _views(request: Descriptor) -> dict[int, str]:
    """The last words of the names of a request's views."""
    enum = request.fields_by_name[VIEW].enum_type
    return {value.number: value.name.rpartition("_")[2] for value in enum.values} if enum is not None else {}


def _of_mask(violation: Any) -> Any:
    return type(violation)(MASK, violation.description, violation.reason)
