"""Server reflection, v1 and v1alpha: what is served can be asked for (grpcurl, buf curl)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from transom.schema.v1 import options_pb2

V1ALPHA = reflection_pb2.DESCRIPTOR
SERVICES = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)


def add_reflection(server: grpc.aio.Server, pool: DescriptorPool, services: Sequence[str]) -> None:
    """Serves reflection of `services`, whose files are in `pool`, and of itself. What the schema says of access stays
    here: callers are told what they may not do, never why."""
    pool = _told(pool, services)
    servicer = reflection.aio.ReflectionServicer(sorted({*services, *SERVICES}), pool=pool)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    # v1 and v1alpha are the same messages under another name: one servicer speaks both.
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICES[0], {"ServerReflectionInfo": handler}),)
    )


def _v1() -> FileDescriptorProto:
    text = V1ALPHA.serialized_pb
    file = FileDescriptorProto.FromString(text)
    file.name = "grpc/reflection/v1/reflection.proto"
    file.package = "grpc.reflection.v1"
    for message in file.message_type:
        for field in (f for f in message.field if f.type_name):
            field.type_name = field.type_name.replace(".v1alpha.", ".v1.")
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(".v1alpha.", ".v1.")
        method.output_type = method.output_type.replace(".v1alpha.", ".v1.")
    return file


def _told(pool: DescriptorPool, services: Sequence[str]) -> DescriptorPool:
    """What is told of the files of these services and all that they import."""
    files: dict[str, FileDescriptorProto] = {}

    def gather(file: Any) -> None:
        if file.name not in files:
            for imported in file.dependencies:
                gather(imported)
            files[file.name] = _without_rules(FileDescriptorProto.FromString(file.serialized_pb))

    for service in services:
        if service != health_pb2.DESCRIPTOR.services_by_name["Health"].full_name:
            gather(pool.FindServiceByName(service).file)
    for ours in (health_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR, V1ALPHA):
        gather(ours)
    files["grpc/reflection/v1/reflection.proto"] = _v1()
    told = DescriptorPool()
    for file in files.values():
        told.Add(file)
    return told


def _without_rules(file: FileDescriptorProto) -> FileDescriptorProto:
    file.options.ClearExtension(options_pb2.terms)
    for message in file.message_type:
        _hush(message)
    for service in file.service:
        for method in service.method:
            method.options.ClearExtension(options_pb2.method)
    return file


def _hush(message: DescriptorProto) -> None:
    message.options.ClearExtension(options_pb2.resource)
    for field in message.field:
        if field.options.HasExtension(options_pb2.field):
            field.options.Extensions[options_pb2.field].ClearField("read")
            field.options.Extensions[options_pb2.field].ClearField("write")
    for nested in message.nested_type:
        _hush(nested)
