"""Random lists of random rows: pages that stay right while rows change, and answers that tell a stranger nothing hidden.

A case is a number, so what fails can be had again. For others, and for more:

    LIST_CASES=500 LIST_FROM=1000 .venv/bin/pytest tests/test_lists_property.py
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
from library_ground import Database, asynchronous, database
from lists_ground import ANN, BEN, KEY, Catalog, catalog, empty, ids, opened

from deploy.native.stack import Stack

CASES = int(os.environ.get("LIST_CASES", "6"))
FROM = int(os.environ.get("LIST_FROM", "0"))
SHELVES = "publishers/p/shelves"
BOOKS = 14

KEYS = (
    "title",
    "state",
    "pages",
    "price",
    "rating",
    "print_time",
    "edition.run",
    "nick",
    "cost",
    "memo",
    "reading_time",
    "name",
)
CONDITIONS = (
    "pages > 1",
    "rating = 1",
    "NOT rating = 1",
    "state = OPEN",
    "state != LENT",
    "price <= 2.5",
    "cost > 0",
    "NOT cost > 0",
    "cost = 1 OR pages = 2",
    "memo = a*",
    "tags:x",
    "labels.k = v",
    "edition.run >= 2",
    "print_time < 2026-01-03T00:00:00Z",
    "reading_time > 1s",
    "nick:*",
    "b",
    "a OR cost = 2",
)


def book(dice: random.Random) -> dict[str, Any]:
    """The fields of a book: few values, so that many are equal, and some not set."""
    some: dict[str, Any] = {
        "title": dice.choice(["", "a", "B", "ä", "ab"]),
        "state": dice.choice(["STATE_UNSPECIFIED", "OPEN", "LENT", "LOST"]),
        "pages": dice.randrange(4),
        "price": dice.choice([-1, 0, 2.5, "NaN", "Infinity"]),
        "rating": dice.randrange(3),
        "printTime": f"2026-01-0{dice.randrange(1, 5)}T00:00:00.00000{dice.randrange(3)}Z",
        "readingTime": dice.choice(["-1s", "1.5s", "90000s"]),
        "tags": dice.choice([[], ["x"], ["x", "y"]]),
        "labels": dice.choice([{}, {"k": "v"}]),
        "edition": {"run": str(dice.randrange(4))},
        "nick": dice.choice(["", "n"]),
        "cost": str(dice.randrange(3)),
        "memo": dice.choice(["a", "b", "ab"]),
        "draft": dice.random() < 0.4,
    }
    return {name: value for name, value in some.items() if dice.random() < 0.75}


def asked(dice: random.Random) -> dict[str, Any]:
    """A filter and an order."""
    keys = dice.sample(KEYS, dice.randrange(4))
    conditions = dice.sample(CONDITIONS, dice.randrange(3))
    order = ", ".join(f"{key} desc" if dice.random() < 0.5 else key for key in keys)
    return {"filter": dice.choice([" ", " AND ", " OR "]).join(conditions), "orderBy": order}


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Database]:
    with database(components, catalog()) as made:
        yield made


@pytest.fixture(autouse=True)
def _empty(at: Database) -> None:
    empty(at)


async def change(on: Catalog, dice: random.Random, id: str) -> None:
    """Makes another book of one, or none."""
    name = f"{SHELVES}/s/books/{id}"
    if dice.random() < 0.3:
        on.at.sql("delete from catalog_v1.books where name = %s", name)
    else:
        fields = {**book(dice), "name": name}
        await on.call(ANN, "UpdateBook", {"book": fields, "updateMask": "*"})


async def paged(on: Catalog, dice: random.Random, by: Any, request: dict[str, Any], touched: set[str]) -> list[str]:
    """The ids of all pages; between two of them some books become others, or go, or come."""
    found: list[str] = []
    token, fresh = "", 0
    while True:
        page = await on.call(by, "ListBooks", {**request, "pageSize": dice.randrange(1, 5), "pageToken": token})
        found += ids(page)
        token = page.next_page_token
        if not token:
            return found
        for id in dice.sample(sorted(f"b{i:02}" for i in range(BOOKS)), dice.randrange(3)):
            if id not in touched:
                touched.add(id)
                await change(on, dice, id)
        if fresh < 5 and dice.random() < 0.5:
            fresh += 1
            touched.add(f"n{fresh}")
            await on.add(f"n{fresh}", shelf=f"{SHELVES}/s", **book(dice))


@pytest.mark.parametrize("number", range(FROM, FROM + CASES))
@asynchronous
async def test_what_stays_is_on_one_page_in_its_place(at: Database, number: int) -> None:
    async with opened(at) as on:
        dice = random.Random(number)
        await asyncio.gather(*(on.add(f"b{i:02}", shelf=f"{SHELVES}/s", **book(dice)) for i in range(BOOKS)))
        for by in (ANN, BEN, KEY):
            request = {"parent": f"{SHELVES}/{dice.choice('s-')}", **asked(dice)}
            whole, touched = ids(await on.call(by, "ListBooks", request)), set[str]()
            found = await paged(on, dice, by, request, touched)
            stayed = [id for id in whole if id not in touched]
            assert [id for id in found if id not in touched] == stayed, (
                number,
                by.name,
                request,
                whole,
                found,
                touched,
            )
            on.at.sql("delete from catalog_v1.books where name like '%%/n_'")
            gone = {f"b{i:02}" for i in range(BOOKS)} - {
                name.rpartition("/")[2] for (name,) in on.at.sql("select name from catalog_v1.books")
            }
            await asyncio.gather(*(on.add(id, shelf=f"{SHELVES}/s", **book(dice)) for id in sorted(gone)))


@pytest.mark.parametrize("number", range(FROM, FROM + CASES))
@asynchronous
async def test_a_stranger_is_told_what_they_were_if_nothing_were_hidden(at: Database, number: int) -> None:
    """On one shelf are books of which a stranger does not see all, on the other the same without what they do not see."""
    hidden = ("cost", "memo")
    async with opened(at) as on:
        dice = random.Random(number)
        books = [book(dice) for _ in range(BOOKS)]
        for i, fields in enumerate(books):
            await on.add(f"b{i:02}", shelf=f"{SHELVES}/s", **fields)
            if not fields.get("draft"):
                await on.add(f"b{i:02}", shelf=f"{SHELVES}/t", **{k: v for k, v in fields.items() if k not in hidden})
        for _ in range(4):
            request, size = asked(dice), dice.randrange(1, 5)
            told = []
            for shelf in "st":
                pages, token = [], ""
                while True:
                    more = {"parent": f"{SHELVES}/{shelf}", "pageSize": size, "pageToken": token}
                    page = await on.call(BEN, "ListBooks", {**request, **more})
                    pages.append((ids(page), page.total_size, len(page.next_page_token)))
                    token = page.next_page_token
                    if not token:
                        break
                count = {
                    "parent": f"{SHELVES}/{shelf}",
                    "filter": request["filter"],
                    "groupBy": ["cost", "state"],
                    "aggregations": [
                        {"function": function, "path": path}
                        for function, path in (
                            ("COUNT", ""),
                            ("COUNT", "memo"),
                            ("SUM", "cost"),
                            ("MAX", "memo"),
                            ("SUM", "pages"),
                        )
                    ],
                }
                told.append((pages, await on.aggregate(BEN, **count)))
            assert told[0] == told[1], (number, request)
