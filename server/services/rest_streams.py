"""What a stream over REST lacks that one over gRPC has: a status at its end, and a client that says where it goes on.

The edge turns each message into JSON as it comes. Once the first has gone out, HTTP has no place left for a refusal: so it is a
message of its own, the last one, where the method's messages have a field for it; where they have none the stream just
ends, and whoever asks again is told then. And a browser's EventSource, which asks again by itself, sends the id of the last
event it saw as a header, since it can change nothing else of its request.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from server.errors import Refusal
from server.services.current import current
from server.services.statuses import status_of

LAST_EVENT = "last-event-id"
"""The header by which a reader of server-sent events says which was its last (HTML, "Server-sent events")."""
LAST_EVENT_MAX = 4096
"""Characters of it that are looked at; what is longer is none of ours, and is refused like any other wrong token."""


def last_event(context: Any) -> str:
    """The id of the last event that who calls over REST has seen; empty where it says none."""
    if not current().rest:
        return ""
    found = (value for key, value in context.invocation_metadata() or () if key == LAST_EVENT)
    return str(next(found, ""))[:LAST_EVENT_MAX]


async def ended_in_band(
    messages: AsyncGenerator[bytes, None], said: Callable[[bytes], bytes | None]
) -> AsyncGenerator[bytes, None]:
    """The messages of a stream. Where it is refused after the first, and came as REST, the last one is what `said` makes of
    the google.rpc.Status."""
    begun = False
    async with aclosing(messages):
        try:
            async for message in messages:
                yield message
                begun = True
        except Refusal as refusal:
            call = current()
            last = said(status_of(refusal, call.request_id).SerializeToString()) if begun and call.rest else None
            if last is None:
                raise
            call.code, call.reason = refusal.code, refusal.reason
            yield last
