"""How often somebody may call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from server.caller import Caller, Kind
from server.engine.networks import network
from server.errors import RATE_LIMITED, Exhausted
from server.rates import Rate
from server.store.limits import Bucket, Buckets
from server.store.limits import Kind as Bucketed

EXEMPT = ("/grpc.health.", "/grpc.reflection.")
"""Beginnings of methods without limits: the edge asks for health, and counts on an answer."""


class Limits:
    """The limits there are; None is none.

    An account is bound by `caller`, its network by `address`, and both by what `methods` says of the method
    (`package.Service/Method`): of an account's calls where it is known, of the network's where it is not. Service keys
    are bound by `key` alone, the system by nothing.
    """

    def __init__(
        self,
        buckets: Buckets,
        *,
        caller: Rate | None,
        key: Rate | None,
        address: Rate | None,
        methods: Mapping[str, Rate],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._caller = buckets.kind("caller", caller, "caller") if caller else None
        self._key = buckets.kind("key", key, "caller") if key else None
        self._address = buckets.kind("address", address, "address") if address else None
        self._methods = {name: buckets.kind(f"method:{name}", rate, "method") for name, rate in methods.items()}

    def of(self, method: str) -> MethodLimits | None:
        """The limits of calls of the method with this path; None where there are none."""
        own = self._methods.get(method.removeprefix("/"))
        if method.startswith(EXEMPT) or not (self._caller or self._key or self._address or own):
            return None
        return MethodLimits(self._clock, self._caller, self._key, self._address, own)

    def look(self, address: str) -> None:
        """Before a token is looked up that came from there. Raises Exhausted (RATE_LIMITED) where so much came already
        that nothing more is looked at; counts nothing."""
        if self._address is not None:
            bucket, now = self._address.of(network(address)), self._clock()
            if bucket.until > now:
                raise _limited(bucket, now)

    async def count(self, address: str) -> None:
        """Counts a call from there whose token is nobody's: who makes up tokens is not known, but its address is. Raises
        Exhausted (RATE_LIMITED)."""
        if self._address is not None:
            bucket = self._address.of(network(address))
            if not self._address.spend(bucket) and not await self._address.ask(bucket):
                raise _limited(bucket, self._clock())


class MethodLimits:
    """The limits of one method."""

    def __init__(
        self,
        clock: Callable[[], float],
        caller: Bucketed | None,
        key: Bucketed | None,
        address: Bucketed | None,
        method: Bucketed | None,
    ) -> None:
        self._clock = clock
        self._caller = caller
        self._key = key
        self._address = address
        self._method = method

    def admit(self, caller: Caller, address: str) -> list[Bucket] | None:
        """Counts a call, where that needs nobody's word: then None. Else the buckets that are to be asked (`ask`).

        The way of nearly every call: about a microsecond. Raises Exhausted (RATE_LIMITED) with the time to wait.
        """
        kind, now = caller.kind, self._clock()
        if kind is Kind.KEY:
            return self._spent(self._key, caller.name, now, None) if self._key else None
        if kind is Kind.SYSTEM:
            return None
        asked: list[Bucket] | None = None
        whose = network(address) if ":" in address else address
        if caller.name:
            if self._caller is not None:
                asked = self._spent(self._caller, caller.name, now, asked)
            if self._address is not None and whose:
                asked = self._spent(self._address, whose, now, asked)
        elif self._address is not None:
            asked = self._spent(self._address, whose, now, asked)
        if self._method is not None:
            asked = self._spent(self._method, caller.name or whose, now, asked)
        return asked

    async def ask(self, buckets: list[Bucket]) -> None:
        """Counts the call by the word of all servers. Raises Exhausted (RATE_LIMITED)."""
        for bucket in buckets:
            if not await bucket.kind.ask(bucket):
                raise _limited(bucket, self._clock())

    @staticmethod
    def _spent(kind: Bucketed, whose: str, now: float, asked: list[Bucket] | None) -> list[Bucket] | None:
        bucket = kind.of(whose)
        if bucket.until > now:
            raise _limited(bucket, now)
        if kind.spend(bucket):
            return asked
        return [bucket] if asked is None else [*asked, bucket]


def _limited(bucket: Bucket, now: float) -> Exhausted:
    kind = bucket.kind
    wait = max(bucket.until - now, 0.001)
    return Exhausted(
        f"There were too many calls: the limit of this {kind.scope} is {kind.rate.calls} in {kind.rate.seconds} s.",
        reason=RATE_LIMITED,
        metadata={"limit": str(kind.rate.calls), "window": f"{kind.rate.seconds}s", "scope": kind.scope},
        retry_after=wait,
    )
