"""When a resource expires (AIP-214), as its clients say it. Pure."""

from __future__ import annotations

from typing import Any, Protocol

from server.errors import Invalid

_LAST = 253_402_300_799_999_999
"""The end of the year 9999, in microseconds since 1970: no Timestamp goes beyond."""


class Asked(Protocol):
    """The request that carries the resource; see `server.engine.decisions.Asked`."""

    def path(self, field: str) -> str: ...


def settle(message: Any, stored: Any | None, now: int, asked: Asked, *, ttl: bool) -> None:
    """Settles the `expire_time` of a resource that is made or, where there is one `stored`, changed at `now` (microseconds
    since 1970): that of a `ttl` counts from now, and takes its place.

    Raises Invalid for a new time that is not in the future.
    """
    if ttl and message.HasField("ttl"):
        length = message.ttl.seconds * 1_000_000 + message.ttl.nanos // 1000
        if length <= 0 or now + length > _LAST:
            raise Invalid.field(asked.path("ttl"), "must be positive, and end before the year 10000", "OUT_OF_RANGE")
        message.expire_time.FromMicroseconds(now + length)
        message.ClearField("ttl")
        return
    if not message.HasField("expire_time"):
        return
    kept = stored is not None and stored.HasField("expire_time") and stored.expire_time == message.expire_time
    if not kept and message.expire_time.ToMicroseconds() <= now:
        raise Invalid.field(asked.path("expire_time"), "must be in the future", "OUT_OF_RANGE")
