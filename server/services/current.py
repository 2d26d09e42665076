"""Who makes the call that is being served: written by one interceptor, read in services, an argument below them."""

from __future__ import annotations

from contextvars import ContextVar

from server.caller import NOBODY, Caller

CALLER: ContextVar[Caller] = ContextVar("caller", default=NOBODY)
"""Set by the authentication interceptor, for one call."""


def caller() -> Caller:
    """Who makes the call that is being served; NOBODY outside of one."""
    return CALLER.get()
