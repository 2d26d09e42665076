"""`python -m bench.revocation`: how long a session that was ended lives on, on servers that remember it.

The whole system as `make up` starts it, without its edge in between. In each round a session is known to every API
server, one of them ends it, and the others are asked with its token again and again. What counts is the last call that
was let in, from when the one that ended it was answered: nothing, where none was that began later. Three cases: all is
well; Redis hangs (it is stopped in its tracks); a server is told nothing any more (its connection to Postgres on which
words come hangs), while Redis answers.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import grpc
import psycopg
from transom.accounts.v1 import accounts_pb2 as pb
from transom.accounts.v1 import accounts_pb2_grpc

from deploy.native.stack import EVERYTHING, PROJECT, Stack
from server.engine.tokens import SESSION, digest, new_id, new_token

RECOVERY = 3.0
"""Seconds in which what was stopped is again as it was before: longer than Redis is left alone after a failure."""
LONGEST = 10.0
"""Seconds after which a session that goes on living is not waited for."""


Harm = Callable[[Stack], AbstractContextManager[None]]
"""What is done to the system before a session is ended, and undone when that was effective."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one end took, in milliseconds, on each of the other servers."""

    lived: tuple[float, ...]
    """How long the session lived on after the call that ended it was answered."""
    since: tuple[float, ...]
    """How long after that call began."""


@click.command()
@click.option("--rounds", default=100, show_default=True, type=click.IntRange(1, 10_000), help="Of the usual case.")
@click.option(
    "--harmed", default=10, show_default=True, type=click.IntRange(1, 1000), help="Rounds of each other case."
)
def main(rounds: int, harmed: int) -> None:
    """Measure how soon the end of a session is effective everywhere."""
    with TemporaryDirectory(prefix="transom-bench-") as folder:
        Path(folder).chmod(0o755)  # Postgres does not run as root, and has to get there
        app = PROJECT / "examples" / "inspect"
        with Stack(Path(folder) / "state", app=app, parts=EVERYTHING).running() as stack:
            click.echo("milliseconds a session lived on, on another server, after the end was answered (was asked for)")
            click.echo(f"{'':36} {'rounds':>6} {'median':>14} {'p99':>14} {'longest':>14}")
            _report("all is well", asyncio.run(_measured(stack, rounds, _nothing)))
            _report("Redis hangs", asyncio.run(_measured(stack, harmed, _redis_stopped)))
            _report("the other servers are told nothing", asyncio.run(_measured(stack, harmed, _untold)))


def _report(case: str, found: Sequence[Round]) -> None:
    lived = sorted(ms for one in found for ms in one.lived)
    since = sorted(ms for one in found for ms in one.since)
    figures = " ".join(f"{_at(lived, share):6.1f} ({_at(since, share):5.1f})" for share in (0.5, 0.99, 1.0))
    click.echo(f"{case:36} {len(found):6} {figures}")


def _at(figures: Sequence[float], share: float) -> float:
    return figures[min(len(figures) - 1, int(share * len(figures)))]


async def _measured(stack: Stack, rounds: int, harm: Harm) -> list[Round]:
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{stack.ports[name]}") for name in stack.api_servers]
    stubs = [accounts_pb2_grpc.AccountsServiceStub(channel) for channel in channels]
    try:
        return [await _round(stack, stubs, harm) for _ in range(rounds)]
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


async def _round(stack: Stack, stubs: Sequence[accounts_pb2_grpc.AccountsServiceStub], harm: Harm) -> Round:
    token = _signed_in(stack)
    metadata = (("authorization", f"Bearer {token}"),)
    for _ in range(2):  # known, and remembered
        await asyncio.gather(*(stub.GetMe(pb.GetMeRequest(), metadata=metadata) for stub in stubs))
    started = 0.0

    async def lives(stub: accounts_pb2_grpc.AccountsServiceStub) -> float:
        """When the last call began that was let in."""
        last, give_up = started, time.monotonic() + LONGEST
        while True:
            began = time.monotonic()
            if began > give_up:
                raise click.ClickException(f"a session that was ended lived on for {LONGEST} s")
            try:
                await stub.GetMe(pb.GetMeRequest(), metadata=metadata)
            except grpc.aio.AioRpcError as refusal:
                if refusal.code() is grpc.StatusCode.UNAUTHENTICATED:
                    return last
                raise
            last = began
            await asyncio.sleep(0.0005)

    with harm(stack):
        started = time.monotonic()
        others = [asyncio.create_task(lives(stub)) for stub in stubs[1:]]
        await stubs[0].SignOut(pb.SignOutRequest(), metadata=metadata)
        ended = time.monotonic()
        lasts = await asyncio.gather(*others)
    if harm is not _nothing:
        await asyncio.sleep(RECOVERY)
    return Round(
        tuple(max(0.0, last - ended) * 1000 for last in lasts), tuple((last - started) * 1000 for last in lasts)
    )


def _signed_in(stack: Stack) -> str:
    """The token of a session of a new account, put where a sign-in puts it."""
    user, token = new_id(), new_token(SESSION)
    with psycopg.connect(stack.env["TRANSOM_POSTGRES"], autocommit=True) as connection:
        connection.execute(
            "insert into transom.users (id, email, email_key, display_name) values (%s, %s, %s, '')",
            [user, f"{user}@bench.example", f"{user}@bench.example"],
        )
        connection.execute(
            "insert into transom.sessions (id, user_id, token_hash, device, expire_time) "
            "values (%s, %s, %s, '', now() + interval '1 hour')",
            [secrets.token_hex(8), user, digest(token)],
        )
    return token


@contextmanager
def _stopped(pids: Sequence[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def _nothing(stack: Stack) -> Iterator[None]:
    yield


@contextmanager
def _redis_stopped(stack: Stack) -> Iterator[None]:
    pids = [p["pid"] for p in stack.status()["processes"] if p["name"] == "redis" and p["pid"] is not None]
    with _stopped(pids):
        yield


@contextmanager
def _untold(stack: Stack) -> Iterator[None]:
    """Every server's connection on which words come hangs, all but that of the one which ends the sessions."""
    with psycopg.connect(stack.env["TRANSOM_POSTGRES"], autocommit=True) as connection:
        rows = connection.execute(
            "select pid from pg_stat_activity where application_name = any(%s)",
            [[f"{name} announcements" for name in stack.api_servers[1:]]],
        ).fetchall()
    with _stopped([pid for (pid,) in rows]):
        yield


if __name__ == "__main__":
    main()
