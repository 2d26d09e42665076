"""The audit log: what is written when, what a database that is away makes of it, and how operators read it."""

from __future__ import annotations

import ast
import asyncio
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner, Result
from edge_ground import eventually
from identity_ground import Place, asynchronous, cable, place
from people_ground import PASSWORD, Client, People, Refused
from psycopg_pool import AsyncConnectionPool

from deploy.native.stack import PROJECT, Stack
from server.cli.__main__ import main as transom
from server.engine.audit import DETAILS, TEXT, Audit, Said
from server.store import audit as stored
from server.store.audit import DROPPED, StoredAudit, Wanted


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Place]:
    with place(components) as made:
        yield made


@asynccontextmanager
async def log(dsn: str, **more: int) -> AsyncIterator[tuple[Audit, StoredAudit]]:
    pool = AsyncConnectionPool(dsn, min_size=1, max_size=2, open=False, reconnect_timeout=1)
    await pool.open()
    kept = StoredAudit(pool)
    try:
        yield Audit(kept, lambda: Said("users/caller", "", "192.0.2.1", "request-1"), **more), kept
    finally:
        await kept.aclose()
        await pool.close()


class DeedFailed(Exception):
    """On purpose."""


def name() -> str:
    return f"users/{secrets.token_hex(8)}"


def actions(at: Place, target: str) -> list[str]:
    return [row[0] for row in at.sql("select action from transom.audit where target = %s order by id", target)]


# ------------------------------------------------------------------------------------------------------ what is written


@asynchronous
async def test_what_was_done_is_written_at_once_and_what_was_refused_in_a_moment(at: Place) -> None:
    async with log(at.postgres) as (audit, _):
        target = name()
        await audit.note("password_changed", target=target, details={"why": "asked"}, device="Pixel 9")
        row = at.sql(
            "select actor, impersonator, action, outcome, address, device, request_id, details from transom.audit"
            " where target = %s",
            target,
        )
        told = ("users/caller", "", "password_changed", "ok", "192.0.2.1", "Pixel 9", "request-1", {"why": "asked"})
        assert row == [told]
        await audit.note(
            "sign_in", target=target, outcome="WRONG_CREDENTIALS", actor="users/other", address="192.0.2.9"
        )
        assert actions(at, target) == ["password_changed"]
    assert actions(at, target) == ["password_changed", "sign_in"]
    [last] = at.sql("select actor, address from transom.audit where target = %s and action = 'sign_in'", target)
    assert last == ("users/other", "192.0.2.9"), "what is said counts for more than what is known"


@asynchronous
async def test_whatever_strangers_write_is_kept_in_bounds(at: Place) -> None:
    async with log(at.postgres) as (audit, _):
        target = name()
        await audit.note(
            "sign_in",
            target=target,
            device="a\0b\ud800" + "x" * 10_000,
            details={f"key{n}": "\0" + "y" * 10_000 for n in range(100)},
        )
        [(device, details)] = at.sql("select device, details from transom.audit where target = %s", target)
        assert device.startswith("ab?x") and len(device) <= TEXT
        assert len(details) == DETAILS and all(len(value) <= TEXT for value in details.values())


@asynchronous
async def test_an_entry_is_there_where_its_deed_is_and_nowhere_else(at: Place) -> None:
    async with log(at.postgres) as (audit, kept):
        done, undone = name(), name()
        async with kept._pool.connection() as connection:
            await connection.execute(*audit.statement("disabled", target=done))
        with suppress(DeedFailed):
            async with kept._pool.connection() as connection:
                await connection.execute(*audit.statement("disabled", target=undone))
                raise DeedFailed
        assert actions(at, done) == ["disabled"] and actions(at, undone) == []


# -------------------------------------------------------------------------------------------- when the database is away


@asynchronous
async def test_entries_wait_for_a_database_that_is_away(at: Place) -> None:
    async with cable(at.postgres_url) as (wire, url), log(url) as (audit, kept):
        target = name()
        await audit.note("first", target=target)
        await wire.cut()
        start = time.monotonic()
        for number in range(20):
            await audit.note("sign_in", target=target, outcome=f"REASON_{number}")
        assert time.monotonic() - start < 0.5, "a refusal waits for nobody"
        await audit.note("sign_out", target=target)
        assert time.monotonic() - start < stored.PATIENCE + 2, "nor anybody for long"
        await wire.mend()
        until = time.monotonic() + 20
        while kept._kept and time.monotonic() < until:
            await asyncio.sleep(0.05)
        assert actions(at, target) == ["first", *["sign_in"] * 20, "sign_out"]
        times = at.sql("select max(time) - min(time) < '5 seconds' from transom.audit where target = %s", target)
        assert times == [(True,)], "they tell when it was done, not when it was written"


@asynchronous
async def test_no_more_wait_than_may_and_the_lost_are_counted(at: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "KEPT_MAX", 10)
    async with cable(at.postgres_url) as (wire, url), log(url) as (audit, kept):
        target, before = name(), DROPPED._value.get()
        await audit.note("first", target=target)
        await wire.cut()
        for number in range(25):
            await audit.note(f"number_{number}", target=target, outcome="REASON")
        assert len(kept._kept) == 10 and DROPPED._value.get() - before == 15
        await wire.mend()
        until = time.monotonic() + 20
        while kept._kept and time.monotonic() < until:
            await asyncio.sleep(0.05)
        assert actions(at, target) == ["first", *(f"number_{number}" for number in range(15, 25))], (
            "the newest are kept"
        )


# ------------------------------------------------------------------------------------------------------ kept, then swept


@asynchronous
async def test_old_entries_are_swept_and_others_stay(at: Place) -> None:
    async with log(at.postgres, days=30) as (audit, _), log(at.postgres, days=0) as (forever, _):
        target = name()
        for days in (29, 31, 400):
            at.sql(
                "insert into transom.audit (time, actor, action, target, outcome) values (%s, '', %s, %s, 'ok')",
                *(datetime.now(UTC) - timedelta(days=days), f"{days}_days", target),
            )
        assert await forever.sweep() == 0
        assert await audit.sweep() >= 2
        assert actions(at, target) == ["29_days"]


@asynchronous
async def test_pages_hold_while_entries_are_written(at: Place) -> None:
    async with log(at.postgres) as (audit, _):
        target = name()
        for number in range(5):
            await audit.note(f"number_{number}", target=target)
        wanted = Wanted(target=target)
        first, token = await audit.list(wanted, 2, "")
        await audit.note("later", target=target)
        second, token = await audit.list(wanted, 2, token)
        third, token = await audit.list(wanted, 2, token)
        assert [entry.action for entry in (*first, *second, *third)] == [f"number_{n}" for n in (4, 3, 2, 1, 0)]
        assert token == ""


NOTING = ("note", "statement", "_told", "_add", "_end")
"""Functions whose first text is an action."""


def test_every_action_is_on_the_page() -> None:
    actions = set()
    for file in (PROJECT / "server" / "engine").glob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in NOTING:
                texts = [one.value for one in call.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
                actions.update(texts[:1])
    page = (PROJECT / "docs" / "identity.md").read_text()
    assert "sign_in" in actions and [one for one in sorted(actions) if f"`{one}`" not in page] == []


# ------------------------------------------------------------------------------------------------- the whole, and the CLI


@pytest.fixture(scope="module")
def people(stack: Stack) -> People:
    return People(stack)


@pytest.fixture
def run(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    for variable, value in stack.env.items():
        monkeypatch.setenv(variable, value)

    def command(*words: str) -> Result:
        return CliRunner().invoke(transom, list(words))

    return command


def test_a_sign_in_is_noted_right_or_wrong_and_no_secret_is(people: People) -> None:
    ann = people.person()
    made = people.nobody.post("accounts:signIn", email=ann.email, password=PASSWORD, device="Pixel 9")
    wrong = people.nobody.post("accounts:signIn", email=ann.email, password="wrong " + PASSWORD)
    assert wrong == Refused("UNAUTHENTICATED", "WRONG_CREDENTIALS")
    nobody = f"{secrets.token_hex(6)}@example.com"
    people.nobody.post("accounts:signIn", email=nobody, password="wrong " + PASSWORD)
    eventually(lambda: [outcome for outcome, _ in people.noted(ann, "sign_in")] == ["ok", "WRONG_CREDENTIALS"])
    rows = people.sql("select address, device from transom.audit where target = %s and outcome = 'ok'", ann.user)
    assert rows == [("127.0.0.1", "Pixel 9")]
    everything = str(people.sql("select * from transom.audit"))
    for secret in (PASSWORD, made["token"], nobody):
        assert secret not in everything


def test_operators_look_after_accounts(people: People, run: Callable[..., Result]) -> None:
    ann = people.person()  # each command begins by reading and checking the app: there are no more than it takes
    listed = run("user", "list", ann.email[:8])
    assert listed.exit_code == 0 and ann.email in listed.output, listed.output

    made = run(
        "user", "role", ann.email, "--add", "admin", "--add", "manager", "--scope", "transom.admin.v1.User:list,get"
    )
    assert ann.user in made.output and "password" in made.output
    assert "admin manager" in made.output and "transom.admin.v1.User:get transom.admin.v1.User:list" in made.output
    eventually(lambda: isinstance(ann.get(ann.user), dict), within=1.0)
    assert "everything" in run("user", "role", ann.user, "--everything").output
    assert "admin" not in run("user", "role", ann.user, "--remove", "admin").output
    eventually(lambda: ann.get(ann.user) == Refused("PERMISSION_DENIED", "ADMIN_REQUIRED"), within=1.0)

    assert "test" in run("user", "sessions", ann.user).output
    assert "1 ended" in run("user", "sessions", ann.user, "--revoke").output
    eventually(lambda: ann.get("accounts/me") == Refused("UNAUTHENTICATED", "TOKEN_INVALID"), within=1.0)
    assert "disabled" in run("user", "disable", ann.user).output
    assert people.nobody.post("accounts:signIn", email=ann.email, password=PASSWORD).reason == "WRONG_CREDENTIALS"
    assert "disabled" not in run("user", "enable", ann.user).output
    assert "token" in people.nobody.post("accounts:signIn", email=ann.email, password=PASSWORD)

    invited = f"{secrets.token_hex(6)}@example.com"
    assert "on its way" in run("user", "invite", invited, "--role", "manager").output
    for words, told in (
        (("user", "show", invited), "no account with this address"),
        (("user", "role", ann.user, "--scope", "no.Such:get"), "no.Such"),
    ):
        refused = run(*words)
        assert refused.exit_code != 0 and told in refused.output, refused.output

    told = run("audit", "--target", ann.user, "--actor", "operator").output
    done = [
        "roles_changed",
        "scopes_changed",
        "scopes_changed",
        "roles_changed",
        "sessions_ended",
        "disabled",
        "enabled",
    ]
    assert [line.split("  ")[2] for line in told.splitlines()] == done


def test_what_tries_nobody_is_not_noted(people: People) -> None:
    """Else strangers fill the log at no cost, with tokens that they make up."""
    ann, device = people.person(), secrets.token_hex(8)
    for number in range(3):
        made_up = {"token": f"tsw_{secrets.token_urlsafe(32)}", "code": "12345678", "device": device}
        assert people.nobody.post("accounts:signInWithCode", **made_up).reason == "WRONG_CODE"
        challenge = {"challengeToken": f"tsw_{secrets.token_urlsafe(32)}", "code": f"12345{number}"}
        assert people.nobody.post("accounts:signInWithSecondFactor", **challenge).code == "UNAUTHENTICATED"
    email = f"{secrets.token_hex(6)}@example.com"
    token = people.nobody.post("accounts:requestSignInCode", email=email)["token"]
    for code in ("123", "12345678", "abc"):  # of an address without an account
        wrong = people.nobody.post("accounts:signInWithCode", token=token, code=code, device=device)
        assert wrong.reason == "WRONG_CODE"
    assert people.nobody.post("accounts:signIn", email=ann.email, password="wrong " + PASSWORD, device=device)
    people.refusal_noted(ann, "sign_in")  # entries are written in their order
    rows = people.sql("select target, outcome from transom.audit where device = %s", device)
    assert rows == [(ann.user, "WRONG_CREDENTIALS")]


def test_operators_read_the_log(people: People, run: Callable[..., Result]) -> None:
    ann = people.person()
    for action, ago in (("old", "3 hours"), ("new", "1 minute")):
        people.sql(
            "insert into transom.audit (time, actor, action, target, outcome, device)"
            " values (now() - %s::interval, '', %s, %s, 'REASON', E'a\\x1b[2Jb')",
            *(ago, action, ann.user),
        )
    lines = run("audit", "--target", ann.user).output.splitlines()
    assert [line.split("  ")[1:4] for line in lines] == [["nobody", "old", ann.user], ["nobody", "new", ann.user]]
    assert "\x1b[2J" not in "".join(lines), "a terminal obeys no stranger"
    assert len(run("audit", "--target", ann.user, "--since", "2h").output.splitlines()) == 1
    assert len(run("audit", "--target", ann.user, "-n", "1").output.splitlines()) == 1
    assert run("audit", "--action", "none_such").output == "nothing\n"
    assert run("audit", "--since", "yesterday").exit_code != 0


def test_who_follows_the_log_sees_what_comes(people: People, stack: Stack) -> None:
    ann = people.person()
    people.sql("insert into transom.audit (actor, action, target, outcome) values ('', 'before', %s, 'ok')", ann.user)
    command = [sys.executable, "-m", "server.cli", "audit", "--target", ann.user, "-f"]
    with subprocess.Popen(command, env=stack.env, stdout=subprocess.PIPE, text=True, bufsize=1) as follower:
        try:
            assert follower.stdout is not None
            assert "before" in follower.stdout.readline()
            noted(people, ann, "first", "0 seconds")
            assert "first" in follower.stdout.readline()
            noted(people, ann, "late", "5 seconds")  # written after one that was done later
            assert "late" in follower.stdout.readline()
        finally:
            follower.terminate()


def noted(people: People, target: Client, action: str, ago: str) -> None:
    people.sql(
        "insert into transom.audit (time, actor, action, target, outcome) values (now() - %s::interval, '', %s, %s, 'ok')",
        *(ago, action, target.user),
    )
