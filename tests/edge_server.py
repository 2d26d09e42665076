"""The server behind the edge in the tests of the edge: real gRPC, no database, misbehaving when a name asks for it.

`python tests/edge_server.py DESCRIPTOR PORT JOURNAL` serves edge.v1.ThingService, health and reflection. Every call of
ThingService leaves a line `<port> <method> <name>` in JOURNAL before it is answered, so that a test can count
attempts. What a name asks for is its first word:

    things/missing      NOT_FOUND with ErrorInfo and ResourceInfo
    things/refused.N    code N of google.rpc.Code, if there is one; else UNKNOWN, with N in its google.rpc.Status
    things/wordy        INVALID_ARGUMENT with details that are larger as JSON than the buffer of a connection
    things/away         UNAVAILABLE, every time
    things/away-once…   UNAVAILABLE on the first attempt (of all servers together)
    things/killed-once… kill -9 of this server on the first attempt
    things/killed…      kill -9 of this server
    things/slow         an answer after 2 s
    things/never        no answer
    things/long         an answer of 100 kB that compresses well
    things/first        where it is followed, messages of a first state, which have no token
    things/tricky       where it is followed, messages of 300 kB with what looks like their tokens

FollowThing counts up to `count`; the header last-event-id says which was the last that somebody has.

SIGUSR1 makes the server report NOT_SERVING and go on serving, as a draining one does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, empty_pb2, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

SERVICE = "edge.v1.ThingService"

WORDY = 'He said: "{[\\code]}", 1 < 2 & ä'
"""What JSON must escape."""

OPTIONS = [
    # The edge asks a silent connection every few seconds whether it lives; gRPC's default is to hang up on that.
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
]


async def refuse(context: Any, code: grpc.StatusCode, message: str, *details: Any) -> NoReturn:
    """Ends the call with a google.rpc.Status."""
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    await context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status returned")


class Things:
    """The methods of edge.v1.ThingService."""

    def __init__(self, pool: descriptor_pool.DescriptorPool, port: int, journal: Path) -> None:
        self.pool, self.port, self.journal = pool, port, journal

    def kind(self, name: str) -> Any:
        """The message class called `name`."""
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(f"edge.v1.{name}"))

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a grpc.aio server takes."""
        answer = {"response_serializer": lambda m: m.SerializeToString()}
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        taken = {name: self.kind(f"{name}Request").FromString for name in ("GetThing", "ListThings", "CreateThing")}
        methods = {
            "GetThing": unary(self.get, taken["GetThing"], **answer),
            "ListThings": unary(self.list, taken["ListThings"], **answer),
            "CreateThing": unary(self.create, taken["CreateThing"], **answer),
            "UpdateThing": unary(self.update, self.kind("UpdateThingRequest").FromString, **answer),
            "DeleteThing": unary(self.delete, self.kind("DeleteThingRequest").FromString, **answer),
            "FollowThing": stream(self.follow, self.kind("FollowThingRequest").FromString, **answer),
            "CollectThings": grpc.stream_unary_rpc_method_handler(
                self.collect, self.kind("Thing").FromString, **answer
            ),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def behave(self, method: str, name: str, context: Any) -> None:
        """Notes the attempt and does what the name asks for."""
        with self.journal.open("a") as journal:
            journal.write(f"{self.port} {method} {name}\n")
        first = sum(line.split()[1:] == [method, name] for line in self.journal.read_text().splitlines()) == 1
        wish = name.removeprefix("things/").split(".")[0]
        if wish == "missing":
            await refuse(
                context,
                grpc.StatusCode.NOT_FOUND,
                f"{name} is not there.",
                error_details_pb2.ErrorInfo(reason="NOT_FOUND", domain="transom.dev", metadata={"name": name}),
                error_details_pb2.ResourceInfo(resource_type="edge.transom.dev/Thing", resource_name=name),
            )
        if wish == "refused":
            number = int(name.rpartition(".")[2])
            status = status_pb2.Status(code=number, message=f"No. {number}")
            context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
            codes = {code.value[0]: code for code in grpc.StatusCode}
            await context.abort(codes.get(number, grpc.StatusCode.UNKNOWN), status.message)
        if wish == "wordy":
            info = error_details_pb2.ErrorInfo(reason="WORDY", metadata={"words": WORDY + "\1" * 15_000})
            await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, WORDY, info)
        if wish == "away" or (wish == "away-once" and first):
            await refuse(context, grpc.StatusCode.UNAVAILABLE, "away for now")
        if wish == "killed" or (wish == "killed-once" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if wish == "slow":
            await asyncio.sleep(2)
        if wish == "never":
            await asyncio.Event().wait()

    def thing(self, context: Any, **fields: Any) -> Any:
        """A thing that tells who made it, and from what metadata."""
        thing = self.kind("Thing")(server=self.port, **fields)
        for key, value in context.invocation_metadata():
            if isinstance(value, str):
                thing.metadata[key] = value
        return thing

    async def get(self, request: Any, context: Any) -> Any:
        await self.behave("GetThing", request.name, context)
        text = "the same again, " * 6250 if request.name == "things/long" else ""
        return self.thing(context, name=request.name, text=text)

    async def list(self, request: Any, context: Any) -> Any:
        answer = self.kind("ListThingsResponse")(key=request.key)
        for number in range(request.page_size):
            answer.things.add(name=f"things/{number}", kind=request.kind)
        return answer

    async def create(self, request: Any, context: Any) -> Any:
        name = f"things/{request.thing_id}"
        await self.behave("CreateThing", name, context)
        return self.thing(context, name=name, text=request.thing.text, kind=request.thing.kind)

    async def update(self, request: Any, context: Any) -> Any:
        await self.behave("UpdateThing", request.thing.name, context)
        return self.thing(context, name=request.thing.name, text=request.thing.text)

    async def delete(self, request: Any, context: Any) -> empty_pb2.Empty:
        await self.behave("DeleteThing", request.name, context)
        return empty_pb2.Empty()

    async def follow(self, request: Any, context: Any) -> Any:
        await self.behave("FollowThing", request.name, context)
        last = dict(context.invocation_metadata()).get("last-event-id")
        begin = int(last) + 1 if last else 0
        for number in range(begin, request.count):
            if number > begin:
                await asyncio.sleep(request.pause_ms / 1000)
            thing = self.kind("Thing")(name=request.name, text=str(number), server=self.port, resume_token=str(number))
            if request.name == "things/first":
                thing.resume_token = ""
            if request.name == "things/tricky":
                thing.text = '"resumeToken":"in a text" \\"\n\n' + "x" * 300_000
                thing.metadata["resumeToken"] = "deeper"
            yield thing

    async def collect(self, requests: Any, context: Any) -> Any:
        answer = self.kind("CollectThingsResponse")()
        async for _ in requests:
            answer.count += 1
        return answer


async def serve(descriptor: Path, port: int, journal: Path) -> None:
    """Serves until killed."""
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptor.read_bytes()).file:
        pool.Add(file)
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((Things(pool, port, journal).handlers(),))
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection([SERVICE, reflection.SERVICE_NAME], server, pool=pool)
    await healthy.set("", health_pb2.HealthCheckResponse.SERVING)

    def drain() -> None:
        draining.append(asyncio.ensure_future(healthy.set("", health_pb2.HealthCheckResponse.NOT_SERVING)))

    draining: list[asyncio.Future[None]] = []
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, drain)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
