"""server/wire: what it promises of every call, and what it relies on in grpcio's core. No tick helps it here, but where that is
said: an event that gave no sign would hang its test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from server.wire import queue
from server.wire.experiments import POLLED_BY_US
from tests.wire_server import CALLS, MESSAGE_BYTES

PATIENCE = 20.0
NEVER = 3600.0


@dataclass
class Wire:
    """A server and a client of it."""

    process: subprocess.Popen[str]
    channel: grpc.Channel

    def unary(self, name: str, request: bytes = b"", timeout: float = PATIENCE, **more: Any) -> bytes:
        answer = self.channel.unary_unary(f"/wire.Wire/{name}")(request, timeout=timeout, **more)
        assert isinstance(answer, bytes)
        return answer

    def connected(self) -> None:
        """Returns when the connection is made: that is the core's own threads' work, which a tick would see."""
        while self.channel.unary_unary("/wire.Wire/echo").future(b"", timeout=0.5).exception() is not None:
            pass

    def begun(self, name: str, request: bytes = b"", timeout: float | None = PATIENCE) -> Any:
        return self.channel.unary_unary(f"/wire.Wire/{name}").future(request, timeout=timeout)

    def stream(self, name: str, request: bytes = b"") -> Any:
        return self.channel.unary_stream(f"/wire.Wire/{name}")(request, timeout=PATIENCE)

    def noted(self, note: str) -> list[str]:
        """The notes up to one that says so."""
        found: list[str] = []
        while note not in found:
            found += self.unary("notes").decode().split("\n")
        return [one for one in found if one]


@contextmanager
def serving(grace: float = 5, tick: float = NEVER) -> Iterator[Wire]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.wire_server", str(grace), str(tick)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "GRPC_EXPERIMENTS": POLLED_BY_US},
    )
    assert process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.max_send_message_length", -1)]) as channel:
            found = Wire(process, channel)
            found.connected()
            yield found
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with serving() as found:
        yield found


def refused(call: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refusal:
        call()
    return refusal.value


@pytest.mark.parametrize("size", [0, 1, 5_000, 70_000, MESSAGE_BYTES - 100])
def test_a_message_comes_back_as_it_went(wire: Wire, size: int) -> None:
    message = bytes(range(256)) * (size // 256 + 1)
    assert wire.unary("echo", message[:size]) == message[:size]


def test_calls_one_after_the_other_and_side_by_side(wire: Wire) -> None:
    for number in range(200):
        assert wire.unary("echo", str(number).encode()) == str(number).encode()
    for _ in range(50):
        # Half of the most: a call counts until the core has told of its end, a little after its answer.
        calls = [wire.begun("echo", str(number).encode()) for number in range(CALLS // 2)]
        assert [call.result() for call in calls] == [str(number).encode() for number in range(CALLS // 2)]


def test_headers_go_both_ways(wire: Wire) -> None:
    call = wire.channel.unary_unary("/wire.Wire/headers")
    answer, told = call.with_call(b"", timeout=PATIENCE, metadata=(("x-mine", "yes"), ("x-mine-bin", b"\x00\x80")))
    assert answer == b"yes b'\\x00\\x80' ipv4"
    assert ("x-first", "1") in tuple(told.initial_metadata())
    assert {("x-last", "2"), ("x-bytes-bin", b"\x00\xff")} <= set(told.trailing_metadata())


@pytest.mark.parametrize(
    ("name", "code", "details"),
    [
        ("refuses", grpc.StatusCode.NOT_FOUND, "größer: nothing"),
        ("breaks", grpc.StatusCode.UNKNOWN, ""),  # nothing of what broke
    ],
)
def test_how_a_call_fails(wire: Wire, name: str, code: grpc.StatusCode, details: str) -> None:
    error = refused(lambda: wire.unary(name))
    assert (error.code(), error.details()) == (code, details)
    assert (("x-why-bin", b"\x01") in tuple(error.trailing_metadata())) == (name == "refuses")


def test_a_message_that_is_too_large(wire: Wire) -> None:
    assert refused(lambda: wire.unary("echo", bytes(MESSAGE_BYTES + 1))).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert wire.unary("echo", b"on") == b"on"


def test_streams(wire: Wire) -> None:
    assert list(wire.stream("counts", b"300")) == [str(number).encode() for number in range(300)]
    assert list(wire.stream("counts", b"0")) == []
    assert list(wire.stream("writes")) == [b"a", b"b"]
    joins = wire.channel.stream_unary("/wire.Wire/joins")
    assert joins(iter([b"a", b"", b"c"]), timeout=PATIENCE) == b"a++c"
    assert joins(iter([]), timeout=PATIENCE) == b""
    shouts = wire.channel.stream_stream("/wire.Wire/shouts")
    assert list(shouts(iter([b"a", b"b"]), timeout=PATIENCE)) == [b"A", b"B"]


def test_a_stream_that_fails_in_the_middle(wire: Wire) -> None:
    answers = wire.stream("counts_then_refuses")
    assert next(answers) == b"0"
    error = refused(lambda: next(answers))
    assert (error.code(), error.details()) == (grpc.StatusCode.ABORTED, "enough")


def test_a_client_that_goes_away_ends_its_call(wire: Wire) -> None:
    call = wire.begun("waits", timeout=None)
    wire.noted("began without a deadline")
    call.cancel()
    assert "ended early, cancelled: True" in wire.noted("ended early, cancelled: True")


def test_a_deadline_ends_its_call() -> None:
    with serving(tick=queue.TICK) as other:  # a thread of the core's keeps its timers, and does what comes up meanwhile
        assert refused(lambda: other.unary("waits", timeout=0.2)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        told = other.noted("ended early, cancelled: True")
        assert "began with a deadline" in told


def test_who_does_not_read_is_not_written_to(wire: Wire) -> None:
    flood = wire.stream("floods")
    next(flood)
    flood.cancel()
    wire.noted("flood ended after few")


def test_calls_beyond_the_most_are_refused_and_those_within_are_not(wire: Wire) -> None:
    held = [wire.begun("waits") for _ in range(CALLS)]
    assert refused(lambda: wire.unary("echo")).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for call in held:
        call.cancel()
    again = wire.begun("echo", b"again")
    while again.exception() is not None:  # there is room as soon as they have ended
        assert again.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        again = wire.begun("echo", b"again")
    assert again.result() == b"again"


def test_a_stop_lets_calls_end(wire: Wire) -> None:
    with serving(grace=PATIENCE) as other:
        call = other.begun("waits", b"0.3")
        other.noted("began with a deadline")
        _, errors = other.process.communicate("")
        assert call.result() == b"waited"
        assert (other.process.returncode, errors) == (0, "")


def test_a_stop_ends_what_goes_on_too_long(wire: Wire) -> None:
    with serving(grace=0.1) as other:
        call = other.begun("waits")
        flood = other.stream("floods")
        next(flood)
        other.noted("began with a deadline")
        _, errors = other.process.communicate("")
        assert refused(call.result).code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        assert refused(lambda: list(flood)).code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        assert (other.process.returncode, errors) == (0, "")


def test_a_client_that_is_killed_ends_its_calls(wire: Wire) -> None:
    script = (
        "import grpc, os, signal, sys\n"
        "channel = grpc.insecure_channel(sys.argv[1])\n"
        "while channel.unary_unary('/wire.Wire/echo').future(b'', timeout=0.5).exception(): pass\n"
        "flood = channel.unary_stream('/wire.Wire/floods')(b'')\n"
        "next(flood)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with serving() as other:
        target = other.channel._channel.target().decode()
        subprocess.run([sys.executable, "-c", script, target.removeprefix("dns:///")], check=False)
        other.noted("flood ended after few")
