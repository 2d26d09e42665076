"""Resources as rows on a real Postgres pair: batches, races, harm, and what the columns say of a message."""

# ruff: noqa: SIM117 - tables and scenes
from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
import redis as plain_redis
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from identity_ground import cable
from library_ground import ADA, BOB, Database, Engine, asynchronous, database, engine, library, made_of, message
from psycopg.conninfo import make_conninfo
from replica_ground import asked, caught_up, paused

from deploy.native.stack import Stack
from server.engine.lists import Wanted
from server.errors import AlreadyExists, Exhausted, NotFound, Precondition, Refusal, Stale, Unavailable
from server.schema.columns import is_map
from server.store import freshness as freshness_module
from server.store import gathering, pipeline
from server.store import positions as positions_module
from server.store import records as records_module
from server.store.changes import Change, Outcome
from server.store.gathering import Gathering
from server.store.migrations import migrate
from server.store.pipeline import Step
from server.store.records import WRITE_BATCH
from server.store.transactions import Transaction


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Database]:
    with database(components, library()) as made:
        yield made


@pytest.fixture(autouse=True)
def _empty(at: Database) -> None:
    """Every test begins with empty tables."""
    at.empty()


def counted(on: Engine) -> list[list[bytes]]:
    """From now on: the statements of every run, as they are sent to the primary."""
    runs: list[list[bytes]] = []
    for connection in (*on.primary.connections, *on.primary.writing):
        send = connection._send

        def sending(steps: list[Step], send: Any = send) -> Any:
            if not steps[0].statement.startswith(b"select (pg_current"):
                runs.append([s.statement for s in steps])
            return send(steps)

        connection._send = sending  # type: ignore[method-assign]
    return runs


async def all_of(calls: Any) -> list[Any]:
    """Answers and refusals, in order."""
    return list(await asyncio.gather(*calls, return_exceptions=True))


def tally(answers: list[Any]) -> dict[str, int]:
    """How many ended how."""
    out: dict[str, int] = {}
    for answer in answers:
        kind = type(answer).__name__ if isinstance(answer, BaseException) else "done"
        out[kind] = out.get(kind, 0) + 1
    return out


# ------------------------------------------------------------------------------------------------- batches


@asynchronous
async def test_what_is_asked_for_in_one_turn_shares_a_statement(at: Database) -> None:
    async with engine(at) as on:
        await asyncio.gather(*(on.create("Shelf", "", f"s{i}", title="t") for i in range(60)))
        runs = counted(on)
        found = await asyncio.gather(*(on.get("Shelf", f"shelves/s{i % 60}") for i in range(200)))
        assert [s.name for s in found] == [f"shelves/s{i % 60}" for i in range(200)] and len(runs) == 1
        runs.clear()
        missing = await all_of(on.get("Shelf", f"shelves/s{i}") for i in range(58, 62))
        assert tally(missing) == {"done": 2, "NotFound": 2} and len(runs) == 1
        runs.clear()
        await asyncio.gather(*(on.create("Book", f"shelves/s{i % 60}", f"b{i}", title="t") for i in range(WRITE_BATCH)))
        assert len(runs) == 1
        runs.clear()
        pages = await asyncio.gather(*(on.names("Book", f"shelves/s{i}") for i in range(30)))
        assert pages[4] == ["shelves/s4/books/b4", "shelves/s4/books/b64"][: len(pages[4])] and len(runs) == 1
        runs.clear()
        await asyncio.gather(*(on.update("Shelf", f"shelves/s{i}", None, theme="x") for i in range(60)))
        assert len(runs) == 2, "one reads what is stored, one writes"


@asynchronous
async def test_a_batch_answers_each_for_itself(at: Database) -> None:
    """Good, orphaned, taken and wrong ones, side by side."""
    async with engine(at) as on:
        await on.create("Shelf", "", "a", title="t")
        await on.create("Book", "shelves/a", "taken", title="t")
        answers = await all_of(
            [
                on.create("Book", "shelves/a", "one", title="t"),
                on.create("Book", "shelves/none", "two", title="t"),
                on.create("Book", "shelves/a", "taken", title="t"),
                on.create("Book", "shelves/a", "wrong"),
                on.create("Book", "shelves/a", "five", title="t"),
            ]
        )
        assert [type(a).__name__ for a in answers] == ["Book", "NotFound", "AlreadyExists", "Invalid", "Book"]
        assert answers[1].resource == ("library.test/Shelf", "shelves/none")
        assert await on.names("Book", "shelves/a") == [f"shelves/a/books/{b}" for b in ("five", "one", "taken")]
        assert at.events("shelves/a/books/one") == ["created"] and at.events("shelves/none/books/two") == []
        assert at.events("shelves/a/books/taken") == ["created"]


@asynchronous
async def test_a_row_that_postgres_refuses_does_not_fail_its_neighbours(at: Database) -> None:
    async with engine(at) as on:
        changes = [created(on, "Shelf", "", f"s{i}", title="t") for i in range(5)]
        broken = replace(
            changes[2], values=("no timestamp", *changes[2].values[1:]), name="shelves/broken", uid="no uuid"
        )
        answers = await all_of(on.records.write(c) for c in (*changes[:2], broken, *changes[3:]))
        assert tally(answers) == {"done": 4, "Internal": 1} and isinstance(answers[2], Refusal)
        assert at.events("shelves/broken") == []
        assert await on.names("Shelf", "") == ["shelves/s0", "shelves/s1", "shelves/s3", "shelves/s4"]


@asynchronous
async def test_more_than_a_socket_holds_passes_both_ways_at_once(at: Database) -> None:
    async with engine(at) as on:
        await on.create("Shelf", "", "s", title="t")
        titles = [chr(ord("a") + i) * 400_000 for i in range(24)]
        await asyncio.gather(*(on.create("Book", "shelves/s", f"b{i}", title=t) for i, t in enumerate(titles)))
        for _ in range(2):
            found = await asyncio.gather(
                *(on.get("Book", f"shelves/s/books/b{i}") for i in range(24)),
                *(on.update("Book", f"shelves/s/books/b{i}", ["isbn", "rating"], rating=1) for i in range(24)),
            )
            assert [b.title for b in found] == titles * 2


@asynchronous
async def test_the_longest_name_fits_its_indexes(at: Database) -> None:
    """Random characters: an index row is compressed otherwise."""
    rolled = random.Random(1)
    text = "".join(rolled.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(250))
    async with engine(at) as on:
        shelf = await on.create("Shelf", "", text, title="t")
        book = await on.create("Book", shelf.name, text[::-1], title="t")
        note = await on.create("Note", book.name, text[:250], text="t")
        assert len(note.name) > 770 and await on.names("Note", book.name) == [note.name]


def created(on: Engine, type: str, parent: str, id: str, **fields: Any) -> Change:
    resource = on.schema.resources[f"library.v1.{type}"]
    body = on.schema.message_class(resource.message)(**fields)
    return on.decisions.create(resource, body, parent=parent, id=id, owner="users/ada", origin=ADA.origin)


@asynchronous
async def test_a_resource_has_the_metadata_of_its_making_as_columns(at: Database) -> None:
    async with engine(at) as on:
        shelf = await on.create("Shelf", "", "a", title="t")
        await on.update("Shelf", "shelves/a", None, by=BOB, theme="x")
    [(name, parent, uid, owner, made, changed, title, theme)] = at.sql(
        "select name, _parent, _uid::text, _owner, _create_time, _update_time, title, theme from library_v1.shelves"
    )
    assert (name, parent, uid, owner, title, theme) == ("shelves/a", "", shelf.uid, "users/ada", "t", "x")
    assert made == shelf.create_time.ToDatetime(tzinfo=UTC) and changed > made
    events = at.sql("select resource_type, verb, name, caller, request_id from transom.events order by id")
    assert events == [
        ("library.v1.Shelf", "created", "shelves/a", "users/ada", "request-ada"),
        ("library.v1.Shelf", "updated", "shelves/a", "users/bob", "request-bob"),
    ]


# ------------------------------------------------------------------------------------------------- every type


def settable(descriptor: Descriptor, depth: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """Values for some fields of a message, as its constructor takes them."""
    fields = [f for f in descriptor.fields if f.name != "name" and not (depth > 1 and f.message_type)]
    if not fields:
        return st.just({})
    some = st.lists(
        st.sampled_from(fields), max_size=12 if depth == 0 else 3, unique_by=lambda f: f.containing_oneof or f
    )
    return some.flatmap(lambda chosen: st.fixed_dictionaries({f.name: value(f, depth) for f in chosen}))


def value(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if is_map(field):
        of = field.message_type.fields_by_name
        return st.dictionaries(one(of["key"], depth), one(of["value"], depth), max_size=3)
    return st.lists(one(field, depth), max_size=3) if field.is_repeated else one(field, depth)


BITS = {
    "INT32": (-(2**31), 2**31 - 1), "SINT32": (-(2**31), 2**31 - 1), "SFIXED32": (-(2**31), 2**31 - 1),
    "UINT32": (0, 2**32 - 1), "FIXED32": (0, 2**32 - 1),
    "INT64": (-(2**63), 2**63 - 1), "SINT64": (-(2**63), 2**63 - 1), "SFIXED64": (-(2**63), 2**63 - 1),
    "UINT64": (0, 2**64 - 1), "FIXED64": (0, 2**64 - 1), "ENUM": (-(2**31), 2**31 - 1),
}  # fmt: skip
KINDS = {getattr(FieldDescriptor, n): n[5:] for n in dir(FieldDescriptor) if n.startswith("TYPE_")}
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def one(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    kind = KINDS[field.type]
    if kind in BITS:
        low, high = BITS[kind]
        return st.one_of(st.sampled_from([low, high, 0, 1]), st.integers(low, high))
    if kind == "BOOL":
        return st.booleans()
    if kind in ("DOUBLE", "FLOAT"):
        return st.floats(width=64 if kind == "DOUBLE" else 32)
    if kind == "STRING":
        return st.one_of(TEXTS, st.sampled_from(["\\u0000", "'", '"', "\\", "NULL", "{}", "\x1f", "\U0010ffff"]))
    if kind == "BYTES":
        return st.binary(max_size=20)
    return within(field.message_type, depth)


def within(descriptor: Descriptor, depth: int) -> st.SearchStrategy[Any]:
    make = library().message_class(descriptor.full_name)
    match descriptor.name:
        case "Timestamp":
            spans = st.integers(-62135596800, 253402300799)
            return st.builds(make, seconds=spans, nanos=st.integers(0, 999_999_999))
        case "Duration":
            spans = st.integers(-315_575_999_999, 315_575_999_999)
            return st.tuples(spans, st.integers(0, 999_999_999)).map(
                lambda v: make(seconds=v[0], nanos=-v[1] if v[0] < 0 else v[1])
            )
        case "Struct" | "Value" | "ListValue":
            kind = {
                "Struct": st.dictionaries(TEXTS, JSON, max_size=3),
                "Value": JSON,
                "ListValue": st.lists(JSON, max_size=3),
            }
            return kind[descriptor.name].map(lambda v: json_format.ParseDict(v, make()))
        case "FieldMask":
            return st.lists(st.sampled_from(["a", "a_b.c", "x"]), max_size=3).map(lambda v: make(paths=v))
        case "Any":
            inner = library().message_class("kinds.v1.Inner")
            known = (
                st.text(max_size=5)
                .filter(lambda t: "\0" not in t)
                .map(
                    lambda t: make(
                        type_url="type.googleapis.com/kinds.v1.Inner", value=inner(text=t).SerializeToString()
                    )
                )
            )
            return st.one_of(known, st.binary(max_size=9).map(lambda b: make(type_url="x.test/nobody.Knows", value=b)))
    return settable(descriptor, depth + 1).map(lambda fields: make(**fields))


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=5,
)


def as_sql(field: FieldDescriptor, holder: Any) -> Any:
    """What the column of a field should say, in Python's terms: worked out here, apart from the code under test."""
    kept = getattr(holder, field.name)
    if is_map(field):
        of = field.message_type.fields_by_name["value"]
        return {str(k).lower() if isinstance(k, bool) else str(k): as_json(of, kept[k]) for k in kept}
    if field.is_repeated:
        return [as_json(field, v) for v in kept]
    if field.has_presence and not holder.HasField(field.name):
        return None
    if field.message_type is None:
        return label(field, kept) if field.type == field.TYPE_ENUM else kept
    match field.message_type.full_name:
        case "google.protobuf.Timestamp":
            return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=kept.seconds, microseconds=kept.nanos // 1000)
        case "google.protobuf.Duration":
            return timedelta(seconds=kept.seconds, microseconds=int(kept.nanos / 1000))
        case kind if kind.endswith("Value") and kind not in ("google.protobuf.Value", "google.protobuf.ListValue"):
            return kept.value
    return as_json(field, kept)


def as_json(field: FieldDescriptor, kept: Any) -> Any:
    if field.type == field.TYPE_ENUM:
        return label(field, kept)
    if field.message_type is not None:
        if field.message_type.name == "Any" and "nobody" in kept.type_url:
            return ...  # any form will do, as long as it is one
        try:
            return json_format.MessageToDict(kept, preserving_proto_field_name=True, descriptor_pool=library().pool)
        except TypeError:
            return ...
    if isinstance(kept, bytes):
        return json_format.MessageToDict(library().message_class("google.protobuf.BytesValue")(value=kept))
    if isinstance(kept, float) and not math.isfinite(kept):
        return "NaN" if math.isnan(kept) else "Infinity" if kept > 0 else "-Infinity"
    return kept


def label(field: FieldDescriptor, number: int) -> str:
    known = field.enum_type.values_by_number.get(number)
    return known.name if known else str(number)


def same(here: Any, there: Any) -> bool:
    if there is ...:
        return here is not None
    if isinstance(there, list) and isinstance(here, list):
        return len(here) == len(there) and all(map(same, here, there))
    if isinstance(there, dict) and isinstance(here, dict):
        return here.keys() == there.keys() and all(same(here[k], there[k]) for k in there)
    if isinstance(there, float) and isinstance(here, float) and math.isnan(there):
        return math.isnan(here)
    if isinstance(there, float) and isinstance(here, int):
        return float(here) == there
    if isinstance(here, Decimal):
        return int(here) == there
    if isinstance(there, bool) or isinstance(here, bool):
        return here is there
    return bool(here == there)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with asyncio.Runner() as runner:
        yield runner.get_loop()


EVERYTHING = library().resources["kinds.v1.Everything"]
SHOWN = [f for f in EVERYTHING.fields if f.name != "name"]
LOOKED = ", ".join(f'"{f.column}"' for f in SHOWN)


def test_whatever_a_message_holds_comes_back_and_is_sql_to_anyone_who_looks(
    at: Database, loop: asyncio.AbstractEventLoop
) -> None:
    made = engine(at)
    on = loop.run_until_complete(made.__aenter__())
    select = f"select {LOOKED} from kinds_v1.everythings where name = %s"
    with psycopg.connect(at.postgres, autocommit=True, options="-c timezone=UTC") as connection:

        @settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(settable(EVERYTHING.descriptor), settable(EVERYTHING.descriptor))
        def check(first: dict[str, Any], second: dict[str, Any]) -> None:
            body = message("kinds.v1.Everything", **first)
            given = body.SerializeToString(deterministic=True)
            payload = loop.run_until_complete(on.resources.create(ADA, EVERYTHING, "", "", body))
            stored = on.decisions.parse(EVERYTHING, payload)
            change = message("kinds.v1.Everything", name=stored.name, **second)
            looked(stored, given)
            bare = message("kinds.v1.Everything", **second).SerializeToString(deterministic=True)
            payload = loop.run_until_complete(on.resources.update(ADA, EVERYTHING, change, ["*"]))
            looked(on.decisions.parse(EVERYTHING, payload), bare)

        def looked(stored: Any, given: bytes) -> None:
            again = loop.run_until_complete(on.resources.get(ADA, EVERYTHING, stored.name))
            assert again == stored.SerializeToString(deterministic=True)
            row = connection.execute(select, [stored.name], binary=True).fetchone()
            assert row is not None
            for field, found in zip(SHOWN, row, strict=True):
                assert same(found, as_sql(field.descriptor, stored)), field.name
            stored.ClearField("name")
            assert stored.SerializeToString(deterministic=True) == given

        check()
        assert connection.execute("select count(*) from kinds_v1.everythings").fetchone()[0] >= 50  # type: ignore[index]
    loop.run_until_complete(made.__aexit__(None, None, None))


@asynchronous
async def test_what_was_never_said_is_null_or_zero(at: Database) -> None:
    async with engine(at) as on:
        body = message("kinds.v1.Everything")
        await on.resources.create(ADA, EVERYTHING, "", "empty", body)
    [row] = at.sql(f"select {LOOKED} from kinds_v1.everythings")
    nothing = message("kinds.v1.Everything")
    for field, found in zip(SHOWN, row, strict=True):
        assert same(found, as_sql(field.descriptor, nothing)), field.name
    assert at.sql("select a_colour, maybe_bytes is null, many_bytes, by_bool from kinds_v1.everythings") == [
        ("COLOUR_UNSPECIFIED", True, [], {})
    ]


@asynchronous
async def test_columns_can_be_reckoned_with_as_sql(at: Database) -> None:
    async with engine(at) as on:
        for i in range(3):
            body = message(
                "kinds.v1.Everything", a_uint64=2**64 - 1 - i, a_colour=1, by_string={"k": str(i)}, a_double=i
            )
            body.well_timestamp.FromSeconds(1_700_000_000 + i)
            body.well_duration.FromSeconds(i)
            body.inner.text = f"t{i}"
            await on.resources.create(ADA, EVERYTHING, "", f"e{i}", body)
    found = at.sql(
        "select max(a_uint64), sum(well_duration), max(well_timestamp) - min(well_timestamp), "
        "string_agg(\"inner\"->>'text', ',' order by name), max(by_string->>'k') "
        "from kinds_v1.everythings where a_colour = 'RED' and a_double >= 1"
    )
    assert found == [(Decimal(2**64 - 2), timedelta(seconds=3), timedelta(seconds=1), "t1,t2", "2")]


# ------------------------------------------------------------------------------------------------- races


@asynchronous
async def test_of_many_who_take_a_name_one_has_it(at: Database) -> None:
    async with engine(at) as on, engine(at) as other:
        for round in range(10):
            made = await all_of(
                e.create("Shelf", "", f"s{round}", title=f"{i}") for i in range(10) for e in (on, other)
            )
            assert tally(made) == {"done": 1, "AlreadyExists": 19}
            [winner] = [m for m in made if not isinstance(m, Exception)]
            assert (await on.get("Shelf", f"shelves/s{round}")).title == winner.title
            assert at.events(f"shelves/s{round}") == ["created"]


@asynchronous
async def test_updates_without_an_etag_all_apply(at: Database) -> None:
    """Each counts on a key of its own; not one count is lost, though two servers write at once."""
    async with engine(at) as on, engine(at) as other:
        await on.create("Shelf", "", "s", title="t")

        async def count(key: str, by: Engine) -> None:
            for n in range(1, 6):
                await by.update("Shelf", "shelves/s", [f"counts.{key}"], counts={key: n})

        await asyncio.gather(*(count(f"k{i}", e) for i, e in enumerate([on] * 20 + [other] * 2)))
        shelf = await on.get("Shelf", "shelves/s")
        assert dict(shelf.counts) == {f"k{i}": 5 for i in range(22)}
        assert len(at.events("shelves/s")) == 1 + 22 * 5
        payloads = at.sql("select payload from transom.events where name = 'shelves/s' order by id")
        totals = [sum(message("Shelf").FromString(p).counts.values()) for (p,) in payloads]
        assert totals == sorted(totals) == list(range(22 * 5 + 1)), "events are in the order of the changes"


@asynchronous
async def test_of_updates_with_one_etag_one_applies(at: Database) -> None:
    async with engine(at) as on, engine(at) as other:
        shelf = await on.create("Shelf", "", "s", title="t")
        for _ in range(5):
            answers = await all_of(
                e.update("Shelf", "shelves/s", ["theme"], etag=shelf.etag, theme=f"{i} {id(e)} {shelf.etag}")
                for i in range(10)
                for e in (on, other)
            )
            assert tally(answers) == {"done": 1, "Stale": 19}
            [shelf] = [a for a in answers if not isinstance(a, Exception)]
        assert at.events("shelves/s") == ["created", *["updated"] * 5]


@dataclass(frozen=True)
class Race:
    """What is under way in a transaction that is still open, what is asked for meanwhile, and how that ends."""

    sentence: str
    first: str
    then: str
    committed: str
    rolled_back: str = "done"
    waits: bool = True
    left: tuple[str, ...] | None = None
    """Names that are there afterwards, where the first was committed."""


TREE = ("shelves/s", "shelves/s/books/b", "shelves/s/books/b/notes/n")
RACES = [
    Race("a child that is being made keeps its parent", "create Book e/c", "delete Shelf e", "Precondition"),
    Race(
        "nor does its parent's parent go",
        "create Note s/b/m",
        "delete Book s/b",
        "Precondition",
        "Precondition",
        waits=True,
    ),
    Race("a parent that is going takes no child", "delete Shelf e", "create Book e/c", "NotFound"),
    Race(
        "a tree takes along a grandchild that was being made",
        "create Note s/b/m",
        "remove Shelf s",
        "done",
        left=("shelves/e",),
    ),
    Race("and a child", "create Book s/c", "remove Shelf s", "done", left=("shelves/e",)),
    Race(
        "a tree that is going takes no grandchild",
        "remove Shelf s",
        "create Note s/b/m",
        "NotFound",
        left=("shelves/e",),
    ),
    Race("nor a change of one", "remove Shelf s", "update Note s/b/n", "NotFound"),
    Race("two who take a name", "create Shelf x", "create Shelf x", "AlreadyExists"),
    Race("two who change one", "update Shelf s", "update Shelf s", "done"),
    Race("a change with an etag comes second", "update Shelf s", "change Shelf s", "Stale"),
    Race("a removal with an etag comes second", "update Shelf e", "discard Shelf e", "Stale"),
    Race("a removal without one does not mind", "update Shelf e", "delete Shelf e", "done", left=TREE),
    Race("what is going is not changed", "delete Shelf e", "update Shelf e", "NotFound"),
    Race("what is going is not removed twice", "delete Shelf e", "delete Shelf e", "NotFound"),
    Race("a name that is becoming free is taken", "delete Shelf e", "create Shelf e", "done", "AlreadyExists"),
    Race("a change of the parent holds back no child", "update Shelf e", "create Book e/c", "done", waits=False),
    Race("a child holds back no change of its parent", "create Book e/c", "update Shelf e", "done", waits=False),
    Race("a child holds back no other", "create Book e/c", "create Book e/d", "done", waits=False),
]


def name_of(word: str) -> str:
    """`s/b/n` → shelves/s/books/b/notes/n."""
    return "/".join(f"{c}/{i}" for c, i in zip(("shelves", "books", "notes"), word.split("/")) if i)


async def decided(on: Engine, words: str) -> Change:
    act, type, word = words.split()
    resource, name = on.schema.resources[f"library.v1.{type}"], name_of(word)
    if act == "create":
        body = on.schema.message_class(resource.message)()
        body.MergeFrom(message(type, **({"text": "t"} if type == "Note" else {"title": "t"})))
        parent, id = name_of(word.rpartition("/")[0]), word.rpartition("/")[2]
        return on.decisions.create(resource, body, parent=parent, id=id, owner="", origin=BOB.origin)
    if act == "update":
        row = await on.records.latest(resource, name)
        assert row is not None
        field = "text" if type == "Note" else "theme"
        change = on.decisions.update(
            resource, row, message(type, **{field: "first"}), None, etag="", origin=BOB.origin
        )[1]
        assert change is not None
        return change
    return on.decisions.delete(resource, name, etag="", force=act == "remove", origin=BOB.origin)


async def asked_for(on: Engine, words: str, etag: str) -> None:
    act, type, word = words.split()
    named = {"title": "second"} if type != "Note" else {"text": "second"}
    match act:
        case "create":
            await on.create(type, name_of(word.rpartition("/")[0]), word.rpartition("/")[2], **named)
        case "update" | "change":
            await on.update(type, name_of(word), None, etag=etag if act == "change" else "", **named)
        case _:
            await on.delete(type, name_of(word), force=act == "remove", etag=etag if act == "discard" else "")


@pytest.mark.parametrize("ends", ["committed", "rolled back"])
@pytest.mark.parametrize("race", RACES, ids=lambda r: r.sentence)
@asynchronous
async def test_who_comes_second(at: Database, race: Race, ends: str) -> None:
    async with engine(at) as on:
        for shelf in "se":
            await on.create("Shelf", "", shelf, title="t")
        await on.create("Book", "shelves/s", "b", title="t")
        await on.create("Note", "shelves/s/books/b", "n", text="t")
        shelf = (
            await on.get("Shelf", name_of(race.then.split()[2].split("/")[0]))
            if race.then[0] in "cd" and "x" not in race.then
            else None
        )
        before = len(at.sql("select from transom.events"))
        async with await psycopg.AsyncConnection.connect(at.postgres) as first:
            transaction = Transaction(first, on.records._statements)
            assert await transaction.carry_out([await decided(on, race.first)]) == [Outcome.DONE]
            then = asyncio.create_task(asked_for(on, race.then, shelf.etag if shelf else ""))
            waiting = (
                "select count(*) from pg_stat_activity where application_name = 'test' and wait_event_type = 'Lock'"
            )
            until = time.monotonic() + 2
            while not then.done() and at.sql(waiting + " and datname = current_database()") == [(0,)]:
                assert time.monotonic() < until, "it neither ends nor waits"
                await asyncio.sleep(0.01)
            assert then.done() is not race.waits
            await (first.commit() if ends == "committed" else first.rollback())
        [answer] = await all_of([then])
        expected = race.committed if ends == "committed" else race.rolled_back
        assert tally([answer]) == {expected: 1}
        there = {n for t in ("shelves", "books", "notes") for (n,) in at.sql(f"select name from library_v1.{t}")}
        if race.left is not None and ends == "committed":
            assert there == set(race.left)
        assert all("/".join(n.split("/")[:-2]) in there for n in there if n.count("/") > 1), "an orphan"
        if race.then == "update Shelf s":
            kept = await on.get("Shelf", "shelves/s")
            assert (kept.title, kept.theme) == ("second", "first" if ends == "committed" else "")
        if expected != "done" and ends == "rolled back":
            assert len(at.sql("select from transom.events")) == before


@asynchronous
async def test_a_child_is_never_left_without_its_parent(at: Database) -> None:
    """Parents are deleted, with and without force, while children are made below them and taken away again."""
    async with engine(at) as on, engine(at) as other:
        rolled = random.Random(7)
        seen: dict[str, int] = {}

        async def attempt(call: Any) -> None:
            try:
                await call
                kind = "done"
            except (NotFound, AlreadyExists, Precondition, Stale) as refusal:
                kind = type(refusal).__name__
            seen[kind] = seen.get(kind, 0) + 1

        async def hammer(e: Engine) -> None:
            for _ in range(150):
                shelf, book, note = (f"{n}{rolled.randrange(2)}" for n in "sbn")
                match rolled.randrange(12):
                    case 0:
                        await attempt(e.delete("Shelf", f"shelves/{shelf}", force=True))
                    case 1:
                        await attempt(e.delete("Shelf", f"shelves/{shelf}"))
                    case 2:
                        await attempt(e.delete("Book", f"shelves/{shelf}/books/{book}"))
                    case 3:
                        await attempt(e.delete("Note", f"shelves/{shelf}/books/{book}/notes/{note}"))
                    case 4 | 5:
                        await attempt(e.create("Shelf", "", shelf, title="t"))
                    case 6 | 7:
                        await attempt(e.create("Book", f"shelves/{shelf}", book, title="t"))
                    case 8:
                        await attempt(
                            e.update("Book", f"shelves/{shelf}/books/{book}", None, title=str(rolled.random()))
                        )
                    case _:
                        await attempt(e.create("Note", f"shelves/{shelf}/books/{book}", note, text="t"))

        await asyncio.gather(*(hammer(e) for e in [on, other] * 6))
        orphans = at.sql(
            "select name from library_v1.books b where not exists (select from library_v1.shelves s where s.name = b._parent) "
            "union all "
            "select name from library_v1.notes n where not exists (select from library_v1.books b where b.name = n._parent)"
        )
        assert orphans == []
        assert set(seen) >= {"done", "NotFound", "AlreadyExists", "Precondition"} and seen["done"] > 300, seen
        # Every event is a change that happened: created and deleted in turn, and what is there now was created last.
        there = {n for t in ("shelves", "books", "notes") for (n,) in at.sql(f"select name from library_v1.{t}")}
        names = {n for (n,) in at.sql("select distinct name from transom.events")}
        assert there <= names
        for name in names:
            verbs = [v for v in at.events(name) if v != "updated"]
            assert verbs == ["created", "deleted"] * (len(verbs) // 2) + ["created"] * (name in there), (name, verbs)


@asynchronous
async def test_a_folder_in_folders_goes_with_all_that_is_in_it(at: Database) -> None:
    async with engine(at) as on:
        await on.create("Folder", "", "a")
        await on.create("Folder", "", "a0")
        await on.create("Folder", "folders/a", "b")
        await on.create("Folder", "folders/a/folders/b", "c")
        with pytest.raises(Precondition):
            await on.delete("Folder", "folders/a")
        assert at.sql("select count(*) from library_v1.folders") == [(4,)], "what is refused is not done in part"
        await on.delete("Folder", "folders/a", force=True)
        assert at.sql("select name from library_v1.folders") == [("folders/a0",)]
        assert at.events("folders/a/folders/b/folders/c") == ["created", "deleted"]


@asynchronous
async def test_a_tree_goes_whole_or_not_at_all(at: Database) -> None:
    async with engine(at) as on:
        shelf = await on.create("Shelf", "", "s", title="t")
        for b in range(3):
            await on.create("Book", "shelves/s", f"b{b}", title="t")
            for n in range(3):
                await on.create("Note", f"shelves/s/books/b{b}", f"n{n}")
        await on.create("Setting", "shelves/s", "", open=True)
        await on.create("Memo", "shelves/s", "m")
        await on.create("Memo", "", "m")
        await on.create("Shelf", "", "s0", title="a name that begins alike")
        await on.create("Book", "shelves/s0", "b", title="t")
        with pytest.raises(Stale):
            await on.delete("Shelf", "shelves/s", force=True, etag="1")
        assert at.sql("select count(*) from library_v1.notes") == [(9,)]
        await on.delete("Shelf", "shelves/s", force=True, etag=shelf.etag)
        left = [
            n
            for t in ("shelves", "books", "notes", "settings", "memos")
            for (n,) in at.sql(f"select name from library_v1.{t}")
        ]
        assert sorted(left) == ["memos/m", "shelves/s0", "shelves/s0/books/b"]
        order = [n for (n,) in at.sql("select name from transom.events where verb = 'deleted' order by id")]
        assert len(order) == 15 and order[-1] == "shelves/s", "children first"
        assert order.index("shelves/s/books/b1/notes/n1") < order.index("shelves/s/books/b1")


@asynchronous
async def test_a_name_that_was_deleted_is_free_and_another_resource(at: Database) -> None:
    async with engine(at) as on:
        first = await on.create("Shelf", "", "s", title="t")
        await on.delete("Shelf", "shelves/s")
        again = await on.create("Shelf", "", "s", title="t")
        assert again.uid != first.uid and again.etag != first.etag
        with pytest.raises(Stale):
            await on.update("Shelf", "shelves/s", None, etag=first.etag, theme="x")
        with pytest.raises(Stale):
            await on.delete("Shelf", "shelves/s", etag=first.etag)
        for odd in ("f" * 16, "-1", "x", "9" * 20):
            with pytest.raises(Stale):
                await on.delete("Shelf", "shelves/s", etag=odd)


# ------------------------------------------------------------------------------------------------- harm


@contextmanager
def held(at: Database, statement: str, *values: Any) -> Iterator[None]:
    """A transaction of somebody else that has done `statement` and does not end."""
    with psycopg.connect(at.postgres) as other:
        other.execute(statement, values)  # type: ignore[arg-type]
        yield
        other.rollback()


@asynchronous
async def test_what_another_holds_too_long_is_refused_as_contention(at: Database) -> None:
    dsn = make_conninfo(at.postgres)
    async with engine(at, postgres=dsn) as on:
        await on.create("Shelf", "", "s", title="t")
        await asyncio.gather(*(limited(c, "lock_timeout", "100ms") for c in on.primary.writing))
        with held(at, "select from library_v1.shelves where name = 'shelves/s' for update"):
            answers = await all_of(
                [
                    on.update("Shelf", "shelves/s", None, theme="x"),
                    on.create("Shelf", "", "t", title="t"),
                    on.get("Shelf", "shelves/s"),
                ]
            )
            assert [type(a).__name__ for a in answers] == ["Stale", "Shelf", "Shelf"]
            assert answers[0].reason == "CONTENTION" and answers[0].retry_after
        assert (await on.update("Shelf", "shelves/s", None, theme="x")).theme == "x"


async def limited(connection: pipeline.Pipeline, setting: str, limit: str) -> None:
    await connection.run([Step(f"select set_config('{setting}', '{limit}', false)".encode(), [])])


@asynchronous
async def test_reads_do_not_wait_for_writes_that_wait_for_a_lock(at: Database) -> None:
    async with engine(at) as on:
        names = [(await on.create("Shelf", "", f"s{i}", title="t")).name for i in range(6)]
        with held(at, "select from library_v1.shelves for update"):
            waiting = [asyncio.create_task(on.update("Shelf", name, None, theme="x")) for name in names]
            waiting += [asyncio.create_task(on.delete("Shelf", name)) for name in names]
            waiting += [asyncio.create_task(on.create("Book", name, "b", title="t")) for name in names]
            for _ in range(10):
                async with asyncio.timeout(1):
                    assert len(await on.names("Shelf", "")) == 6
                    assert (await on.get("Shelf", names[0])).title == "t"
                await asyncio.sleep(0.02)
            assert not any(task.done() for task in waiting)
        counts = tally(await all_of(waiting))
        assert counts.keys() <= {"done", "NotFound", "Precondition", "Stale"}, counts


@asynchronous
async def test_a_statement_that_takes_too_long_is_refused_as_slow(at: Database) -> None:
    async with engine(at) as on:
        await on.create("Shelf", "", "s", title="t")
        await asyncio.gather(*(limited(c, "statement_timeout", "100ms") for c in on.primary.connections))
        with held(at, "lock table library_v1.shelves"):
            [refusal] = await all_of([on.get("Shelf", "shelves/s")])
            assert isinstance(refusal, Unavailable) and refusal.reason == "DATABASE_SLOW"
        assert (await on.get("Shelf", "shelves/s")).title == "t"


def backends(at: Database, application: str = "test") -> list[int]:
    return [
        pid
        for (pid,) in at.sql(
            "select pid from pg_stat_activity where application_name = %s and datname = current_database()", application
        )
    ]


@asynchronous
async def test_connections_that_are_killed_under_load_cost_no_acknowledged_write(at: Database) -> None:
    """Reads go on; a write is done, or told to have an unknown outcome, and only then may it be either."""
    async with engine(at) as on:
        await on.create("Shelf", "", "s", title="t")
        stop = asyncio.Event()
        acknowledged: set[str] = set()
        unknown: set[str] = set()
        reads = 0

        async def write(who: int) -> None:
            n = 0
            while not stop.is_set():
                n += 1
                try:
                    book = await on.create("Book", "shelves/s", f"w{who}-{n}", title="t")
                    acknowledged.add(book.name)
                except Unavailable as refusal:
                    if refusal.reason != "DATABASE_AWAY":
                        unknown.add(f"shelves/s/books/w{who}-{n}")

        async def read() -> None:
            nonlocal reads
            while not stop.is_set():
                assert (await on.get("Shelf", "shelves/s")).title == "t"
                assert len(await on.names("Shelf", "")) == 1
                reads += 2

        tasks = [asyncio.create_task(write(i)) for i in range(16)] + [asyncio.create_task(read()) for _ in range(4)]
        for _ in range(12):
            await asyncio.sleep(0.08)
            await asyncio.to_thread(lambda: [at.sql("select pg_terminate_backend(%s)", pid) for pid in backends(at)])
        stop.set()
        await asyncio.gather(*tasks)
        there = {n for (n,) in at.sql("select name from library_v1.books")}
        events = [n for (n,) in at.sql("select name from transom.events where resource_type = 'library.v1.Book'")]
        assert acknowledged <= there <= acknowledged | unknown
        assert sorted(events) == sorted(there), "a row and its event, or neither"
        assert len(acknowledged) > 20 and reads > 20, (len(acknowledged), reads, len(unknown))


@asynchronous
async def test_a_commit_whose_session_ends_is_told_as_done_or_as_unknown(
    at: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a primary that shuts down ends it: what is committed must not be told as if nothing had been sent."""
    real = records_module._position

    async def ended(connection: Any) -> int:
        at.sql("select pg_terminate_backend(%s)", connection.info.backend_pid)
        return await real(connection)

    async with engine(at) as on:
        shelf = on.schema.resources["library.v1.Shelf"]
        body = on.schema.message_class(shelf.message)(title="t")
        changes = [
            on.decisions.create(shelf, body, parent="", id=id, owner="users/ada", origin=ADA.origin) for id in "abc"
        ]
        with monkeypatch.context() as patched:
            patched.setattr(records_module, "_position", ended)
            assert await on.records.commit(changes[:1]) == [Outcome.DONE], "its position is asked for elsewhere"
        at.sql(
            """create function ends() returns trigger language plpgsql as
            $$begin perform pg_terminate_backend(pg_backend_pid()); return null; end$$"""
        )
        at.sql("create constraint trigger at_commit after insert on library_v1.shelves "
               "deferrable initially deferred for each row execute function ends()")  # fmt: skip
        try:
            with pytest.raises(Unavailable) as refusal:
                await on.records.commit(changes[1:2])
            assert refusal.value.reason == "OUTCOME_UNKNOWN"
        finally:
            at.sql("drop function ends() cascade")
        assert await on.records.commit(changes[2:]) == [Outcome.DONE]
        assert at.sql("select name from library_v1.shelves order by name") == [("shelves/a",), ("shelves/c",)]


@asynchronous
async def test_a_silent_server_is_given_up(at: Database, components: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "SILENCE_SECONDS", 0.3)
    async with cable(f"postgresql://127.0.0.1:{components.ports['postgres-1']}/") as (wire, _):
        async with engine(at, postgres=make_conninfo(at.postgres, host="127.0.0.1", port=wire.port)) as on:
            await on.create("Shelf", "", "s", title="t")
            wire.hold()
            begun = time.monotonic()
            [refusal] = await all_of([on.create("Shelf", "", "t", title="t")])
            assert isinstance(refusal, Unavailable) and refusal.reason == "OUTCOME_UNKNOWN"
            assert time.monotonic() - begun < 5
            await wire.cut()
            [refusal] = await all_of([on.get("Shelf", "shelves/s")])
            assert isinstance(refusal, Unavailable) and refusal.reason == "DATABASE_AWAY"
            await wire.mend()
            assert (await on.get("Shelf", "shelves/s")).title == "t"


@asynchronous
async def test_those_who_leave_do_not_disturb_those_who_stay(at: Database) -> None:
    async with engine(at) as on:
        await asyncio.gather(*(on.create("Shelf", "", f"s{i}", title="t") for i in range(10)))
        reads = [asyncio.create_task(on.get("Shelf", f"shelves/s{i % 10}")) for i in range(100)]
        writes = [asyncio.create_task(on.create("Book", f"shelves/s{i % 10}", f"b{i}", title="t")) for i in range(100)]
        updates = [
            asyncio.create_task(on.update("Shelf", f"shelves/s{i % 10}", None, theme=str(i))) for i in range(100)
        ]
        for turn in range(3):
            await asyncio.sleep(0)
            for task in [*reads, *writes, *updates][turn::6]:
                task.cancel()
        answers = await all_of([*reads, *writes, *updates])
        counts = tally(answers)
        assert set(counts) == {"done", "CancelledError"} and counts["done"] >= 130, counts
        await on.create("Shelf", "", "after", title="t")
        there = {n for (n,) in at.sql("select name from library_v1.books")}
        assert {a.name for a in answers[100:200] if not isinstance(a, BaseException)} <= there


@asynchronous
async def test_what_waits_has_a_bound(at: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "WAITING_MAX", 50)
    async with engine(at) as on:
        await on.create("Shelf", "", "s", title="t")
        answers = await all_of(on.get("Shelf", "shelves/s") for _ in range(60))
        assert tally(answers) == {"done": 50, "Exhausted": 10}
        [refusal] = [a for a in answers[-1:] if isinstance(a, Exhausted)]
        assert refusal.retry_after
        assert (await on.get("Shelf", "shelves/s")).title == "t"


@asynchronous
async def test_gathering_keeps_the_order_of_one_key_and_the_bound_of_a_call() -> None:
    calls: list[list[tuple[str, int]]] = []

    async def answer(questions: list[tuple[str, int]]) -> list[int | Exception]:
        calls.append(questions)
        await asyncio.sleep(0.001)
        return [n if n != 5 else ValueError("five") for _, n in questions]

    gathered: Gathering[tuple[str, int], int] = Gathering(answer, size=3, lanes=1, key=lambda q: q[0])
    asked = [("a", 0), ("a", 1), ("b", 2), ("a", 3), ("c", 4), ("d", 5), ("b", 6)]
    answers = await all_of(gathered.ask(q) for q in asked)
    assert [a if isinstance(a, int) else str(a) for a in answers] == [0, 1, 2, 3, 4, "five", 6]
    assert all(len(c) <= 3 and len({k for k, _ in c}) == len(c) for c in calls)
    for key in "abcd":
        order = [n for c in calls for k, n in c if k == key]
        assert order == sorted(order)
    gone = gathered.ask(("x", 7))
    gone.cancel()
    await asyncio.sleep(0.01)
    assert ("x", 7) not in [q for c in calls for q in c], "who has gone is not asked for"


# ------------------------------------------------------------------------------------------------- the replica


@asynchronous
async def test_a_caller_reads_their_own_writes_from_any_server_however_far_the_replica_is(
    at: Database, components: Stack
) -> None:
    """Others may see the replica's state until it is too old; the writer never does."""
    async with engine(at, replica=at.replica, lag_max=2.0) as on, engine(at, replica=at.replica, lag_max=2.0) as other:
        await on.create("Shelf", "", "old", title="before")
        await caught_up(at, on, other)
        counts = asked(other)
        assert (await other.get("Shelf", "shelves/old")).title == "before"
        assert counts == {"primary": 0, "replica": 1}, "the replica is read at all"
        async with paused(components):
            await on.create("Shelf", "", "new", title="t")
            await on.update("Shelf", "shelves/old", None, title="after")
            for e in (on, other):
                assert (await e.get("Shelf", "shelves/new")).title == "t"
                assert (await e.get("Shelf", "shelves/old")).title == "after"
                assert await e.names("Shelf", "") == ["shelves/new", "shelves/old"]
            assert counts == {"primary": 3, "replica": 1}
            with pytest.raises(NotFound):
                await other.get("Shelf", "shelves/new", by=BOB)
            assert (await other.get("Shelf", "shelves/old", by=BOB)).title == "before"
            assert (await other.update("Shelf", "shelves/old", None, by=BOB, theme="x")).title == "after", (
                "writes see the truth"
            )
            assert (await other.get("Shelf", "shelves/old", by=BOB)).theme == "x"
            until = time.monotonic() + 10
            while other.freshness.positions.lag <= 2.0:
                assert time.monotonic() < until
                await asyncio.sleep(0.1)
            nobody = replace(BOB, caller=replace(BOB.caller, name="users/carl"))
            assert (await other.get("Shelf", "shelves/new", by=nobody)).title == "t", "too old for anybody"
        await caught_up(at, on, other)
        counts.update(primary=0, replica=0)
        assert (await other.get("Shelf", "shelves/new")).title == "t"
        assert counts == {"primary": 0, "replica": 1}


@asynchronous
async def test_what_the_replica_refuses_the_primary_answers(at: Database, components: Stack) -> None:
    """A table it has not heard of yet stands for all that a replica may refuse."""
    option = 'option (google.api.resource) = {type: "late.test/Late" pattern: "lates/{late}"};'
    text = f'syntax = "proto3"; package late.v1; import "google/api/resource.proto"; message Late {{ {option} string name = 1; }}'
    schema = made_of({"late.proto": text})
    resource, make = schema.resources["late.v1.Late"], schema.message_class("late.v1.Late")
    async with paused(components):
        await asyncio.to_thread(migrate, at.postgres, schema)
        async with engine(at, schema=schema, replica=at.replica, lag_max=1000) as on:
            on.freshness.positions._caught_up_at = time.monotonic()  # as it was before the table came
            await on.resources.create(ADA, resource, "", "a", make())
            counts = asked(on)
            assert make.FromString(await on.resources.get(BOB, resource, "lates/a")).name == "lates/a"
            # Bob was shown the primary's state now, and nobody is shown the past of that; Carl was not.
            carl = replace(BOB, caller=replace(BOB.caller, name="users/carl"))
            assert len((await on.resources.lists.page(carl, resource, Wanted("", 10))).rows) == 1
            assert counts == {"primary": 2, "replica": 2}
    at.wait_replica()


@asynchronous
async def test_reads_go_on_without_the_replica(
    at: Database, components: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions_module, "LOOK_SECONDS", 0.5)
    async with cable(f"postgresql://127.0.0.1:{components.ports['postgres-2']}/") as (wire, _):
        async with engine(at, replica=make_conninfo(at.replica, host="127.0.0.1", port=wire.port)) as on:
            await on.create("Shelf", "", "s", title="t")
            await caught_up(at, on)
            counts = asked(on)
            await on.get("Shelf", "shelves/s")
            assert counts == {"primary": 0, "replica": 1}
            await wire.cut()
            answers = await all_of(on.get("Shelf", "shelves/s", by=who) for who in [ADA, BOB] * 20)
            answers += await all_of(on.names("Shelf", "", by=who) for who in [ADA, BOB] * 20)
            assert tally(answers) == {"done": 80} and counts["primary"] >= 2
            await wire.mend()
            await caught_up(at, on)
            counts.update(primary=0, replica=0)
            await on.get("Shelf", "shelves/s")
            assert counts == {"primary": 0, "replica": 1}, "it is read again once it is back"
            wire.hold()
            begun = time.monotonic()
            answers = await all_of(on.get("Shelf", "shelves/s", by=who) for who in [ADA, BOB] * 20)
            assert tally(answers) == {"done": 40}, "a replica that is silent is given up"
            assert time.monotonic() - begun < 3


@asynchronous
async def test_without_redis_those_who_may_have_written_read_the_primary(at: Database) -> None:
    async with cable(at.redis) as (wire, url), engine(at, replica=at.replica, redis=url) as on:
        await on.create("Shelf", "", "s", title="t")
        await caught_up(at, on)
        counts = asked(on)
        await wire.cut()
        assert (await on.get("Shelf", "shelves/s")).title == "t"
        assert await on.names("Shelf", "") == ["shelves/s"]
        assert counts == {"primary": 2, "replica": 0}
        assert (await on.update("Shelf", "shelves/s", None, theme="x")).theme == "x"
        assert (await on.get("Shelf", "shelves/s")).theme == "x"
        stranger = replace(ADA, caller=replace(ADA.caller, name=""))
        assert (await on.get("Shelf", "shelves/s", by=stranger)).title == "t"
        assert counts["replica"] == 1, "who has no name has written nothing"


@asynchronous
async def test_more_writers_than_are_remembered_are_all_served_the_truth(
    at: Database, components: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshness_module, "RECENT_MAX", 5)
    async with cable(at.redis) as (_, url), engine(at, replica=at.replica, redis=url, lag_max=1000) as on:
        await caught_up(at, on)
        callers = [replace(ADA, caller=replace(ADA.caller, name=f"users/u{i}")) for i in range(20)]
        async with paused(components):
            for i, caller in enumerate(callers):
                await on.create("Shelf", "", f"s{i}", by=caller, title="t")
            # The marks in Redis are gone; what this server remembers must do.
            with plain_redis.Redis.from_url(at.redis) as direct:
                for caller in callers:
                    direct.delete(f"transom:mark:{caller.caller.name}")
            for i, caller in enumerate(callers):
                assert (await on.get("Shelf", f"shelves/s{i}", by=caller)).title == "t"
            assert len(on.freshness._recent) <= 5
        await caught_up(at, on)
