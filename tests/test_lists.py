"""Lists on a real Postgres: what they find, in which order, page by page; and what they never tell."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from library_ground import Database, asynchronous, database, made_of
from lists_ground import ANN, BEN, KEY, NOBODY, SHELF, Catalog, catalog, empty, ids, opened, refused

from deploy.native.stack import Stack
from server.engine import views
from server.engine.lists import Wanted
from server.engine.resources import Call
from server.query import orders
from server.query.parents import Below
from server.query.rules.checking import rules_of
from server.store import selections
from server.store.query_lane import CONNECTIONS
from server.store.selections import Cut


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Database]:
    with database(components, catalog()) as made:
        yield made


@pytest.fixture(autouse=True)
def _empty(at: Database) -> None:
    empty(at)


BOOKS: dict[str, dict[str, Any]] = {
    "a": {
        "title": "The Trial",
        "state": "OPEN",
        "pages": 250,
        "price": 9.5,
        "rating": 4,
        "tags": ["law"],
        "labels": {"k": "v"},
    },
    "b": {
        "title": "The Castle",
        "state": "LENT",
        "pages": 300,
        "price": 12,
        "edition": {"publisher": "wolff", "run": "3"},
    },
    "c": {"title": "America", "state": "OPEN", "pages": 250, "price": 7.25, "rating": 2, "cover": "AAAA"},
    "d": {"title": "Letters", "state": "LOST", "pages": 900, "draft": True, "cost": 5, "memo": "from milena"},
    "e": {"title": "Diaries", "state": "OPEN", "pages": 100, "cost": 7, "memo": "sealed"},
}


async def shelved(on: Catalog) -> None:
    """Ann's books: `d` is a draft, which only she sees; what things cost only she sees."""
    for id, fields in BOOKS.items():
        await on.add(id, **fields)
    await on.add("x", shelf="publishers/p/shelves/t", title="Elsewhere", state="OPEN", pages=1)


@dataclass(frozen=True)
class Asked:
    sentence: str
    asked: dict[str, Any]
    found: str
    by: Any = ANN
    method: str = "ListBooks"


ALL = [
    Asked("a list without a filter shows all", {}, "abcde"),
    Asked("a stranger sees no draft", {}, "abce", BEN),
    Asked("nobody is a stranger", {}, "abce", NOBODY),
    Asked("a key sees everything", {}, "abcde", KEY),
    Asked("a filter", {"filter": "state = OPEN AND pages > 100"}, "ac"),
    Asked("a filter finds no draft for a stranger", {"filter": "pages = 900"}, "", BEN),
    Asked("and does for its owner", {"filter": "pages = 900"}, "d"),
    Asked("a hidden field is not found by", {"filter": "cost = 7"}, "", BEN),
    Asked("it is by who sees it", {"filter": "cost = 7"}, "e"),
    Asked("and not found by what it is not", {"filter": "cost != 7"}, "abce", BEN),
    Asked("a hidden field is as if it were not set", {"filter": "NOT cost > 0"}, "abce", BEN),
    Asked("not even its absence shows", {"filter": "cost = 0"}, "abce", BEN),
    Asked("an order", {"orderBy": "pages"}, "eacbd"),
    Asked("an order that descends", {"orderBy": "pages desc"}, "dbcae"),
    Asked(
        "the name decides between equals, in the direction of the last key", {"orderBy": "state, pages desc"}, "caebd"
    ),
    Asked("an order of enums is that of their numbers", {"orderBy": "state desc"}, "dbeca"),
    Asked("what is not set comes first", {"orderBy": "rating"}, "bdeca"),
    Asked("and last where it descends", {"orderBy": "rating desc"}, "acedb"),
    Asked("nested", {"orderBy": "edition.run desc"}, "bedca"),
    Asked("an order by a hidden field is one by what is not set", {"orderBy": "cost desc"}, "ecba", BEN),
    Asked("an order by it for its owner", {"orderBy": "cost desc"}, "edcba"),
    Asked("some are skipped", {"skip": 2}, "cde"),
    Asked("some are skipped of what a stranger sees", {"skip": 2}, "ce", BEN),
    Asked("skipped and filtered and ordered", {"skip": 1, "filter": "pages < 500", "orderBy": "price desc"}, "ace"),
    Asked("more are skipped than there are", {"skip": 100}, ""),
    Asked("several parents", {"parent": "publishers/p/shelves/-"}, "abcdex"),
    Asked(
        "several parents for a stranger", {"parent": "publishers/-/shelves/-", "filter": "state = OPEN"}, "acex", BEN
    ),
    Asked("a shelf of any publisher", {"parent": "publishers/-/shelves/t"}, "x"),
    Asked("several parents in an order", {"parent": "publishers/-/shelves/-", "orderBy": "title"}, "cexdba"),
    Asked("no such parent among several", {"parent": "publishers/none/shelves/-"}, ""),
    Asked("a word is searched for", {"filter": "letters"}, "d"),
    Asked("a word in a hidden field is not there", {"filter": "sealed"}, "", BEN),
    Asked("it is for its owner", {"filter": "sealed"}, "e"),
    Asked("a search", {"query": "THE cas"}, "b", method="SearchBooks"),
    Asked("every word must be there", {"query": "the letters"}, "", method="SearchBooks"),
    Asked("a phrase", {"query": '"he tri" the'}, "a", method="SearchBooks"),
    Asked("an open quote ends where the search does", {"query": '"he tri'}, "a", method="SearchBooks"),
    Asked("what a filter would read is a word here", {"query": "NOT AND"}, "", method="SearchBooks"),
    Asked("a search without words is a list", {"parent": SHELF}, "abcde", method="SearchBooks"),
    Asked("a search of everything", {}, "abcdex", method="SearchBooks"),
    Asked("a search of everything for a stranger", {"query": "e"}, "abcex", BEN, "SearchBooks"),
    Asked(
        "a search with a filter and an order",
        {"query": "e", "filter": "state = OPEN", "orderBy": "pages"},
        "xeac",
        method="SearchBooks",
    ),
    Asked("a search in a hidden field", {"query": "milena"}, "", BEN, "SearchBooks"),
    Asked(
        "a search of several parents", {"parent": "publishers/-/shelves/-", "query": "where"}, "x", method="SearchBooks"
    ),
]


@asynchronous
async def test_what_is_found(at: Database) -> None:
    async with opened(at) as on:
        await shelved(on)
        wrong = []
        for one in ALL:
            request = {"parent": SHELF, **one.asked} if one.method == "ListBooks" else one.asked
            whole = "".join(ids(await on.call(one.by, one.method, request)))
            paged, token = "", ""
            while True:
                page = await on.call(one.by, one.method, {**request, "pageSize": 2, "pageToken": token})
                paged, token = paged + "".join(ids(page)), page.next_page_token
                request = {**request, "skip": 0} if one.method == "ListBooks" else request
                if not token:
                    break
            if not whole == paged == one.found:
                wrong.append(f"{one.sentence}: {whole!r}, {paged!r} by pages, and not {one.found!r}")
        assert not wrong, "\n".join(wrong)


@dataclass(frozen=True)
class Refused:
    sentence: str
    asked: dict[str, Any]
    field: str
    why: str
    method: str = "ListBooks"
    by: Any = ANN


REFUSED = [
    Refused("a field that there is not", {"filter": "colour = 1"}, "filter", "INVALID_FILTER"),
    Refused("an order by what there is not", {"orderBy": "colour"}, "order_by", "INVALID_ORDER_BY"),
    Refused("too much to skip", {"skip": 10_001}, "skip", "OUT_OF_RANGE"),
    Refused("less than nothing to skip", {"skip": -1}, "skip", "OUT_OF_RANGE"),
    Refused("a page of less than nothing", {"pageSize": -1, "filter": "pages > 1"}, "page_size", "NEGATIVE"),
    Refused("no token", {"pageToken": "nonsense!", "filter": "pages > 1"}, "page_token", "INVALID_PAGE_TOKEN"),
    Refused("a parent of another kind", {"parent": "publishers/-"}, "parent", "INVALID_PARENT"),
    Refused("several parents of another kind", {"parent": "publishers/-/books/-"}, "parent", "INVALID_PARENT"),
    Refused(
        "what is not served is refused, and not left out",
        {"returnPartialSuccess": True},
        "return_partial_success",
        "FIELD_NOT_SUPPORTED",
    ),
    Refused("a mask that leads nowhere", {"readMask": "title,colour"}, "read_mask", "INVALID_PATH"),
    Refused("a mask and a view", {"readMask": "title", "view": "BOOK_VIEW_BASIC"}, "view", "VIEW_WITH_MASK"),
    Refused("a view that nobody knows", {"view": "BOOK_VIEW_RATED"}, "view", "VIEW_NOT_SUPPORTED"),
    Refused(
        "a mask of one that leads nowhere",
        {"name": f"{SHELF}/books/a", "readMask": "colour"},
        "read_mask",
        "INVALID_PATH",
        "GetBook",
    ),
    Refused("too many words", {"query": "a " * 21}, "query", "TOO_MANY_WORDS", "SearchBooks"),
    Refused("a search that is too long", {"query": "a" * 1001}, "query", "TOO_LONG", "SearchBooks"),
    Refused("a filter of a search", {"filter": "pages >"}, "filter", "INVALID_FILTER", "SearchBooks"),
]


@asynchronous
async def test_what_is_refused(at: Database) -> None:
    async with opened(at) as on:
        await shelved(on)
        for one in REFUSED:
            request = {"parent": SHELF, **one.asked} if one.method == "ListBooks" else one.asked
            _, fields = await refused(on.call(one.by, one.method, request))
            assert fields == [(one.field, one.why)], one.sentence
        assert await refused(on.books(ANN, parent="publishers/p/shelves/none", filter="pages > 1")) == ("NOT_FOUND", [])
        assert await refused(on.books(ANN, parent="publishers/p/shelves/none")) == ("NOT_FOUND", [])
        assert await refused(on.call(ANN, "ListTills", {})) == ("ACCESS_DENIED", [])


@asynchronous
async def test_a_token_is_good_for_what_it_was_given_for_only(at: Database) -> None:
    async with opened(at) as on:
        await shelved(on)
        asked = {"parent": SHELF, "filter": "pages > 1", "orderBy": "title", "pageSize": 1}
        token = (await on.call(ANN, "ListBooks", asked)).next_page_token
        assert ids(await on.call(ANN, "ListBooks", {**asked, "pageToken": token, "pageSize": 9})) == list("edba")
        other = [
            {"filter": "pages > 2"},
            {"orderBy": "title desc"},
            {"parent": "publishers/p/shelves/t"},
            {"showDeleted": True},
            {"filter": ""},
        ]
        for changed in other:
            _, fields = await refused(on.call(ANN, "ListBooks", {**asked, **changed, "pageToken": token}))
            assert fields == [("page_token", "INVALID_PAGE_TOKEN")], changed
        # What a page is cut by is no secret, and nothing is taken on trust of it.
        assert ids(await on.call(BEN, "ListBooks", {**asked, "pageToken": token, "pageSize": 9})) == ["e", "b", "a"]


@asynchronous
async def test_a_token_tells_a_stranger_nothing_of_hidden_fields(at: Database) -> None:
    async with opened(at) as on:
        await on.add("a", title="a", cost=123456789)
        await on.add("b", title="b", cost=987654321)
        token = (await on.call(BEN, "ListBooks", {"parent": SHELF, "orderBy": "cost", "pageSize": 1})).next_page_token
        held = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        assert b"books/a" in held and b"123456789" not in held and b"987654321" not in held


@asynchronous
async def test_what_is_deleted_is_shown_to_who_asks_for_it(at: Database) -> None:
    async with opened(at) as on:
        await shelved(on)
        name = {"name": f"{SHELF}/books/b"}
        assert (await on.call(ANN, "DeleteBook", name)).HasField("delete_time")
        assert await on.books(ANN) == list("acde")
        assert await on.books(ANN, showDeleted=True) == list("abcde")
        assert await on.books(ANN, filter="pages > 200") == list("acd")
        assert await on.books(ANN, filter="pages > 200", showDeleted=True) == list("abcd")
        assert await on.books(BEN, orderBy="name desc", showDeleted=True) == list("ecba")
        assert ids(await on.call(ANN, "SearchBooks", {"query": "castle"})) == []
        assert (await on.call(ANN, "GetBook", name)).title == "The Castle"
        await on.call(ANN, "UndeleteBook", name)
        assert await on.books(ANN) == list("abcde")


@asynchronous
async def test_totals_count_what_the_caller_sees(at: Database) -> None:
    async with opened(at) as on:
        await shelved(on)
        for by, asked, total in (
            (ANN, {}, 5),
            (ANN, {"pageSize": 2}, 5),
            (BEN, {"pageSize": 2}, 4),
            (BEN, {"pageSize": 2, "filter": "cost > 0"}, 0),
            (ANN, {"pageSize": 1, "filter": "cost > 0"}, 2),
            (ANN, {"skip": 2}, 5),
            (ANN, {"skip": 50}, 5),
            (ANN, {"skip": 50, "filter": "state = OPEN"}, 3),
            (BEN, {"parent": "publishers/-/shelves/-", "pageSize": 1}, 5),
            (ANN, {"filter": "title = none"}, 0),
        ):
            page = await on.call(by, "ListBooks", {"parent": SHELF, **asked})
            assert page.total_size == total, (by.name, asked)
        page = await on.call(ANN, "ListBooks", {"parent": SHELF, "pageSize": 2})
        later = await on.call(ANN, "ListBooks", {"parent": SHELF, "pageSize": 2, "pageToken": page.next_page_token})
        assert later.total_size == 5


@asynchronous
async def test_a_plain_page_is_answered_while_all_that_counts_is_busy(at: Database) -> None:
    async with opened(at) as on:
        await shelved(on)
        lane = on.on.queries._primary
        busy = [await lane._leased("", waits=True) for _ in range(CONNECTIONS)]
        page = await on.call(ANN, "ListBooks", {"parent": SHELF, "pageSize": 2})
        assert len(page.books) == 2 and page.total_size == 2 and page.next_page_token
        for one in busy:
            lane._free(one, "")
        assert (await on.call(ANN, "ListBooks", {"parent": SHELF, "pageSize": 2})).total_size == 5


def test_less_than_the_whole_may_lack_what_proto2_requires() -> None:
    schema = made_of(
        {
            "old.proto": 'syntax = "proto2";\npackage old.v1;\nimport "google/api/annotations.proto";\n'
            'import "google/api/resource.proto";\nimport "google/protobuf/field_mask.proto";\n'
            'message Map { option (google.api.resource) = {type: "old.test/Map" pattern: "maps/{map}"}; '
            "optional string name = 1; required string title = 2; optional string key = 3; }\n"
            "message GetMapRequest { optional string name = 1; optional google.protobuf.FieldMask read_mask = 2; }\n"
            "service Maps { rpc GetMap(GetMapRequest) returns (Map) "
            '{ option (google.api.http) = {get: "/v1/{name=maps/*}"}; } }\n'
        }
    )
    [method] = [m for m in schema.methods() if m.name == "GetMap"]
    asked = schema.message_class("old.v1.GetMapRequest")()
    asked.read_mask.paths.append("key")
    shape = views.shaping(schema, method)(asked)
    make = schema.message_class("old.v1.Map")
    assert shape is not None
    assert make.FromString(make(title="t", key="k").SerializeToString()).key == "k"
    part = make()
    part.MergeFromString(shape(make(title="t", key="k").SerializeToString()))
    assert part == make(key="k")


@asynchronous
async def test_less_than_the_whole_is_answered_where_less_is_asked_for(at: Database) -> None:
    async with opened(at) as on:
        await shelved(on)
        name = f"{SHELF}/books/b"
        book = await on.call(ANN, "GetBook", {"name": name, "readMask": "title,edition.run,labels.k"})
        assert (book.title, book.edition.run, book.edition.publisher, book.name, book.pages) == (
            "The Castle",
            3,
            "",
            "",
            0,
        )
        assert (await on.call(ANN, "GetBook", {"name": name, "readMask": "*"})).pages == 300
        assert (await on.call(ANN, "GetBook", {"name": name, "view": "BOOK_VIEW_FULL"})).edition.run == 3
        basic = await on.call(ANN, "GetBook", {"name": name, "view": "BOOK_VIEW_BASIC"})
        assert (basic.title, basic.pages, basic.HasField("create_time"), basic.HasField("edition")) == (
            "The Castle",
            300,
            True,
            False,
        )
        page = await on.call(ANN, "ListBooks", {"parent": SHELF, "view": "BOOK_VIEW_BASIC", "orderBy": "edition.run"})
        assert ids(page) == list("acdeb") and not any(
            b.cover or b.tags or b.labels or b.HasField("edition") for b in page.books
        )
        page = await on.call(BEN, "ListBooks", {"parent": SHELF, "readMask": "cost,title,labels.k"})
        assert [(b.title, b.cost, dict(b.labels)) for b in page.books][:1] == [("The Trial", 0, {"k": "v"})]
        assert all(b.cost == 0 and not b.name for b in page.books)
        page = await on.call(
            ANN, "ListBooks", {"parent": SHELF, "readMask": "title", "pageSize": 2, "orderBy": "pages"}
        )
        rest = await on.call(ANN, "ListBooks", {"parent": SHELF, "pageToken": page.next_page_token, "orderBy": "pages"})
        assert [b.title for b in page.books] == ["Diaries", "The Trial"] and ids(rest) == list("cbd")


@asynchronous
async def test_a_page_holds_what_a_reply_may(at: Database) -> None:
    async with opened(at) as on:
        cover = "A" * (1 << 20)
        for id in "abcdef":
            await on.add(id, title=id, pages=1, cover=cover)
        found, token, pages = [], "", 0
        while True:
            page = await on.call(
                ANN, "ListBooks", {"parent": SHELF, "filter": "pages = 1", "orderBy": "title desc", "pageToken": token}
            )
            assert page.ByteSize() < 4 << 20
            found, token, pages = found + ids(page), page.next_page_token, pages + 1
            if not token:
                break
        assert found == list("fedcba") and pages == 2


@asynchronous
async def test_where_an_order_has_no_value_a_page_may_end_all_the_same(at: Database) -> None:
    """Every pair of neighbours is a page's end once, the pages of one book each, in both directions."""
    async with opened(at) as on:
        values: list[dict[str, Any]] = [
            {},
            {"rating": 0},
            {"rating": 1, "nick": ""},
            {"rating": 1, "nick": "b"},
            {"rating": 1},
            {},
        ]
        for i, fields in enumerate(values):
            await on.add(f"b{i}", title="t", **fields)
        for order in (
            "rating",
            "rating desc",
            "rating, nick desc",
            "rating desc, nick",
            "nick, rating desc",
            "nick desc, rating",
            "print_time desc",
        ):
            whole = await on.books(ANN, orderBy=order)
            found, token = [], ""
            while True:
                page = await on.call(
                    ANN, "ListBooks", {"parent": SHELF, "orderBy": order, "pageSize": 1, "pageToken": token}
                )
                found, token = found + ids(page), page.next_page_token
                if not token:
                    break
            assert found == whole and len(whole) == len(values), order


@asynchronous
async def test_a_list_is_read_from_the_replica_and_shows_ones_own_writes(at: Database) -> None:
    async with opened(at, replica=at.replica) as on:
        for i in range(5):
            await on.add(f"b{i}", title="t", pages=i)
            assert len(await on.books(ANN, filter="pages >= 0")) == i + 1
        at.wait_replica()
        while on.on.freshness.positions.lag > 1:
            await asyncio.sleep(0.01)
        before = on.on.freshness.from_replica
        assert len(await on.books(BEN, filter="pages >= 0")) == 5
        assert on.on.freshness.from_replica > before


MANY = 20_000

PLANNED = [
    ("an order by an index, deep in it", "", "price", ["15000.0", f"{SHELF}/books/b15000"]),
    ("the same, descending", "", "price desc", ["5000.0", f"{SHELF}/books/b05000"]),
    (
        "an index of a filter and the order",
        "state = OPEN",
        "create_time desc",
        ["2026-01-01T02:00:00.000000Z", f"{SHELF}/books/b07200"],
    ),
    ("the same, on its first page", "state = OPEN", "create_time desc", None),
    ("names, deep in them", "", "name", [f"{SHELF}/books/b15000"]),
    ("a range", "price > 19980", "price", None),
]


@asynchronous
async def test_an_index_that_is_declared_serves_at_any_depth(at: Database) -> None:
    """Of 20,000 rows Postgres looks at those of one page, whoever asks and wherever the page begins."""
    async with opened(at) as on:
        at.sql(
            """insert into catalog_v1.books (name, _parent, _uid, _owner, _version, _create_time, _update_time, _payload,
              price, state, create_time)
            select 'publishers/p/shelves/s/books/b' || lpad(i::text, 5, '0'), 'publishers/p/shelves/s',
              gen_random_uuid(), 'users/ann', 1, now(), now(), '', i, case i %% 2 when 0 then 'OPEN' else 'LENT' end,
              timestamptz '2026-01-01Z' + i * interval '1 s'
            from generate_series(1, %s) i""",
            MANY,
        )
        at.sql("analyze catalog_v1.books")
        resource = catalog().resources["catalog.v1.Book"]
        lists, rules = on.on.resources.lists, rules_of(catalog()).resources["catalog.v1.Book"]
        for by in (KEY, BEN):
            for sentence, filter, order_by, place in PLANNED:
                asking = await lists._access.listing(Call(by), resource)
                filters = [lists.filter(resource, filter)] if filter else []
                selection = lists.selection(resource, Below(SHELF), asking, Wanted(), filters)
                cut = Cut(orders.parse(order_by, catalog(), resource), place, 21, 0)
                text = selections.pages(selection, cut, rules)[0]
                with psycopg.connect(at.postgres, autocommit=True) as connection:
                    connection.execute("set plan_cache_mode = force_custom_plan")
                    cursor = psycopg.RawCursor(connection)
                    cursor.execute("explain (analyze, timing off, format json) " + text.statement, text.parameters)
                    [[[plan]]] = cursor.fetchall()
                read = sum(node["Actual Rows"] + node.get("Rows Removed by Filter", 0) for node in scans(plan["Plan"]))
                assert read <= 25, f"{sentence}: {read} rows were read: {plan}"


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nodes of a plan that read the table."""
    if plan.get("Relation Name") == "books":
        yield plan
    for below in plan.get("Plans", []):
        yield from scans(below)
