"""How often one may call: buckets that all servers share, what a Redis that is away makes of them, and what callers are
told through the edge."""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest
from edge_ground import Answer, eventually
from identity_ground import asynchronous, cable
from limits_ground import Limited, limited
from people_ground import People
from transom.accounts.v1 import accounts_pb2 as pb
from transom.accounts.v1 import accounts_pb2_grpc

from deploy.native.stack import Stack
from server.caller import NOBODY, SYSTEM, Caller, Kind
from server.engine.limits import Limits
from server.engine.networks import network
from server.engine.tokens import SESSION, new_token
from server.errors import Exhausted
from server.rates import Rate, rate, rates
from server.schema.reading import read
from server.settings import Settings
from server.store.limits import GENERATION, TELL_SECONDS, Buckets
from server.store.redis import RedisAway
from server.store.redis_wire import RedisWire

METHOD = "/test.v1.Service/Do"
OTHER = "/test.v1.Service/DoOther"


@dataclass
class Server:
    """One server's limits, on a connection of its own."""

    limits: Limits
    buckets: Buckets

    async def call(self, caller: Caller = NOBODY, address: str = "", method: str = METHOD) -> bool:
        """Whether a call is let through."""
        limits = self.limits.of(method)
        if limits is None:
            return True
        try:
            asked = limits.admit(caller, address)
            if asked is not None:
                await limits.ask(asked)
        except Exhausted:
            return False
        return True

    async def calls(self, count: int, caller: Caller = NOBODY, address: str = "", at_once: int = 1) -> int:
        """How many of so many calls are let through."""
        passed = 0
        for start in range(0, count, at_once):
            size = min(at_once, count - start)
            passed += sum(await asyncio.gather(*(self.call(caller, address) for _ in range(size))))
            await asyncio.sleep(0)
        return passed

    async def told(self) -> None:
        """Returns once Redis knows of everything."""
        while self.buckets._dirty or self.buckets._telling is not None:
            await asyncio.sleep(TELL_SECONDS / 5)


@asynccontextmanager
async def servers(
    url: str,
    count: int = 1,
    *,
    caller: Rate | None = None,
    key: Rate | None = None,
    address: Rate | None = None,
    methods: dict[str, Rate] | None = None,
) -> AsyncIterator[list[Server]]:
    wires = [RedisWire(url, pause=0.2) for _ in range(count)]
    made = [Buckets(wire) for wire in wires]
    try:
        yield [
            Server(Limits(buckets, caller=caller, key=key, address=address, methods=methods or {}), buckets)
            for buckets in made
        ]
    finally:
        for buckets, wire in zip(made, wires, strict=True):
            await buckets.aclose()
            await wire.aclose()


def somebody(kind: Kind = Kind.USER) -> Caller:
    return Caller(kind=kind, name=f"{'keys' if kind is Kind.KEY else 'users'}/{secrets.token_hex(8)}")


# ----------------------------------------------------------------------------------------------------- what is counted


@asynchronous
async def test_a_small_bucket_is_exact_whatever_the_number_of_servers(components: Stack) -> None:
    async with servers(components.env["TRANSOM_REDIS"], 3, caller=Rate(50, 3600)) as on:
        for at_once in (1, 10, 500):
            ann = somebody()
            passed = await asyncio.gather(*(one.calls(200, ann, at_once=at_once) for one in on))
            assert sum(passed) == 50, f"{at_once} at once"


@asynchronous
async def test_a_large_bucket_lets_at_most_a_hundredth_more_through_for_each_server(components: Stack) -> None:
    async with servers(components.env["TRANSOM_REDIS"], 2, caller=Rate(2000, 36_000)) as on:
        for at_once in (1, 50, 5000):
            ann, start = somebody(), time.monotonic()
            passed = sum(await asyncio.gather(*(one.calls(5000, ann, at_once=at_once) for one in on)))
            refilled = (time.monotonic() - start) * 2000 / 36_000
            assert 2000 <= passed <= 2000 + refilled + 2 * 2000 / 100, f"{at_once} at once"
            # What was too much is owed: nobody gets through before it is paid.
            assert not await on[0].call(ann) and not await on[1].call(ann)


@asynchronous
async def test_a_bucket_fills_up_again_evenly(components: Stack) -> None:
    async with servers(components.env["TRANSOM_REDIS"], 2, caller=Rate(20, 1)) as on:
        ann, passed, start = somebody(), 0, time.monotonic()
        while time.monotonic() < start + 1.5:
            passed += await on[0].call(ann) + await on[1].call(ann)
            await asyncio.sleep(0.005)
        took = time.monotonic() - start
        assert 20 + 0.7 * 20 * took <= passed <= 20 + 20 * took + 1


@asynchronous
async def test_whose_calls_are_counted_together(components: Stack) -> None:
    five = Rate(5, 3600)
    async with servers(components.env["TRANSOM_REDIS"], caller=five) as [on]:
        ann, bob = somebody(), somebody()
        assert await on.calls(9, ann, "192.0.2.1") == 5
        assert await on.calls(9, bob, "192.0.2.1") == 5, "another account has its own"
        assert not await on.call(ann, "192.0.2.2"), "from wherever"
        assert await on.calls(9, NOBODY, "192.0.2.1") == 9, "who is nobody is bound by addresses"
        assert await on.calls(9, SYSTEM) == 9
        assert await on.calls(9, somebody(Kind.KEY)) == 9
    async with servers(components.env["TRANSOM_REDIS"], address=five, key=Rate(7, 3600)) as [on]:
        here, there = (f"2001:db8:{secrets.token_hex(2)}:{n}" for n in (1, 2))
        assert await on.calls(3, NOBODY, f"{here}::1") == 3
        assert await on.calls(3, somebody(), f"{here}:ffff::2") == 2, "one half of an IPv6 address is one household's"
        assert await on.calls(3, NOBODY, f"{there}::1") == 3
        assert await on.calls(9, somebody(Kind.KEY), f"{here}::1") == 7, "a key is bound by its own limit alone"
    async with servers(components.env["TRANSOM_REDIS"], methods={"test.v1.Service/Do": five}) as [on]:
        ann, here = somebody(), secrets.token_hex(4)
        assert await on.calls(9, ann, here) == 5
        assert await on.calls(9, NOBODY, here) == 5, "who is nobody is an address"
        assert await on.call(ann, here, OTHER), "another method has no limit"
    async with servers(components.env["TRANSOM_REDIS"], caller=five, address=five) as [on]:
        assert on.limits.of("/grpc.health.v1.Health/Check") is None, "the edge counts on an answer"


NETWORKS = [
    ("192.0.2.1", "192.0.2.1"),
    ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
    ("2001:0DB8:1:2::", "2001:db8:1:2::/64"),
    ("::ffff:192.0.2.1", "192.0.2.1"),
    ("fe80::1%eth0", "fe80::/64"),
    ("::1", "::/64"),
    ("", ""),
    ("no: address", "no: address"),
]


@pytest.mark.parametrize(("address", "wanted"), NETWORKS)
def test_an_address_is_of_a_network(address: str, wanted: str) -> None:
    assert network(address) == wanted


def test_a_rate_is_written_so() -> None:
    assert rate("600/60s") == rate("600/1m") == rate(" 600/60 ") == Rate(600, 60)
    assert rate("10/1h") == Rate(10, 3600)
    assert rate("") is None and rate("off") is None
    assert rates("a.v1.S/M=1/2s, b.v1.S/N=3/1m") == {"a.v1.S/M": Rate(1, 2), "b.v1.S/N": Rate(3, 60)}
    assert rates("") == {}
    for wrong in ("600", "0/60s", "1/0s", "-1/1s", "1/1d", "10000000/1s", "1/2h/3", "1/25h"):
        with pytest.raises(ValueError, match=r"rate|beyond"):
            rate(wrong)
    for wrong in ("a.v1.S/M", "a.v1.S/M=", "S=1/1s/1s", "a.v1.S/M=off"):
        with pytest.raises(ValueError, match="is not"):
            rates(wrong)


# -------------------------------------------------------------------------------------------------------- what it costs


@asynchronous
async def test_an_ordinary_call_waits_for_nobody(components: Stack) -> None:
    async with servers(components.env["TRANSOM_REDIS"], caller=Rate(100_000, 60), address=Rate(100_000, 60)) as [on]:
        limits = on.limits.of(METHOD)
        assert limits is not None
        for number in range(900):  # first calls, of callers never seen before
            assert limits.admit(Caller(kind=Kind.USER, name=f"users/{number}"), f"192.0.2.{number}") is None
        await on.told()


@asynchronous
async def test_what_is_remembered_is_bounded_and_redis_forgets_by_itself(components: Stack) -> None:
    url = components.env["TRANSOM_REDIS"]
    async with servers(url, caller=Rate(100, 1000)) as [on]:
        ann = somebody()
        assert await on.call(ann)
        await on.told()
        wire = RedisWire(url)
        left = int(await wire.ask("PTTL", f"transom:limit:caller:{ann.name}"))
        await wire.aclose()
        assert 0 < left <= 10_000, "a bucket that is full is no entry"
        limits = on.limits.of(METHOD)
        assert limits is not None
        for number in range(3 * GENERATION):
            limits.admit(Caller(kind=Kind.USER, name=f"users/{number}"), "")
            if number % 500 == 0:
                await on.told()
        kind = on.limits._caller
        assert kind is not None and len(kind._young) + len(kind._old) <= 2 * GENERATION


# ------------------------------------------------------------------------------------------------- when Redis is away


@asynchronous
async def test_without_redis_each_server_counts_alone(components: Stack) -> None:
    async with cable(components.env["TRANSOM_REDIS"]) as (wire, url), servers(url, 2, caller=Rate(50, 3600)) as on:
        ann, bob = somebody(), somebody()
        assert await on[0].calls(30, ann) == 30
        await wire.cut()
        start = time.monotonic()
        assert await on[0].calls(100, ann) == 20, "it goes on from what it knew"
        assert await on[1].calls(100, ann) == 50, "who knew nothing begins"
        assert [await one.calls(100, bob) for one in on] == [50, 50]
        assert time.monotonic() - start < 3, "nobody waits long for what is away"
        await wire.mend()
        await asyncio.sleep(0.25)  # the pause after a failure
        cleo = somebody()
        assert sum([await one.calls(40, cleo) for one in on]) == 50, "it is back"


@asynchronous
async def test_a_redis_that_hangs_keeps_nobody_long(components: Stack) -> None:
    async with cable(components.env["TRANSOM_REDIS"]) as (wire, url), servers(url, caller=Rate(50, 3600)) as [on]:
        ann = somebody()
        assert await on.call(ann)
        wire.hold()
        start = time.monotonic()
        assert await on.calls(100, ann, at_once=100) == 49
        assert time.monotonic() - start < 1


@asynchronous
async def test_a_redis_that_forgot_has_full_buckets(components: Stack) -> None:
    url = components.env["TRANSOM_REDIS"]
    async with servers(url, caller=Rate(5, 3600)) as [on]:
        ann = somebody()
        assert await on.calls(9, ann) == 5
        wire = RedisWire(url)
        await wire.ask("DEL", f"transom:limit:caller:{ann.name}")
        await wire.aclose()
        assert not await on.call(ann), "the server still knows"
    async with servers(url, caller=Rate(5, 3600)) as [on]:
        assert await on.calls(9, ann) == 5


# ---------------------------------------------------------------------------------------------------- through the edge


@pytest.fixture(scope="module")
def edge(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    options = {
        "TRANSOM_LIMIT_CALLER": "40/1h",
        "TRANSOM_LIMIT_ADDRESS": "60/1h",
        "TRANSOM_LIMIT_METHODS": "transom.accounts.v1.AccountsService/SignIn=10/1h",
    }
    with limited(stack, tmp_path_factory.mktemp("limits"), **options) as made:
        yield made


def test_the_limits_that_are_set_by_default_name_methods_that_there_are(stack: Stack) -> None:
    schema = read(stack.place.descriptor.read_bytes())
    served = {f"{service.name}/{method.name}" for service in schema.services for method in service.methods}
    assert Settings.model_fields["limit_methods"].default_factory().keys() <= served


@dataclass(frozen=True)
class Told:
    """What a refused caller is told over REST."""

    status: int
    reason: str
    metadata: dict[str, str]
    headers: dict[str, str]
    delay: float

    @classmethod
    def of(cls, answer: Answer) -> Told:
        details = {d["@type"].rpartition(".")[2]: d for d in answer.error["details"]}
        headers = {k: answer.headers.get(k, "") for k in ("retry-after", "ratelimit", "ratelimit-policy")}
        delay = float(details["RetryInfo"]["retryDelay"].rstrip("s"))
        return cls(answer.status, answer.reason, details["ErrorInfo"]["metadata"], headers, delay)


def test_an_account_that_calls_too_often_is_told_when_to_come_back_by_every_road(edge: Limited) -> None:
    token = People(edge.stack).person().token
    statuses = [
        edge.call("GET", "/transom/v1/accounts/me", token=token, source=f"127.0.1.{2 + number % 3}").status
        for number in range(45)
    ]
    assert statuses == [200] * 40 + [429] * 5, "from whichever address, by whichever server"
    told = Told.of(edge.call("GET", "/transom/v1/accounts/me", token=token))
    assert told.reason == "RATE_LIMITED" and told.metadata == {"limit": "40", "window": "3600s", "scope": "caller"}
    assert 60 < told.delay <= 90
    after = math.ceil(told.delay)
    assert told.headers == {
        "retry-after": str(after),
        "ratelimit": f'"caller";r=0;t={after}',
        "ratelimit-policy": '"caller";q=40;w=3600',
    }
    with grpc.insecure_channel(edge.target) as channel, pytest.raises(grpc.RpcError) as refused:
        accounts_pb2_grpc.AccountsServiceStub(channel).GetMe(
            pb.GetMeRequest(), metadata=[("authorization", f"Bearer {token}")], timeout=10
        )
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict(refused.value.trailing_metadata())
    assert 60 < int(trailers["retry-after"]) <= 90
    assert (
        b"RATE_LIMITED" in trailers["grpc-status-details-bin"] and b"RetryInfo" in trailers["grpc-status-details-bin"]
    )

    other = People(edge.stack).person().token
    assert edge.call("GET", "/transom/v1/accounts/me", token=other, source="127.0.1.9").status == 200


def test_an_address_is_bound_whoever_calls_and_whatever_it_says_of_itself(edge: Limited) -> None:
    def nobody(source: str, **headers: str) -> int:
        return edge.call("GET", "/transom/v1/accounts/me", source=source, **headers).status

    assert [nobody("127.0.2.1") for _ in range(63)] == [401] * 60 + [429] * 3
    assert nobody("127.0.2.1", x_forwarded_for="198.51.100.7") == 429
    assert nobody("127.0.2.1", x_envoy_external_address="198.51.100.7") == 429
    assert nobody("127.0.2.2") == 401
    assert edge.call("GET", "/healthz", source="127.0.2.1").status == 200
    told = Told.of(edge.call("GET", "/transom/v1/accounts/me", source="127.0.2.1"))
    assert told.metadata == {"limit": "60", "window": "3600s", "scope": "address"}


def test_who_makes_up_tokens_is_bound_by_the_address(edge: Limited) -> None:
    def made_up() -> Answer:
        return edge.call("GET", "/transom/v1/accounts/me", token=new_token(SESSION), source="127.0.4.1")

    assert [made_up().status for _ in range(63)] == [401] * 60 + [429] * 3
    assert Told.of(made_up()).metadata["scope"] == "address"
    assert edge.call("GET", "/transom/v1/accounts/me", token=new_token(SESSION), source="127.0.4.2").status == 401


def test_a_method_has_a_limit_of_its_own_and_a_redis_that_dies_gives_nobody_more_than_each_server_alone(
    edge: Limited,
) -> None:
    def sign_in() -> int:
        return edge.post("accounts:signIn", source="127.0.3.1", email=f"{secrets.token_hex(4)}@a.example").status

    assert [sign_in() for _ in range(4)] == [400] * 4  # a password is missing: nothing else was looked at
    pid = next(p["pid"] for p in edge.stack.status()["processes"] if p["name"] == "redis")
    os.kill(pid, signal.SIGKILL)
    passed = [sign_in() for _ in range(24)].count(400)
    assert 6 <= passed <= 2 * 10 + 10, "the two servers count alone, and a new Redis begins anew"
    eventually(lambda: answers(edge.stack.env["TRANSOM_REDIS"]))
    assert sign_in() in (400, 429)
    tries = (edge.post("accounts:signIn", source="127.0.3.1") for _ in range(40))
    told = Told.of(next(one for one in tries if one.status == 429))
    assert told.metadata == {"limit": "10", "window": "3600s", "scope": "method"}
    token = People(edge.stack).person().token
    assert edge.call("GET", "/transom/v1/accounts/me", token=token, source="127.0.3.2").status == 200


def answers(redis: str) -> bool:
    async def ping() -> bool:
        wire = RedisWire(redis)
        try:
            return bool(await wire.ask("PING") == b"PONG")
        except RedisAway:
            return False
        finally:
            await wire.aclose()

    return asyncio.run(ping())
