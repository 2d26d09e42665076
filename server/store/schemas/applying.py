"""One schema after another: expand, let the servers be replaced, settle. One apply at a time, however many start.

Where an apply was interrupted, whatever it was in the middle of, the next one finds how far it came: in the catalogue of
Postgres, which the plan is made from, and in the state of the version (migrations/0005_schema_change.sql).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import psycopg
from psycopg.rows import tuple_row

from server.schema.changes import layout
from server.schema.changes.planning import planned
from server.schema.changes.state import State
from server.schema.changes.steps import Kind, Plan, Refusal
from server.schema.compilation import SchemaError
from server.schema.model import Schema
from server.schema.reading import read
from server.store.schemas import versions
from server.store.schemas.catalogue import state
from server.store.schemas.execution import Encode, Execution, Report
from server.store.schemas.versions import Version

LOCK = 0x7472616E736F6D
"""Key of the advisory lock under which the database is changed ("transom")."""
POLL = 0.05
"""Seconds between looks at a lock. Who waits in Postgres would be waited for, by indexes that are built."""
GATE_SECONDS = 30.0
"""How long processes that start may keep what changes from changing."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """What an apply would do now."""

    deployed: Version | None
    """What is served, or was last."""
    others: dict[int, int]
    """How many processes serve versions with other tables than the target's, by version."""
    plan: Plan
    refusals: tuple[Refusal, ...]
    """Those of the plan, and those that the rows gave."""
    state: str
    """How far the target is (migrations/0005_schema_change.sql); empty where it was not begun."""
    accepted: bool
    """Whether this very schema was begun before: whom it breaks was accepted then."""


class Applying:
    """The schema of one database, on a connection of its own that commits by itself."""

    def __init__(
        self,
        connection: psycopg.Connection,
        target: Schema,
        *,
        who: str = "",
        encode: Encode | None = None,
        report: Report = lambda _: None,
    ) -> None:
        self._connection = connection
        self._target = target
        self._who = who
        self._report = report
        self._execution = Execution(connection, encode, report)
        self._layout = layout.digest(target)
        self._digest = versions.digest(target)

    def prospect(self) -> Prospect:
        """What would be done now. Changes nothing."""
        if not self._has("transom.tables"):
            plan = planned(State(), self._target)
            return Prospect(None, {}, plan, plan.refusals, "", False)
        if not self._has("transom.schemas"):
            raise SchemaError("Transom's own tables are older than this: transom migrate brings them up to date")
        deployed, before = self._before()
        others = self._others()
        current = self._current()
        if current is not None and current.state == "serving":
            plan = planned(state(self._connection), self._target, self._target, old_runs=True)
        else:
            plan = self._planned(before, old_runs=bool(others))
        begun = current is not None and current.state != "expanding"
        refusals = () if begun else (*plan.refusals, *self._asked(plan))
        accepted = current is not None and current.digest == self._digest
        return Prospect(deployed, others, plan, refusals, current.state if current else "", accepted)

    def _has(self, table: str) -> bool:
        row = self._connection.cursor(row_factory=tuple_row).execute("select to_regclass(%s)::text", [table]).fetchone()
        return bool(row and row[0])

    def apply(self, wait: float = 0.0) -> tuple[list[str], bool]:
        """Does it; returns the statements that changed something, and whether it is all done: False where processes of the
        version before still run after `wait` seconds.

        To be called under `exclusively`. Raises SchemaError for what is refused; nothing was done then.
        """
        before = self._before()[1]
        version = self._current()
        if version is not None and version.state == "serving":
            if before is None or before.layout == self._layout:
                return self._drifted(version), True
            version = None  # back from what came after it
        if version is not None and (version.layout, version.digest) != (self._layout, self._digest):
            version = versions.again(self._connection, version, self._target)
        done: list[str] = []
        if version is None or version.state in ("expanding", "closed"):
            with self._gate():
                if not self._others():
                    # Nobody looks on, and nobody starts before it is done: no step needs to mind them.
                    return self._closed(version, before), True
            version, done = self._expanded(version, before)
        if version.state == "expanded":
            until = time.monotonic() + wait
            while not self._settling(version):
                if time.monotonic() > until:
                    return done, False
                time.sleep(min(0.5, max(wait, POLL)))
        plan = self._planned(before, old_runs=False)
        done += self._execution.run(plan.steps)
        versions.move(self._connection, version, "serving")
        return done, True

    def _begin(self, before: Version | None) -> Version:
        return versions.begin(self._connection, self._target, before.version if before else None, self._who)

    def _drifted(self, version: Version) -> list[str]:
        """What is missing though it is deployed is made, beside the servers."""
        plan = planned(state(self._connection), self._target, self._target, old_runs=True)
        self._refused(plan)
        done = self._execution.run(plan.steps)
        if version.digest != self._digest:  # the same tables, another API
            versions.move(self._connection, self._begin(version), "serving")
        return done

    def _closed(self, version: Version | None, before: Version | None) -> list[str]:
        plan = self._planned(before, old_runs=False)
        self._refused(plan)
        version = version or self._begin(before)
        versions.move(self._connection, version, "closed")
        done = self._execution.run(plan.steps)
        versions.move(self._connection, version, "serving")
        return done

    def _expanded(self, version: Version | None, before: Version | None) -> tuple[Version, list[str]]:
        plan = self._planned(before, old_runs=True)
        self._refused(plan)
        version = version or self._begin(before)
        done = self._execution.run(plan.steps)
        return versions.move(self._connection, version, "expanded"), done

    def _settling(self, version: Version) -> bool:
        """Whether no process of the version before runs; none starts any more, then."""
        with self._gate():
            if self._others():
                return False
            versions.move(self._connection, version, "settling")
            return True

    def _planned(self, before: Version | None, *, old_runs: bool) -> Plan:
        return planned(state(self._connection), self._target, _schema(before), old_runs=old_runs)

    def _refused(self, plan: Plan) -> None:
        """Raises SchemaError where the schema or the rows refuse it."""
        if not self._execution.rebuilds and any(step.kind is Kind.REBUILD for step in (*plan.steps, *plan.later)):
            raise SchemaError("columns have to be written anew from the messages: transom apply does that")
        if refusals := [*plan.refusals, *self._asked(plan)]:
            raise SchemaError("\n".join(map(str, refusals)))

    def _asked(self, plan: Plan) -> Iterator[Refusal]:
        """The refusals that the rows give."""
        for probe in plan.probes:
            row = self._connection.cursor(row_factory=tuple_row).execute(probe.sql.encode()).fetchone()
            if row and row[0]:
                refusal = probe.refusal
                yield Refusal(refusal.where, refusal.reason.replace("{count}", f"{row[0]:,}"), refusal.advice)

    def _current(self) -> Version | None:
        """The version that the target is, if it has one that is not past."""
        mine = [v for v in versions.versions(self._connection) if self._is_mine(v) and v.state != "past"]
        return mine[0] if mine else None

    def _is_mine(self, version: Version) -> bool:
        """Whether it is the target: by its tables, or, where another Transom began it, whose tables it would have, by its
        image."""
        return version.layout == self._layout or (
            version.digest == self._digest and version.state not in ("serving", "past")
        )

    def _before(self) -> tuple[Version | None, Version | None]:
        """What is deployed, and what the target follows: the rows may have been written by servers of either.

        Raises SchemaError where another change is half-way.
        """
        known = versions.versions(self._connection)
        deployed = next((v for v in known if v.state in ("serving", "settling")), None)
        mine = next((v for v in known if self._is_mine(v) and v.state not in ("past", "serving")), None)
        if mine is not None:
            return deployed, next((v for v in known if v.version == mine.follows), None)
        between = next((v for v in known if v.state in ("expanded", "settling")), None)
        if between is None:
            return deployed, deployed
        if between.state == "expanded" and deployed is not None and deployed.layout == self._layout:
            return deployed, between  # back again: its servers may have written
        raise SchemaError(
            f"version {between.version} is half-way ({between.state}, by {between.who or 'somebody'}): finish it by applying "
            "the same schema again" + (", or go back to the one before" if between.state == "expanded" else "")
        )

    def _others(self) -> dict[int, int]:
        layouts = {v.version: v.layout for v in versions.versions(self._connection)}
        return {v: n for v, n in versions.served(self._connection).items() if layouts.get(v) != self._layout}

    @contextmanager
    def _gate(self) -> Iterator[None]:
        """While it is shut, no process finds out whether it may start."""
        _locked(self._connection, versions.GATE, GATE_SECONDS)
        try:
            yield
        finally:
            self._connection.execute("select pg_advisory_unlock(%s)", [versions.GATE])


@contextmanager
def exclusively(connection: psycopg.Connection, report: Report = lambda _: None) -> Iterator[None]:
    """The block, as the only one that changes this database; it waits for who was first, and says who that is."""
    _locked(connection, LOCK, None, report)
    try:
        yield
    finally:
        connection.execute("select pg_advisory_unlock(%s)", [LOCK])


def _locked(connection: psycopg.Connection, key: int, seconds: float | None, report: Report = lambda _: None) -> None:
    until = None if seconds is None else time.monotonic() + seconds
    told = False
    while True:
        row = connection.cursor(row_factory=tuple_row).execute("select pg_try_advisory_lock(%s)", [key]).fetchone()
        if row and row[0]:
            return
        if not told:
            report(f"waiting for {_holder(connection, key)}")
            told = True
        if until is not None and time.monotonic() > until:
            raise SchemaError(f"{_holder(connection, key)} has not let go in {seconds:g} s: apply again")
        time.sleep(POLL)


def _holder(connection: psycopg.Connection, key: int) -> str:
    row = connection.cursor(row_factory=tuple_row).execute(
        "select a.application_name, a.client_addr::text, a.pid, a.backend_start::text from pg_locks l "
        "join pg_stat_activity a using (pid) where l.locktype = 'advisory' and l.granted and l.objsubid = 1 "
        "and (l.classid::bigint << 32 | l.objid::bigint) = %s limit 1",
        [key],
    )
    found = row.fetchone()
    if found is None:
        return "another apply"
    name, address, pid, since = found
    return f"{name or 'another'} from {address or 'this machine'} (backend {pid}, since {since[:19]})"


@lru_cache(maxsize=4)
def _read(image: bytes) -> Schema:
    return read(image)


def _schema(version: Version | None) -> Schema | None:
    return None if version is None or not version.image else _read(version.image)
