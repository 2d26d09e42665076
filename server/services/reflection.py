"""Server reflection, v1 and v1alpha: what is served can be asked for (grpcurl, buf curl)."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

V1ALPHA = reflection_pb2.DESCRIPTOR
SERVICES = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)


def add_reflection(server: grpc.aio.Server, pool: DescriptorPool, services: Sequence[str]) -> None:
    """Serves reflection of `services`, whose files are in `pool`, and of itself."""
    known = {f.name for f in (health_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR, V1ALPHA) if _has(pool, f.name)}
    for file in (health_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR, V1ALPHA):
        if file.name not in known:
            pool.AddSerializedFile(file.serialized_pb)
    pool.Add(_v1())
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


def _has(pool: DescriptorPool, name: str) -> bool:
    try:
        pool.FindFileByName(name)
    except KeyError:
        return False
    return True
