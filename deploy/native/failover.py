"""The replica takes the primary's place, and the primary the replica's.

The order makes it safe to die at any point, and to do it again: first it is written down who leads, so that the former
primary, whoever starts it again, comes back to follow; then that one is stopped; then the other is promoted. A start of the
stack finishes what was left undone (`Postgres._after`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import psycopg

from .place import Place
from .postgres import NODES, Postgres
from .process import Process

REPLAY_SECONDS = 60.0
"""How long the replica may take to replay what it has received."""


class FailoverError(Exception):
    """It cannot be done; nothing was changed, or it can be done again. The text says why."""


def fail_over(postgres: Postgres, place: Place, said: Callable[[str], None] = lambda _: None) -> str:
    """Promotes the replica and answers its name, which is that of the primary from now on; the former primary follows it once
    its supervisor has started it again.

    Nothing acknowledged is lost where the former primary ran to the end (it ships all before it stops) or commits waited for
    the replica. Else what was not streamed when it died is gone. Raises FailoverError.
    """
    former = postgres.leader
    new = next(name for name in NODES if name != former)
    if postgres.accepts(former) and not postgres.leads(former):
        former, new = new, former  # it was written down that this one leads, and whoever did that died
    if not postgres.accepts(new):
        raise FailoverError(f"{new}, which would become the primary, does not answer")
    if postgres.leads(former) and not _follows(postgres, former, new):
        raise FailoverError(f"{new} does not stream from {former}: it may lack what was committed")
    postgres.lead(new)
    process = Process.found(former, place)
    if process is not None:
        said(f"{former} stops")
        asyncio.run(process.stop())
    _replayed(postgres, new)
    said(f"{new} is promoted")
    with postgres.superuser(new) as db:
        row = db.execute("select pg_is_in_recovery() and not pg_promote(true, 60)").fetchone()
    if row and row[0]:
        raise FailoverError(f"{new} was not promoted within 60 s; do it again")
    return new


def _follows(postgres: Postgres, primary: str, replica: str) -> bool:
    with postgres.superuser(primary) as db:
        found = db.execute(
            "select 1 from pg_stat_replication where application_name = %s and state = 'streaming'", [replica]
        ).fetchone()
    return found is not None


def _replayed(postgres: Postgres, name: str) -> None:
    """Returns once the server has replayed all that it has received. Raises FailoverError."""
    until = time.monotonic() + REPLAY_SECONDS
    with postgres.superuser(name) as db:
        db.execute("select pg_wal_replay_resume() where pg_is_in_recovery() and pg_is_wal_replay_paused()")
        while True:
            row = db.execute(
                "select not pg_is_in_recovery() or coalesce(pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn(), true)"
            ).fetchone()
            if row and row[0]:
                return
            if time.monotonic() > until:
                raise FailoverError(
                    f"{name} has not replayed what it received within {REPLAY_SECONDS:.0f} s; try again"
                )
            time.sleep(0.02)


def wait_for_replica(postgres: Postgres, *, wanted: bool) -> None:
    """Makes commits wait until the replica has them on its disk, too; or no longer, also while the replica is away and they
    wait for ever. It holds for both servers, whoever leads: for one that does not run, from when it starts."""
    postgres.wait(wanted)
    for name in NODES:
        with contextlib.suppress(psycopg.Error), postgres.superuser(name) as db:
            db.execute("select pg_reload_conf()")
