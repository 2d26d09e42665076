"""What reflection tells of a schema, and what it keeps to itself."""

from __future__ import annotations

import functools

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2 as pb

from deploy.native.stack import PROJECT
from server.schema.compilation import compile_app
from server.schema.reading import read
from server.services.reflection import SERVICES, add_reflection
from tests.library_ground import asynchronous

OURS = ["inspect.v1.InspectionService", "transom.accounts.v1.AccountsService", "grpc.health.v1.Health"]


@functools.cache
def descriptor() -> bytes:
    return compile_app(PROJECT / "examples" / "inspect")


async def told(symbols: list[str], service: str) -> list[FileDescriptorProto]:
    """The files that a real server answers with, for each symbol with all it imports."""
    server = grpc.aio.server()
    add_reflection(server, read(descriptor()).pool, OURS)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            ask = channel.stream_stream(
                f"/{service}/ServerReflectionInfo",
                pb.ServerReflectionRequest.SerializeToString,
                pb.ServerReflectionResponse.FromString,
            )
            asked = [pb.ServerReflectionRequest(file_containing_symbol=symbol) for symbol in symbols]
            files = []
            async for answer in ask(iter(asked)):
                assert not answer.HasField("error_response"), answer
                files += answer.file_descriptor_response.file_descriptor_proto
            return [FileDescriptorProto.FromString(file) for file in files]
    finally:
        await server.stop(None)


@pytest.mark.parametrize("service", SERVICES)
@asynchronous
async def test_a_client_can_build_the_schema_of_it(service: str) -> None:
    files = await told(OURS, service)
    pool, left = DescriptorPool(), {file.name: file for file in files}
    while left:
        ready = [f for f in left.values() if not set(f.dependency) & left.keys()]
        assert ready
        for file in ready:
            pool.Add(left.pop(file.name))
    site = pool.FindMessageTypeByName("inspect.v1.Site")
    assert site.fields_by_name["display_name"].number == 3
    assert len(pool.FindServiceByName(OURS[0]).methods) > 20


@asynchronous
async def test_rules_are_not_told() -> None:
    schema = read(descriptor())
    rules = {text for r in schema.resources.values() for _, text in r.rules if len(text) > 10}
    rules |= {means for terms in schema.terms.values() for _, means in terms}
    rules |= {m.access.rule for m in schema.methods() if m.access and len(m.access.rule) > 10}
    assert len(rules) > 5
    text = b"".join(file.SerializeToString() for file in await told(OURS, SERVICES[0]))
    assert b"sites/{site}" in text and b"DRAFT" in text
    assert [rule for rule in rules if rule.encode() in text] == []
