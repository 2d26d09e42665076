"""What is measured: a system, an operation, a protocol. And what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Operation(StrEnum):
    """What a client asks for."""

    GET = "Get"
    LIST = "List-20"
    CREATE = "Create"
    UPDATE = "Update"


class Access(StrEnum):
    """By which rule the systems let a caller do what is measured."""

    OWNER = "owner"
    """Who made the finding: told by the row itself."""
    MEMBER = "member"
    """The members of the site, as the example app has it: looked up at every call. PocketBase asks only for a token."""


class Wire(StrEnum):
    """How a client asks."""

    JSON = "JSON"
    GRPC = "gRPC"


@dataclass(frozen=True, slots=True)
class Request:
    """What one client sends again and again. Its headers may hold a token: never print it."""

    url: str
    wire: Wire
    headers: Mapping[str, str]
    body: bytes | None = None
    other: bytes | None = None
    """Sent in place of `body` every second time, so that an update always changes something."""
    verb: str = ""
    """The HTTP method; where it is empty POST with a body, GET without."""

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self.verb or ("GET" if self.body is None else "POST")


class System(Protocol):
    """One system under test, running."""

    name: str
    wires: Sequence[Wire]

    def request(self, operation: Operation, wire: Wire, client: int) -> Request:
        """What the client of that number sends. No two clients ask for the same row."""

    def probe(self, operation: Operation, wire: Wire) -> int:
        """Makes one such call and looks at the answer; its size in bytes.

        Raises Wrong where it is not what was asked for.
        """

    def processes(self) -> Mapping[str, Sequence[int]]:
        """Process ids by role; each stands for itself and all its descendants."""

    def calls(self, operation: Operation) -> Mapping[str, int]:
        """Calls of the operation so far by status, as the system itself counts them; empty where it does not."""

    def settle(self) -> None:
        """Returns once nothing that a request set off is still under way."""


Opened = AbstractContextManager[System]


class Wrong(Exception):
    """A system did not do what was asked of it: the measurement is worth nothing. The text says what happened."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing to measure."""

    system: System
    operation: Operation
    wire: Wire

    @property
    def key(self) -> str:
        return f"{self.system.name}/{self.operation}/{self.wire}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of a cell. CPU is in µs a request, by role, and without what the system uses when idle."""

    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu: dict[str, float]
    cpu_gross: float
    """All roles together, with what the system uses when idle."""
    generator: float
    """CPU of the load generator, µs a request; in no other number."""
    strangers: float
    """Cores that processes outside of this run kept busy meanwhile."""
    reply_bytes: int

    @property
    def cpu_total(self) -> float:
        return sum(self.cpu.values())


def cells(systems: Sequence[System]) -> Iterator[Cell]:
    """Every combination there is."""
    for system in systems:
        for operation in Operation:
            for wire in system.wires:
                yield Cell(system, operation, wire)
