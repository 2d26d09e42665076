"""What is refused and why, what waits for whom, and what is redone: changes of schema that do not go through at once."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from library_ground import Database, database, made_of
from schema_change_ground import applied

from deploy.native.stack import PROJECT, Stack
from server.engine.rewriting import encoder
from server.schema.changes.indexes import wanted
from server.schema.changes.planning import planned
from server.schema.changes.state import State
from server.schema.compatibility import Breaks, breaks, verdict
from server.schema.compilation import SchemaError
from server.schema.model import Schema
from server.store.migrations import changing
from server.store.schemas import versions
from server.store.schemas.applying import Applying
from server.store.schemas.catalogue import state


@pytest.fixture(scope="module")
def place(components: Stack) -> Iterator[Database]:
    with database(components, None) as made:
        yield made


@pytest.fixture
def empty(place: Database) -> Database:
    """The database as it was made."""
    for (schema,) in place.sql("select nspname from pg_namespace where nspname !~ '^(pg_|information_schema|public)'"):
        place.sql(f"drop schema {schema} cascade")
    return place


def garden(body: str, more: str = "", pattern: str = '"beds/{bed}"', rules: str = 'read: "true"') -> Schema:
    """A schema with a resource Bed of that body."""
    return made_of(
        {
            "garden.proto": 'syntax = "proto3";\npackage garden.v1;\nimport "google/api/resource.proto";\n'
            'import "google/api/field_behavior.proto";\nimport "transom/schema/v1/options.proto";\n'
            "message Bed {\n"
            f'  option (google.api.resource) = {{type: "garden.test/Bed" pattern: {pattern} plural: "beds"}};\n'
            f"  option (transom.schema.v1.resource) = {{{rules}}};\n"
            f"  string name = 1;\n  {body}\n}}\n{more}\n"
        }
    )


def plant(at: Database, name: str, **values: Any) -> None:
    """A row, put there by hand."""
    names, given = "".join(f", {c}" for c in values), "".join(", %s" for _ in values)
    at.sql(
        "insert into garden_v1.beds (name, _parent, _uid, _owner, _version, _create_time, _update_time, _payload"
        f"{names}) values (%s, '', gen_random_uuid(), '', 1, now(), now(), ''{given})",
        name,
        *values.values(),
    )


@contextmanager
def running(at: Database) -> Iterator[None]:
    """As if a process served what is deployed now."""
    with psycopg.connect(at.postgres, autocommit=True) as connection:
        [[version]] = at.sql("select version from transom.schemas where state = 'serving'")
        connection.execute("select pg_advisory_lock_shared(%s, %s)", [versions.SERVED, version])
        yield


ENUM = "enum Kind { NONE = 0; OPEN = 1; SHUT = 2; }"


@dataclass(frozen=True)
class Case:
    sentence: str
    before: Schema | Any
    after: Schema | Any
    refused: str
    """What it says, a regular expression."""
    rows: tuple[dict[str, Any], ...] = ({},)


CASES = [
    Case(
        "another type under an old number",
        lambda: garden("string a = 2;"),
        lambda: garden("int32 a = 2;"),
        r"^garden\.proto: garden\.v1\.Bed\.a: number 2 is kept as text and would become integer: give the field a new number$",
    ),
    Case(
        "another type that has the same column",
        lambda: garden("int64 a = 2;"),
        lambda: garden("sint64 a = 2;"),
        r"Bed\.a: number 2: int64 would become sint64: give the field a new number",
    ),
    Case(
        "another type deep in a message",
        lambda: garden("Part p = 2;", "message Part { Leaf leaf = 1; } message Leaf { string t = 3; }"),
        lambda: garden("Part p = 2;", "message Part { Leaf leaf = 1; } message Leaf { bytes t = 3; }"),
        r"Bed\.p: number 2: p\.leaf\.t: string would become bytes",
    ),
    Case(
        "what rows lack, required",
        lambda: garden("string a = 2;"),
        lambda: garden("string a = 2 [(google.api.field_behavior) = REQUIRED];"),
        r"Bed\.a: would be REQUIRED, and 2 rows have nothing there: .*: add it without REQUIRED",
        ({"a": "x"}, {}, {}),
    ),
    Case(
        "a new field, required at once",
        lambda: garden("string a = 2;"),
        lambda: garden("string a = 2; string b = 3 [(google.api.field_behavior) = REQUIRED];"),
        r"Bed\.b: would be REQUIRED, and 1 rows",
    ),
    Case(
        "a pattern with resources",
        lambda: garden("", pattern='"beds/{bed}" pattern: "plots/{plot}/beds/{bed}"'),
        lambda: garden("", pattern='"plots/{plot}/beds/{bed}"'),
        r"Bed: the pattern beds/\{bed\} is gone, and 1 resources have such names",
    ),
    Case(
        "an enum value that rows have",
        lambda: garden("Kind k = 2;", ENUM),
        lambda: garden("Kind k = 2;", "enum Kind { NONE = 0; OPEN = 1; }"),
        r"Bed\.k: the enum value SHUT is gone, and 1 rows have it",
        ({"k": "SHUT"}, {"k": "OPEN"}),
    ),
    Case(
        "an enum value that documents have",
        lambda: garden("repeated Part p = 2;", ENUM + "message Part { Kind k = 1; }"),
        lambda: garden("repeated Part p = 2;", "enum Kind { NONE = 0; OPEN = 1; } message Part { Kind k = 1; }"),
        r"Bed\.p: the enum value SHUT is gone, and 1 rows",
        ({"p": '[{"k": "SHUT"}]'}, {"p": '[{"k": "OPEN"}]'}),
    ),
    Case(
        "negative numbers without a sign",
        lambda: garden("int32 n = 2;"),
        lambda: garden("uint32 n = 2;"),
        r"Bed\.n: int32 would become uint32, and 1 rows have a negative value",
        ({"n": -1}, {"n": 1}),
    ),
    Case(
        "values that are there twice, unique",
        lambda: garden("string a = 2;"),
        lambda: garden("string a = 2 [(transom.schema.v1.field).unique = true];"),
        r"Bed\.a: would be unique, and 1 values are there more than once",
        ({"a": "x"}, {"a": "x"}, {"a": ""}, {"a": ""}),
    ),
    Case(
        "two fields that could be set together, one of each other",
        lambda: garden("optional string a = 2; optional string b = 3;"),
        lambda: garden("oneof one { string a = 2; string b = 3; }"),
        r"Bed\.one: a, b could be set together",
    ),
    Case(
        "names that are exchanged while servers run",
        lambda: garden("string a = 2; string b = 3;"),
        lambda: garden("string b = 2; string a = 3;"),
        r"the column '[ab]' is that of number [23] for the servers that run.*free the name in one change",
    ),
    Case(
        "another name of what a rule names, in a document",
        lambda: garden("Part p = 2;", "message Part { bool hidden = 1; }", rules='read: "!resource.p.hidden"'),
        lambda: garden("Part p = 2;", "message Part { bool secret = 1; }", rules='read: "!resource.p.secret"'),
        r"Bed\.p: hidden, secret would be called or kept otherwise, and a rule names hidden",
    ),
    Case(
        "another name of an enum value that a rule names",
        lambda: garden("Kind k = 2;", ENUM, rules='read: "resource.k == Kind.OPEN"'),
        lambda: garden("Kind k = 2;", ENUM.replace("OPEN", "WIDE"), rules='read: "resource.k == Kind.WIDE"'),
        r"Bed\.k: OPEN, WIDE would be called or kept otherwise, and a rule names OPEN",
    ),
    Case(
        "a table that is another's for the servers that run",
        lambda: garden("string a = 2;"),
        lambda: made_of(
            {
                "garden.proto": 'syntax = "proto3";\npackage garden.v1;\nimport "google/api/resource.proto";\n'
                'message Plot { option (google.api.resource) = {type: "garden.test/Plot" pattern: "plots/{plot}" '
                'plural: "beds"}; string name = 1; }\n'
            }
        ),
        r"Plot: its table garden_v1\.beds is that of garden\.v1\.Bed for the servers that run",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.sentence)
def test_refused_with_the_reason_and_nothing_is_done(empty: Database, case: Case) -> None:
    assert applied(empty, case.before())
    for i, row in enumerate(case.rows):
        plant(empty, f"beds/{i}", **row)
    before = _catalogue(empty)
    with running(empty), pytest.raises(SchemaError, match=case.refused):
        applied(empty, case.after())
    assert _catalogue(empty) == before
    assert applied(empty, case.before()), "what is deployed is as it was"


def _catalogue(at: Database) -> Any:
    return at.sql(
        "select c.relname, a.attname, format_type(a.atttypid, a.atttypmod) from pg_class c join pg_attribute a "
        "on a.attrelid = c.oid where relnamespace = 'garden_v1'::regnamespace order by 1, 2"
    )


def test_a_number_is_not_used_again_for_another_field(empty: Database) -> None:
    assert applied(empty, garden("string a = 2; string b = 3;"))
    plant(empty, "beds/1", b="old")
    assert applied(empty, garden("string a = 2;"))
    with pytest.raises(SchemaError, match=r"Bed\.c: number 3 was that of 'b', whose values are still there"):
        applied(empty, garden("string a = 2; string c = 3;"))
    assert applied(empty, garden("string a = 2; string b = 3;")), "the field itself may come back"
    assert empty.sql("select b from garden_v1.beds") == [("old",)]


def test_names_are_exchanged_where_nobody_looks_on(empty: Database) -> None:
    assert applied(empty, garden("string a = 2; string b = 3;"))
    plant(empty, "beds/1", a="first", b="second")
    assert applied(empty, garden("string b = 2; string a = 3;"))
    assert empty.sql("select b, a from garden_v1.beds") == [("first", "second")]


def test_while_both_run_both_names_are_there_and_then_the_new_one(empty: Database) -> None:
    assert applied(empty, garden("string a = 2; int32 n = 3;"))
    plant(empty, "beds/1", a="x", n=7)
    later = garden("string soil = 2; int64 n = 3;")
    with running(empty):
        assert not applied(empty, later)
        plant(empty, "beds/2", a="y", n=8)  # as servers of the version before write
        plant(empty, "beds/3", soil="z", n=2**40)  # as those of the new one
        empty.sql("update garden_v1.beds set soil = 'changed' where a = 'x'")
        assert empty.sql("select a, soil, n from garden_v1.beds order by name") == [
            ("changed", "changed", 7),
            ("y", "y", 8),
            ("z", "z", 2**40),
        ]
        assert not applied(empty, later), "as long as one runs"
    assert applied(empty, later)
    assert empty.sql("select soil, n from garden_v1.beds order by name") == [("changed", 7), ("y", 8), ("z", 2**40)]
    assert empty.sql("select count(*) from pg_views where schemaname = 'garden_v1'") == [(0,)]


def test_back_to_the_version_before(empty: Database) -> None:
    first, second = garden("string a = 2;"), garden("string soil = 2; string more = 3;")
    assert applied(empty, first)
    plant(empty, "beds/1", a="x")
    with running(empty):
        assert not applied(empty, second)
        with pytest.raises(SchemaError, match=r"version 2 is half-way \(expanded, by test\)"):
            applied(empty, garden("string third = 2;"))
    assert applied(empty, first)
    assert empty.sql("select a from garden_v1.beds") == [("x",)]
    assert empty.sql("select state from transom.schemas order by version") == [("past",), ("past",), ("serving",)]


def test_a_column_is_renamed_as_soon_as_who_holds_the_table_lets_go(empty: Database) -> None:
    """Waiting for the lock keeps nobody waiting behind it for more than a second."""
    assert applied(empty, garden("string a = 2;"))
    said: list[str] = []
    held = threading.Event()
    with psycopg.connect(empty.postgres) as holder:
        holder.execute("select * from garden_v1.beds")

        def let_go(text: str) -> None:
            said.append(text)
            if "others hold it" in text:
                holder.rollback()
                held.set()

        schema = garden("string soil = 2;")
        with changing(empty.postgres, let_go) as (connection, _):
            assert Applying(connection, schema, encode=encoder(schema), report=let_go).apply()[1]
    assert held.is_set()
    assert said == ["garden_v1.beds: others hold it; trying again"]


def test_an_index_whose_build_was_interrupted_is_built_anew(empty: Database) -> None:
    assert applied(empty, garden("string a = 2;"))
    later = garden("string a = 2 [(transom.schema.v1.field).unique = true];")
    [index] = wanted(later.resources["garden.v1.Bed"])
    plant(empty, "beds/1", a="x")
    plant(empty, "beds/2", a="x")
    with pytest.raises(psycopg.errors.UniqueViolation):
        empty.sql(index.statement(("garden_v1", "beds"), beside=True))
    valid = f"select indisvalid from pg_index where indexrelid = 'garden_v1.{index.name}'::regclass"
    assert empty.sql(valid) == [(False,)]
    empty.sql("delete from garden_v1.beds where name = 'beds/2'")
    assert applied(empty, later)
    assert empty.sql(valid) == [(True,)]
    # And one that is not declared any more goes.
    assert applied(empty, garden("string a = 2;"))
    assert empty.sql("select to_regclass(%s)", f"garden_v1.{index.name}") == [(None,)]


def test_one_apply_at_a_time_and_who_waits_says_for_whom(empty: Database) -> None:
    schema = garden("string a = 2;")
    said: list[str] = []
    with changing(empty.postgres) as (connection, _):
        done = threading.Event()

        def second() -> None:
            with changing(empty.postgres, lambda text: (said.append(text), waiting.set())) as (other, _):
                assert Applying(other, schema).apply() == ([], True), "the first has done it"
            done.set()

        waiting = threading.Event()
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(20)
        assert Applying(connection, schema).apply()[1]
    assert done.wait(20)
    thread.join()
    assert len(said) == 1 and re.match(r"waiting for transom apply from .*backend \d+, since ", said[0])


def test_a_wider_column_that_is_not_wanted_any_more_goes(empty: Database) -> None:
    """An apply was killed after it had begun; then the schema is as it was."""
    first, wider = garden("int32 n = 2;"), garden("int64 n = 2;")
    assert applied(empty, first)
    plant(empty, "beds/1", n=7)
    with changing(empty.postgres) as (connection, _):
        begun = planned(state(connection), wider, first, old_runs=True).steps[0]
        for statement in begun.statements:
            connection.execute(statement.encode())
    assert empty.sql("select _next2 from garden_v1.beds") == [(0,)]
    assert applied(empty, garden("int32 n = 2; string more = 3;"))
    assert empty.sql("select * from pg_attribute where attname = '_next2' and not attisdropped") == []
    assert empty.sql("select proname from pg_proc where pronamespace = 'garden_v1'::regnamespace") == []
    assert empty.sql("select n from garden_v1.beds") == [(7,)]


def test_a_history_of_versions_is_kept_and_bounded(empty: Database) -> None:
    for i in range(versions.HISTORY + 5):
        assert applied(empty, garden(f"string a{i} = {i + 2};"))
    kept = empty.sql("select version, state, octet_length(image) > 100, who from transom.schemas order by version")
    assert len(kept) <= versions.HISTORY + 1
    assert kept[-1][1:] == ("serving", True, "test")
    assert {state for _, state, *_ in kept[:-1]} == {"past"}


# ------------------------------------------------------------------------------------------------- whom it breaks


@pytest.mark.parametrize(
    ("after", "whom", "rules"),
    [
        ("string a = 2; int32 n = 3; string new = 4;", Breaks.NONE, set()),
        ("string soil = 2; int32 n = 3;", Breaks.JSON, {"FIELD_SAME_NAME", "FIELD_SAME_JSON_NAME"}),
        ("string a = 2; int64 n = 3;", Breaks.JSON, {"FIELD_WIRE_JSON_COMPATIBLE_TYPE"}),
        ("string a = 2; string n = 3;", Breaks.WIRE, {"FIELD_WIRE_JSON_COMPATIBLE_TYPE"}),
        ("string a = 2; reserved 3; reserved \"n\";", Breaks.NONE, set()),
    ],
)  # fmt: skip
def test_whom_a_change_breaks(after: str, whom: Breaks, rules: set[str]) -> None:
    found = breaks(garden("string a = 2; int32 n = 3;").image, garden(after).image)
    assert verdict(found) is whom
    assert {b.rule for b in found} == rules
    assert all(b.where.startswith("garden.proto") for b in found)


def test_a_plan_of_nothing_is_the_tables() -> None:
    """Pure: the same schema always gives the same plan."""
    one, other = (planned(State(), garden("string a = 2;")) for _ in range(2))
    assert one == other
    assert [s.lock for s in one.steps] == ["none that anybody waits for: it is new"]


# ------------------------------------------------------------------------------------------------- as commands


def transom(at: Database, tmp: Path, schema: Schema, *words: str) -> tuple[int, str, str]:
    """Exit code and output of a command about that schema."""
    image = tmp / "app.binpb"
    image.write_bytes(schema.image)
    run = subprocess.run(
        [sys.executable, "-m", "server.cli", *words, "--descriptor", str(image)],
        env={**os.environ, "TRANSOM_POSTGRES": at.postgres},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.returncode, run.stdout, run.stderr


def test_what_breaks_clients_and_no_table_is_refused_too(empty: Database, tmp_path: Path) -> None:
    first, second = (
        garden("string a = 2;", f"message Asked {{ {body} }}") for body in ("string q = 1;", "int32 q = 1;")
    )
    assert applied(empty, first)
    code, out, _ = transom(empty, tmp_path, second, "plan", "--json")
    assert code == 3 and json.loads(out)["breaks"] == "wire" and json.loads(out)["steps"] == []
    code, _, said = transom(empty, tmp_path, second, "apply", "--accept-breaking", "json")
    assert code == 3 and "every client" in said
    code, _, _ = transom(empty, tmp_path, second, "apply", "--accept-breaking", "wire")
    assert code == 0
    code, out, _ = transom(empty, tmp_path, second, "plan", "--json")
    assert code == 0 and json.loads(out)["breaks"] == "none"


def test_plan_and_apply_as_commands(empty: Database, tmp_path: Path) -> None:
    first, second = garden("string a = 2; int32 n = 3;"), garden("string soil = 2; int32 n = 3; string more = 4;")
    code, out, _ = transom(empty, tmp_path, first, "apply")
    assert code == 0 and "create table" in out and "done" in out
    plant(empty, "beds/1", a="x")
    with running(empty):
        code, out, _ = transom(empty, tmp_path, second, "plan", "--json")
        told = json.loads(out)
        assert code == 3 and told["breaks"] == "json" and not told["applies"]
        assert {b["rule"] for b in told["breaking"]} == {"FIELD_SAME_NAME", "FIELD_SAME_JSON_NAME"}
        assert told["running"] == {"1": 1}
        [step] = told["steps"]
        assert step["lock"] == "ACCESS EXCLUSIVE, for a moment"
        assert any("create view" in sql for sql in step["sql"])
        assert any("drop view" in sql for later in told["later"] for sql in later["sql"])
        code, out, said = transom(empty, tmp_path, second, "apply")
        assert code == 3 and "it breaks clients that speak JSON" in said and "--accept-breaking json" in said
        assert empty.sql("select a from garden_v1.beds") == [("x",)]
        code, out, _ = transom(empty, tmp_path, second, "apply", "--accept-breaking", "json")
        assert code == 4 and "replace them, then apply again" in out
    code, out, _ = transom(empty, tmp_path, second, "apply")  # it was accepted when it was begun
    assert code == 0 and "drop view" in out
    code, out, _ = transom(empty, tmp_path, second, "plan")
    assert code == 0 and "the tables are as the schema wants them" in out
