"""A FileDescriptorProto → the text of a .proto file.

For the one shared file whose wheel carries it as a descriptor only
(buf/validate/validate.proto, proto2). Names, numbers, types, oneofs, nested
declarations, extensions and their ranges come back; comments and options,
which change neither wire nor meaning for those who import it, do not.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf import descriptor_pb2 as d

_LABELS = {1: "optional", 2: "required", 3: "repeated"}


def proto_text(file: d.FileDescriptorProto) -> str:
    """The file as proto2 text."""
    lines = ['syntax = "proto2";', f"package {file.package};"]
    lines += [f'import "{path}";' for path in file.dependency]
    for enum in file.enum_type:
        lines += _enum(enum)
    for message in file.message_type:
        lines += _message(message)
    for extension in file.extension:
        lines.append(f"extend {extension.extendee} {{ {_field(extension)} }}")
    return "\n".join(lines) + "\n"


def _message(message: d.DescriptorProto) -> Iterator[str]:
    yield f"message {message.name} {{"
    for enum in message.enum_type:
        yield from _enum(enum)
    for nested in message.nested_type:
        yield from _message(nested)
    for field in message.field:
        if not field.HasField("oneof_index"):
            yield _field(field)
    for index, oneof in enumerate(message.oneof_decl):
        members = [f for f in message.field if f.HasField("oneof_index") and f.oneof_index == index]
        yield f"oneof {oneof.name} {{"
        yield from (_field(f, label="") for f in members)
        yield "}"
    for span in message.extension_range:
        yield f"extensions {span.start} to {'max' if span.end > 1 << 28 else span.end - 1};"
    for extension in message.extension:
        yield f"extend {extension.extendee} {{ {_field(extension)} }}"
    yield "}"


def _enum(enum: d.EnumDescriptorProto) -> Iterator[str]:
    alias = "option allow_alias = true; " if enum.options.allow_alias else ""
    yield f"enum {enum.name} {{ {alias}" + " ".join(f"{v.name} = {v.number};" for v in enum.value) + " }"


def _field(field: d.FieldDescriptorProto, label: str | None = None) -> str:
    kind = field.type_name or d.FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    return f"{_LABELS[field.label] if label is None else label} {kind} {field.name} = {field.number};"
