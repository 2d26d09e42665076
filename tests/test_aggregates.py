"""Aggregates on a real Postgres: what is counted and summed, exactly, and of nothing that the caller does not see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from library_ground import Database, asynchronous, database
from lists_ground import ANN, BEN, KEY, NOBODY, SHELF, Catalog, catalog, empty, opened, refused

from deploy.native.stack import Stack


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Database]:
    with database(components, catalog()) as made:
        yield made


@pytest.fixture(autouse=True)
def _empty(at: Database) -> None:
    empty(at)


BOOKS: dict[str, dict[str, Any]] = {
    "a": {
        "title": "ö",
        "state": "OPEN",
        "pages": 1,
        "price": 0.1,
        "weight": 0.5,
        "copies": "9223372036854775807",
        "code": "18446744073709551615",
        "rating": 4,
        "printTime": "2026-01-01T00:00:00.000001Z",
        "readingTime": "1.5s",
        "tags": ["x", "y"],
        "labels": {"k": "v"},
        "edition": {"publisher": "w", "run": "5", "printTime": "2026-02-01T00:00:00.5Z", "readingTime": "90000s"},
    },
    "b": {
        "title": "Z",
        "state": "LENT",
        "pages": 2,
        "price": 0.2,
        "copies": "1",
        "rating": 0,
        "readingTime": "-0.5s",
        "edition": {"publisher": "w", "run": "6", "state": "LOST", "weight": 1.25, "bound": True},
    },
    "c": {"title": "a", "state": "OPEN", "pages": 4, "price": 1e308, "copies": "1", "edition": {"publisher": "v"}},
    "d": {"title": "b", "state": "LOST", "pages": 8, "price": 1e308, "draft": True, "cost": 5},
    "e": {"title": "c", "state": "OPEN", "pages": 16, "cost": 7, "memo": "sealed"},
}


async def shelved(on: Catalog) -> None:
    for id, fields in BOOKS.items():
        await on.add(id, **fields)
    await on.add("x", shelf="publishers/p/shelves/t", title="x", pages=32, state="LENT")


def of(function: str, path: str = "", alias: str = "") -> dict[str, str]:
    return {"function": function, "path": path, "alias": alias}


COUNT = of("COUNT")


@dataclass(frozen=True)
class Told:
    sentence: str
    asked: dict[str, Any]
    rows: list[dict[str, Any]]
    by: Any = ANN


TOLD = [
    Told("a count of all", {"aggregations": [COUNT]}, [{"count": "5"}]),
    Told("a stranger counts no draft", {"aggregations": [COUNT]}, [{"count": "4"}], BEN),
    Told("nobody counts as a stranger", {"aggregations": [COUNT]}, [{"count": "4"}], NOBODY),
    Told("a key counts everything", {"aggregations": [COUNT]}, [{"count": "5"}], KEY),
    Told("a count by a filter", {"aggregations": [COUNT], "filter": "state = OPEN"}, [{"count": "3"}]),
    Told(
        "a count of what a filter does not find", {"aggregations": [COUNT], "filter": "pages > 100"}, [{"count": "0"}]
    ),
    Told(
        "groups, in order of what they share",
        {"groupBy": ["state"], "aggregations": [COUNT, of("SUM", "pages")]},
        [
            {"state": "OPEN", "count": "3", "sum_pages": "21"},
            {"state": "LENT", "count": "1", "sum_pages": "2"},
            {"state": "LOST", "count": "1", "sum_pages": "8"},
        ],
    ),
    Told(
        "the groups of a stranger",
        {"groupBy": ["state"], "aggregations": [COUNT], "orderBy": "count"},
        [{"state": "LENT", "count": "1"}, {"state": "OPEN", "count": "3"}],
        BEN,
    ),
    Told("groups without a number", {"groupBy": ["state"]}, [{"state": "OPEN"}, {"state": "LENT"}, {"state": "LOST"}]),
    Told(
        "several parents",
        {
            "parent": "publishers/-/shelves/-",
            "groupBy": ["state"],
            "aggregations": [COUNT],
            "orderBy": "count desc, state",
        },
        [{"state": "OPEN", "count": "3"}, {"state": "LENT", "count": "2"}, {"state": "LOST", "count": "1"}],
    ),
    Told(
        "groups by what is nested, and by what is not set",
        {"groupBy": ["edition.publisher"], "aggregations": [COUNT]},
        [
            {"edition.publisher": None, "count": "2"},
            {"edition.publisher": "v", "count": "1"},
            {"edition.publisher": "w", "count": "2"},
        ],
    ),
    Told(
        "two paths",
        {"groupBy": ["state", "rating"], "aggregations": [COUNT], "orderBy": "rating desc", "filter": "pages < 8"},
        [
            {"state": "OPEN", "rating": "4", "count": "1"},
            {"state": "LENT", "rating": "0", "count": "1"},
            {"state": "OPEN", "rating": None, "count": "1"},
        ],
    ),
    Told(
        "sums are exact, and beyond int64",
        {"aggregations": [of("SUM", "copies"), of("SUM", "code"), of("MAX", "copies"), of("MIN", "copies")]},
        [
            {
                "sum_copies": "9223372036854775809",
                "sum_code": "18446744073709551615",
                "max_copies": "9223372036854775807",
                "min_copies": "0",
            }
        ],
    ),
    Told(
        "sums and means of numbers with fractions",
        {"filter": "pages < 4", "aggregations": [of("SUM", "price"), of("AVG", "pages"), of("MIN", "weight")]},
        [{"sum_price": 0.3, "avg_pages": 1.5, "min_weight": 0.0}],
    ),
    Told(
        "a sum that no double holds",
        {"aggregations": [of("SUM", "price"), of("AVG", "price")]},
        [{"sum_price": "Infinity", "avg_price": 4e307}],
    ),
    Told(
        "what is not set is no number",
        {"aggregations": [of("AVG", "rating"), of("MIN", "rating"), of("COUNT", "rating")]},
        [{"avg_rating": 2.0, "min_rating": "0", "count_rating": "2"}],
    ),
    Told(
        "of nothing there is no sum",
        {"filter": "pages > 100", "aggregations": [of("SUM", "pages"), of("MAX", "title"), of("COUNT", "tags")]},
        [{"sum_pages": None, "max_title": None, "count_tags": "0"}],
    ),
    Told(
        "times and durations",
        {
            "aggregations": [
                of("MAX", "print_time"),
                of("SUM", "reading_time"),
                of("AVG", "reading_time"),
                of("MIN", "edition.print_time"),
                of("MAX", "edition.reading_time"),
            ]
        },
        [
            {
                "max_print_time": "2026-01-01T00:00:00.000001Z",
                "sum_reading_time": "1s",
                "avg_reading_time": "0.500s",
                "min_edition_print_time": "2026-02-01T00:00:00.500Z",
                "max_edition_reading_time": "90000s",
            }
        ],
    ),
    Told(
        "texts by code points, enums by numbers, bools",
        {
            "aggregations": [
                of("MIN", "title"),
                of("MAX", "title"),
                of("MAX", "state"),
                of("MAX", "edition.state"),
                of("MAX", "draft"),
                of("MIN", "edition.bound"),
            ]
        },
        [
            {
                "min_title": "Z",
                "max_title": "ö",
                "max_state": "LOST",
                "max_edition_state": "LOST",
                "max_draft": True,
                "min_edition_bound": False,
            }
        ],
    ),
    Told(
        "a count of what is set, of any kind",
        {
            "aggregations": [
                of("COUNT", "tags", "tagged"),
                of("COUNT", "labels.k"),
                of("COUNT", "edition"),
                of("COUNT", "state"),
            ]
        },
        [{"tagged": "1", "count_labels_k": "1", "count_edition": "3", "count_state": "5"}],
    ),
    Told(
        "numbers of a message",
        {"aggregations": [of("SUM", "edition.run"), of("SUM", "edition.weight")]},
        [{"sum_edition_run": "11", "sum_edition_weight": 1.25}],
    ),
    Told(
        "a hidden field is as if it were not set",
        {"aggregations": [of("SUM", "cost"), of("MAX", "cost"), of("COUNT", "cost"), of("MAX", "memo")]},
        [{"sum_cost": "0", "max_cost": "0", "count_cost": "0", "max_memo": ""}],
        BEN,
    ),
    Told(
        "it is there for who sees it",
        {"aggregations": [of("SUM", "cost"), of("COUNT", "memo")]},
        [{"sum_cost": "12", "count_memo": "1"}],
    ),
    Told(
        "groups by a hidden field are one",
        {"groupBy": ["cost"], "aggregations": [COUNT]},
        [{"cost": "0", "count": "4"}],
        BEN,
    ),
    Told("a filter on a hidden field", {"filter": "cost > 0", "aggregations": [COUNT]}, [{"count": "0"}], BEN),
]


@asynchronous
async def test_what_is_told(at: Database) -> None:
    async with opened(at) as on:
        await shelved(on)
        for one in TOLD:
            assert await on.aggregate(one.by, **one.asked) == one.rows, one.sentence


@dataclass(frozen=True)
class Refused:
    sentence: str
    asked: dict[str, Any]
    field: str
    why: str


REFUSED = [
    Refused("no type", {"type": ""}, "type", "REQUIRED"),
    Refused("a type that there is not", {"type": "catalog.test/Car"}, "type", "UNKNOWN_TYPE"),
    Refused("nothing asked for", {}, "aggregations", "REQUIRED"),
    Refused(
        "a parent of another kind", {"parent": "publishers/p", "aggregations": [COUNT]}, "parent", "INVALID_PARENT"
    ),
    Refused("a filter that is none", {"filter": "pages >", "aggregations": [COUNT]}, "filter", "INVALID_FILTER"),
    Refused("no function", {"aggregations": [{"path": "pages"}]}, "aggregations[0].function", "REQUIRED"),
    Refused("no path", {"aggregations": [COUNT, of("SUM")]}, "aggregations[1].path", "REQUIRED"),
    Refused(
        "a path that leads nowhere", {"aggregations": [of("SUM", "colour")]}, "aggregations[0].path", "INVALID_ORDER_BY"
    ),
    Refused(
        "a count of what there is not",
        {"aggregations": [of("COUNT", "colour")]},
        "aggregations[0].path",
        "INVALID_FILTER",
    ),
    Refused(
        "a condition for a path",
        {"aggregations": [of("COUNT", "pages > 1 OR state")]},
        "aggregations[0].path",
        "INVALID_PATH",
    ),
    Refused("a sum of texts", {"aggregations": [of("SUM", "title")]}, "aggregations[0].path", "NOT_A_NUMBER"),
    Refused("a mean of times", {"aggregations": [of("AVG", "print_time")]}, "aggregations[0].path", "NOT_A_NUMBER"),
    Refused("the most of many", {"aggregations": [of("MAX", "tags")]}, "aggregations[0].path", "INVALID_ORDER_BY"),
    Refused(
        "an alias that is none",
        {"aggregations": [of("COUNT", alias="How many")]},
        "aggregations[0].alias",
        "INVALID_ALIAS",
    ),
    Refused("an alias twice", {"aggregations": [COUNT, COUNT]}, "aggregations[1]", "DUPLICATE"),
    Refused("groups by many", {"groupBy": ["tags"]}, "group_by[0]", "INVALID_ORDER_BY"),
    Refused("groups by a direction", {"groupBy": ["state desc"]}, "group_by[0]", "INVALID_PATH"),
    Refused("groups by two in one", {"groupBy": ["state, pages"]}, "group_by[0]", "INVALID_PATH"),
    Refused("a path twice", {"groupBy": ["state", "state"]}, "group_by[1]", "DUPLICATE"),
    Refused("too many paths", {"groupBy": ["state"] * 6}, "group_by", "TOO_MANY"),
    Refused("too many numbers", {"aggregations": [COUNT] * 21}, "aggregations", "TOO_MANY"),
    Refused("an order by what is not told", {"groupBy": ["state"], "orderBy": "pages"}, "order_by", "INVALID_ORDER_BY"),
    Refused("a page of less than nothing", {"groupBy": ["state"], "pageSize": -1}, "page_size", "NEGATIVE"),
    Refused("no token", {"groupBy": ["state"], "pageToken": "x"}, "page_token", "INVALID_PAGE_TOKEN"),
]


@asynchronous
async def test_what_is_refused(at: Database) -> None:
    async with opened(at) as on:
        for one in REFUSED:
            asked = {"type": "catalog.test/Book", "parent": SHELF, **one.asked}
            assert await refused(on.aggregated(ANN, asked)) == ("INVALID_REQUEST", [(one.field, one.why)]), one.sentence
        count = {"type": "catalog.v1.Book", "aggregations": [COUNT]}
        assert await refused(on.aggregated(ANN, {**count, "parent": "publishers/p/shelves/none"})) == ("NOT_FOUND", [])
        assert (await on.aggregated(ANN, {**count, "parent": SHELF}))["rows"] == [
            {"values": {"count": {"int64Value": "0"}}}
        ]


@asynchronous
async def test_nobody_counts_what_they_could_not_list(at: Database) -> None:
    async with opened(at) as on:
        await on.call(ANN, "CreateLoan", {"loanId": "l", "loan": {}})
        await on.call(ANN, "CreateShelf", {"parent": "publishers/p", "shelfId": "h", "shelf": {"hidden": True}})
        await on.add("b", shelf="publishers/p/shelves/h", title="t")
        for type in ("Loan", "Till"):
            asked = {"type": f"catalog.test/{type}", "groupBy": ["name"]}
            assert await refused(on.aggregated(ANN, asked)) == ("ACCESS_DENIED", []), type
            assert await refused(on.aggregated(NOBODY, asked)) == ("SIGN_IN_REQUIRED", []), type
            assert await on.aggregated(KEY, asked) is not None
        hidden = {
            "type": "catalog.test/Book",
            "parent": "publishers/p/shelves/h",
            "filter": "pages = 7",
            "aggregations": [COUNT],
        }
        assert await refused(on.aggregated(BEN, hidden)) == ("NOT_FOUND", [])
        assert (await on.aggregated(ANN, hidden))["rows"] == [{"values": {"count": {"int64Value": "0"}}}]


@asynchronous
async def test_groups_come_in_pages(at: Database) -> None:
    async with opened(at) as on:
        for i in range(7):
            await on.add(f"b{i}", title=f"t{i}", pages=i % 4)
        asked = {
            "type": "catalog.test/Book",
            "parent": SHELF,
            "groupBy": ["pages"],
            "aggregations": [COUNT],
            "orderBy": "count desc",
        }
        found, token = [], ""
        while True:
            answer = await on.aggregated(ANN, {**asked, "pageSize": 2, "pageToken": token})
            found += [
                (row["group"]["pages"]["int64Value"], row["values"]["count"]["int64Value"]) for row in answer["rows"]
            ]
            token = answer.get("nextPageToken", "")
            if not token:
                break
            other = {**asked, "pageToken": token, "filter": "pages > 0"}
            assert await refused(on.aggregated(ANN, other)) == (
                "INVALID_REQUEST",
                [("page_token", "INVALID_PAGE_TOKEN")],
            )
        assert found == [("0", "2"), ("1", "2"), ("2", "2"), ("3", "1")]


@asynchronous
async def test_what_is_deleted_is_counted_where_it_is_asked_for(at: Database) -> None:
    async with opened(at) as on:
        await on.add("a", title="t")
        await on.add("b", title="t")
        at.sql("update catalog_v1.books set _delete_time = now() where name like '%%/b'")
        assert await on.aggregate(ANN, aggregations=[COUNT]) == [{"count": "1"}]
        assert await on.aggregate(ANN, aggregations=[COUNT], showDeleted=True) == [{"count": "2"}]
