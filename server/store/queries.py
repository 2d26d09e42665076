"""Lists that ask for more than a plain page, and counts: on connections of their own.

What they cost depends on what is asked and on what indexes there are, so they share neither a statement nor a connection with
what is always quick, and each is given up after `query_lane.SECONDS`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import orjson
from prometheus_client import Histogram

from server.errors import Exhausted, Precondition, Unavailable
from server.query.groups import Grouping
from server.query.orders import Order
from server.query.rules.checking import Rules
from server.store import selections, watch_pages
from server.store.binary import int8
from server.store.changes import PAGE_BYTES_MAX, Shown
from server.store.freshness import Freshness
from server.store.pipeline import Result, Step
from server.store.positions import REPLAYED
from server.store.query_lane import QueryLane
from server.store.selections import Cut, Selection, Text
from server.store.watch_pages import WatchPage

COUNT_SECONDS = 1
"""How long a count may take that a page is answered with."""

_LIMITED = b"select set_config('statement_timeout', $1::text, true)"
"""Limits the statements after it, of its run."""

TAKEN = Histogram(
    "transom_query_seconds",
    "Duration of lists with a filter, an order or several parents, of counts and of aggregates.",
    ["resource"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)

Note = Callable[[Selection, Order | None, float], None]
"""Told of what was asked, of the order that was asked for, and how long it took, in seconds."""


class Queries:
    """Reads selections of a schema's resources."""

    def __init__(
        self, rules: Rules, primary: QueryLane, replica: QueryLane | None, freshness: Freshness, note: Note
    ) -> None:
        self._rules = rules
        self._primary = primary
        self._replica = replica
        self._freshness = freshness
        self._note = note

    async def page(self, selection: Selection, cut: Cut, reader: str | None) -> list[Shown]:
        """The rows of a page, as fresh as `reader` may expect; for no reader, of the primary. Of a page that is cut by its bytes,
        one row more is read than fits.

        Raises Precondition (QUERY_TOO_EXPENSIVE) where it takes too long.
        """
        out: list[Shown] = []
        for text in selections.pages(selection, cut, self._rules.resources[selection.resource.message]):
            result = await self._read(selection, cut.order, text, reader)
            value = result.get_value
            found = [
                Shown(_text(value(i, 0)), value(i, 1) or b"", int8(value(i, 2)), _text(value(i, 3)))
                for i in range(result.ntuples)
            ]
            out += found[: cut.size - len(out)]
            if len(out) >= cut.size or sum(len(row.payload) for row in out) > PAGE_BYTES_MAX:
                break
        return out

    async def watched(
        self, selection: Selection, name: str, after: str, size: int, types: Sequence[str], reader: str | None
    ) -> WatchPage:
        """The rows after a name, or the one called `name`, in order of names, and which events of these messages they show. As
        fresh as for a page, and cut as one.

        Raises Precondition (QUERY_TOO_EXPENSIVE) where it takes too long.
        """
        rules = self._rules.resources[selection.resource.message]
        text = watch_pages.page(selection, name, after, size, list(types), rules)
        result = await self._read(selection, None, text, reader)
        value = result.get_value
        rows = [
            Shown(_text(value(i, 0)), value(i, 1) or b"", int8(value(i, 2)), _text(value(i, 3)))
            for i in range(result.ntuples)
            if value(i, 0) is not None
        ]
        waiting = [tuple(one) for one in orjson.loads(value(0, 5) or b"[]")]
        return WatchPage(rows, int8(value(0, 4)), waiting)

    async def count(self, selection: Selection, most: int, reader: str) -> int | None:
        """How many resources it has, `most` where there are more; None where counting takes longer than COUNT_SECONDS, or others
        are asking: the page that is answered with it depends on nothing slow."""
        text = selections.count(selection, most, self._rules.resources[selection.resource.message])
        try:
            result = await self._read(selection, None, text, reader, COUNT_SECONDS)
        except (Precondition, Exhausted, Unavailable):
            return None
        return int8(result.get_value(0, 0))

    async def groups(
        self, selection: Selection, grouping: Grouping, size: int, skip: int, reader: str
    ) -> list[tuple[list[str | None], int]]:
        """The rows of an aggregate, at most `size` after `skip` others: a text for each column, and how many resources the
        group has. Of rows that are cut by their bytes, one more is read than fits.

        Raises Precondition (QUERY_TOO_EXPENSIVE) where it takes too long.
        """
        text = selections.groups(selection, grouping, size, skip, self._rules.resources[selection.resource.message])
        result = await self._read(selection, None, text, reader)
        value, columns = result.get_value, len(grouping.columns)
        return [
            ([None if (v := value(i, j)) is None else v.decode() for j in range(columns)], int8(value(i, columns)))
            for i in range(result.ntuples)
        ]

    async def _read(
        self, selection: Selection, order: Order | None, text: Text, reader: str | None, seconds: float | None = None
    ) -> Result:
        begin = time.monotonic()
        parameters = [None if one is None else one.encode() for one in text.parameters]
        step = Step(text.statement.encode(), parameters, once=True)
        limited = [step] if seconds is None else [Step(_LIMITED, [str(int(seconds * 1000)).encode()]), step]

        async def ask(stale: bool) -> Result | Precondition:
            try:
                return await (self._of_replica if stale else self._of_primary)(limited, reader, seconds is None)
            except Unavailable as slow:
                if slow.reason != "DATABASE_SLOW":
                    raise
                # Answered and not raised: what is too much for the replica is not asked of the primary, too.
                return Precondition(
                    "This takes too long to find among so many; narrow the filter, or ask for an order that there is an index "
                    "for.",
                    reason="QUERY_TOO_EXPENSIVE",
                )

        answer = await self._freshness.read(reader, ask)
        taken = time.monotonic() - begin
        TAKEN.labels(selection.resource.message).observe(taken)
        self._note(selection, order, taken)
        if isinstance(answer, Precondition):
            raise answer
        return answer

    async def _of_primary(self, steps: Sequence[Step], reader: str | None, waits: bool) -> Result:
        return (await self._primary.read(steps, reader=reader, waits=waits))[-1]

    async def _of_replica(self, steps: Sequence[Step], reader: str | None, waits: bool) -> Result:
        assert self._replica is not None
        expected = self._freshness.positions.replayed
        # In this order: what it has replayed before is what it shows.
        replayed, *_, result = await self._replica.read([REPLAYED, *steps], reader=reader, waits=waits)
        if int8(replayed.get_value(0, 0)) < expected:
            raise Unavailable("The replica may be another one.", reason="DATABASE_AWAY")
        return result


def _text(value: bytes | None) -> str:
    return (value or b"").decode()
