"""What a field's stored values mean to its next descriptor: the same, something that can be written anew, or nothing.

A row keeps a value twice: in the serialized message, where the wire format decides what a changed field reads
(https://protobuf.dev/programming-guides/proto3/#updating), and in its column, where enum values stand by their names and
nested messages as documents with the names of their fields. So a change may leave the message right and the column stale.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from google.protobuf.descriptor import Descriptor, EnumDescriptor
from google.protobuf.descriptor import FieldDescriptor as F

from server.schema.columns import is_map

WIDER = {
    F.TYPE_INT32: {F.TYPE_INT64, F.TYPE_UINT32, F.TYPE_UINT64},
    F.TYPE_UINT32: {F.TYPE_UINT64, F.TYPE_INT64},
    F.TYPE_INT64: {F.TYPE_UINT64},
    F.TYPE_SINT32: {F.TYPE_SINT64},
}
"""The types that read every value of another from the same bytes; but for negative ones, where the wider has no sign."""
UNSIGNED = {F.TYPE_UINT32, F.TYPE_UINT64, F.TYPE_FIXED32, F.TYPE_FIXED64}
SIGNED = {F.TYPE_INT32, F.TYPE_INT64}
WRAPPERS = {
    "google.protobuf.Int32Value": F.TYPE_INT32,
    "google.protobuf.Int64Value": F.TYPE_INT64,
    "google.protobuf.UInt32Value": F.TYPE_UINT32,
    "google.protobuf.UInt64Value": F.TYPE_UINT64,
}

_TYPES = {getattr(F, name): name.removeprefix("TYPE_").lower() for name in dir(F) if name.startswith("TYPE_")}


@dataclass
class Difference:
    """How the values of a field differ in two schemas."""

    refused: list[str] = field(default_factory=list)
    """Why what is stored cannot be read any more; empty where it can."""
    stale: bool = False
    """Whether the column of any row may have to be written anew, from the message."""
    names: set[str] = field(default_factory=set)
    """Fields and enum values that columns have by another name than before, or not as before."""
    numbers: set[int] = field(default_factory=set)
    """Enum values that are new: rows that hold them hold them as numbers."""
    labels: dict[str, str] = field(default_factory=dict)
    """Of a singular enum: what was called so is called so now."""
    gone: set[str] = field(default_factory=set)
    """Enum values that there are no more."""
    unsigned: bool = False
    """Whether negative values would become others."""

    @property
    def renamed(self) -> bool:
        """Whether labels are all that changes: SQL can do it."""
        return bool(self.labels or self.numbers) and not self.stale


def difference(old: F, new: F) -> Difference:
    """How the values of `old`, a field of a resource, are to be read as `new`, the field of that number later."""
    found = Difference()
    _field(found, old, new, "", frozenset())
    if not new.is_repeated and new.enum_type is not None and old.enum_type is not None and not found.refused:
        found.stale = False
        found.labels = _relabelled(old.enum_type, new.enum_type)
    return found


def type_name(field: F) -> str:
    """What a proto file calls the field's type."""
    if is_map(field):
        entry = field.message_type.fields_by_name
        return f"map<{type_name(entry['key'])}, {type_name(entry['value'])}>"
    kind = field.message_type or field.enum_type
    name = str(kind.full_name) if kind is not None else _TYPES[field.type]
    return f"repeated {name}" if field.is_repeated else name


def shape(field: F) -> str:
    """What a field's column holds, as text: equal for two fields that write every value alike."""
    return _shape(field, ())


def _shape(field: F, above: tuple[str, ...]) -> str:
    kind = f"{'*' if field.is_repeated else ''}{_TYPES[field.type]}"
    if field.enum_type is not None:
        return f"{kind}{sorted(_values(field.enum_type).items())}"
    if field.message_type is None:
        return kind
    name = field.message_type.full_name
    if name in above or name.startswith("google.protobuf."):
        return f"{kind} {name}"
    below = (f"{f.number}{f.name}{_shape(f, (*above, name))}" for f in field.message_type.fields)
    return f"{kind}({','.join(below)})"


def _field(found: Difference, old: F, new: F, path: str, above: frozenset[tuple[str, str]]) -> None:
    where = f"{path}: " if path else ""
    if old.is_repeated != new.is_repeated or is_map(old) != is_map(new):
        found.refused.append(f"{where}{type_name(old)} would become {type_name(new)}")
        return
    before, after = _scalar(old), _scalar(new)
    if before is not None and after is not None and (old.message_type is None) == (new.message_type is None):
        if before == after:
            return
        if after not in WIDER.get(before, ()):
            found.refused.append(f"{where}{type_name(old)} would become {type_name(new)}")
            return
        found.unsigned = found.unsigned or (before in SIGNED and after in UNSIGNED)
        if path:  # in a document, what has 64 bits is text (ProtoJSON)
            found.stale = True
            found.names.add(new.name)
        return
    if old.enum_type is not None and new.enum_type is not None:
        _enum(found, old.enum_type, new.enum_type)
        return
    one, other = old.message_type, new.message_type
    if one is None or other is None or _known(one) or _known(other):
        if one is None or other is None or one.full_name != other.full_name:
            found.refused.append(f"{where}{type_name(old)} would become {type_name(new)}")
        return
    if (one.full_name, other.full_name) not in above:
        _message(found, one, other, path or new.name, above | {(one.full_name, other.full_name)})


def _message(found: Difference, old: Descriptor, new: Descriptor, path: str, above: frozenset[tuple[str, str]]) -> None:
    later = {f.number: f for f in new.fields}
    for before in old.fields:
        after = later.get(before.number)
        if after is None:
            # A document keeps no name that a later field may take.
            found.stale = True
            continue
        if before.name != after.name and not old.GetOptions().map_entry:
            found.stale = True
            found.names |= {before.name, after.name}
        _field(found, before, after, f"{path}.{after.name}", above)


def _enum(found: Difference, old: EnumDescriptor, new: EnumDescriptor) -> None:
    before, after = _values(old), _values(new)
    for number, label in before.items():
        if number not in after:
            found.gone.add(label)
        elif after[number] != label:
            found.stale = True
            found.names |= {label, after[number]}
    found.numbers |= after.keys() - before.keys()


def _relabelled(old: EnumDescriptor, new: EnumDescriptor) -> dict[str, str]:
    before, after = _values(old), _values(new)
    changed = {label: after[number] for number, label in before.items() if after.get(number, label) != label}
    return changed | {str(number): after[number] for number in after.keys() - before.keys()}


def _values(enum: EnumDescriptor) -> dict[int, str]:
    """Number → the first of its names, which is the one that is written."""
    return {number: enum.values_by_number[number].name for number in enum.values_by_number}


def _scalar(field: F) -> int | None:
    if field.message_type is not None:
        return WRAPPERS.get(field.message_type.full_name)
    return None if field.enum_type is not None else int(field.type)


def _known(message: Descriptor) -> bool:
    """Whether it is one of Google's own, which do not change."""
    return str(message.full_name).startswith("google.protobuf.")
