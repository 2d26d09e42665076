"""The wire form of checked CEL (cel.expr.CheckedExpr, the CEL specification's proto/cel/expr), as far as rules use it.

CEL's library gives its syntax tree only serialized, and no package at hand ships the messages. Field numbers are the
specification's.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "int64": _Field.TYPE_INT64,
    "uint64": _Field.TYPE_UINT64,
    "int32": _Field.TYPE_INT32,
    "bool": _Field.TYPE_BOOL,
    "double": _Field.TYPE_DOUBLE,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}

# message → fields as `number type name`; a type in brackets is repeated, one of Expr or a `*Entry` a message.
_MESSAGES = {
    "CheckedExpr": "2 [ReferenceEntry] reference_map, 3 [TypeEntry] type_map, 4 Expr expr, 5 SourceInfo source_info",
    "ParsedExpr": "2 Expr expr, 3 SourceInfo source_info",
    "ReferenceEntry": "1 int64 key, 2 Reference value",
    "TypeEntry": "1 int64 key, 2 Type value",
    "Reference": "1 string name, 3 [string] overload_id, 4 Constant value",
    "SourceInfo": "3 [int32] line_offsets, 4 [PositionEntry] positions",
    "PositionEntry": "1 int64 key, 2 int32 value",
    "Type": "1 Nothing dyn, 3 int32 primitive, 4 int32 wrapper, 5 int32 well_known, 6 ListType list_type, "
    "7 MapType map_type, 9 string message_type",
    "Nothing": "",
    "ListType": "1 Type elem_type",
    "MapType": "1 Type key_type, 2 Type value_type",
    "Expr": "2 int64 id, 3 Constant const_expr, 4 Ident ident_expr, 5 Select select_expr, 6 Call call_expr, "
    "7 CreateList list_expr, 8 Nothing struct_expr, 9 Comprehension comprehension_expr",
    "Constant": "1 int32 null_value, 2 bool bool_value, 3 int64 int64_value, 4 uint64 uint64_value, "
    "5 double double_value, 6 string string_value, 7 bytes bytes_value",
    "Ident": "1 string name",
    "Select": "1 Expr operand, 2 string field, 3 bool test_only",
    "Call": "1 Expr target, 2 string function, 3 [Expr] args",
    "CreateList": "1 [Expr] elements",
    "Comprehension": "1 string iter_var, 8 string iter_var2, 2 Expr iter_range, 3 string accu_var, 4 Expr accu_init, "
    "5 Expr loop_condition, 6 Expr loop_step, 7 Expr result",
}
_ONE_OF = {"Type": "type_kind", "Expr": "expr_kind", "Constant": "constant_kind"}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="cel_syntax.proto", package="transom.cel", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if name in _ONE_OF:
            message.oneof_decl.add(name=_ONE_OF[name])
        for line in filter(None, fields.split(", ")):
            number, kind, called = line.split()
            repeated, kind = kind.startswith("["), kind.strip("[]")
            field = message.field.add(name=called, number=int(number))
            field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if kind in _SCALARS:
                field.type = _SCALARS[kind]
            else:
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".transom.cel.{kind}"
            if name in _ONE_OF and called != "id":
                field.oneof_index = 0
    return file


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_file())
_CheckedExpr: Any = message_factory.GetMessageClass(_POOL.FindMessageTypeByName("transom.cel.CheckedExpr"))
_ParsedExpr: Any = message_factory.GetMessageClass(_POOL.FindMessageTypeByName("transom.cel.ParsedExpr"))


class Syntax:
    """A parsed or checked expression: its root, and what the checker found of each node, by id."""

    def __init__(self, serialized: bytes) -> None:
        held = any_pb2.Any.FromString(serialized)
        self.checked = held.type_url.endswith("CheckedExpr")
        message = (_CheckedExpr if self.checked else _ParsedExpr).FromString(held.value)
        self.expr: Any = message.expr
        self.positions = {entry.key: entry.value for entry in message.source_info.positions}
        self.types: dict[int, Any] = {}
        self.references: dict[int, Any] = {}
        if self.checked:
            self.types = {entry.key: entry.value for entry in message.type_map}
            self.references = {entry.key: entry.value for entry in message.reference_map}
