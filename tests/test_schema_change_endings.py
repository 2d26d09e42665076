"""Resources begin to expire, or to be deleted softly, and say otherwise for how long: rows that are there follow, and none goes
by surprise."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from library_ground import ADA, Database, database, engine, made_of
from schema_change_ground import applied

from deploy.native.stack import Stack
from server.engine.endings import Endings
from server.engine.rewriting import encoder
from server.schema.changes.indexes import ends
from server.schema.compilation import SchemaError
from server.schema.model import Schema
from server.store.migrations import changing
from server.store.schemas.applying import Applying
from server.store.schemas.execution import Execution

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def place(components: Stack) -> Iterator[Database]:
    with database(components, None) as made:
        yield made


@pytest.fixture
def at(place: Database) -> Database:
    """The database as it was made."""
    for (schema,) in place.sql("select nspname from pg_namespace where nspname !~ '^(pg_|information_schema|public)'"):
        place.sql(f"drop schema {schema} cascade")
    return place


def tickets(*, expires: bool = False, retention: int = 0) -> Schema:
    """A schema of Tickets with an `expire_time` and a `delete_time`, which mean what is said."""
    times = "google.protobuf.Timestamp expire_time = 2;"
    if expires:
        times = f"oneof expiration {{ {times} google.protobuf.Duration ttl = 3 [(google.api.field_behavior) = INPUT_ONLY]; }}"
    option = f"option (transom.schema.v1.resource) = {{retention: {{seconds: {retention}}}}};" if retention else ""
    undelete = (
        "service Tickets { rpc UndeleteTicket(UndeleteTicketRequest) returns (Ticket) "
        '{ option (google.api.http) = {post: "/v1/{name=tickets/*}:undelete" body: "*"}; } }\n'
        "message UndeleteTicketRequest { string name = 1; }"
    )
    return made_of(
        {
            "fair.proto": 'syntax = "proto3";\npackage fair.v1;\nimport "google/api/annotations.proto";\n'
            'import "google/api/resource.proto";\nimport "google/api/field_behavior.proto";\n'
            'import "google/protobuf/timestamp.proto";\nimport "google/protobuf/duration.proto";\n'
            'import "transom/schema/v1/options.proto";\n'
            "message Ticket {\n"
            '  option (google.api.resource) = {type: "fair.test/Ticket" pattern: "tickets/{ticket}"};\n'
            f"  {option}\n  string name = 1;\n  {times}\n"
            "  google.protobuf.Timestamp delete_time = 4 [(google.api.field_behavior) = OUTPUT_ONLY];\n}\n"
            f"{undelete if retention else ''}\n"
        }
    )


def plant(at: Database, id: str, **times: datetime) -> None:
    """A ticket, as it was written before anything went by itself."""
    ticket = tickets().message_class("fair.v1.Ticket")(name=f"tickets/{id}")
    for name, value in times.items():
        getattr(ticket, name).FromDatetime(value)
    names, given = "".join(f", {c}" for c in times), "".join(", %s" for _ in times)
    at.sql(
        "insert into fair_v1.tickets (name, _parent, _uid, _owner, _version, _create_time, _update_time, _payload"
        f"{names}) values (%s, '', gen_random_uuid(), '', 1, now(), now(), %s{given})",
        ticket.name,
        ticket.SerializeToString(),
        *times.values(),
    )


def kept(at: Database) -> dict[str, tuple[Any, Any]]:
    """When each was deleted and when it goes, as its row says."""
    rows = at.sql("select name, _delete_time, _expire_time from fair_v1.tickets order by name")
    return {name.removeprefix("tickets/"): (deleted, goes) for name, deleted, goes in rows}


def test_rows_expire_as_those_that_are_written_now(at: Database) -> None:
    assert applied(at, tickets())
    plant(at, "later", expire_time=NOW + DAY)
    plant(at, "never")
    assert applied(at, tickets(expires=True))
    assert kept(at) == {"later": (None, NOW + DAY), "never": (None, None)}
    assert applied(at, tickets())
    assert kept(at) == {"later": (None, None), "never": (None, None)}, "what does not expire says nothing of it"
    assert applied(at, tickets(expires=True)), "and once more"
    assert kept(at) == {"later": (None, NOW + DAY), "never": (None, None)}


def test_what_is_over_does_not_go_by_surprise(at: Database) -> None:
    assert applied(at, tickets())
    plant(at, "over", expire_time=NOW - DAY)
    plant(at, "gone", delete_time=NOW - 3 * DAY)
    with pytest.raises(
        SchemaError,
        match=r"fair\.proto: fair\.v1\.Ticket\.expire_time: would expire, and 1 rows are over: .*: delete these rows, or",
    ):
        applied(at, tickets(expires=True))
    with pytest.raises(
        SchemaError, match=r"Ticket\.delete_time: would be deleted softly, and 1 rows were deleted longer"
    ):
        applied(at, tickets(retention=2 * 24 * 3600))
    assert kept(at) == {"over": (None, None), "gone": (None, None)}


def test_what_says_it_was_deleted_is_and_goes_by_the_retention(at: Database) -> None:
    week = 7 * 24 * 3600
    assert applied(at, tickets())
    plant(at, "gone", delete_time=NOW - DAY)
    plant(at, "here")
    schema = tickets(retention=week)
    assert applied(at, schema)
    assert kept(at) == {"gone": (NOW - DAY, NOW + 6 * DAY), "here": (None, None)}

    async def swept() -> int:
        async with engine(at, schema=schema) as on:
            done = await Endings(on.schema, on.decisions, on.records).sweep()
            ticket = schema.resources["fair.v1.Ticket"]
            assert await on.resources.get(ADA, ticket, "tickets/here")
            return done

    assert asyncio.run(swept()) == 0
    # A shorter retention is for what was deleted before, too.
    assert applied(at, tickets(retention=2 * 24 * 3600))
    assert kept(at)["gone"] == (NOW - DAY, NOW + DAY)
    assert applied(at, schema) and kept(at)["gone"] == (NOW - DAY, NOW + 6 * DAY)


def test_an_apply_that_dies_between_the_rows_and_the_index_is_finished(
    at: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert applied(at, tickets())
    plant(at, "t", expire_time=NOW + DAY)
    at.sql(
        "insert into fair_v1.tickets (name, _parent, _uid, _owner, _version, _create_time, _update_time, _payload, expire_time) "
        "select name || i, _parent, gen_random_uuid(), '', 1, now(), now(), _payload, expire_time "
        "from fair_v1.tickets, generate_series(1, 449) i"
    )
    schema = tickets(expires=True)
    one = Execution._rebuild  # two batches, and then the end
    left = iter(range(2))

    def dies(*given: Any) -> Any:
        if next(left, None) is None:
            raise psycopg.OperationalError("killed")
        return one(*given)

    with monkeypatch.context() as patched:
        patched.setattr(Execution, "_rebuild", dies)
        with pytest.raises(psycopg.OperationalError, match="killed"):
            applied(at, schema)
    index = f"fair_v1.{ends(schema.resources['fair.v1.Ticket']).name}"
    assert at.sql("select to_regclass(%s)", index) == [(None,)], "the index says that all rows do"
    assert applied(at, schema)
    assert {goes for _, goes in kept(at).values()} == {NOW + DAY}
    assert at.sql("select indisvalid from pg_index where indexrelid = %s::regclass", index) == [(True,)]
    # An index that somebody removed is made again beside the servers, and no row is looked at for it.
    at.sql(f"drop index {index}")
    with changing(at.postgres) as (connection, _):
        done, complete = Applying(connection, schema, encode=encoder(schema)).apply()
    assert complete and len(done) == 1 and "create index concurrently" in done[0]
