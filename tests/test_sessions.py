"""Sessions: how long they last, where they are, how they end on every server at once, and what harm does to that."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
import psycopg
import pytest
import redis as plain_redis
from identity_ground import Place, Server, asynchronous, cable, place, refused, server
from transom.accounts.v1 import accounts_pb2 as pb
from transom.accounts.v1 import accounts_pb2_grpc

from deploy.native.stack import Stack
from server.caller import OPERATOR, SYSTEM, Caller, Kind
from server.engine.authentication import ENDED, Authentication
from server.engine.callers import RECENT, require_own, require_recent
from server.engine.sessions import IMPERSONATION
from server.engine.sign_ins import Place as Where
from server.engine.sign_ins import SignedIn
from server.engine.tokens import digest
from server.errors import Denied, Invalid, NotFound, Precondition, Stale, Unauthenticated
from server.store.announcements import SILENCE
from server.store.last_seen import MINUTE
from server.store.sessions import PER_ACCOUNT
from server.store.tokens import Tokens, _Row

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Place]:
    with place(components) as made:
        yield made


async def signed_up(on: Server, **more: Any) -> SignedIn:
    """A new account, signed in."""
    made = await on.sign_ups.sign_up(f"{secrets.token_hex(6)}@example.com", PASSWORD, place=Where(**more))
    assert isinstance(made, SignedIn)
    return made


async def who(on: Server, token: str) -> Caller:
    """Who calls with `token`, as `on` knows."""
    return await on.authentication.caller(f"Bearer {token}")


async def is_nobodys(on: Server, token: str) -> bool:
    try:
        await who(on, token)
    except Unauthenticated:
        return True
    return False


async def heard(*servers: Server) -> None:
    """Returns once each server is told of changes."""
    until = time.monotonic() + 20
    while any(on.authentication._until < time.monotonic() for on in servers):
        assert time.monotonic() < until
        await asyncio.sleep(0.01)


async def believed(on: Server, token: str, since: float) -> float:
    """Seconds after `since` in which `on` still believed that it knew the token, asking nobody."""
    last = since
    while on.authentication.cached(f"Bearer {token}") is not None:
        last = time.monotonic()
        assert last - since < 20
        await asyncio.sleep(0.001)
    return last - since


def id_of(name: str) -> str:
    return name.partition("/")[2]


# ----------------------------------------------------------------------------------------------- where and how long


@asynchronous
async def test_a_session_says_where_how_and_when(at: Place) -> None:
    async with server(at) as on:
        made = await signed_up(on, device="Pixel 9", web=True, address="203.0.113.9")
        user = id_of(made.account.name)
        again = await on.accounts.sign_in(made.account.email, PASSWORD, Where(device="Firefox"))
        assert isinstance(again, SignedIn)
        request = pb.ListSessionsRequest()
        found = (await on.stubs(again.token).accounts("ListSessions", request)).sessions
        assert [(s.device, s.proof, s.web, s.address, s.current) for s in found] == [
            ("Firefox", "password", False, "", True),
            ("Pixel 9", "password", True, "203.0.113.9", False),
        ]
        # Heard of again after a while, from elsewhere, it says so; once a minute, whatever happens.
        at.sql("update transom.sessions set seen_time = now() - interval '1 hour' where user_id = %s", user)
        async with server(at) as other:
            for address in ("198.51.100.7", "198.51.100.8"):
                async with grpc.aio.insecure_channel(f"127.0.0.1:{other.port}") as channel:
                    metadata = (("authorization", f"Bearer {made.token}"), ("x-envoy-external-address", address))
                    await accounts_pb2_grpc.AccountsServiceStub(channel).GetMe(pb.GetMeRequest(), metadata=metadata)
                other.authentication.begin()
            await other.last_seen.aclose()
        mark = at.sql("select xmin::text from transom.sessions where id = %s", id_of(made.session.name))
        found = (await on.stubs(again.token).accounts("ListSessions", request)).sessions
        assert [s.address for s in found] == ["", "198.51.100.7"]
        ages = [time.time() - s.seen_time.seconds for s in found]
        assert ages[0] > 3500 and ages[1] < 60
        async with server(at) as third:  # another server, which has not noted it yet
            third.last_seen.note(made.session.name, "192.0.2.1")
            await third.last_seen.aclose()
        assert at.sql("select xmin::text from transom.sessions where id = %s", id_of(made.session.name)) == mark


@asynchronous
async def test_what_is_not_heard_of_ends(at: Place) -> None:
    async with server(at) as on:
        short, long = await signed_up(on), await signed_up(on, remember=True)
        for silence, alive in (
            (timedelta(hours=1), (True, True)),
            (timedelta(hours=3), (False, True)),
            (timedelta(days=15), (False, False)),
        ):
            at.sql("update transom.sessions set seen_time = now() - %s", silence)
            async with server(at) as fresh:
                fresh.tokens._redis = None  # type: ignore[assignment] - the copy knows nothing of this
                for made, lives in zip((short, long), alive, strict=True):
                    known = await fresh.tokens.find_anew(digest(made.token))
                    assert (known is not None) is lives, silence
                    shown = await on.sessions.list(Caller(Kind.USER, made.account.name), 0, "")
                    assert bool(shown[0]) is lives, silence


@asynchronous
async def test_a_caller_is_told_whole(at: Place) -> None:
    async with server(at) as on:
        made = await signed_up(on)
        at.sql(
            "update transom.users set roles = '{manager,admin}', scopes = '{*:get}', verified = true where id = %s",
            id_of(made.account.name),
        )
        async with server(at) as fresh:
            for _ in range(2):  # from Postgres, then from the copy in Redis
                fresh.authentication.begin()
                caller = await who(fresh, made.token)
                assert (caller.kind, caller.roles, caller.verified) == (Kind.USER, {"manager", "admin"}, True)
                assert caller.scopes == {"*:get"} and caller.trusted and not caller.impersonator
                assert abs(caller.session_time - time.time()) < 30
        at.sql("update transom.users set anonymous = true where id = %s", id_of(made.account.name))
        async with server(at) as fresh:
            await fresh.revocations.refresh(id_of(made.account.name))
            assert (await who(fresh, made.token)).kind is Kind.ANONYMOUS


# ------------------------------------------------------------------------------------------------------- ending them


@asynchronous
async def test_all_sessions_end_or_all_others(at: Place) -> None:
    async with server(at) as on:
        ann, bob = await signed_up(on), await signed_up(on)
        others = [await on.accounts.sign_in(ann.account.email, PASSWORD) for _ in range(3)]
        client = on.stubs(ann.token)
        answer = await client.accounts("RevokeAllSessions", pb.RevokeAllSessionsRequest(keep_current=True))
        assert answer.revoked_count == 3
        for other in others:
            assert isinstance(other, SignedIn)
            assert await is_nobodys(on, other.token)
        assert (await client.accounts("RevokeAllSessions", pb.RevokeAllSessionsRequest())).revoked_count == 1
        assert (await refused(client.accounts("GetMe", pb.GetMeRequest())))[1] == "TOKEN_INVALID"
        assert (await who(on, bob.token)).known
        stranger = on.stubs().accounts("RevokeAllSessions", pb.RevokeAllSessionsRequest())
        assert (await refused(stranger))[0] == "UNAUTHENTICATED"
        noted = at.sql(
            "select details from transom.audit where action = 'sessions_ended' and target = %s order by id",
            ann.account.name,
        )
        assert [row[0]["sessions"] for row in noted] == ["3", "1"]


@asynchronous
async def test_a_new_token_leaves_the_old_one_behind(at: Place) -> None:
    async with server(at, told=at.postgres) as here, server(at, told=at.postgres) as there:
        made = await signed_up(here)
        await heard(here, there)
        caller = await who(here, made.token)
        assert (await who(there, made.token)) == caller
        fresh = await here.sessions.rotate(caller)
        rotated = time.monotonic()
        assert await is_nobodys(here, made.token)
        assert await believed(there, made.token, rotated) <= SILENCE
        assert await is_nobodys(there, made.token)
        for on in (here, there):
            assert await who(on, fresh) == caller  # the same session, as old as before
        at.sql("update transom.sessions set proof_time = now() - interval '1 hour' where user_id = %s", caller.id)
        proved = await here.sessions.rotate(caller, proved=True)
        assert abs((await who(here, proved)).session_time - time.time()) < 30
        # Of two at once one wins; the session goes on with that token.
        outcomes = await asyncio.gather(*(on.sessions.rotate(caller) for on in (here, there)), return_exceptions=True)
        won = [token for token in outcomes if isinstance(token, str)]
        assert len(won) >= 1 and all(isinstance(o, str | Stale) for o in outcomes)
        alive = [token for token in won if not await is_nobodys(here, token)]
        assert len(alive) == 1
        assert [s.current for s in (await here.sessions.list(await who(here, alive[0]), 0, ""))[0]] == [True]
        with pytest.raises(Precondition):
            await here.sessions.rotate(Caller(Kind.KEY, "keys/x", frozenset({"admin"})))


@dataclass(frozen=True)
class Ending:
    """A way to end what a token can do."""

    sentence: str
    sql: str
    ends: bool = True


ENDINGS = [
    Ending("its row is deleted by hand", "delete from transom.sessions where user_id = %s"),
    Ending("the account is disabled", "update transom.users set disabled_time = now() where id = %s"),
    Ending("the account waits to be deleted", "update transom.users set delete_time = now() where id = %s"),
    Ending("the account is gone", "delete from transom.users where id = %s"),
    Ending("it got another token", "update transom.sessions set token_hash = sha256(id::bytea) where user_id = %s"),
    Ending("a role is added", "update transom.users set roles = '{manager}' where id = %s", False),
    Ending("its address is verified", "update transom.users set verified = true where id = %s", False),
    Ending(
        "a name that no caller carries is changed", "update transom.users set display_name = 'x' where id = %s", False
    ),
]


@asynchronous
async def test_whoever_changes_a_caller_every_server_learns_it_within_a_second(at: Place) -> None:
    """By SQL alone: no code of ours that could die in between has a part in it."""
    async with server(at, told=at.postgres) as one, server(at, told=at.postgres) as other:
        await heard(one, other)
        for case in ENDINGS:
            made = await signed_up(one)
            before = [await who(on, made.token) for on in (one, other)]
            changed = time.monotonic()
            at.sql(case.sql, id_of(made.account.name))
            if "no caller carries" in case.sentence:
                assert one.authentication.cached(f"Bearer {made.token}") is before[0]
                continue
            for on in (one, other):
                assert await believed(on, made.token, changed) <= SILENCE + 0.05, case.sentence
                if case.ends:
                    assert await is_nobodys(on, made.token), case.sentence
                else:  # the copy in Redis is from before: it is not believed
                    after = await who(on, made.token)
                    assert (after.roles, after.verified) != (before[0].roles, before[0].verified), case.sentence


@asynchronous
async def test_a_key_ends_on_every_server_within_a_second(at: Place) -> None:
    async with server(at, told=at.postgres) as one, server(at, told=at.postgres) as other:
        await heard(one, other)
        key, token = await one.keys.create(OPERATOR, "import", "service")
        for on in (one, other):
            assert (await who(on, token)).name == f"keys/{key.id}"
        await one.keys.revoke(OPERATOR, f"keys/{key.id}")
        ended = time.monotonic()
        for on in (one, other):
            assert await believed(on, token, ended) <= SILENCE
            assert await is_nobodys(on, token)


class HeldBeforeRedis(Tokens):
    """A look-up that has read Postgres, and is held before it writes its copy to Redis."""

    def hold(self) -> None:
        self.read, self.go = asyncio.Event(), asyncio.Event()

    async def _copy(self, rows: list[_Row]) -> None:
        self.read.set()
        await self.go.wait()
        await super()._copy(rows)


@asynchronous
async def test_a_look_up_that_overtakes_a_change_of_roles_does_not_bring_the_old_ones_back(at: Place) -> None:
    async with server(at) as here, server(at) as third:
        made = await signed_up(here)
        slow = HeldBeforeRedis(here.tokens._pool, here.tokens._redis)
        slow.hold()
        here.authentication._tokens = slow
        reading = asyncio.create_task(who(here, made.token))
        await slow.read.wait()
        at.sql("update transom.users set roles = '{manager}' where id = %s", id_of(made.account.name))
        await here.revocations.refresh(id_of(made.account.name))
        slow.go.set()
        assert (await reading).roles == {"manager"}  # it was told on the way, and looked again
        for on in (here, third):
            assert (await who(on, made.token)).roles == {"manager"}


@asynchronous
async def test_everybody_may_change_at_once(at: Place) -> None:
    """A statement by hand over all accounts: nobody waits for it, and nothing from before is believed."""
    async with server(at) as on:
        made = await signed_up(on)
        before = await who(on, made.token)
        at.sql("update transom.users set roles = '{manager}' where id = %s", before.id)
        start = time.process_time()
        on.authentication.changed([made.account.name])
        on.authentication.changed([f"users/{n}" for n in range(2 * ENDED)])
        on.authentication.forget([n.to_bytes(32) for n in range(2 * ENDED)])
        assert time.process_time() - start < 1
        assert made.account.name not in on.authentication._changed and len(on.authentication._changed) <= ENDED
        assert len(on.authentication._ended) <= ENDED
        assert (await who(on, made.token)).roles == {"manager"}
        assert set(on.authentication._tokens_of) == {made.account.name}
        on.authentication.forget([digest(made.token)])
        assert not (on.authentication._tokens_of or on.authentication._headers or on.authentication._good)


# -------------------------------------------------------------------------------------------------------------- harm


def hit(components: Stack, name: str, how: signal.Signals) -> int:
    """Sends a signal to a component; the id of its process."""
    pid = next(p["pid"] for p in components.status()["processes"] if p["name"] == name)
    assert isinstance(pid, int)
    os.kill(pid, how)
    return pid


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL], ids=["hangs", "is killed"])
@asynchronous
async def test_a_redis_that_is_in_trouble_delays_no_end(components: Stack, at: Place, how: signal.Signals) -> None:
    async with server(at, told=at.postgres) as here, server(at, told=at.postgres) as there:
        made, kept = await signed_up(here), await signed_up(here)
        await heard(here, there)
        for on in (here, there):  # remembered here and there, and copied to Redis
            assert (await who(on, made.token)).known and (await who(on, kept.token)).known
        pid = hit(components, "redis", how)
        try:
            await here.sessions.sign_out(await who(here, made.token))
            ended = time.monotonic()
            assert await believed(there, made.token, ended) <= SILENCE
            for on in (here, there):
                assert await is_nobodys(on, made.token)
                assert (await who(on, kept.token)).known
        finally:
            if how is signal.SIGSTOP:
                os.kill(pid, signal.SIGCONT)
            until = time.monotonic() + 30
            while True:  # its supervisor brings a killed one back; the next tests need it
                with suppress(plain_redis.RedisError), plain_redis.Redis.from_url(at.redis) as look:
                    look.ping()
                    break
                assert time.monotonic() < until
                await asyncio.sleep(0.1)
        # Redis is back with the copy from before: who was told does not believe it, nor, once the mark is paid, any other.
        for on in (here, there):
            on.authentication._bad.clear()
            assert await is_nobodys(on, made.token)


@asynchronous
async def test_who_is_not_told_any_more_asks_for_every_call(at: Place) -> None:
    for harm in ("cut", "hold"):
        async with (
            cable(at.postgres_url) as (wire, url),
            server(at, told=at.postgres) as here,
            server(at, told=url) as deaf,
        ):
            made, kept = await signed_up(here), await signed_up(here)
            await heard(here, deaf)
            assert (await who(deaf, made.token)).known and (await who(deaf, kept.token)).known
            if harm == "cut":
                await wire.cut()
            else:
                wire.hold()
            await here.sessions.sign_out(await who(here, made.token))
            ended = time.monotonic()
            assert await believed(deaf, made.token, ended) <= SILENCE, harm
            assert await is_nobodys(deaf, made.token), harm
            await believed(deaf, kept.token, ended)
            assert (await who(deaf, kept.token)).known  # by Redis, where what ended is marked
            assert deaf.authentication.cached(f"Bearer {kept.token}") is None
            # Heard again, it remembers again; what it missed meanwhile it does not.
            await wire.mend()
            await heard(deaf)
            assert await is_nobodys(deaf, made.token), harm
            assert (await who(deaf, kept.token)).known
            assert deaf.authentication.cached(f"Bearer {kept.token}") is not None, harm


@asynchronous
async def test_what_was_looked_up_before_anybody_would_have_told_is_not_remembered(at: Place) -> None:
    now = 100.0
    async with server(at) as on:
        made = await signed_up(on)
        header = f"Bearer {made.token}"
        callers = Authentication(on.tokens, lambda: now, listening=True)
        assert (await callers.caller(header)).known and callers.cached(header) is None  # told of nothing yet
        callers.alive(now + SILENCE)
        callers.begin()
        known = await on.tokens.find(digest(made.token))
        assert known is not None
        callers._begun = known.seen + 1e6  # the connection was made anew while it was looked up
        assert (await callers.caller(header)).known and callers.cached(header) is None
        on.authentication.alive(time.monotonic() - 0.001)
        assert (await on.authentication.caller(header)).known and on.authentication.cached(header) is None


# ---------------------------------------------------------------------------------------------------- acting as others


@asynchronous
async def test_an_admin_acts_as_an_account_for_an_hour(at: Place) -> None:
    async with server(at, told=at.postgres) as on:
        await heard(on)
        ann, root, clerk = [await signed_up(on) for _ in range(3)]
        user, admin_id = id_of(ann.account.name), id_of(root.account.name)
        at.sql("update transom.users set roles = '{admin}' where id = any(%s)", [admin_id, id_of(clerk.account.name)])
        await on.revocations.refresh(admin_id)
        admin = await who(on, root.token)
        acting = await on.sessions.impersonate(admin, user, "ticket 7", "203.0.113.1")
        assert acting.session.expire_time - acting.session.create_time <= IMPERSONATION
        caller = await who(on, acting.token)
        assert (caller.name, caller.impersonator, caller.kind) == (ann.account.name, root.account.name, Kind.USER)
        shown, _ = await on.sessions.list(await who(on, ann.token), 0, "")
        assert (shown[0].proof, shown[0].device, shown[0].address) == ("impersonation", "ticket 7", "203.0.113.1")
        # What it may not: change who can sign in, end the account's sessions, act as a third.
        client = on.stubs(acting.token)
        for request in (pb.RevokeAllSessionsRequest(), pb.RevokeSessionRequest(name=ann.session.name)):
            method = type(request).__name__.removesuffix("Request")
            assert (await refused(client.accounts(method, request)))[:2] == ("PERMISSION_DENIED", "IMPERSONATED")
        with pytest.raises(Denied):
            await on.sessions.rotate(caller)
        with pytest.raises(Denied):
            require_own(caller)

        for sentence, by, whom, why, refusal in [
            ("an account", await who(on, ann.token), user, "x", Denied),
            ("who acts as somebody", caller, user, "x", Denied),
            ("a service key", Caller(Kind.KEY, "keys/k", frozenset({"service"})), user, "x", Denied),
            ("the system, which nobody could ask", SYSTEM, user, "x", Denied),
            ("as another admin", admin, id_of(clerk.account.name), "x", Denied),
            ("as nobody", admin, "nobody", "x", NotFound),
            ("as what is no name", admin, "\0", "x", NotFound),
            ("without a reason", admin, user, " ", Invalid),
            ("with two lines of reason", admin, user, "a\nb", Invalid),
        ]:
            outcome = await asyncio.gather(on.sessions.impersonate(by, whom, why), return_exceptions=True)
            assert type(outcome[0]) is refusal, sentence
        # It pushes none of the account's own sessions out.
        at.sql(
            "insert into transom.sessions (id, user_id, token_hash, device, expire_time) "
            "select %s || n, %s, sha256((%s || n)::bytea), '', now() + interval '1 day' from generate_series(2, %s) n",
            user, user, user, PER_ACCOUNT,
        )  # fmt: skip
        second = await on.sessions.impersonate(admin, user, "once more")
        assert (await who(on, ann.token)).known
        # It is nobody's while the account is an admin's.
        for roles in ("{admin}", "{}"):
            at.sql("update transom.users set roles = %s where id = %s", roles, user)
            await on.revocations.refresh(user)
            on.authentication._bad.clear()
            assert await is_nobodys(on, acting.token) is (roles == "{admin}")
        # It ends with the admin's role, wherever it is.
        at.sql("update transom.users set roles = '{}' where id = %s", admin_id)
        changed = time.monotonic()
        await on.revocations.refresh(admin_id)
        for made in (acting, second):
            assert await believed(on, made.token, changed) <= SILENCE
            assert await is_nobodys(on, made.token)
        assert (await who(on, root.token)).roles == frozenset()


@asynchronous
async def test_the_sessions_of_an_admin_end_with_those_in_which_it_acts_as_others(at: Place) -> None:
    async with server(at) as on:
        ann, root = await signed_up(on), await signed_up(on)
        at.sql("update transom.users set roles = '{admin}' where id = %s", id_of(root.account.name))
        acting = await on.sessions.impersonate(
            Caller(Kind.USER, root.account.name, frozenset({"admin"})), id_of(ann.account.name), "ticket 8"
        )
        assert await on.revocations.end_sessions(id_of(root.account.name), why="test") == 2
        assert await is_nobodys(on, acting.token) and await is_nobodys(on, root.token)
        assert (await who(on, ann.token)).known


def test_who_proved_long_ago_who_it_is_must_do_so_again() -> None:
    now = time.time()
    require_recent(Caller(Kind.USER, "users/a", session_time=now - RECENT + 5))
    with pytest.raises(Precondition) as refusal:
        require_recent(Caller(Kind.USER, "users/a", session_time=now - RECENT - 5))
    assert refusal.value.reason == "SIGN_IN_AGAIN"


# ------------------------------------------------------------------------------------------------------------- costs


@asynchronous
async def test_notes_are_bounded_and_wait_for_a_database_that_is_away(at: Place) -> None:
    async with cable(at.postgres_url) as (wire, url), server(at, postgres=url) as on:
        made = await signed_up(on)
        at.sql("update transom.sessions set seen_time = now() - interval '1 hour'")
        await wire.cut()
        on.last_seen.note(made.session.name, "")
        await on.last_seen._flush()
        assert list(on.last_seen._waiting) == [made.session.name]
        await wire.mend()
        until = time.monotonic() + 15
        while on.last_seen._waiting:
            await on.last_seen._flush()
            assert time.monotonic() < until
        [[age]] = at.sql(
            "select extract(epoch from now() - seen_time) from transom.sessions where id = %s", id_of(made.session.name)
        )
        assert age < MINUTE
        for i in range(30_000):
            on.last_seen.note(f"sessions/{i}", "")
        assert len(on.last_seen._waiting) <= 10_000 and len(on.last_seen._noted) <= 10_000
        on.last_seen._waiting.clear()


@asynchronous
async def test_a_session_that_is_heard_of_wakes_no_trigger(at: Place) -> None:
    async with server(at) as on:
        made = await signed_up(on)
        with psycopg.connect(at.postgres, autocommit=True) as listening:
            listening.execute("listen transom_callers")
            at.sql("update transom.sessions set seen_time = now() - interval '1 hour'")
            on.last_seen.note(made.session.name, "")
            await on.last_seen._flush()
            await on.accounts.sign_in(made.account.email, PASSWORD)
            assert list(listening.notifies(timeout=0.2)) == []
            await on.sessions.sign_out(await who(on, made.token))
            [word] = list(listening.notifies(timeout=5, stop_after=1))
            assert word.payload == f"ended {digest(made.token).hex()}"
