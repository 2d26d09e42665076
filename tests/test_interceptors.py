"""What every call passes, in process with a real gRPC server: refusals, ids, metrics, streams, and what no handler sees."""

# ruff: noqa: E501, PT012 - tables of sentences
from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from library_ground import asynchronous
from prometheus_client import REGISTRY
from transom.accounts.v1 import accounts_pb2

from server import errors
from server.caller import Caller, Kind
from server.errors import Refusal, Violation
from server.interceptors.chain import Chain, Stream, Unary
from server.interceptors.errors import DETAILS, Errors
from server.interceptors.lines import Lines
from server.interceptors.observe import Observe
from server.services.current import current

SERVICE = "test.v1.Test"


@dataclass
class Served:
    """A server on a port of its own, and what its handlers saw."""

    port: int = 0
    seen: list[Any] = field(default_factory=list)
    lines: io.BytesIO = field(default_factory=io.BytesIO)
    channel: grpc.aio.Channel | None = None

    async def call(self, method: str, data: bytes = b"", **more: Any) -> bytes:
        assert self.channel is not None
        return await self.channel.unary_unary(f"/{SERVICE}/{method}")(data, timeout=10, **more)

    async def refused(self, method: str, data: bytes = b"", **more: Any) -> tuple[str, Status]:
        """The code of a refusal and its status, with details by their names."""
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await self.call(method, data, **more)
        return told(refusal.value)


def told(refusal: grpc.aio.AioRpcError) -> tuple[str, Status]:
    status = Status.FromString(dict(refusal.trailing_metadata() or ()).get(DETAILS, b""))
    return refusal.code().name, status


def detail(status: Status, kind: type[Message]) -> Any:
    """The detail of that kind; None where the status has none."""
    for one in status.details:
        found = kind()
        if one.Unpack(found):
            return found
    return None


class Naming:
    """A layer that says who calls, as authentication does."""

    def unary(self, method: str, inner: Unary) -> Unary:
        async def named(request: Any, context: Any) -> Any:
            current().caller = Caller(Kind.USER, "users/ada")
            return await inner(request, context)

        return named

    def stream(self, method: str, inner: Stream) -> Stream:
        return inner


@asynccontextmanager
async def served(*, methods: dict[str, Callable[..., Any]] | None = None) -> AsyncIterator[Served]:
    on = Served()
    handlers = {}
    for name, behavior in (methods or {}).items():
        if hasattr(behavior, "streams"):
            handlers[name] = getattr(grpc, f"{behavior.streams}_rpc_method_handler")(behavior)
        else:
            handlers[name] = grpc.unary_unary_rpc_method_handler(behavior)
    handlers["Typed"] = grpc.unary_unary_rpc_method_handler(
        _typed,
        request_deserializer=accounts_pb2.SignInRequest.FromString,
        response_serializer=accounts_pb2.SignInResponse.SerializeToString,
    )
    layers = [Observe(Lines("test", out=on.lines)), Errors(), Naming()]
    chain = Chain(layers)
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 100_000)])
    server.add_generic_rpc_handlers((chain,))
    chain.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), chain)
    on.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{on.port}") as on.channel:
            yield on
    finally:
        await server.stop(0)


async def _typed(request: Any, context: Any) -> Any:
    return accounts_pb2.SignInResponse(token=request.email)


def refusing(refusal: BaseException) -> Callable[..., Any]:
    async def behavior(request: bytes, context: Any) -> bytes:
        raise refusal

    return behavior


def calls(method: str, code: str, service: str = SERVICE) -> float:
    labels = {"method": f"/{service}/{method}" if service else method, "code": code}
    return REGISTRY.get_sample_value("transom_calls_total", labels) or 0.0


# ------------------------------------------------------------------------------------------------- refusals


@dataclass(frozen=True)
class Told:
    sentence: str
    refusal: Refusal
    code: str
    reason: str
    fields: tuple[str, ...] = ()
    resource: str = ""
    retry: float | None = None


TOLD = [
    Told("a field", errors.Invalid.field("a.b", "is wrong", "WRONG"), "INVALID_ARGUMENT", "INVALID_REQUEST", ("a.b",)),
    Told("fields", errors.Invalid.fields([Violation("a", "x"), Violation("b", "y")]), "INVALID_ARGUMENT", "INVALID_REQUEST", ("a", "b")),
    Told("nobody", errors.Unauthenticated("x"), "UNAUTHENTICATED", "SIGN_IN_REQUIRED"),
    Told("not allowed", errors.Denied("x"), "PERMISSION_DENIED", "NOT_ALLOWED"),
    Told("absent", errors.NotFound("x", resource=("t/T", "ts/1")), "NOT_FOUND", "NOT_FOUND", resource="ts/1"),
    Told("taken", errors.AlreadyExists("x", resource=("t/T", "ts/1")), "ALREADY_EXISTS", "ALREADY_EXISTS", resource="ts/1"),
    Told("wrong state", errors.Precondition("x", reason="HAS_CHILDREN"), "FAILED_PRECONDITION", "HAS_CHILDREN"),
    Told("stale", errors.Stale("x"), "ABORTED", "STALE_ETAG"),
    Told("contended", errors.Stale("x", reason="CONTENTION", retry_after=0.1), "ABORTED", "CONTENTION", retry=0.1),
    Told("too many", errors.Exhausted("x"), "RESOURCE_EXHAUSTED", "LIMIT_REACHED", retry=1.0),
    Told("not written", errors.Unimplemented("x"), "UNIMPLEMENTED", "METHOD_NOT_IMPLEMENTED"),
    Told("away", errors.Unavailable("x", retry_after=2.5), "UNAVAILABLE", "UNAVAILABLE", retry=2.5),
    Told("our fault", errors.Internal("x"), "INTERNAL", "INTERNAL"),
]  # fmt: skip


@pytest.mark.parametrize("case", TOLD, ids=lambda c: c.sentence)
@asynchronous
async def test_a_refusal_is_told_as_aip_193_wants_it(case: Told) -> None:
    async with served(methods={"Refuse": refusing(case.refusal)}) as on:
        before = calls("Refuse", case.code)
        code, status = await on.refused("Refuse", metadata=(("x-request-id", "req-1"),))
        await ended("Refuse", case.code, times=before + 1)
    info = detail(status, details.ErrorInfo)
    assert (code, info.reason, info.domain) == (case.code, case.reason, "transom.dev")
    assert status.code == getattr(grpc.StatusCode, case.code).value[0] and status.message == case.refusal.message
    bad, resource = detail(status, details.BadRequest), detail(status, details.ResourceInfo)
    assert tuple(v.field for v in bad.field_violations) == case.fields if bad else not case.fields
    assert (resource.resource_name if resource else "") == case.resource
    retry = detail(status, details.RetryInfo)
    assert (retry.retry_delay.ToMilliseconds() / 1000 if retry else None) == case.retry
    assert detail(status, details.RequestInfo).request_id == "req-1"


@asynchronous
async def test_a_failure_says_nothing_of_its_cause() -> None:
    secret = "password=hunter2 at /srv/app.py"
    faults = {
        "Fails": ValueError(secret),
        "Asserts": AssertionError(secret),
        "Recurses": RecursionError(secret),
        "Keys": KeyError(secret),
    }
    async with served(methods={n: refusing(f) for n, f in faults.items()}) as on:
        for name in faults:
            code, status = await on.refused(name)
            assert (code, status.message) == ("INTERNAL", "Internal error.")
            assert "hunter2" not in str(status) and "Error:" not in str(status)
            assert detail(status, details.ErrorInfo).reason == "INTERNAL"
            await ended(name, "INTERNAL", times=1)


@pytest.mark.parametrize(
    "refusal",
    [
        errors.Invalid.fields([Violation(f"items[{i}].name", "is required", "REQUIRED") for i in range(50_000)]),
        errors.Invalid.field("x" * 100_000, "y" * 100_000),
        errors.NotFound("ä" * 100_000, metadata={"name": "ä" * 100_000}, resource=("t", "ä" * 100_000)),
        errors.NotFound(f"{'x/' * 500} does not exist.", metadata={"name": "x/" * 500}, resource=("t", "x/" * 500)),
    ],
)
@asynchronous
async def test_however_much_is_wrong_the_refusal_arrives(refusal: Refusal) -> None:
    """It travels in headers, of which clients accept a few KiB only."""
    async with served(methods={"Refuse": refusing(refusal)}) as on:
        code, status = await on.refused("Refuse")
        assert code == refusal.code.name
        assert detail(status, details.ErrorInfo).reason == refusal.reason
        if refusal.violations:
            assert detail(status, details.BadRequest).field_violations


@asynchronous
async def test_a_method_that_is_not_there() -> None:
    async with served() as on:
        before = calls("unknown", "UNIMPLEMENTED", service="")
        code, status = await on.refused("Nothing")
        assert (code, detail(status, details.ErrorInfo).reason) == ("UNIMPLEMENTED", "METHOD_UNKNOWN")
        assert on.channel is not None
        for path in ("/nobody.Knows/It", "/x", f"/{SERVICE}/Nothing2"):
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await on.channel.unary_unary(path)(b"", timeout=10)
            assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
        # However many names are tried, they are one label of the metrics.
        await ended("unknown", "UNIMPLEMENTED", service="", times=before + 4)


@asynchronous
async def test_bytes_that_are_no_request() -> None:
    async with served() as on:
        request = accounts_pb2.SignInRequest(email="a@b.c")
        answer = await on.call("Typed", request.SerializeToString())
        assert accounts_pb2.SignInResponse.FromString(answer).token == "a@b.c"
        for data in (b"\xff\xff\xff", b"\x0a\xff", b"\x0a\x02\xff\xfe"):
            code, status = await on.refused("Typed", data)
            assert (code, detail(status, details.ErrorInfo).reason) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")


@asynchronous
async def test_a_message_that_is_too_large() -> None:
    async with served() as on:
        code, _ = await on.refused("Typed", b"\x0a" + b"x" * 200_000)
        assert code == "RESOURCE_EXHAUSTED"
        assert await on.call("Typed", b"") == b"", "the next call on the same connection is served"


@asynchronous
async def test_a_handler_that_aborts_by_itself_is_left_alone() -> None:
    async def aborts(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.DATA_LOSS, "as it wishes")
        raise AssertionError

    async def unimplemented(request: bytes, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        raise NotImplementedError("Method not implemented!")

    async with served(methods={"Aborts": aborts, "Unwritten": unimplemented}) as on:
        code, _ = await on.refused("Aborts")
        assert code == "DATA_LOSS"
        code, status = await on.refused("Unwritten")
        assert (code, detail(status, details.ErrorInfo).reason) == ("UNIMPLEMENTED", "METHOD_NOT_IMPLEMENTED")
        assert on.channel is not None
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await health_pb2_grpc.HealthStub(on.channel).Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert refusal.value.code() is grpc.StatusCode.NOT_FOUND


# ------------------------------------------------------------------------------------------------- what follows a call


IDS = {
    "a": "a",
    "x" * 128: "x" * 128,
    "x" * 129: None,
    "with space": None,
    "550e8400-e29b-41d4-a716-446655440000": "550e8400-e29b-41d4-a716-446655440000",
}


@asynchronous
async def test_a_request_id_is_taken_over_if_it_is_one() -> None:
    async with served(methods={"Who": _who}) as on:
        for given, kept in IDS.items():
            told = json.loads(await on.call("Who", metadata=(("x-request-id", given),)))
            assert told["request_id"] == kept or (kept is None and len(told["request_id"]) == 32)
        assert len(json.loads(await on.call("Who"))["request_id"]) == 32
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        assert json.loads(await on.call("Who", metadata=(("traceparent", trace),)))["traceparent"] == trace
        assert json.loads(await on.call("Who", metadata=(("traceparent", "00-zz"),)))["traceparent"] == ""


async def _who(request: bytes, context: Any) -> bytes:
    call = current()
    return json.dumps(
        {"request_id": call.request_id, "traceparent": call.traceparent, "caller": call.caller.name}
    ).encode()


@asynchronous
async def test_calls_at_the_same_time_do_not_see_each_other() -> None:
    async def slow(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(0.01)
        return current().request_id.encode()

    async with served(methods={"Slow": slow}) as on:
        found = await asyncio.gather(*(on.call("Slow", metadata=(("x-request-id", f"r{i}"),)) for i in range(50)))
        assert found == [f"r{i}".encode() for i in range(50)]


@asynchronous
async def test_a_call_leaves_one_line_without_its_token() -> None:
    async with served(methods={"Who": _who, "Refuse": refusing(errors.Denied("x", reason="NO"))}) as on:
        await on.call("Who", metadata=(("authorization", "Bearer sekrit"), ("x-request-id", "r1")))
        await on.refused("Refuse", metadata=(("authorization", "Bearer sekrit"),))
        await asyncio.sleep(0.3)
        text = on.lines.getvalue().decode()
    first, second = [json.loads(line) for line in text.splitlines()]
    assert (first["method"], first["code"], first["request_id"], first["caller"]) == (
        f"/{SERVICE}/Who",
        "OK",
        "r1",
        "users/ada",
    )
    assert (second["code"], second["reason"]) == ("PERMISSION_DENIED", "NO")
    assert "sekrit" not in text


@asynchronous
async def test_metrics_count_how_calls_ended() -> None:
    started = asyncio.Event()

    async def waits(request: bytes, context: Any) -> bytes:
        started.set()
        await asyncio.sleep(60)
        return b""

    async with served(methods={"Who": _who, "Waits": waits}) as on:
        who = calls("Who", "OK")
        for _ in range(3):
            await on.call("Who")
        await ended("Who", "OK", times=who + 3)
        task = asyncio.create_task(on.call("Waits"))
        await started.wait()
        assert REGISTRY.get_sample_value("transom_calls_in_flight") == 1
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await ended("Waits", "CANCELLED", times=1)
        assert REGISTRY.get_sample_value("transom_calls_in_flight") == 0
        with pytest.raises(grpc.aio.AioRpcError) as late:
            assert on.channel is not None
            await on.channel.unary_unary(f"/{SERVICE}/Waits")(b"", timeout=0.1)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await ended("Waits", "CANCELLED", times=2)


async def ended(method: str, code: str, service: str = SERVICE, *, times: float) -> None:
    """Returns once that many calls were counted: the client hears of the end a moment before."""
    await until(lambda: calls(method, code, service) >= times)
    assert calls(method, code, service) == times


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.01)


# ------------------------------------------------------------------------------------------------- streams


@asynchronous
async def test_a_stream_ends_with_its_reader() -> None:
    closed = asyncio.Event()

    async def counts(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            for i in range(1_000_000):
                yield str(i).encode()
                await asyncio.sleep(0.001)
        finally:
            closed.set()

    counts.streams = "unary_stream"  # type: ignore[attr-defined]
    async with served(methods={"Counts": counts}) as on:
        assert on.channel is not None
        stream = on.channel.unary_stream(f"/{SERVICE}/Counts")(b"")
        assert [await stream.read() for _ in range(3)] == [b"0", b"1", b"2"]
        assert not closed.is_set()
        stream.cancel()
        await asyncio.wait_for(closed.wait(), 5)
        await ended("Counts", "CANCELLED", times=1)
        assert REGISTRY.get_sample_value("transom_calls_in_flight") == 0


@asynchronous
async def test_a_stream_that_fails_in_the_middle_says_how() -> None:
    async def fails(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"1"
        raise errors.Unavailable("away", reason="DATABASE_AWAY") if request == b"refusal" else ValueError("secret")

    async def unwritten(request: bytes, context: Any) -> AsyncIterator[bytes]:
        raise NotImplementedError
        yield b""

    async def echoes(requests: Any, context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def sums(requests: Any, context: Any) -> bytes:
        return b"".join([request async for request in requests])

    fails.streams = unwritten.streams = "unary_stream"  # type: ignore[attr-defined]
    echoes.streams, sums.streams = "stream_stream", "stream_unary"  # type: ignore[attr-defined]
    async with served(methods={"Breaks": fails, "Unmade": unwritten, "Echoes": echoes, "Sums": sums}) as on:
        assert on.channel is not None
        for method, data, code, reason in (
            ("Breaks", b"refusal", "UNAVAILABLE", "DATABASE_AWAY"),
            ("Breaks", b"", "INTERNAL", "INTERNAL"),
            ("Unmade", b"", "UNIMPLEMENTED", "METHOD_NOT_IMPLEMENTED"),
        ):
            stream = on.channel.unary_stream(f"/{SERVICE}/{method}")(data)
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                assert [answer async for answer in stream] == []
            found, status = told(refusal.value)
            assert (found, detail(status, details.ErrorInfo).reason) == (code, reason)
            assert "secret" not in str(status)
            await ended(method, code, times=1)

        async def three() -> AsyncIterator[bytes]:
            for i in range(3):
                yield str(i).encode()

        assert [a async for a in on.channel.stream_stream(f"/{SERVICE}/Echoes")(three())] == [b"0", b"1", b"2"]
        assert await on.channel.stream_unary(f"/{SERVICE}/Sums")(three()) == b"012"
