"""The tables follow the schema: what is added, renamed, left behind and refused, on a real Postgres."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from library_ground import ADA, Database, asynchronous, database, engine, library_descriptor, made_of

from deploy.native.stack import Stack
from server.engine.lists import Wanted
from server.engine.rewriting import encoder
from server.schema.compilation import SchemaError
from server.schema.model import Schema
from server.schema.reading import read
from server.schema.tables import SYSTEM
from server.store.migrations import migrate


@pytest.fixture(scope="module")
def place(components: Stack) -> Iterator[Database]:
    with database(components, None) as made:
        yield made


@pytest.fixture
def empty(place: Database) -> Database:
    """The database as it was made."""
    for (schema,) in place.sql("select nspname from pg_namespace where nspname !~ '^(pg_|information_schema|public)'"):
        place.sql(f"drop schema {schema} cascade")
    place.sql("drop table if exists public.events")
    return place


def garden(*messages: str, package: str = "garden.v1") -> Schema:
    """A schema of messages, each with a resource option in its text."""
    head = f'syntax = "proto3";\npackage {package};\nimport "google/api/resource.proto";\n'
    return made_of({"garden.proto": head + "\n".join(messages)})


def bed(fields: str, plural: str = "beds", name: str = "Bed", names: str = "beds") -> str:
    option = (
        f'option (google.api.resource) = {{type: "garden.test/{name}" pattern: "{names}/{{bed}}" plural: "{plural}"}};'
    )
    return f"message {name} {{ {option} string name = 1; {fields} }}\n"


def columns(at: Database, table: str = "beds") -> dict[str, str]:
    """Name and type of a table's columns, without Transom's own."""
    rows = at.sql(
        "select attname, format_type(atttypid, atttypmod) from pg_attribute "
        "where attrelid = %s::regclass and attnum > 0 and not attisdropped",
        f"garden_v1.{table}",
    )
    own = {name for name, _ in SYSTEM}
    return {name: kind for name, kind in rows if name not in own}


def plant(at: Database, name: str, table: str = "beds", **values: str) -> None:
    """A row, put there by hand."""
    names, given = "".join(f", {c}" for c in values), "".join(", %s" for _ in values)
    at.sql(
        f"insert into garden_v1.{table} (name, _parent, _uid, _owner, _version, _create_time, _update_time, _payload{names}) "
        f"values (%s, '', gen_random_uuid(), '', 1, now(), now(), ''{given})",
        name,
        *values.values(),
    )


# ------------------------------------------------------------------------------------------------- what a schema becomes


@dataclass(frozen=True)
class Change:
    sentence: str
    before: str
    after: str
    columns: dict[str, str]
    data: dict[str, str] = field(default_factory=dict)
    """Column → what the row that held `old` in a text and 7 in a number has there afterwards."""


CHANGES = [
    Change(
        "a field is added",
        "string a = 2;",
        "string a = 2; optional int64 n = 3;",
        {"a": "text", "n": "bigint"},
        {"a": "old"},
    ),
    Change("a renamed field keeps its data", "string a = 2;", "string soil = 2;", {"soil": "text"}, {"soil": "old"}),
    Change(
        "a removed field keeps its column",
        "string a = 2; int32 n = 3;",
        "string a = 2;",
        {"a": "text", "n": "integer"},
        {"n": "7"},
    ),
    Change(
        "a new field of a removed one's name gets the name, and none of its data",
        "string a = 3;",
        "string a = 9;",
        {"_was3_a": "text", "a": "text"},
        {"a": "", "_was3_a": "old"},
    ),
    Change(
        "a new field of a removed one's name may have another type",
        "string a = 3;",
        "int32 a = 9;",
        {"_was3_a": "text", "a": "integer"},
        {"a": "0"},
    ),
    Change(
        "a field is renamed to what a removed one was called",
        "string a = 2; int32 n = 3;",
        "string n = 2;",
        {"n": "text", "_was3_n": "integer"},
        {"n": "old", "_was3_n": "7"},
    ),
    Change(
        "two fields change names with each other",
        "string a = 2; int32 n = 3;",
        "string n = 2; int32 a = 3;",
        {"n": "text", "a": "integer"},
        {"n": "old", "a": "7"},
    ),
    Change(
        "names move on in a row",
        "string a = 2; int32 n = 3;",
        "string n = 2; int32 m = 3; bool a = 4;",
        {"n": "text", "m": "integer", "a": "boolean"},
        {"n": "old", "m": "7", "a": "false"},
    ),
]


@pytest.mark.parametrize("case", CHANGES, ids=lambda c: c.sentence)
def test_a_table_follows_its_message(empty: Database, case: Change) -> None:
    migrate(empty.postgres, garden(bed(case.before)))
    before = columns(empty)
    plant(empty, "beds/1", **{c: "old" if kind == "text" else "7" for c, kind in before.items()})
    after = garden(bed(case.after))
    migrate(empty.postgres, after)
    assert columns(empty) == case.columns
    for column, value in case.data.items():
        assert empty.sql(f"select {column}::text from garden_v1.beds") == [(value,)], column
    assert migrate(empty.postgres, after) == [], "a second time there is nothing to do"
    # And back: every number finds its own column again.
    migrate(empty.postgres, garden(bed(case.before)))
    for column, kind in before.items():
        assert empty.sql(f"select {column}::text from garden_v1.beds") == [("old" if kind == "text" else "7",)], column


def test_a_field_that_learns_absence_may_be_absent(empty: Database) -> None:
    migrate(empty.postgres, garden(bed("int32 n = 2; string a = 3;")))
    plant(empty, "beds/1", n="7", a="old")
    later = garden(bed("optional int32 n = 2; string a = 3;"))
    plant(empty, "beds/2", n="0", a="old")
    assert len(migrate(empty.postgres, later, encoder(later))) == 2
    assert empty.sql("select name, n from garden_v1.beds order by name") == [("beds/1", 7), ("beds/2", None)]
    empty.sql("update garden_v1.beds set n = null")
    assert migrate(empty.postgres, later) == []
    with pytest.raises(Exception, match="null value"):
        empty.sql("update garden_v1.beds set a = null")


def test_a_changed_type_is_refused_and_nothing_is_done(empty: Database) -> None:
    migrate(empty.postgres, garden(bed("string a = 2; int32 n = 3;")))
    with pytest.raises(SchemaError) as refused:
        migrate(
            empty.postgres, garden(bed("int32 a = 2; string n = 3; string new = 4;"), bed("", "ponds", "Pond", "ponds"))
        )
    told = str(refused.value).splitlines()
    assert told == [
        "garden.proto: garden.v1.Bed.a: number 2 is kept as text and would become integer: give the field a new number",
        "garden.proto: garden.v1.Bed.n: number 3 is kept as integer and would become text: give the field a new number",
    ]
    assert columns(empty) == {"a": "text", "n": "integer"}
    assert empty.sql("select to_regclass('garden_v1.ponds')") == [(None,)]


def test_names_stay_in_their_field(empty: Database) -> None:
    migrate(empty.postgres, garden(bed("string a = 2;")))
    moved = bed("string a = 2;").replace("string name = 1;", "string name = 7;")
    with pytest.raises(SchemaError, match=r"garden\.v1\.Bed: the names are in another field than they were"):
        migrate(empty.postgres, garden(moved))


# ------------------------------------------------------------------------------------------------- tables as a whole


def test_a_new_resource_gets_a_table_and_an_old_one_keeps_it(empty: Database) -> None:
    migrate(empty.postgres, garden(bed("string a = 2;")))
    plant(empty, "beds/1", a="old")
    migrate(empty.postgres, garden(bed("", "ponds", "Pond", "ponds")))
    assert columns(empty, "ponds") == {}
    assert empty.sql("select a from garden_v1.beds") == [("old",)]


def test_tables_made_before_rows_were_found_by_their_owner_are_given_the_index_even_those_of_removed_resources(
    empty: Database,
) -> None:
    def indexed() -> list[str]:
        rows = empty.sql("select tablename from pg_indexes where indexdef like '%% (_owner)' order by tablename")
        return [name for (name,) in rows]

    migrate(empty.postgres, garden(bed("string a = 2;"), bed("", "ponds", "Pond", "ponds")))
    assert indexed() == ["beds", "ponds"]
    empty.sql("drop index garden_v1.beds__owner_idx")
    empty.sql("drop index garden_v1.ponds__owner_idx")
    later = garden(bed("string a = 2;", plural="plots"))
    assert len(migrate(empty.postgres, later)) == 3, "two indexes and the other name"
    assert indexed() == ["plots", "ponds"]
    assert migrate(empty.postgres, later) == []


def test_another_plural_renames_the_table(empty: Database) -> None:
    migrate(empty.postgres, garden(bed("string a = 2;")))
    plant(empty, "beds/1", a="old")
    migrate(empty.postgres, garden(bed("string soil = 2; string b = 3;", plural="plots")))
    assert empty.sql("select soil, b from garden_v1.plots") == [("old", "")]
    assert empty.sql("select distinct table_name from transom.catalogue") == [("plots",)]


def test_resources_may_change_tables_names_with_each_other(empty: Database) -> None:
    migrate(empty.postgres, garden(bed("string a = 2;"), bed("string p = 2;", "ponds", "Pond", "ponds")))
    plant(empty, "beds/1", a="bed")
    plant(empty, "ponds/1", "ponds", p="pond")
    after = garden(bed("string a = 2;", "ponds"), bed("string p = 2;", "beds", "Pond", "ponds"))
    migrate(empty.postgres, after)
    assert empty.sql("select a from garden_v1.ponds") == [("bed",)]
    assert empty.sql("select p from garden_v1.beds") == [("pond",)]
    assert migrate(empty.postgres, after) == []


def test_a_removed_resource_leaves_its_name_to_another_and_its_data_stay(empty: Database) -> None:
    migrate(empty.postgres, garden(bed("string a = 2;")))
    plant(empty, "beds/1", a="old")
    migrate(empty.postgres, garden(bed("int64 n = 2;", "beds", "Plot", "plots")))
    assert columns(empty) == {"n": "bigint"}
    assert empty.sql("select count(*) from garden_v1.beds") == [(0,)]
    migrate(empty.postgres, garden(bed("string a = 2;")))
    assert empty.sql("select a from garden_v1.beds") == [("old",)]


@pytest.mark.parametrize("package", ["transom", "pg_garden.v1", "information_schema", "public"])
def test_a_package_may_be_called_like_what_postgres_or_transom_has(empty: Database, package: str) -> None:
    events = bed("string a = 2;", "events", "Event", "events")
    assert migrate(empty.postgres, garden(events, package=package))
    assert migrate(empty.postgres, garden(events, package=package)) == []


@asynchronous
async def test_columns_with_names_that_postgres_keeps_for_itself_can_be_written(empty: Database) -> None:
    schema = read(library_descriptor())
    migrate(empty.postgres, schema)
    async with engine(empty, schema=schema) as on:
        await on.create("Card", "", "one", xmin=1.5, xmax=2.5, ctid="c", select="s", _hidden="h", f2_name="f", name="n")
    row = empty.sql(
        'select name, _f2_name, _f3_xmin, _f4_xmax, _f5_ctid, "select", _f7__hidden, f2_name from library_v1.cards'
    )
    assert row == [("cards/one", "n", 1.5, 2.5, "c", "s", "h", "f")]


@asynchronous
async def test_an_old_server_goes_on_while_the_schema_grows(empty: Database) -> None:
    """It was started before the column came: its prepared statements hold, and the new column takes its default."""
    old = garden(bed("string a = 2;"))
    new = garden(bed("string a = 2; int64 n = 3;"))
    migrate(empty.postgres, old)
    async with engine(empty, schema=old) as on:
        resource = old.resources["garden.v1.Bed"]
        make = old.message_class("garden.v1.Bed")
        await on.resources.create(ADA, resource, "", "one", make(a="1"))
        migrate(empty.postgres, new)
        await on.resources.create(ADA, resource, "", "two", make(a="2"))
        await on.resources.update(ADA, resource, make(name="beds/one", a="3"), ["a"])
        assert len((await on.resources.lists.page(ADA, resource, Wanted("", 10))).rows) == 2
    assert empty.sql("select name, a, n from garden_v1.beds order by name") == [
        ("beds/one", "3", 0),
        ("beds/two", "2", 0),
    ]


# ------------------------------------------------------------------------------------------------- at the same time


def _migrate(dsn: str, descriptor: bytes, told: multiprocessing.SimpleQueue[list[str]]) -> None:
    told.put(migrate(dsn, read(descriptor)))


def test_two_processes_that_migrate_at_once_do_it_once(empty: Database) -> None:
    context = multiprocessing.get_context("spawn")
    told = context.SimpleQueue()
    processes = [context.Process(target=_migrate, args=(empty.postgres, library_descriptor(), told)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    done = sorted((told.get() for _ in processes), key=len)
    assert done[0] == [] and len(done[1]) > 10
