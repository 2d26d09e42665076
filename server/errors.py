"""Every way to refuse a call.

Refusal
├── Invalid            INVALID_ARGUMENT     the request itself is wrong; names the fields
├── Unauthenticated    UNAUTHENTICATED      nobody, or a token that is not (or no longer) good
├── Denied             PERMISSION_DENIED    known, but may not
├── NotFound           NOT_FOUND            absent, or hidden from the caller (AIP-211)
├── AlreadyExists      ALREADY_EXISTS       the name is taken
├── Precondition       FAILED_PRECONDITION  right request, wrong state of the world
├── Stale              ABORTED              the resource changed since it was read
├── Expired            OUT_OF_RANGE         asks for what is kept no more
├── Exhausted          RESOURCE_EXHAUSTED   a limit was reached; later it may work
├── Unimplemented      UNIMPLEMENTED        declared in the schema, but nobody wrote it
├── Unavailable        UNAVAILABLE          a part of the system is away; retry
└── Internal           INTERNAL             our fault; the cause is in the log, never in the reply

A refusal becomes a google.rpc.Status in one place (`server/interceptors/errors.py`), per AIP-193.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from grpc import StatusCode

DOMAIN = "transom.dev"

RATE_LIMITED = "RATE_LIMITED"
"""The reason of a refusal for calling too often: its metadata has `limit`, `window` (seconds) and `scope`."""

VALUE_TAKEN = "VALUE_TAKEN"
"""The reason of an AlreadyExists where it is not the name that is taken, but a value that must be unique."""

VIOLATIONS_MAX = 100
"""Violations told of one request."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that is wrong: its path from the request, what is wrong, and a machine-readable reason."""

    field: str
    description: str
    reason: str = "INVALID"


class Refusal(Exception):
    """A call refused for a reason the caller may know.

    `message` is for developers, in English; `reason` is UPPER_SNAKE_CASE and
    stable; `metadata` holds the variable parts of the message (AIP-193).
    """

    code: StatusCode = StatusCode.INTERNAL
    reason: str = "INTERNAL"
    retry_after: float | None = None

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        resource: tuple[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.reason
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.resource = resource
        """Type and name of the resource the refusal is about, if it is about one."""
        if retry_after is not None:
            self.retry_after = retry_after

    def at(self, part: str) -> Refusal:
        """The same, of one part of a request: `requests[3]`. It leads the paths of fields, and is `part` of the metadata."""
        refusal = copy.copy(self)
        refusal.violations = tuple(replace(v, field=f"{part}.{v.field}" if v.field else part) for v in self.violations)
        named = self.violations and self.violations[0].field and self.message.startswith(self.violations[0].field)
        refusal.message = f"{part}.{self.message}" if named else f"{part}: {self.message}"
        within = self.metadata.get("part")
        refusal.metadata = {**self.metadata, "part": f"{part}.{within}" if within else part}
        return refusal


class Invalid(Refusal):
    """The request itself is wrong, whatever the state of the system."""

    code, reason = StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"

    @classmethod
    def field(cls, field: str, description: str, reason: str = "INVALID") -> Invalid:
        """A refusal for one field."""
        return cls(f"{field}: {description}", violations=[Violation(field, description, reason)])

    @classmethod
    def fields(cls, violations: Sequence[Violation]) -> Invalid:
        """A refusal for several fields; there must be at least one."""
        first, more = violations[0], len(violations) - 1
        text = f"{first.field}: {first.description}" + (f" (and {more} more)" if more else "")
        return cls(text, violations=violations)


class Unauthenticated(Refusal):
    """Nobody, or a token that is not (or no longer) good."""

    code, reason = StatusCode.UNAUTHENTICATED, "SIGN_IN_REQUIRED"


class Denied(Refusal):
    """The caller is known, but may not do this."""

    code, reason = StatusCode.PERMISSION_DENIED, "NOT_ALLOWED"


class NotFound(Refusal):
    """Absent, or hidden from this caller."""

    code, reason = StatusCode.NOT_FOUND, "NOT_FOUND"


class AlreadyExists(Refusal):
    """The name is taken."""

    code, reason = StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS"


class Precondition(Refusal):
    """The request is right, but the state of the system does not allow it."""

    code, reason = StatusCode.FAILED_PRECONDITION, "PRECONDITION_FAILED"


class Stale(Refusal):
    """The resource changed since the caller read it; read again and retry."""

    code, reason = StatusCode.ABORTED, "STALE_ETAG"


class Expired(Refusal):
    """Asks to go on where what came next is kept no more; begin anew."""

    code, reason = StatusCode.OUT_OF_RANGE, "EXPIRED"


class Exhausted(Refusal):
    """A limit was reached; later it may work."""

    code, reason = StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED"
    retry_after = 1.0


class Unimplemented(Refusal):
    """Declared in the schema, but there is no code for it."""

    code, reason = StatusCode.UNIMPLEMENTED, "METHOD_NOT_IMPLEMENTED"


class Unavailable(Refusal):
    """A part of the system is away for now."""

    code, reason = StatusCode.UNAVAILABLE, "UNAVAILABLE"
    retry_after = 1.0


class Internal(Refusal):
    """Our fault. The message says nothing of the cause; the log does."""

    code, reason = StatusCode.INTERNAL, "INTERNAL"
