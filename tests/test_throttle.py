"""Guessing is slow, whoever guesses from wherever, and keeps no owner out."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import httpx
import pytest
from edge_ground import Answer
from identity_ground import Place, asynchronous, cable, place
from limits_ground import Limited, limited
from people_ground import PASSWORD, People
from psycopg_pool import AsyncConnectionPool

from deploy.native.stack import Stack
from server.engine.audit import Audit
from server.engine.networks import network
from server.engine.throttle import Throttle
from server.errors import Exhausted
from server.rates import Rate
from server.store.attempts import FREE, LONGEST, StoredAttempts, Try
from server.store.audit import StoredAudit
from server.store.known_networks import PER_ACCOUNT, KnownNetworks
from server.store.redis_wire import RedisWire

NETWORK, ACCOUNT = Rate(30, 3600), Rate(21, 3600)
AT_ONCE = FREE + 1
"""Tries of one network at one account that need no waiting: the wait begins after the last of them."""


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Place]:
    with place(components) as made:
        yield made


@asynccontextmanager
async def throttles(at: Place, count: int = 1, redis: str = "") -> AsyncIterator[list[Throttle]]:
    """So many servers' throttles."""
    pool = AsyncConnectionPool(at.postgres, min_size=1, max_size=4, open=False)
    await pool.open()
    wires = [RedisWire(redis or at.redis, pause=0.2) for _ in range(count)]
    audits = [StoredAudit(pool) for _ in range(count)]
    try:
        yield [
            Throttle(StoredAttempts(wire), KnownNetworks(pool), Audit(audit), NETWORK, ACCOUNT)
            for wire, audit in zip(wires, audits, strict=True)
        ]
    finally:
        for wire, audit in zip(wires, audits, strict=True):
            await audit.aclose()
            await wire.aclose()
        await pool.close()


def account(at: Place) -> tuple[str, str]:
    """The id and address of a new account."""
    id, email = secrets.token_hex(8), f"{secrets.token_hex(8)}@example.com"
    at.sql("insert into transom.users (id, email, email_key, display_name) values (%s, %s, %s, '')", id, email, email)
    return id, email


def networks() -> Iterator[str]:
    """Addresses nobody has used before."""
    prefix = secrets.token_hex(4)
    return (f"2001:db8:{prefix[:4]}:{number:x}::{prefix[4:]}" for number in range(65_536))


async def guess(on: Throttle, key: str, address: str, kind: str = "password") -> bool:
    """A wrong try; whether it was looked at."""
    try:
        await on.check(kind, key, address)
    except Exhausted:
        return False
    await on.failed(kind, key, address)
    return True


async def guesses(on: Throttle, key: str, address: str, count: int, kind: str = "password") -> int:
    return sum([await guess(on, key, address, kind) for _ in range(count)])


async def owner(on: Throttle, key: str, address: str, kind: str = "password") -> bool:
    """A right try; whether it was looked at."""
    try:
        await on.check(kind, key, address)
    except Exhausted:
        return False
    await on.succeeded(kind, key, address)
    return True


@asynchronous
async def test_who_guesses_from_one_address_waits_twice_as_long_each_time(at: Place) -> None:
    async with throttles(at) as [on]:
        key, address = f"{secrets.token_hex(8)}@example.com", next(networks())
        assert await guesses(on, key, address, 20) == AT_ONCE
        wire = RedisWire(at.redis)
        pair, *_ = on._try("password", key, address).entries()
        waits = []
        for tries in range(AT_ONCE + 1, AT_ONCE + 13):  # as if each had waited as long as it was told to
            with pytest.raises(Exhausted) as slowed:
                await on.check("password", key, address)
            waits.append(slowed.value.retry_after)
            await wire.ask("SET", pair, f"{tries - 1} 0 0", "KEEPTTL")
            assert await guess(on, key, address)
        await wire.aclose()
        assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 512, LONGEST, LONGEST, LONGEST]


@asynchronous
async def test_who_guesses_from_many_addresses_has_the_tries_of_one_bucket(at: Place) -> None:
    async with throttles(at, 2) as on:
        for sentence, key in (
            ("an account", account(at)[1]),
            ("nobody's address", f"{secrets.token_hex(8)}@a.example"),
        ):
            addresses = [next(networks()) for _ in range(150)]
            start = time.monotonic()
            looked_at = await asyncio.gather(
                *(guess(on[number % 2], key, address) for number, address in enumerate(addresses * 3))
            )
            refilled = (time.monotonic() - start) * ACCOUNT.calls / ACCOUNT.seconds
            assert ACCOUNT.calls <= sum(looked_at) <= ACCOUNT.calls + refilled + 1, sentence


@asynchronous
async def test_strangers_cannot_lock_the_owner_out_of_where_they_usually_are(at: Place) -> None:
    async with throttles(at, 2) as on:
        id, email = account(at)
        strange = networks()
        home, new = next(strange), next(strange)
        for kind, key in (("password", email), ("code", email), ("totp", id)):
            assert await owner(on[0], key, home, kind), kind
            tried = sum([await guess(on[0], key, next(strange), kind) for _ in range(60)])
            assert tried == (ACCOUNT.calls if kind == "password" else ACCOUNT.calls // 3), kind
            assert not await owner(on[1], key, new, kind), "a new place is a stranger's"
            for _ in range(40):
                assert await owner(on[1], key, home, kind), kind
            assert await guesses(on[1], key, home, 20, kind) == AT_ONCE, "guessing is slow from there, too"


@asynchronous
async def test_who_tries_one_password_at_many_accounts_has_the_tries_of_one_bucket(at: Place) -> None:
    async with throttles(at) as [on]:
        address = next(networks())
        _, neighbour = account(at)
        _, own = account(at)
        assert await owner(on, neighbour, address)
        tried = 0
        for _ in range(100):
            tried += await guess(on, f"{secrets.token_hex(8)}@example.com", address)
            await owner(on, own, address)  # a success of one's own gives nothing back that others took
        assert tried == NETWORK.calls
        assert await owner(on, neighbour, address), "who lives there is not kept out"
        assert not await owner(on, account(at)[1], address), "who was never there is"


@asynchronous
async def test_who_mistypes_now_and_then_is_never_slowed(at: Place) -> None:
    async with throttles(at) as [on]:
        (_, email), address = account(at), next(networks())
        for _ in range(30):
            assert await guesses(on, email, address, 2) == 2
            assert await owner(on, email, address)
        # What could not be looked at does not count.
        for _ in range(50):
            await on.check("password", email, address)
            await on.released("password", email, address)
        assert await guesses(on, email, address, 20) == AT_ONCE


@asynchronous
async def test_of_many_tries_at_once_no_more_pass_than_one_after_another(at: Place) -> None:
    async with throttles(at, 2) as on:
        key, address = f"{secrets.token_hex(8)}@example.com", next(networks())
        assert sum(await asyncio.gather(*(guess(on[n % 2], key, address) for n in range(500)))) == AT_ONCE


@asynchronous
async def test_without_redis_each_server_slows_guessers_alone(at: Place) -> None:
    async with cable(at.redis) as (wire, redis), throttles(at, 2, redis) as on:
        (_, email), strange = account(at), networks()
        home = next(strange)
        assert await owner(on[0], email, home)
        await wire.cut()
        for one in on:
            start = time.monotonic()
            assert sum([await guess(one, email, next(strange)) for _ in range(60)]) == ACCOUNT.calls
            assert await guesses(one, f"{secrets.token_hex(8)}@example.com", next(strange), 20) == AT_ONCE
            assert await owner(one, email, home)
            assert time.monotonic() - start < 5
        await wire.mend()
        await asyncio.sleep(0.25)  # the pause after a failure
        address = next(strange)
        assert sum([await guess(one, "a@example.com" + address, address) for one in on * 10]) == AT_ONCE


@asynchronous
async def test_what_is_kept_is_bounded_and_goes_with_the_account(at: Place) -> None:
    async with throttles(at) as [on]:
        (id, email), strange = account(at), networks()
        for _ in range(PER_ACCOUNT + 5):
            assert await owner(on, email, next(strange))
        assert at.sql("select count(*) from transom.known_networks where user_id = %s", id) == [(PER_ACCOUNT,)]
        await on.succeeded("password", "nobody@example.com", next(strange))
        at.sql("delete from transom.users where id = %s", id)
        assert at.sql("select count(*) from transom.known_networks where user_id = %s", id) == [(0,)]
        (id, email), old, new = account(at), next(strange), next(strange)
        assert await owner(on, email, old) and await owner(on, email, new)
        ago = "update transom.known_networks set seen_time = now() - interval '91 days' where user_id = %s and network = %s"
        at.sql(ago, id, network(old))
        assert await on._networks.sweep() == 1
        assert at.sql("select network from transom.known_networks where user_id = %s", id) == [(network(new),)]
        # In Redis, everything goes by itself, and no address stands in it.
        wire, one = RedisWire(at.redis), Try("password", email, "192.0.2.77", NETWORK, ACCOUNT)
        assert await guess(on, email, "192.0.2.77")
        for key in one.entries():
            assert 0 < int(await wire.ask("TTL", key)) <= 86_400
            assert email not in key and "192.0.2" not in key
        await wire.aclose()


@asynchronous
async def test_the_refusals_are_noted_but_not_each_of_them_nor_what_was_typed(at: Place) -> None:
    async with throttles(at) as [on]:
        key, address = f"{secrets.token_hex(8)}@example.com", next(networks())
        await guesses(on, key, address, 100)
        await on._audit._stored.aclose()
        rows = at.sql(
            "select action, outcome, details, target from transom.audit where address = %s",
            address,
        )
        assert rows == [("sign_in", "TOO_MANY_ATTEMPTS", {"proof": "password"}, "")]


# ---------------------------------------------------------------------------------------------------- through the edge


@pytest.fixture(scope="module")
def edge(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    options = {"TRANSOM_ATTEMPTS_ADDRESS": "30/1h", "TRANSOM_ATTEMPTS_ACCOUNT": "21/1h"}
    with limited(stack, tmp_path_factory.mktemp("throttle"), **options) as made:
        yield made


def test_an_attack_through_the_edge_is_slowed_and_the_owner_signs_in(edge: Limited) -> None:
    home, away = "127.0.60.1", "127.0.60.2"
    email, nobody = People(edge.stack).person().email, f"{secrets.token_hex(6)}@example.com"

    def sign_in(email: str, password: str, source: str) -> Answer:
        return edge.post("accounts:signIn", source=source, email=email, password=password)

    assert sign_in(email, PASSWORD, home).status == 200
    for key in (email, nobody):  # alike for who has an account and who has none
        answers = [sign_in(key, "wrong " + PASSWORD, f"127.0.61.{number // 3}") for number in range(33)]
        assert [answer.status for answer in answers] == [401] * 21 + [429] * 12
        assert {answer.reason for answer in answers[:21]} == {"WRONG_CREDENTIALS"}
        assert {answer.reason for answer in answers[21:]} == {"TOO_MANY_ATTEMPTS"}
        assert all(0 < int(answer.headers["retry-after"]) <= 172 for answer in answers[21:])
    assert sign_in(email, PASSWORD, away).status == 429
    assert sign_in(email, PASSWORD, home).status == 200

    spray = [sign_in(f"{secrets.token_hex(6)}@example.com", PASSWORD, "127.0.62.1").status for _ in range(35)]
    assert spray == [401] * 30 + [429] * 5


def test_the_server_knows_whose_passwords_wait(stack: Stack) -> None:
    """All of these come from one network."""
    body = {"email": f"{secrets.token_hex(6)}@example.com", "password": PASSWORD}
    url = f"{stack.edge}/transom/v1/accounts:signUp"
    with ThreadPoolExecutor(24) as calling:
        answers = list(
            calling.map(lambda _: httpx.post(url, json=body, timeout=30, trust_env=False, verify=False), range(24))
        )
    refused = [answer.json()["error"] for answer in answers if answer.status_code == 429]
    assert 0 < len(refused) < 24 and all("network" in error["message"] for error in refused)
