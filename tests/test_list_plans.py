"""How Postgres carries out lists of large tables: by an index that has their order, or by whose the rows are; never by reading
all that there is and sorting it for one page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import psycopg
import pytest
from library_ground import Database, database, made_of, now

from deploy.native.stack import Stack
from server.query import orders
from server.query.filters import Filters
from server.query.parents import Below
from server.query.rules.checking import rules_of
from server.schema.model import Schema
from server.store import selections
from server.store.selections import Cut, Selection

ROWS, FEW, PAGE = 20_000, 5, 20
OWNERS = "owner == caller.name"
PROTO = """
syntax = "proto3";
package plans.v1;
import "google/api/resource.proto";
import "transom/schema/v1/options.proto";
message Log {
  option (google.api.resource) = {type: "plans.test/Log" pattern: "logs/{log}"};
  string name = 1;
}
message Member {
  option (google.api.resource) = {type: "plans.test/Member" pattern: "logs/{log}/members/{member}"};
  string name = 1;
}
message Entry {
  option (google.api.resource) = {type: "plans.test/Entry" pattern: "logs/{log}/entries/{entry}"};
  option (transom.schema.v1.resource).read = "RULE";
  string name = 1;
  string mark = 2 [(transom.schema.v1.field).index = true];
  bool shared = 3;
  string author = 4 [(transom.schema.v1.field).index = true];
}
"""
FILLED = f"""
    insert into plans_v1.entries
        (name, _parent, _owner, _uid, _version, _create_time, _update_time, _payload, mark, shared, author)
    select 'logs/l/entries/e' || n, 'logs/l', whose, gen_random_uuid(), 1, now(), now(), '',
        lpad((n * 7919 % 1000003)::text, 7, '0'), n % 10 > 0, whose
    from (select n, case when n < {FEW} then 'users/ben' else 'users/ann' end as whose from generate_series(1, {ROWS}) n) as made;
    insert into plans_v1.members (name, _parent, _owner, _uid, _version, _create_time, _update_time, _payload)
    select 'logs/l/members/ann', 'logs/l', '', gen_random_uuid(), 1, now(), now(), '';
    analyze plans_v1.entries, plans_v1.members"""


def schema(rule: str) -> Schema:
    return made_of({"plans.proto": PROTO.replace("RULE", rule)})


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Database]:
    with database(components, schema(OWNERS)) as made:
        made.sql(FILLED)
        yield made


@dataclass(frozen=True)
class Planned:
    sentence: str
    rule: str
    who: str
    by: str
    """A column of the index that serves."""
    order_by: str = "mark"
    filter: str = ""
    roles: tuple[str, ...] = ()
    rows: int = PAGE
    most: int = PAGE
    """Rows that are looked at."""


PLANNED = [
    Planned("all is one's own: the order's index", OWNERS, "ann", "mark"),
    Planned("the same from the end", OWNERS, "ann", "mark", "mark desc"),
    Planned("the same with a filter", OWNERS, "ann", "mark", filter='mark >= "0500000"'),
    Planned("few are one's own: the index of owners", OWNERS, "ben", "_owner", rows=FEW - 1, most=FEW),
    Planned("nothing is", OWNERS, "cid", "_owner", rows=0, most=0),
    Planned("nobody owns nothing: it is not even looked", OWNERS, "", "", rows=0, most=0),
    Planned(
        "a role sees all, and has the order's index",
        OWNERS + " || 'staff' in caller.roles",
        "cid",
        "mark",
        roles=("staff",),
    ),
    Planned(
        "who has not the role has that of owners",
        OWNERS + " || 'staff' in caller.roles",
        "ben",
        "_owner",
        rows=FEW - 1,
        most=FEW,
    ),
    Planned("what nobody can guess: the order's index", "resource.shared || " + OWNERS, "cid", "mark", most=2 * PAGE),
    Planned("what is looked up elsewhere, too", "exists('logs/' + path.log + '/members/' + caller.id)", "ann", "mark"),
    Planned("a part that is told, and one that is not", "resource.shared && " + OWNERS, "ann", "mark", most=2 * PAGE),
    Planned("a field says whose it is: its index", "resource.author == caller.name", "ben", "author", rows=4, most=FEW),
]


@pytest.mark.parametrize("case", PLANNED, ids=lambda case: case.sentence)
def test_a_list_looks_at_about_as_many_rows_as_it_shows(at: Database, case: Planned) -> None:
    plan = explained(at, case)
    scans = [node for node in nodes(plan) if "Relation Name" in node and node["Relation Name"] == "entries"]
    indexes = [node["Index Name"] for node in nodes(plan) if "Index Name" in node]
    assert plan["Actual Rows"] == case.rows
    assert sum(one["Actual Rows"] + one.get("Rows Removed by Filter", 0) for one in scans) <= case.most
    assert not case.by or any(case.by in columns(at, index) for index in indexes), indexes
    if case.by == "mark":
        assert [node["Node Type"] for node in nodes(plan)].count("Sort") <= 1  # of the page, to say its order
        assert "Incremental Sort" not in [node["Node Type"] for node in nodes(plan)]


def test_postgres_learns_how_far_a_parent_tells_an_owner(at: Database) -> None:
    assert at.sql("select kinds from pg_stats_ext where tablename = 'entries'") == [(["f"],)]


def explained(at: Database, case: Planned) -> dict[str, Any]:
    """How a page is planned for these parameters, and carried out."""
    made = schema(case.rule)
    resource = made.resources["plans.v1.Entry"]
    asking = {
        "name": f"users/{case.who}" if case.who else "",
        "id": case.who,
        "kind": "user" if case.who else "nobody",
        "roles": case.roles,
        "verified": True,
        "session_age": None,
        "now": "2026-01-01T00:00:00+00:00",
    }
    filters = (Filters(made, resource).parse(case.filter),) if case.filter else ()
    selection = Selection(resource, Below("logs/l"), filters, orjson.dumps(asking), False, now())
    cut = Cut(orders.parse(case.order_by, made, resource), None, PAGE, 0)
    [text, *_] = selections.pages(selection, cut, rules_of(made).resources["plans.v1.Entry"])
    with psycopg.connect(at.postgres, autocommit=True, cursor_factory=psycopg.RawCursor) as connection:
        said = f"explain (analyze, timing off, format json) {text.statement}"
        row = connection.execute(said.encode(), text.parameters, prepare=False).fetchone()
    assert row is not None
    plan: dict[str, Any] = row[0][0]["Plan"]
    return plan


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def columns(at: Database, index: str) -> str:
    """The definition of an index of entries."""
    [[found]] = at.sql("select indexdef from pg_indexes where schemaname = 'plans_v1' and indexname = %s", index)
    return str(found)
