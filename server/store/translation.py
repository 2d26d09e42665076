"""Postgres' errors, said in ours: one table of SQLSTATEs for both psycopg's exceptions and libpq's results."""

from __future__ import annotations

import psycopg
from psycopg import pq

from server.errors import VALUE_TAKEN, AlreadyExists, Internal, Invalid, Precondition, Refusal, Stale, Unavailable


def refusal_of(cause: BaseException | None) -> Refusal:
    """What a failure of psycopg means to a caller; None is a connection that was lost with a statement under way."""
    sqlstate = getattr(cause, "sqlstate", None)
    if sqlstate is None and (cause is None or isinstance(cause, psycopg.OperationalError)):
        refusal: Refusal = Unavailable("The connection to the database was lost.", reason="OUTCOME_UNKNOWN")
    else:
        refusal = _refusal(sqlstate or "")
    refusal.__cause__ = cause
    return refusal


def refusal_of_result(result: pq.abc.PGresult) -> Refusal:
    """What a failed result of libpq means to a caller. The server's words are the cause, for the log."""
    refusal = _refusal((result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode())
    refusal.__cause__ = psycopg.DatabaseError(result.error_message.decode(errors="replace"))
    return refusal


def _refusal(sqlstate: str) -> Refusal:
    if sqlstate == "23505":  # unique_violation
        # Names are looked at by the statements themselves: it is another index.
        return AlreadyExists("Another resource has a value that must be unique.", reason=VALUE_TAKEN)
    if sqlstate == "23503":  # foreign_key_violation
        return Precondition("Something else refers to it, or what it refers to is gone.")
    if sqlstate in ("22021", "22P05"):  # character_not_in_repertoire, untranslatable_character
        return Invalid("A text holds a character that cannot be stored (U+0000).", reason="CHARACTER_NOT_STORABLE")
    if sqlstate == "54000":  # program_limit_exceeded: an index row
        return Invalid("A value is too large to be stored.", reason="VALUE_TOO_LARGE")
    if sqlstate in ("57014", "25P03"):  # query_canceled, idle_in_transaction_session_timeout: time limits
        return Unavailable("The database took too long.", reason="DATABASE_SLOW")
    if sqlstate == "TR001":  # transom.require_task_handler
        return Precondition("The app has no task of the name that it asked for.", reason="TASK_UNKNOWN")
    if sqlstate in ("40001", "40P01", "55P03"):  # serialization_failure, deadlock_detected, lock_not_available
        return Stale("Others changed the same at the same time; try again.", reason="CONTENTION", retry_after=0.1)
    # connection, resources, operator's intervention (shutdown, timeout), read-only after a switch of primaries
    if sqlstate[:2] in ("08", "53", "57") or sqlstate == "25006":
        return Unavailable("The database is away for now.", reason="DATABASE_AWAY")
    return Internal("The database refused a statement.")
