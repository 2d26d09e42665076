"""What is asked together is answered together, and nobody waits for ever or fails for a neighbour's sake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from library_ground import Database, asynchronous, database, engine, library

from deploy.native.stack import Stack
from server.errors import Invalid, Refusal, Unavailable
from server.store.fetches import Fetches
from server.store.gathering import Gathering
from server.store.pipeline import Result, Step


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Database]:
    with database(components, library()) as made:
        yield made


BOTH_WAYS = pytest.mark.parametrize("light", [False, True], ids=["with a task", "without"])


class Answering:
    """What gathers and answers; each call returns when it is let go."""

    def __init__(self, light: bool, **how: Any) -> None:
        self.calls: list[list[str]] = []
        self.gates: list[asyncio.Future[None]] = []
        self.gathering: Gathering[str, str] = Gathering(self._answer, **{"size": 3, "lanes": 2, "light": light} | how)

    async def _answer(self, asked: list[str]) -> list[str | Exception]:
        self.calls.append(asked)
        gate = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        await gate
        return [Invalid("not this") if q == "bad" else q.upper() for q in asked]


async def until(count: int, on: Answering) -> None:
    """Returns once so many calls are under way or were."""
    while len(on.calls) < count:
        await asyncio.sleep(0)


@BOTH_WAYS
@asynchronous
async def test_what_comes_while_a_call_is_under_way_waits_for_its_return(light: bool) -> None:
    on = Answering(light, lanes=1)
    first = [on.gathering.ask(q) for q in ("a", "b")]
    await until(1, on)
    second = [on.gathering.ask(q) for q in ("c", "d", "e", "f")]
    on.gates[0].set_result(None)
    assert await asyncio.gather(*first) == ["A", "B"]
    await until(2, on)
    on.gates[1].set_result(None)
    await until(3, on)
    on.gates[2].set_result(None)
    assert await asyncio.gather(*second) == ["C", "D", "E", "F"]
    assert on.calls == [["a", "b"], ["c", "d", "e"], ["f"]]


@BOTH_WAYS
@asynchronous
async def test_a_call_that_does_not_return_holds_nobody_back_while_there_is_another_lane(light: bool) -> None:
    on = Answering(light)
    held = on.gathering.ask("a")
    await until(1, on)
    others = [on.gathering.ask(q) for q in ("b", "c")]
    await until(2, on)  # though the first has not returned
    assert on.calls == [["a"], ["b", "c"]]
    on.gates[1].set_result(None)
    assert await asyncio.gather(*others) == ["B", "C"]
    last = on.gathering.ask("d")
    await until(3, on)
    on.gates[2].set_result(None)
    assert await last == "D" and not held.done()
    on.gates[0].set_result(None)
    assert await held == "A"


@BOTH_WAYS
@asynchronous
async def test_each_is_answered_for_itself_and_who_has_gone_is_not_asked_for(light: bool) -> None:
    on = Answering(light)
    good, bad, gone = (on.gathering.ask(q) for q in ("good", "bad", "gone"))
    gone.cancel()
    await until(1, on)
    on.gates[0].set_result(None)
    assert await good == "GOOD"
    with pytest.raises(Invalid):
        await bad
    assert on.calls == [["good", "bad"]]


@BOTH_WAYS
@asynchronous
async def test_a_call_that_fails_fails_for_all_in_it_and_for_no_other(light: bool) -> None:
    on = Answering(light, lanes=1)
    first = [on.gathering.ask(q) for q in ("a", "b")]
    await until(1, on)
    second = on.gathering.ask("c")
    on.gates[0].set_exception(Unavailable("away"))
    assert all(isinstance(f, Unavailable) for f in await asyncio.gather(*first, return_exceptions=True))
    await until(2, on)
    on.gates[1].set_result(None)
    assert await second == "C"


@asynccontextmanager
async def shelf_and_book(at: Database) -> AsyncIterator[tuple[Any, list[list[Step]], Fetches]]:
    """An engine with a shelf and a book, what was run, and what fetches from its primary; of authors it asks wrongly."""
    at.empty()
    async with engine(at) as on:
        await on.create("Shelf", "", "s", title="t")
        await on.create("Book", "shelves/s", "b", title="t")
        ran: list[list[Step]] = []

        async def run(steps: Sequence[Step]) -> list[Result]:
            ran.append(list(steps))
            return await on.records._primary.run(steps)

        statements = {m: s.fetch for m, s in on.records._statements.items()}
        statements["wrong"] = b"select name, _payload, _version, _owner from nothing where name = any($1::text[])"
        yield on, ran, Fetches(statements, run, 2)


SHELF, BOOK = ("library.v1.Shelf", "shelves/s"), ("library.v1.Book", "shelves/s/books/b")


@asynchronous
async def test_rows_of_several_tables_are_one_exchange(at: Database) -> None:
    async with shelf_and_book(at) as (_, ran, fetches):
        asked = [fetches.ask([SHELF, BOOK]), fetches.ask([BOOK, ("library.v1.Book", "none")]), fetches.ask([])]
        [shelf, book], [again, none], nothing = await asyncio.gather(*asked)
        assert (shelf.name, book.name, again, none, nothing) == (SHELF[1], BOOK[1], book, None, [])
        assert len(ran) == 1 and len(ran[0]) == 2


@asynchronous
async def test_a_table_that_postgres_refuses_fails_alone(at: Database) -> None:
    async with shelf_and_book(at) as (_, _, fetches):
        asked = [fetches.ask([SHELF]), fetches.ask([("wrong", "x")]), fetches.ask([BOOK, ("wrong", "x")])]
        shelf, wrong, both = await asyncio.gather(*asked, return_exceptions=True)
        assert shelf[0].name == SHELF[1]
        assert isinstance(wrong, Refusal) and isinstance(both, Refusal)
        assert [row.name for row in await fetches.ask([BOOK])] == [BOOK[1]], "what comes later is answered"


@asynchronous
async def test_a_name_that_no_text_of_postgres_can_hold_is_nobodys(at: Database) -> None:
    async with shelf_and_book(at) as (_, ran, fetches):
        odd = ("library.v1.Book", "shelves/s/books/\0")
        [[alone], [shelf, other]] = await asyncio.gather(fetches.ask([odd]), fetches.ask([SHELF, odd]))
        assert alone is None and other is None and shelf is not None
        ran.clear()
        assert await fetches.ask([odd]) == [None] and not ran
