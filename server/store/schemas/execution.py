"""Steps, carried out: each under the weakest lock that does, none waiting long for it, every one safe to be killed in."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence

import psycopg
from psycopg import sql
from psycopg.errors import DeadlockDetected, LockNotAvailable
from psycopg.rows import tuple_row

from server.schema.changes.steps import NEW, Kind, Step
from server.schema.compilation import SchemaError

LOCK_SECONDS = 1.0
"""How long a statement waits for a lock that others would wait behind; then it steps back, lets them pass, and tries again."""
TRIES = 40
"""How often, with pauses of up to 2 s: a minute or two in all."""
BATCH, MESSAGES = 500, 200
"""Rows of one batch of a fill, which are locked while it is written, and of one that is computed here."""
SAID_EVERY = 5.0
"""Seconds between words of how far a fill is."""

Encode = Callable[[str, Sequence[str]], Callable[[bytes], Sequence[str | bytes | None]]]
"""Of a resource's message and fields: what makes of a stored message the values of their columns."""
Report = Callable[[str], None]


class Execution:
    """Carries steps out, on a connection of its own that commits by itself."""

    def __init__(self, connection: psycopg.Connection, encode: Encode | None, report: Report) -> None:
        self._connection = connection
        self._encode = encode
        self._report = report

    @property
    def rebuilds(self) -> bool:
        """Whether it can write columns anew from messages."""
        return self._encode is not None

    def run(self, steps: Sequence[Step]) -> list[str]:
        """Carries out the steps, in order; answers the statements that changed something.

        Raises SchemaError where a lock cannot be had, where rows came in between that forbid a unique index, or where the
        database has what Transom has not made and that is in the way.
        """
        done: list[str] = []
        for group in _together(steps):
            step = group[0]
            statements = [s for one in group for s in one.statements]
            try:
                match step.kind:
                    case Kind.ALTER:
                        self._patiently(lambda group=group: self._alter(group), step)  # type: ignore[misc]
                    case Kind.INDEX:
                        self._build(step)
                    case Kind.DROP | Kind.VALIDATE:
                        self._alone(step)
                    case Kind.FILL:
                        self._batches(step, BATCH, self._fill)
                    case Kind.REBUILD:
                        self._batches(step, MESSAGES, self._rebuild)
                        statements = [f"rebuild {'.'.join(step.table)}: {', '.join(step.fields)}"]
            except psycopg.errors.DependentObjectsStillExist as fault:
                raise SchemaError(
                    f"{'.'.join(step.table)}: {fault.diag.message_primary}: {fault.diag.message_detail}: what Transom has not "
                    "made it does not remove; drop it, apply, and make it again"
                ) from fault
            done += statements
        return done

    def _alter(self, group: Sequence[Step]) -> None:
        with self._connection.transaction():
            self._connection.execute(f"set local lock_timeout = {int(LOCK_SECONDS * 1000)}")
            for step in group:
                for statement in (*step.statements, *step.noted):
                    self._connection.execute(statement.encode())

    def _patiently(self, act: Callable[[], None], step: Step) -> None:
        """Acts; where a lock is not to be had in time, again after a pause in which whoever waited behind goes on."""
        for attempt in range(TRIES):
            try:
                act()
                return
            except (LockNotAvailable, DeadlockDetected) as busy:
                if attempt == TRIES - 1:
                    raise SchemaError(
                        f"{'.'.join(step.table)}: its lock ({step.lock}) was not to be had in {TRIES} tries of "
                        f"{LOCK_SECONDS:g} s: a long transaction holds it (pg_stat_activity says whose); nothing is lost, "
                        "apply again"
                    ) from busy
                if attempt == 0:
                    self._report(f"{'.'.join(step.table)}: others hold it; trying again")
                time.sleep(min(2.0, 0.1 * 1.5**attempt) * random.uniform(0.5, 1.0))

    def _build(self, step: Step) -> None:
        """Builds an index beside everything that goes on. What an interrupted build left is not whole: it goes first."""
        name = sql.Identifier(step.table[0], step.key)
        for _ in range(TRIES):
            left = self._connection.cursor(row_factory=tuple_row).execute(
                "select i.indisvalid and i.indisready from pg_index i where i.indexrelid = to_regclass(%s)",
                [name.as_string(self._connection)],
            )
            if found := left.fetchone():
                if found[0]:
                    return
                self._connection.execute(sql.SQL("drop index concurrently {}").format(name))
            try:
                self._connection.execute(step.statements[0].encode())
                return
            except DeadlockDetected:
                continue  # it waits for whoever is in the middle of something, and they may wait for it
            except psycopg.errors.UniqueViolation as twice:
                self._connection.execute(sql.SQL("drop index concurrently if exists {}").format(name))
                raise SchemaError(
                    f"{'.'.join(step.table)}: {step.key} would be unique, and some values are there more than once: change "
                    "these resources first"
                ) from twice

    def _alone(self, step: Step) -> None:
        for statement in step.statements:

            def act(statement: str = statement) -> None:
                self._connection.execute(statement.encode())

            self._patiently(act, step)

    def _batches(self, step: Step, size: int, one: Callable[[Step, str, int], tuple[str | None, int, int]]) -> None:
        """Batch after batch, each with the note of how far it was in one transaction, until the last row."""
        row = self._connection.cursor(row_factory=tuple_row).execute(
            "insert into transom.schema_fills (key) values (%s) on conflict (key) do update set key = excluded.key "
            "returning after, looked_at, done",
            [step.key],
        )
        found = row.fetchone()
        assert found is not None
        after, looked_at, done = found
        said = time.monotonic()
        while not done:
            position = [after, 0, 0]

            def act(position: list[object] = position, after: str = after) -> None:
                with self._connection.transaction():
                    self._connection.execute(f"set local lock_timeout = {int(LOCK_SECONDS * 1000)}")
                    last, seen, written = one(step, after, size)
                    position[:] = [last, seen, written]
                    self._connection.execute(
                        "update transom.schema_fills set after = coalesce(%s, after), looked_at = looked_at + %s, "
                        "written = written + %s, done = %s, change_time = clock_timestamp() where key = %s",
                        [last, seen, written, last is None, step.key],
                    )

            self._patiently(act, step)
            done = position[0] is None
            after = str(position[0])
            looked_at += position[1]
            if time.monotonic() - said > SAID_EVERY:
                said = time.monotonic()
                self._report(f"{'.'.join(step.table)}: {looked_at:,} of about {max(step.rows, looked_at):,} rows")

    def _fill(self, step: Step, after: str, size: int) -> tuple[str | None, int, int]:
        """One batch of a fill: the last name, rows that were looked at, and rows that were written."""
        table = sql.Identifier(*step.table)
        # Rows are locked in the order of their names, as every write does: nobody waits for another in a circle.
        text = sql.SQL(
            "with bite as materialized (select name from {table} where name > %s order by name limit %s), "
            "held as materialized (select name as held_name from {table} where name in (select name from bite) {need} "
            "order by name for no key update), "
            "written as (update {table} set {set_} from held where name = held_name {need} returning 1) "
            "select (select max(name) from bite), (select count(*) from bite), (select count(*) from written)"
        ).format(
            table=table,
            need=sql.SQL(f"and ({_percent(step.where)})" if step.where else ""),
            set_=sql.SQL(_percent(step.statements[0])),
        )
        row = self._connection.cursor(row_factory=tuple_row).execute(text, [after, size]).fetchone()
        assert row is not None
        return row[0], row[1], row[2]

    def _rebuild(self, step: Step, after: str, size: int) -> tuple[str | None, int, int]:
        """One batch that is computed from the messages."""
        assert self._encode is not None
        table = sql.Identifier(*step.table)
        bite = self._connection.cursor(row_factory=tuple_row).execute(
            sql.SQL(
                "select max(name), count(*) from (select name from {} where name > %s order by name limit %s) as b"
            ).format(table),
            [after, size],
        )
        found = bite.fetchone()
        assert found is not None
        last, seen = found
        if last is None:
            return None, 0, 0
        rows = (
            self._connection.cursor(row_factory=tuple_row, binary=True)
            .execute(
                sql.SQL(
                    "select name, _payload from {} where name > %s and name <= %s {} order by name for no key update"
                ).format(
                    table,
                    sql.SQL(f"and ({_percent(step.where)})" if step.where else ""),
                ),
                [after, last],
            )
            .fetchall()
        )
        if not rows:
            return last, seen, 0
        encode = self._encode(step.message, step.fields)
        values = [encode(payload) for _, payload in rows]
        columns = step.columns
        sets = sql.SQL(", ").join(
            sql.SQL("{} = v.{}::{}").format(sql.Identifier(c), sql.Identifier(f"c{i}"), sql.SQL(kind))
            for i, (c, kind) in enumerate(columns)
        )
        differs = sql.SQL(" or ").join(
            sql.SQL("t.{} is distinct from v.{}::{}").format(sql.Identifier(c), sql.Identifier(f"c{i}"), sql.SQL(kind))
            for i, (c, kind) in enumerate(columns)
        )
        arrays = [sql.SQL("%s::bytea[]" if kind == "bytea" else "%s::text[]") for _, kind in columns]
        written = self._connection.execute(
            sql.SQL(
                "update {} t set {} from unnest(%s::text[], {}) as v(name, {}) where t.name = v.name and ({})"
            ).format(
                table,
                sets,
                sql.SQL(", ").join(arrays),
                sql.SQL(", ").join(sql.Identifier(f"c{i}") for i in range(len(columns))),
                differs,
            ),
            [[name for name, _ in rows], *([v[i] for v in values] for i in range(len(columns)))],
        )
        return last, seen, written.rowcount


def _together(steps: Iterable[Step]) -> Iterable[list[Step]]:
    """The steps; those that only make what is new, in a row, are one."""
    group: list[Step] = []
    for step in steps:
        if group and not (step.lock == NEW and group[-1].lock == NEW):
            yield group
            group = []
        group.append(step)
    if group:
        yield group


def _percent(text: str) -> str:
    """SQL within SQL that has parameters."""
    return text.replace("%", "%%")
