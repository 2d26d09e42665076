"""Random filters and orders of random books, judged by Postgres and in Python: both must say the same of every book.

A case is a number. For others, and for longer:

    FILTERS_CASES=2000 FILTERS_FROM=1000 .venv/bin/pytest tests/test_filters_property.py -n 0
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from functools import cmp_to_key
from random import Random
from typing import Any

import psycopg
import pytest
from filters_ground import ADA, NOW, TABLE, Shelf, books, catalogue, filter_text, order_text, shelf
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rules_ground import sorted_otherwise

from deploy.native.stack import Stack
from server.errors import Invalid
from server.query import orders
from server.query.filters import Filters, tree
from server.query.filters.predicate import number_key, values
from server.query.orders import Order
from server.schema.kinds import Kind

CASES = int(os.environ.get("FILTERS_CASES", "25"))
FROM = int(os.environ.get("FILTERS_FROM", "0"))
GUARD = f"nullif(t._owner, '') = '{ADA}'"
"""Of some rows true, of some false, of some NULL."""

cases = settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def connection(components: Stack) -> Iterator[psycopg.Connection[Any]]:
    with sorted_otherwise(components.env["TRANSOM_POSTGRES"]) as connection:
        yield connection


def guarded(random: Random) -> dict[str, str]:
    """The fields that not every row shows."""
    names = [f.name for f in books().fields if f.name != "name"]
    return dict.fromkeys(random.sample(names, random.choice([0, 0, 8, 30])), GUARD)


def test_postgres_and_python_find_the_same_books(connection: psycopg.Connection[Any]) -> None:
    filters = Filters(catalogue(), books())
    nodes: Counter[str] = Counter()
    said: Counter[bool] = Counter()

    @cases
    @given(st.integers(FROM, FROM + 2**32))
    def judged(seed: int) -> None:
        random = Random(seed)
        guards = guarded(random)
        found = [filters.parse(filter_text(random, random.choice([0, 0, 1, 3]))) for _ in range(40)]
        with connection.transaction(force_rollback=True):
            here = shelf(connection, random, 12)
            met = here.meeting(found, guards)
        for row in here.rows:
            hidden = guards if row.owner != ADA else {}
            for one, in_sql in zip(found, met[row.name], strict=True):
                in_python = one.matches(row.name, row.message, hidden, NOW)
                assert in_python is in_sql, f"case {seed}: {row.name}: Postgres {in_sql}: {one.text!r}\n{row.message}"
                said[in_sql] += 1
        for one in found:
            assert one.node is not None
            nodes.update(type(node).__name__ for node in tree.walk(one.node))

    judged()
    # It says something only if it gets everywhere.
    assert all(nodes[kind.__name__] > CASES / 4 for kind in tree.Node.__args__), nodes
    assert min(said.values()) > sum(said.values()) / 6, said


def test_pages_in_any_order_show_every_book_once(connection: psycopg.Connection[Any]) -> None:
    kinds: Counter[Kind] = Counter()

    @cases
    @given(st.integers(FROM, FROM + 2**32))
    def judged(seed: int) -> None:
        random = Random(seed)
        guards = guarded(random)
        wished = [orders.parse(order_text(random), catalogue(), books()) for _ in range(6)]
        with connection.transaction(force_rollback=True):
            here = shelf(connection, random, 15)
            for order in wished:
                wanted = in_python(order, here, guards)
                statement = f"select t.name from {TABLE} t order by {order.sql(guards.get)}"
                assert [name for (name,) in here.asked(statement, [])] == wanted, f"case {seed}: {order.text}"
                assert in_pages(order, here, guards, random.choice([1, 4])) == wanted, f"case {seed}: {order.text}"
        for order in wished:
            kinds.update(key.path.kind for key in order.keys)

    judged()
    assert set(kinds) == {
        Kind.BOOL, Kind.INT, Kind.DOUBLE, Kind.STRING, Kind.ENUM, Kind.TIMESTAMP, Kind.DURATION,
    }, kinds  # fmt: skip


def in_python(order: Order, here: Shelf, guards: dict[str, str]) -> list[str]:
    """The names of the books in an order, by what each shows."""
    shown = {row.name: without(row, guards) for row in here.rows}

    def compared(one: str, other: str) -> int:
        for key in order.keys:
            left, right = rank(key, one, shown[one]), rank(key, other, shown[other])
            if left != right:
                return (1 if left > right else -1) * (-1 if key.descending else 1)
        return (1 if one > other else -1) * (-1 if order.descending else 1)

    return sorted(shown, key=cmp_to_key(compared))


def rank(key: orders.Key, name: str, message: Any) -> tuple[Any, ...]:
    """What a key compares."""
    if key.path.text == "name":
        return (True, name)
    for value in values(key.path, message):
        return (True, number_key(value) if key.path.kind is Kind.DOUBLE else value)
    return (False,)


def without(row: Any, guards: dict[str, str]) -> Any:
    """What a row shows."""
    message = type(row.message)()
    message.CopyFrom(row.message)
    for name in guards if row.owner != ADA else ():
        message.ClearField(name)
    return message


def in_pages(order: Order, here: Shelf, guards: dict[str, str], size: int) -> list[str]:
    """The names of the books, page by page, each after the place where the one before it ended."""
    rows = {row.name: row for row in here.rows}
    found: list[str] = []
    condition, parameters = "true", []
    while True:
        text = f"select t.name from {TABLE} t where {condition} order by {order.sql(guards.get)} limit {size}"
        page = [name for (name,) in here.asked(text, parameters)]
        if not page:
            return found
        found += page
        assert len(found) <= len(rows), (order.text, found)
        last = rows[page[-1]]
        place = order.place(last.name, last.message, guards if last.owner != ADA else ())
        parameters = []
        condition = order.after(order.checked(place), parameters, readable=guards.get)


PIECES = [
    "title", "author.age", "labels", ".", ":", "=", "!=", "<", ">=", "(", ")", '"', "'", "\\", "*", "-", "NOT", "AND", "OR",
    " ", ",", "now()", "ago(", "startsWith(", "null", "true", "1e999", "-0", "1.5s", "2026-01-01", "𝟙", "²", "\x00", "\ud7ff",
]  # fmt: skip


def test_no_text_makes_anything_but_a_filter_or_a_refusal() -> None:
    filters = Filters(catalogue(), books())
    pieces = st.sampled_from(PIECES)
    texts = st.one_of(
        st.text(max_size=40),
        st.lists(pieces, max_size=20).map("".join),
        st.lists(pieces, max_size=9).map(" ".join),
    )
    said: Counter[bool] = Counter()

    @settings(max_examples=CASES * 40, deadline=None, derandomize=True, database=None)
    @given(texts)
    def read(text: str) -> None:
        for parse in (filters.parse, lambda text: orders.parse(text, catalogue(), books())):
            try:
                found = parse(text)
            except Invalid as refusal:
                [violation] = refusal.violations
                assert violation.description.startswith("column ")
                said[False] += 1
            else:
                said[True] += 1
                if isinstance(found, Order):
                    found.sql()
                else:
                    found.condition([], now=NOW)
                    found.matches("shelves/a/books/b", catalogue().message_class("catalogue.v1.Book")(), now=NOW)

    read()
    assert min(said[True], said[False]) > CASES, said
