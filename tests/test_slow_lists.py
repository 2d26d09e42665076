"""Lists that are slow: noted with their shape, never with their values, and what `transom check` says of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from library_ground import Database, asynchronous, database
from lists_ground import ANN, APP, SHELF, catalog, empty, opened, refused
from psycopg_pool import AsyncConnectionPool

from deploy.native.stack import PROJECT, Stack
from server.engine.index_advice import advice
from server.engine.lists import Wanted
from server.query import orders, shapes
from server.query.filters import Filters
from server.store import slow_lists
from server.store.pooled import Pool
from server.store.slow_lists import Slow, SlowLists

BOOK = catalog().resources["catalog.v1.Book"]


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Database]:
    with database(components, catalog()) as made:
        yield made


@pytest.fixture(autouse=True)
def _empty(at: Database) -> None:
    empty(at)


@dataclass(frozen=True)
class Shaped:
    sentence: str
    filter: str
    order_by: str
    several: bool
    text: str
    advised: str
    """Empty for none."""
    served: bool = False


SHAPED = [
    Shaped("an equal value", "pages = 7", "", False, "pages equal", 'index: {fields: "pages"}'),
    Shaped(
        "equal values and a range",
        "pages > 7 AND copies = 1",
        "",
        False,
        "copies equal, pages range",
        'index: {fields: "copies, pages"}',
    ),
    Shaped("an order", "", "pages desc, title", False, "by pages desc, title", 'index: {fields: "pages desc, title"}'),
    Shaped(
        "equal values and an order",
        "copies = 1 rating > 2",
        "pages desc",
        False,
        "copies equal, rating range, by pages desc",
        'index: {fields: "copies, pages desc"}',
    ),
    Shaped(
        "an order by what is equal",
        "copies = 1",
        "copies, pages",
        False,
        "copies equal, by copies, pages",
        'index: {fields: "copies, pages"}',
    ),
    Shaped(
        "several parents",
        "pages = 7",
        "",
        True,
        "pages equal, in several parents",
        'index: {fields: "pages", everywhere: true}',
    ),
    Shaped("what is nested", "edition.run = 7", "", False, "edition.run equal", 'index: {fields: "edition.run"}'),
    Shaped("an item of several", "tags:x", "", False, "tags holds", 'index: {fields: "tags"}'),
    Shaped("a key of a map", "labels.k = v", "", False, "labels holds", 'index: {fields: "labels"}'),
    Shaped(
        "an enum that is ordered by",
        "copies = 1",
        "state",
        False,
        "copies equal, by state",
        'index: {fields: "copies"}',
    ),
    Shaped("a part of a text", 'title = "*x*"', "", False, "title pattern", ""),
    Shaped("one of two", "pages = 7 OR copies = 1", "", False, "", ""),
    Shaped("a declared index", "state = OPEN", "", False, "state equal", 'index: {fields: "state"}', True),
    Shaped(
        "a declared index of an order", "", "price desc", False, "by price desc", 'index: {fields: "price desc"}', True
    ),
    Shaped(
        "it is for one parent",
        "price > 1",
        "",
        True,
        "price range, in several parents",
        'index: {fields: "price", everywhere: true}',
    ),
]


@pytest.mark.parametrize("one", SHAPED, ids=lambda one: one.sentence)
def test_a_shape_says_which_index_would_serve(one: Shaped) -> None:
    parsed = Filters(catalog(), BOOK).parse(one.filter)
    order = orders.parse(one.order_by, catalog(), BOOK) if one.order_by else None
    shape = shapes.shape_of([parsed], order, several=one.several)
    assert shape.text == one.text and shapes.read(shape.text) == shape
    index = shapes.advised(BOOK, shape)
    assert (shapes.option(index) if index else "") == one.advised
    assert shapes.served(BOOK, shape) is one.served


def test_only_what_is_slow_on_a_large_table_and_has_no_index_is_told() -> None:
    slow = [
        Slow("catalog.v1.Book", "pages equal", 3, 1.25),
        Slow("catalog.v1.Book", "state equal", 9, 9.0),
        Slow("catalog.v1.Book", "", 1, 2.0),
        Slow("catalog.v1.Shelf", "hidden equal", 9, 9.0),
        Slow("catalog.v1.Gone", "x equal", 9, 9.0),
    ]
    rows = {"catalog.v1.Book": 10_000, "catalog.v1.Shelf": 9_999}
    assert list(advice(catalog(), slow, rows)) == [
        "catalog/v1/catalog.proto: catalog.v1.Book: lists of 10000 rows (pages equal) took up to 1.2 s, 3 times: "
        'declare index: {fields: "pages"}',
        "catalog/v1/catalog.proto: catalog.v1.Book: lists of 10000 rows (a count) took up to 2.0 s, 1 times: "
        "no index could serve it: narrow it by a parent or a value",
    ]


async def noted(pool: Pool) -> list[tuple[str, str, int]]:
    return [(one.resource, one.shape, one.count) for one in await SlowLists(pool).found()]


@asynchronous
async def test_what_is_slow_is_noted_without_its_values(at: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_lists, "SLOW_SECONDS", 0.0)
    async with AsyncConnectionPool(at.postgres, min_size=1, max_size=1, open=False) as pool:
        slow = SlowLists(pool)
        async with opened(at, slow=slow.note) as on:
            await on.books(ANN, filter='title = "secret" AND pages > 3', orderBy="pages desc")
            await on.books(ANN, filter='title = "other" AND pages > 4', orderBy="pages desc")
            await on.books(ANN)
            await slow.aclose()
            shape = "pages range, title equal, by pages desc"
            # Both pages were counted, too: that is in no order.
            counted = ("catalog.v1.Book", "pages range, title equal", 0)
            found = await noted(pool)
            assert found[0] == ("catalog.v1.Book", shape, 2) or ("catalog.v1.Book", shape, 2) in found, found
            assert counted not in found
            await on.books(ANN, filter='title = "other" AND pages > 4', orderBy="pages desc")
            await slow.aclose()
            assert ("catalog.v1.Book", shape, 3) in await noted(pool)


@asynchronous
async def test_only_so_many_shapes_are_kept(at: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_lists, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(slow_lists, "WAITING", 3)
    monkeypatch.setattr(slow_lists, "KEPT", 4)
    async with AsyncConnectionPool(at.postgres, min_size=1, max_size=1, open=False) as pool:
        slow = SlowLists(pool)
        async with opened(at, slow=slow.note) as on:
            for field in ("pages", "copies", "price", "title", "code"):
                await on.books(ANN, orderBy=field)
            await slow.aclose()
            assert sorted(shape for _, shape, _ in await noted(pool)) == ["by copies", "by pages", "by price"]
            for field in ("title", "code"):
                await on.books(ANN, orderBy=field)
            await slow.aclose()
            await on.books(ANN, orderBy="title")
            await slow.aclose()
            assert len(await noted(pool)) <= 5


@asynchronous
async def test_what_takes_too_long_is_given_up(at: Database) -> None:
    """A row that somebody has locked is read all the same, so the slowness is that of the statement: of a lock on the table."""
    async with opened(at) as on:
        await on.add("a", title="t")
        await on.books(ANN, filter="pages = 0")  # its connection is there
        async with on.on.pool.connection() as other, other.transaction():
            await other.execute("lock table catalog_v1.books in access exclusive mode")
            selection = on.on.resources.lists.selection(BOOK, on.on.resources.lists.below(BOOK, SHELF), None, Wanted())
            assert await on.on.queries.count(selection, 10, "") is None


@asynchronous
async def test_a_list_that_takes_too_long_is_refused_as_such(at: Database) -> None:
    async with opened(at, plans=["-c statement_timeout=0.2s"]) as on:
        async with on.on.pool.connection() as other, other.transaction():
            await other.execute("lock table catalog_v1.books in access exclusive mode")
            assert await refused(on.books(ANN, filter="pages = 0")) == ("QUERY_TOO_EXPENSIVE", [])
        assert await on.books(ANN, filter="pages = 0") == []


def test_check_warns_of_what_was_slow(at: Database) -> None:
    at.sql(
        """insert into catalog_v1.books (name, _parent, _uid, _owner, _version, _create_time, _update_time, _payload)
        select 'publishers/p/shelves/s/books/b' || i, 'publishers/p/shelves/s', gen_random_uuid(), '', 1, now(), now(), ''
        from generate_series(1, 12000) i"""
    )
    at.sql("analyze catalog_v1.books")
    at.sql(
        "insert into transom.filters (resource, shape, count, slowest) values ('catalog.v1.Book', 'pages equal', 4, 0.5)"
    )
    told = checked(at.postgres)
    assert '12000 rows (pages equal) took up to 0.5 s, 4 times: declare index: {fields: "pages"}' in told.stdout
    assert told.returncode == 1, "with --strict it is a warning like any other"
    at.sql("delete from transom.filters")
    assert checked(at.postgres).returncode == 0
    away = checked("host=127.0.0.1 port=1 dbname=none user=none")
    assert away.returncode == 0 and "which lists were slow is not known" in away.stderr


def checked(dsn: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("transom")), "check", "--strict", str(APP)]
    env = {"TRANSOM_POSTGRES": dsn, "PATH": str(Path(sys.executable).parent)}
    return subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=60)
