"""The call that is being served: who makes it, and what the edge said of it.

Written by the interceptors, read in services; below, it is an argument.
"""

from __future__ import annotations

from contextvars import ContextVar

from grpc import StatusCode

from server.caller import NOBODY, Caller
from server.services.cookie_rules import DEFAULT


class Current:
    """One call, from its first interceptor to its last."""

    __slots__ = (
        "address",
        "after",
        "authorization",
        "body",
        "caller",
        "code",
        "consistency",
        "cookie",
        "cookies",
        "csrf",
        "method",
        "origin",
        "path",
        "reason",
        "request_id",
        "rest",
        "site",
        "traceparent",
        "web",
        "wrote",
    )

    def __init__(
        self, method: str = "", authorization: str | None = None, request_id: str = "", traceparent: str = ""
    ) -> None:
        self.method = method
        self.authorization = authorization
        self.request_id = request_id
        self.traceparent = traceparent
        self.address = ""
        """Where the call came from, as the edge saw it."""
        self.cookie = ""
        """The header, as a browser sent it."""
        self.origin = ""
        """Of the web page that calls, as its browser says; empty for what is no web page."""
        self.site = ""
        """Sec-Fetch-Site: how that origin is related to ours."""
        self.csrf = ""
        """What only a page that may call can have sent."""
        self.cookies = DEFAULT
        """Which cookie a page's session lives in."""
        self.body: str | None = None
        """The names in the JSON body of a call that came as REST, as server/engine/bodies.py reads them; None of others."""
        self.web = False
        """Whether the caller was told by that cookie."""
        self.rest = False
        """Whether it came as REST."""
        self.path = ""
        """Of a call that came as REST: its path and query."""
        self.consistency = ""
        """The tokens it came with."""
        self.after = 0
        """The position in the log that it must be shown at least."""
        self.wrote = 0
        """The position that shows all that it wrote; 0 where it wrote nothing."""
        self.caller: Caller = NOBODY
        self.code = StatusCode.OK
        """How it ended, once it has."""
        self.reason = ""
        """Why it was refused, if it was."""


CURRENT: ContextVar[Current] = ContextVar("current", default=Current())  # noqa: B039 - never written to outside a call


def current() -> Current:
    """The call that is being served."""
    return CURRENT.get()


def caller() -> Caller:
    """Who makes the call that is being served; NOBODY outside of one."""
    return CURRENT.get().caller


class CurrentCarried:
    """What the call that is being served brings and takes along; nothing outside of one."""

    def brought(self) -> int:
        """The position that its consistency token asks for; 0 without one."""
        return CURRENT.get().after

    def wrote(self, position: int) -> None:
        """It has committed something that `position` shows."""
        call = CURRENT.get()
        if call.method and position > call.wrote:
            call.wrote = position
