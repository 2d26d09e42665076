"""Accounts, sessions and keys over gRPC, on a real Postgres pair and a real Redis, and what harm does to them."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis as plain_redis
from identity_ground import Caller, Place, Server, asynchronous, cable, place, refused, server
from transom.accounts.v1 import accounts_pb2 as pb

from deploy.native.stack import Stack
from server.caller import NOBODY, OPERATOR, Kind
from server.engine.authentication import BAD, Authentication
from server.engine.sign_ins import Place as Where
from server.engine.text import email_key
from server.engine.tokens import SESSION, digest, new_token
from server.errors import Exhausted, Invalid, Unauthenticated, Unavailable
from server.store.passwords import Passwords
from server.store.redis import TIMEOUT
from server.store.tokens import BEHIND, Tokens, _Row

PROJECT = Path(__file__).parents[1]
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Place]:
    with place(components) as made:
        yield made


def address() -> str:
    return f"{secrets.token_hex(6)}@example.com"


async def signed_up(on: Server, email: str = "", **more: Any) -> tuple[Caller, pb.SignUpResponse]:
    """A new account, and a client that is signed in to it."""
    made = await on.stubs().accounts("SignUp", pb.SignUpRequest(email=email or address(), password=PASSWORD, **more))
    return on.stubs(made.token), made


# ------------------------------------------------------------------------------------------------- what is refused


@dataclass(frozen=True)
class SignUp:
    sentence: str
    request: dict[str, Any]
    fields: tuple[str, ...]


REFUSED_SIGN_UPS = [
    SignUp("nothing is given", {}, ("email", "password")),
    SignUp("the address has no at", {"email": "nobody", "password": PASSWORD}, ("email",)),
    SignUp("the address has no local part", {"email": "@example.com", "password": PASSWORD}, ("email",)),
    SignUp("the address has no domain", {"email": "a@", "password": PASSWORD}, ("email",)),
    SignUp("the address has an empty label", {"email": "a@b..c", "password": PASSWORD}, ("email",)),
    SignUp("the address has a space", {"email": "a b@example.com", "password": PASSWORD}, ("email",)),
    SignUp("the address has a line break", {"email": "a@example.com\r\nBcc: b@c.d", "password": PASSWORD}, ("email",)),
    SignUp("the address is two", {"email": "a@b.c,d@e.f", "password": PASSWORD}, ("email",)),
    SignUp("the address has a NUL", {"email": "a\0@example.com", "password": PASSWORD}, ("email",)),
    SignUp("the address is too long", {"email": "a@" + "b." * 130 + "c", "password": PASSWORD}, ("email",)),
    SignUp("the local part is too long", {"email": "a" * 65 + "@example.com", "password": PASSWORD}, ("email",)),
    SignUp("the password has 7 characters", {"email": "a@example.com", "password": "1234567"}, ("password",)),
    SignUp("the password has 257", {"email": "a@example.com", "password": "a" * 257}, ("password",)),
    SignUp("the password has a NUL", {"email": "a@example.com", "password": "12345678\0"}, ("password",)),
    SignUp(
        "the name has 101 characters",
        {"email": "a@example.com", "password": PASSWORD, "display_name": "é" * 101},
        ("display_name",),
    ),
    SignUp(
        "name and device have control characters",
        {"email": "a@example.com", "password": PASSWORD, "display_name": "a\0", "device": "a\nb"},
        ("display_name", "device"),
    ),
    SignUp("the device has 101", {"email": "a@example.com", "password": PASSWORD, "device": "a" * 101}, ("device",)),
]


@asynchronous
async def test_a_sign_up_is_refused_with_its_fields_and_leaves_nothing(at: Place) -> None:
    async with server(at) as on:
        before = at.sql("select count(*) from transom.users")
        for case in REFUSED_SIGN_UPS:
            answer = await refused(on.stubs().accounts("SignUp", pb.SignUpRequest(**case.request)))
            assert answer == ("INVALID_ARGUMENT", "INVALID_REQUEST", case.fields), case.sentence
        assert at.sql("select count(*) from transom.users") == before


ONE_ADDRESS = [
    ("letter case aside", "Ann@Example.com", "aNN@exAMPLE.COM"),
    ("spaces around it aside", "ann@example.com", "  ann@example.com "),
    ("in both spellings of its domain", "ann@bücher.example", "ann@xn--bcher-kva.example"),
    ("in composed and decomposed letters", "jos\u00e9@example.com", "jose\u0301@example.com"),
    ("in full-width letters", "ann@example.com", "ａｎｎ@example.com"),
]


@pytest.mark.parametrize(("sentence", "one", "other"), ONE_ADDRESS, ids=[case[0] for case in ONE_ADDRESS])
def test_an_address_is_one(sentence: str, one: str, other: str) -> None:
    assert email_key(one.strip()) == email_key(other.strip()) is not None


@pytest.mark.parametrize(
    "good", ["a@b", "a.b+c@d-e.f", "o'neil@example.com", "用户@例子.公司", "a!#$%&'*/=?^_`{|}~-@x.y"]
)
def test_an_address_is_accepted(good: str) -> None:
    assert email_key(good) is not None


@pytest.mark.parametrize(
    "letters",
    [
        "x@straße.example",
        "x@STRAẞE.example",
        "x@φως.example",
        "x@\ufb01.example",
        "x@a\u200db.example",
        "x@a\u200cb.example",
        "x@a\u00adb.example",
        "groß@example.com",
        "\u017fam@example.com",
        "\ufb01@example.com",
    ],
)
def test_an_address_that_may_be_anothers_mailbox_is_none(letters: str) -> None:
    assert email_key(letters) is None
    assert email_key("x@xn--strae-oqa.example") == "x@xn--strae-oqa.example"  # as its owner can write it


# -------------------------------------------------------------------------------------------------- the usual life


@asynchronous
async def test_the_life_of_an_account(at: Place) -> None:
    async with server(at) as on:
        email = address()
        ann, made = await signed_up(on, email.upper(), display_name="Ann é 🙂", device="Pixel 9")
        assert made.account.email == email.upper() and made.account.display_name == "Ann é 🙂"
        assert made.session.device == "Pixel 9" and made.session.current and made.token.startswith("tss_")
        assert made.session.user == made.account.name
        assert await ann.accounts("GetMe", pb.GetMeRequest()) == made.account
        found = await on.accounts.find(made.account.name)
        assert found is not None
        assert found.email == email.upper()
        assert await on.accounts.find("users/nobody") is None

        # Only hashes are kept.
        rows = str(at.sql("select * from transom.users")) + str(at.sql("select * from transom.sessions"))
        assert made.token not in rows and PASSWORD not in rows and "argon2id$v=19$m=19456,t=2,p=1" in rows
        assert at.sql("select id from transom.sessions where token_hash = %s", digest(made.token)) != []

        again = await on.stubs().accounts("SignIn", pb.SignInRequest(email=email, password=PASSWORD, device="Firefox"))
        assert again.account == made.account and again.token != made.token
        both = await ann.accounts("ListSessions", pb.ListSessionsRequest())
        assert [(s.device, s.current) for s in both.sessions] == [("Firefox", False), ("Pixel 9", True)]

        await ann.accounts("SignOut", pb.SignOutRequest())
        assert await refused(ann.accounts("GetMe", pb.GetMeRequest())) == ("UNAUTHENTICATED", "TOKEN_INVALID", ())
        assert (await on.stubs(again.token).accounts("GetMe", pb.GetMeRequest())) == made.account
        assert len((await on.stubs(again.token).accounts("ListSessions", pb.ListSessionsRequest())).sessions) == 1


@asynchronous
async def test_sign_in_refuses_alike_and_in_the_same_time(at: Place) -> None:
    async with server(at) as on:
        mine = [(await on.sign_ups.enrol(address(), password=PASSWORD)).email for _ in range(9)]

        async def took(email: str) -> float:
            request = pb.SignInRequest(email=email, password="not the password")
            start = time.process_time()  # the work of all threads: it does not depend on what else the machine does
            assert await refused(on.stubs().accounts("SignIn", request)) == ("UNAUTHENTICATED", "WRONG_CREDENTIALS", ())
            return time.process_time() - start

        pairs = [(await took(email), await took(address())) for email in mine]
        times = [min(kind) for kind in zip(*pairs, strict=True)]
        assert max(times) < 1.5 * min(times), times
        assert min(times) > 0.005  # a hash was computed for both
        assert (
            at.sql(
                "select 1 from transom.sessions s join transom.users u on u.id = s.user_id where email = any(%s)", mine
            )
            == []
        )


@asynchronous
async def test_one_of_two_sign_ups_at_once_wins(at: Place) -> None:
    async with server(at) as one, server(at) as other:
        email = address()
        request = pb.SignUpRequest(email=email, password=PASSWORD)
        outcomes = await asyncio.gather(
            *(on.stubs().accounts("SignUp", request) for on in (one, other, one, other)), return_exceptions=True
        )
        assert sum(isinstance(outcome, pb.SignUpResponse) for outcome in outcomes) == 1
        answer = await refused(one.stubs().accounts("SignUp", pb.SignUpRequest(email=email.title(), password=PASSWORD)))
        assert answer == ("ALREADY_EXISTS", "EMAIL_TAKEN", ())
        users = at.sql("select id from transom.users where email_key = %s", email)
        assert len(users) == 1
        assert len(at.sql("select 1 from transom.sessions where user_id = %s", users[0][0])) == 1


@asynchronous
async def test_a_password_is_one_in_both_spellings_of_its_letters(at: Place) -> None:
    async with server(at) as on:
        email = address()
        await on.sign_ups.sign_up(email, "caf\u00e9 au lait")
        assert (await on.accounts.sign_in(email, "cafe\u0301 au lait")).token
        with pytest.raises(Unauthenticated):
            await on.accounts.sign_in(email, "cafe au lait")


@asynchronous
async def test_a_session_lasts_12_hours_or_30_days(at: Place) -> None:
    async with server(at) as on:
        for remember, lifetime in ((False, timedelta(hours=12)), (True, timedelta(days=30))):
            _, made = await signed_up(on, remember=remember)
            session = made.session
            assert session.expire_time.ToDatetime() - session.create_time.ToDatetime() == lifetime
            again = await on.accounts.sign_in(made.account.email, PASSWORD, Where(remember=remember))
            assert abs(again.session.expire_time - again.session.create_time - lifetime) < timedelta(seconds=1)


@asynchronous
async def test_who_may_not(at: Place) -> None:
    async with server(at) as on:
        ann, hers = await signed_up(on)
        bob, his = await signed_up(on)
        _, token = await on.keys.create(OPERATOR, "a tool", "admin")
        tool, nobody = on.stubs(token), on.stubs()
        garbage = on.stubs(new_token(SESSION))
        get, end = pb.GetMeRequest(), pb.RevokeSessionRequest
        stranger, bad = ("UNAUTHENTICATED", "SIGN_IN_REQUIRED"), ("UNAUTHENTICATED", "TOKEN_INVALID")
        no_account, absent = ("FAILED_PRECONDITION", "NOT_AN_ACCOUNT"), ("NOT_FOUND", "NOT_FOUND")
        invalid = ("INVALID_ARGUMENT", "INVALID_REQUEST")
        for sentence, client, method, request, answer in [
            ("nobody has no account", nobody, "GetMe", get, stranger),
            ("nobody has no sessions", nobody, "ListSessions", pb.ListSessionsRequest(), stranger),
            ("nobody is not signed in", nobody, "SignOut", pb.SignOutRequest(), stranger),
            ("nobody ends no session", nobody, "RevokeSession", end(name=his.session.name), stranger),
            ("a made-up token is nobody's", garbage, "GetMe", get, bad),
            ("but it keeps nobody from signing up", garbage, "SignUp", pb.SignUpRequest(), invalid),
            ("a key has no account", tool, "GetMe", get, no_account),
            ("a key has no session", tool, "SignOut", pb.SignOutRequest(), no_account),
            ("Ann does not end Bob's session", ann, "RevokeSession", end(name=his.session.name), absent),
            ("there is no such session", ann, "RevokeSession", end(name="sessions/x"), absent),
            ("that is no session's name", ann, "RevokeSession", end(name=hers.account.name), invalid),
            ("nor is that", ann, "RevokeSession", end(name="sessions/\0"), invalid),
            ("a page has a size", ann, "ListSessions", pb.ListSessionsRequest(page_size=-1), invalid),
        ]:
            assert (await refused(client.accounts(method, request)))[:2] == answer, sentence
        assert (await bob.accounts("GetMe", pb.GetMeRequest())) == his.account


HEADERS = [
    ("another scheme", "Basic {}", False),
    ("no scheme", "{}", False),
    ("an empty header", "", False),
    ("two spaces", "Bearer  {}", False),
    ("something behind", "Bearer {} x", False),
    ("a letter more", "Bearer {}A", False),
    ("small letters", "bearer {}", True),
    ("the usual", "Bearer {}", True),
]


@asynchronous
async def test_the_authorization_header(at: Place) -> None:
    async with server(at) as on:
        token = (await on.sign_ups.sign_up(address(), PASSWORD)).token
        for _ in range(2):  # asked, then remembered
            for sentence, header, good in HEADERS:
                header = header.format(token)
                if good:
                    assert (await on.authentication.caller(header)).kind is Kind.USER, sentence
                else:
                    with pytest.raises(Unauthenticated) as refusal:
                        await on.authentication.caller(header)
                    assert refusal.value.reason == "TOKEN_INVALID", sentence
        assert await on.authentication.caller(None) is NOBODY


@asynchronous
async def test_sessions_come_in_pages_bound_to_the_caller(at: Place) -> None:
    async with server(at) as on:
        ann, hers = await signed_up(on)
        bob, _ = await signed_up(on)
        for n in range(6):
            await on.accounts.sign_in(hers.account.email, PASSWORD, Where(device=str(n)))
        seen, token, pages = [], "", 0
        while True:
            page = await ann.accounts("ListSessions", pb.ListSessionsRequest(page_size=3, page_token=token))
            seen += [session.device for session in page.sessions]
            token, pages = page.next_page_token, pages + 1
            if not token:
                break
            wrong = pb.ListSessionsRequest(page_token=token)
            assert (await refused(bob.accounts("ListSessions", wrong)))[2] == ("page_token",)
            for broken in (token[:-1], token + "A", "x", "é", "A" * 5000, token.swapcase()):
                request = pb.ListSessionsRequest(page_token=broken)
                assert (await refused(ann.accounts("ListSessions", request)))[2] == ("page_token",)
        assert seen == ["5", "4", "3", "2", "1", "0", ""] and pages == 3


@asynchronous
async def test_an_account_has_at_most_100_sessions(at: Place) -> None:
    async with server(at) as on:
        ann, hers = await signed_up(on)
        user = hers.account.name[6:]
        at.sql(
            "insert into transom.sessions (id, user_id, token_hash, device, expire_time) "
            "select %s || n, %s, sha256((%s || n)::bytea), '', now() + interval '1 day' from generate_series(1, 99) n",
            user, user, user,
        )  # fmt: skip
        await ann.accounts("GetMe", pb.GetMeRequest())
        # Together, as their count must hold against each other.
        await asyncio.gather(*(on.accounts.sign_in(hers.account.email, PASSWORD) for _ in range(4)))
        assert at.sql("select count(*) from transom.sessions where user_id = %s", user) == [(100,)]
        # The oldest is the first one; it ended at once, here.
        assert (await refused(ann.accounts("GetMe", pb.GetMeRequest())))[1] == "TOKEN_INVALID"


@asynchronous
async def test_an_expired_session_is_nobodys_and_is_swept(at: Place) -> None:
    async with server(at) as on:
        token = (await on.sign_ups.sign_up(address(), PASSWORD)).token
        at.sql(
            "update transom.sessions set expire_time = now() + interval '1 second' where token_hash = %s", digest(token)
        )
        assert (await on.authentication.caller(f"Bearer {token}")).known
        await asyncio.sleep(1.05)  # it is the passing of time that is tested
        assert on.authentication.cached(f"Bearer {token}") is None
        with pytest.raises(Unauthenticated):
            await on.authentication.caller(f"Bearer {token}")
        async with server(at) as other:
            with pytest.raises(Unauthenticated):
                await other.authentication.caller(f"Bearer {token}")
        assert await on.sessions.sweep() >= 1
        assert at.sql("select 1 from transom.sessions where token_hash = %s", digest(token)) == []


# ----------------------------------------------------------------------------------------------------- ending it


@asynchronous
async def test_a_revoked_session_ends_at_once_here_and_within_5_seconds_elsewhere(at: Place) -> None:
    async with server(at) as here, server(at) as there, server(at) as fresh:
        ann, hers = await signed_up(here)
        phone = (await here.accounts.sign_in(hers.account.email, PASSWORD)).token
        header = f"Bearer {phone}"
        for on in (here, there):
            assert (await on.authentication.caller(header)).known
        sessions = (await ann.accounts("ListSessions", pb.ListSessionsRequest())).sessions
        other = next(session for session in sessions if not session.current)
        await ann.accounts("RevokeSession", pb.RevokeSessionRequest(name=other.name))
        revoked = time.monotonic()
        for on in (here, fresh):  # who did it, and who never saw it, though Redis had a copy
            with pytest.raises(Unauthenticated):
                await on.authentication.caller(header)
        assert there.authentication.cached(header) is not None
        while there.authentication.cached(header) is not None:
            await asyncio.sleep(0.02)
            assert time.monotonic() - revoked < 5.1
        with pytest.raises(Unauthenticated):
            await there.authentication.caller(header)
        assert (await ann.accounts("GetMe", pb.GetMeRequest())) == hers.account


class HeldBeforeRedis(Tokens):
    """A look-up that has read Postgres, and is held before it writes its copy to Redis."""

    def hold(self) -> None:
        self.read, self.go = asyncio.Event(), asyncio.Event()

    async def _copy(self, rows: list[_Row]) -> None:
        self.read.set()
        await self.go.wait()
        await super()._copy(rows)


@asynchronous
async def test_a_look_up_that_overtakes_a_revocation_does_not_bring_the_session_back(at: Place) -> None:
    async with server(at) as here, server(at) as there, server(at) as third:
        made = await here.sign_ups.sign_up(address(), PASSWORD)
        header = f"Bearer {made.token}"
        slow = HeldBeforeRedis(there.tokens._pool, there.tokens._redis)
        slow.hold()
        reader = Authentication(slow)
        reading = asyncio.create_task(reader.caller(header))
        await slow.read.wait()
        await here.sessions.sign_out(await here.authentication.caller(header))
        slow.go.set()
        assert (await reading).known  # it was so when it was read: at most 5 s
        with plain_redis.Redis.from_url(at.redis) as look:
            assert look.get(f"transom:token:{digest(made.token).hex()}") == b"ended"
        with pytest.raises(Unauthenticated):
            await third.authentication.caller(header)


@asynchronous
async def test_a_look_up_under_way_does_not_undo_a_revocation_on_the_same_server(at: Place) -> None:
    async with server(at) as here:
        made = await here.sign_ups.sign_up(address(), PASSWORD)
        header = f"Bearer {made.token}"
        slow = HeldBeforeRedis(here.tokens._pool, here.tokens._redis)
        slow.hold()
        here.authentication._tokens = slow
        reading = asyncio.create_task(here.authentication.caller(header))
        await slow.read.wait()
        session = await here.sessions._sessions.one(made.session.name[9:], made.account.name[6:])
        assert session is not None
        async with slow.ending([session.token_hash]):
            await here.sessions._sessions.delete(session.id, session.user_id)
        here.authentication.forget([session.token_hash])
        slow.go.set()
        with pytest.raises(Unauthenticated):
            await reading
        assert here.authentication.cached(header) is None


# ------------------------------------------------------------------------------------------------------- Redis away


@asynchronous
async def test_without_redis_everything_works_and_what_is_ended_stays_ended(at: Place) -> None:
    async with cable(at.redis) as (wire, redis), server(at, redis=redis) as here, server(at) as there:
        made = await here.sign_ups.sign_up(address(), PASSWORD)
        header = f"Bearer {made.token}"
        assert (await there.authentication.caller(header)).known  # a copy is in Redis now
        await wire.cut()
        start = time.monotonic()
        caller = await here.authentication.caller(header)
        assert caller.known and time.monotonic() - start < 1
        await here.sessions.sign_out(caller)
        with pytest.raises(Unauthenticated):
            await here.authentication.caller(header)
        # The copy in Redis is still there, for the others; the mark is owed and comes as soon as Redis does.
        key = f"transom:token:{digest(made.token).hex()}"
        with plain_redis.Redis.from_url(at.redis) as look:
            assert look.get(key) != b"ended"
            await wire.mend()
            mended = time.monotonic()
            while look.get(key) != b"ended":
                await asyncio.sleep(0.05)
                assert time.monotonic() - mended < 5
        async with server(at) as fresh:
            with pytest.raises(Unauthenticated):
                await fresh.authentication.caller(header)


@asynchronous
async def test_a_redis_that_hangs_costs_one_call_a_moment_and_the_others_nothing(at: Place) -> None:
    async with cable(at.redis) as (wire, redis), server(at, redis=redis) as on:
        headers = [f"Bearer {(await on.sign_ups.sign_up(address(), PASSWORD)).token}" for _ in range(6)]
        await on.authentication.caller(headers[0])
        wire.hold()
        took = []
        for header in headers[1:]:
            start = time.monotonic()
            assert (await on.authentication.caller(header)).known
            took.append(time.monotonic() - start)
        assert sum(seconds >= TIMEOUT for seconds in took) <= 1, took  # who finds out pays; the others do not


@asynchronous
async def test_redis_killed_and_emptied_signs_nobody_out(components: Stack, at: Place) -> None:
    async with server(at) as on, server(at) as other:
        tokens = [(await on.sign_ups.sign_up(address(), PASSWORD)).token for _ in range(5)]
        pid = next(p["pid"] for p in components.status()["processes"] if p["name"] == "redis")
        with plain_redis.Redis.from_url(at.redis) as look:
            look.flushall()
        os.kill(pid, signal.SIGKILL)
        for server_ in (on, other):
            for token in tokens:
                assert (await server_.authentication.caller(f"Bearer {token}")).known
        until = time.monotonic() + 30
        while True:  # its supervisor brings it back; the next tests need it
            with suppress(plain_redis.RedisError), plain_redis.Redis.from_url(at.redis) as look:
                look.ping()
                break
            assert time.monotonic() < until
            await asyncio.sleep(0.1)


# ---------------------------------------------------------------------------------------------------- Postgres away


@asynccontextmanager
async def wired(at: Place, **more: Any) -> AsyncIterator[tuple[Any, Server]]:
    async with cable(at.postgres_url) as (wire, url), server(at, postgres=url, **more) as on:
        yield wire, on


@asynchronous
async def test_while_the_primary_is_away_sessions_hold_by_redis_and_replica(at: Place) -> None:
    async with wired(at, replica=at.replica) as (wire, on), server(at) as other:
        copied, bare = [(await other.sign_ups.sign_up(address(), PASSWORD)).token for _ in range(2)]
        await other.authentication.caller(f"Bearer {copied}")  # leaves a copy in Redis
        at.wait_replica()
        await wire.cut()
        for token in (copied, bare):
            assert (await on.authentication.caller(f"Bearer {token}")).known


@asynchronous
async def test_who_signed_up_a_moment_before_the_primary_went_away_is_not_called_a_stranger(at: Place) -> None:
    async with wired(at, replica=at.replica) as (wire, on), server(at) as other:
        await on.sign_ups.sign_up(address(), PASSWORD)  # the wire is in use
        token = new_token(SESSION)  # as yet in no database: as on a replica that has not heard of it
        await wire.cut()
        for _ in range(2):
            with pytest.raises(Unavailable):
                await on.authentication.caller(f"Bearer {token}")
        answer = await refused(on.stubs(token).accounts("GetMe", pb.GetMeRequest()))
        assert answer[:2] == ("UNAVAILABLE", "DATABASE_AWAY")
        made = await other.sign_ups.sign_up(address(), PASSWORD)
        at.sql("update transom.sessions set token_hash = %s where token_hash = %s", digest(token), digest(made.token))
        at.wait_replica()
        assert (await on.authentication.caller(f"Bearer {token}")).known, "it was not remembered as bad"
        await wire.mend()
        stranger = new_token(SESSION)
        until = time.monotonic() + 15
        while True:  # once the primary answers, it is a stranger's
            with suppress(Unavailable):
                with pytest.raises(Unauthenticated):
                    await on.authentication.caller(f"Bearer {stranger}")
                break
            assert time.monotonic() < until
            await asyncio.sleep(0.1)


@asynchronous
async def test_a_replica_far_behind_brings_no_ended_session_back(at: Place) -> None:
    async with wired(at, replica=at.replica, behind=BEHIND + 1) as (wire, on), server(at) as other:
        copied, bare = [(await on.sign_ups.sign_up(address(), PASSWORD)).token for _ in range(2)]
        await other.authentication.caller(f"Bearer {copied}")  # leaves a copy in Redis
        at.wait_replica()
        await wire.cut()
        assert (await on.authentication.caller(f"Bearer {copied}")).known
        with pytest.raises(Unavailable):
            await on.authentication.caller(f"Bearer {bare}")


@asynchronous
async def test_what_ended_just_before_the_primary_went_away_does_not_live_on_by_the_replica(at: Place) -> None:
    async with wired(at, replica=at.replica) as (wire, on), server(at) as other:
        token = (await other.sign_ups.sign_up(address(), PASSWORD)).token
        await other.sessions.sign_out(await other.authentication.caller(f"Bearer {token}"))
        other_row = (await on.sign_ups.sign_up(address(), PASSWORD)).token
        # As if the replica had not heard of its end.
        at.sql("update transom.sessions set token_hash = %s where token_hash = %s", digest(token), digest(other_row))
        at.wait_replica()
        await wire.cut()
        with pytest.raises(Unavailable):
            await on.authentication.caller(f"Bearer {token}")


@asynchronous
async def test_with_neither_redis_nor_postgres_a_token_is_not_called_bad(at: Place) -> None:
    async with cable(at.redis) as (second, redis), wired(at, redis=redis) as (wire, on):
        token = (await on.sign_ups.sign_up(address(), PASSWORD)).token
        await second.cut()
        await wire.cut()
        with pytest.raises(Unavailable):
            await on.authentication.caller(f"Bearer {token}")
        answer = await refused(on.stubs(token).accounts("GetMe", pb.GetMeRequest()))
        assert answer[0] == "UNAVAILABLE"
        await wire.mend()
        until = time.monotonic() + 15
        while True:
            with suppress(Unavailable):
                assert (await on.authentication.caller(f"Bearer {token}")).known
                break
            assert time.monotonic() < until
            await asyncio.sleep(0.1)


# ---------------------------------------------------------------------------------------------------- crowds, costs


@asynchronous
async def test_a_thousand_calls_with_one_token_make_one_look_up(at: Place) -> None:
    async with server(at) as maker, cable(at.postgres_url) as (wire, url), server(at, postgres=url) as on:
        token = (await maker.sign_ups.sign_up(address(), PASSWORD)).token
        await on.authentication.caller(f"Bearer {(await maker.sign_ups.sign_up(address(), PASSWORD)).token}")
        before = wire.passed
        callers = await asyncio.gather(*(on.authentication.caller(f"Bearer {token}") for _ in range(1000)))
        assert len(set(callers)) == 1 and callers[0].known
        assert wire.passed - before <= 12  # two calls at most: a begin, a statement, a commit each


@asynchronous
async def test_garbage_does_not_hammer_postgres_nor_push_out_who_is_known(at: Place) -> None:
    async with server(at) as maker, cable(at.postgres_url) as (wire, url), server(at, postgres=url) as on:
        header = f"Bearer {(await maker.sign_ups.sign_up(address(), PASSWORD)).token}"
        known = await on.authentication.caller(header)
        before = wire.passed
        garbage = [f"Bearer {new_token(SESSION)}" for _ in range(BAD + 500)]

        async def refuse(given: str) -> None:
            with pytest.raises((Unauthenticated, Exhausted)):
                await on.authentication.caller(given)

        await asyncio.gather(*map(refuse, garbage))
        flood = wire.passed - before
        assert flood < 400, flood  # some twenty statements for ten thousand tokens
        for _ in range(300):  # the same one again and again: nobody is asked
            await refuse(garbage[-501])
            await refuse("Bearer not-a-token")
        assert wire.passed - before == flood
        assert on.authentication._good[header][1] == known  # however long that took here
        assert len(on.authentication._bad) <= BAD


@asynchronous
async def test_a_remembered_caller_costs_next_to_nothing(at: Place) -> None:
    async with server(at) as on:
        header = f"Bearer {(await on.sign_ups.sign_up(address(), PASSWORD)).token}"
        await on.authentication.caller(header)
        best = min(timed(lambda: on.authentication.cached(header)) for _ in range(5))
        assert best < 3e-6, best


def timed(call: Any, times: int = 20_000) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


@asynchronous
async def test_too_many_passwords_at_once_are_refused_and_the_loop_stays_free() -> None:
    passwords = Passwords(workers=1, waiting=2)
    try:
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.001)
                turns += 1

        turner = asyncio.create_task(turn())
        outcomes = await asyncio.gather(*(passwords.hash(PASSWORD) for _ in range(8)), return_exceptions=True)
        turner.cancel()
        assert [type(outcome) for outcome in outcomes] == [str] * 3 + [Exhausted] * 5
        assert all(outcome.retry_after == 1.0 for outcome in outcomes if isinstance(outcome, Exhausted))
        assert turns > 10  # with hashes on the loop it would be one or two a hash
        assert await passwords.matches(str(outcomes[0]), PASSWORD)  # the places are free again
        assert not await passwords.matches(None, PASSWORD)
    finally:
        passwords.close()


@asynchronous
async def test_no_network_takes_the_whole_line_of_passwords() -> None:
    network: ContextVar[str] = ContextVar("network")
    passwords = Passwords(workers=1, waiting=6, each=4, whose=lambda: network.get(""))

    async def hashed(where: str) -> str:
        network.set(where)
        return await passwords.hash(PASSWORD)

    try:
        flood = ["192.0.2.1"] * 20 + ["192.0.2.2", "192.0.2.2"] + [""]
        outcomes = await asyncio.gather(*map(hashed, flood), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [str] * 4 + [Exhausted] * 16 + [str] * 3
        gone = [asyncio.create_task(hashed("192.0.2.1")) for _ in range(4)]
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        assert await hashed("192.0.2.1")  # who goes away, or is done, leaves its place
    finally:
        passwords.close()


# ------------------------------------------------------------------------------------------------------------ keys


def transom_key(at: Place, *words: str) -> subprocess.CompletedProcess[str]:
    """`transom key …` as a process of its own, on the test's database."""
    env = {**os.environ, "TRANSOM_POSTGRES": at.postgres, "TRANSOM_REDIS": at.redis}
    return subprocess.run(
        [sys.executable, "-c", "from server.cli.key import command; command(prog_name='transom key')", *words],
        cwd=PROJECT, env=env, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


@asynchronous
async def test_a_key_is_made_shown_and_ended_by_the_command(at: Place) -> None:
    async with server(at) as on:
        made = await asyncio.to_thread(transom_key, at, "create", "--title", "nightly import")
        assert made.returncode == 0, made.stderr
        token = made.stdout.strip()
        caller = await on.authentication.caller(f"Bearer {token}")
        assert caller.kind is Kind.KEY and caller.roles == {"service"} and caller.name in made.stderr
        assert caller.session == ""
        listed = await asyncio.to_thread(transom_key, at, "list")
        assert f"{caller.name}  service" in listed.stdout and "nightly import" in listed.stdout
        assert token not in listed.stdout + str(at.sql("select * from transom.keys"))

        ended = await asyncio.to_thread(transom_key, at, "revoke", caller.name)
        assert ended.returncode == 0, ended.stderr
        async with server(at) as fresh:
            with pytest.raises(Unauthenticated):
                await fresh.authentication.caller(f"Bearer {token}")
        again = await asyncio.to_thread(transom_key, at, "revoke", caller.name)
        assert again.returncode == 1 and "no such key" in again.stderr

        admin = await asyncio.to_thread(transom_key, at, "create", "--title", "ops", "--role", "admin")
        assert (await on.authentication.caller(f"Bearer {admin.stdout.strip()}")).roles == {"admin"}
        for wrong in (["create"], ["create", "--title", ""], ["create", "--title", "x", "--role", "god"]):
            assert (await asyncio.to_thread(transom_key, at, *wrong)).returncode != 0
        with pytest.raises(Invalid):
            await on.keys.create(OPERATOR, "a\0b", "service")
