"""Lists and searches: which resources, in which order, a page at a time.

A plain list, by names and of one parent, is what the store answers together with its neighbours. Whatever asks for more (a
filter, an order, words, several parents, rows to skip) is a statement of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from server.engine.access import Access, Asked
from server.engine.decisions import Clock, Decisions
from server.engine.refusals import absent
from server.errors import Invalid
from server.query import orders, pages, words
from server.query.filters import Filter, Filters
from server.query.orders import Order, Value
from server.query.parents import EVERYWHERE, Below, several
from server.schema.model import Resource, Schema
from server.schema.names import name_fault
from server.store.changes import PAGE_BYTES_MAX, Page, Shown
from server.store.selections import Cut, Selection

SKIP_MAX = 10_000
"""Results that a request may skip: they are read all the same."""

TOTAL_MAX = 100_000
"""How far a `total_size` is counted: of more it says this."""


class Records(Protocol):
    """The store of plain pages; see server/store/records.py."""

    def page(self, resource: Resource, page: Page, reader: str | None) -> Awaitable[list[Shown]]: ...


class Queries(Protocol):
    """The store of all others; see server/store/queries.py."""

    def page(self, selection: Selection, cut: Cut, reader: str | None) -> Awaitable[list[Shown]]: ...
    def count(self, selection: Selection, most: int, reader: str) -> Awaitable[int | None]: ...


class Wanted(NamedTuple):
    """What a list is asked for."""

    parent: str = ""
    size: int = 0
    token: str = ""
    scope: str = ""
    """What else the results depend on, as the method: the page's token is good for this only."""
    filter: str = ""
    order_by: str = ""
    words: str = ""
    """A search: what must stand in the searchable fields."""
    skip: int = 0
    deleted: bool = False
    """Whether what is deleted, and can be undeleted, is shown."""
    everywhere: bool = False
    """Whether no parent means any parent, and not none."""
    total: bool = False
    """Whether all are counted."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One page: its rows, in order, as the caller may see them, and the token of the next page."""

    rows: list[Shown]
    next_page_token: str
    total: int | None = None
    """How many there are on all pages, TOTAL_MAX at most; at least that many where it takes too long to count."""


class Lists:
    """The lists of one schema."""

    def __init__(
        self,
        schema: Schema,
        decisions: Decisions,
        records: Records,
        queries: Queries,
        access: Access,
        clock: Clock,
        page_size: int,
        page_size_max: int,
    ) -> None:
        self._schema = schema
        self._decisions = decisions
        self._records = records
        self._queries = queries
        self._access = access
        self._clock = clock
        self._page_size, self._page_size_max = page_size, page_size_max
        self._filters: dict[str, Filters] = {}

    async def page(self, call: Asked, resource: Resource, wanted: Wanted) -> Listing:
        """A page of the resources below a parent that the caller may see.

        Raises Invalid, NotFound where there is no such parent or the caller may not get it, Denied, Unauthenticated,
        Precondition (QUERY_TOO_EXPENSIVE).
        """
        below = self.below(resource, wanted.parent, everywhere=wanted.everywhere)
        size = pages.size_of(wanted.size, self._page_size, self._page_size_max)
        plain = below.parent is not None and not (wanted.filter or wanted.order_by or wanted.words or wanted.skip)
        if plain:
            found = await self._plain(call, resource, wanted, size)
        else:
            found = await self._selected(call, resource, wanted, below, size)
        if resource.snapshot_of:
            return replace(found, rows=await self._access.snapshots(call, resource, found.rows))
        return found

    async def _plain(self, call: Asked, resource: Resource, wanted: Wanted, size: int) -> Listing:
        bound = _bound(resource, wanted)
        after = pages.opened(wanted.token, bound)
        asking = await self._access.listing(call, resource)
        # One row more than wanted tells whether there is a next page, without a count.
        page = Page(wanted.parent, after, size + 1, asking, wanted.deleted)
        rows = await self._records.page(resource, page, call.caller.name)
        if not rows and not wanted.token:
            await self.check_parent(call, resource, wanted.parent)
        shown = self.shown(resource, rows[:size], asking)
        more = len(rows) > len(shown)
        total = None
        if wanted.total:
            alone = None if more or wanted.token else len(shown)
            total = await self._total(
                call, self.selection(resource, Below(wanted.parent), asking, wanted), alone, shown
            )
        return Listing(shown, pages.sealed(bound, shown[-1].name) if more else "", total)

    async def _selected(self, call: Asked, resource: Resource, wanted: Wanted, below: Below, size: int) -> Listing:
        if not 0 <= wanted.skip <= SKIP_MAX:
            raise Invalid.field("skip", f"must be from 0 to {SKIP_MAX}", "OUT_OF_RANGE")
        order = orders.parse(wanted.order_by, self._schema, resource)
        filters = [self.filter(resource, wanted.filter)] if wanted.filter else []
        if wanted.words:
            filters.append(words.searched(self.filters(resource), resource, wanted.words))
        bound = _bound(resource, wanted)
        cut = Cut(order, _opened(wanted.token, bound, order), size + 1, wanted.skip)
        asking = await self._access.listing(call, resource)
        selection = self.selection(resource, below, asking, wanted, filters)
        rows = await self._queries.page(selection, cut, call.caller.name)
        if not rows and not wanted.token and below.parent is not None:
            await self.check_parent(call, resource, below.parent)
        shown = self.shown(resource, rows[:size], asking)
        more = len(rows) > len(shown)
        token = ""
        if more and not order.keys:
            token = pages.sealed(bound, shown[-1].name)
        elif more:
            last = self._decisions.parse(resource, shown[-1].payload)
            unseen = self._access.rules(resource).copies if asking is not None else ()
            token = pages.sealed_place(bound, order.place(shown[-1].name, last, unseen))
        total = None
        if wanted.total:
            alone = None if more or wanted.token or (wanted.skip and not shown) else wanted.skip + len(shown)
            total = await self._total(call, selection, alone, shown)
        return Listing(shown, token, total)

    async def some(self, call: Asked, resource: Resource, wanted: Wanted, after: str, size: int) -> list[Shown]:
        """At most so many of the resources that are wanted, whatever their page, after a name and in order of names; none only
        where there are no more. As they are stored, on the primary: not for callers.

        Raises as page.
        """
        below = self.below(resource, wanted.parent, everywhere=wanted.everywhere)
        order = orders.parse("", self._schema, resource)
        filters = [self.filter(resource, wanted.filter)] if wanted.filter else []
        asking = await self._access.listing(call, resource)
        selection = self.selection(resource, below, asking, wanted, filters)
        cut = Cut(order, order.checked([after]) if after else None, size, 0)
        rows = await self._queries.page(selection, cut, None)
        if not rows and not after and below.parent is not None:
            await self.check_parent(call, resource, below.parent)
        return rows

    def below(self, resource: Resource, parent: str, *, everywhere: bool = False) -> Below:
        """Where `parent` says to look; `everywhere` is what no parent says. Raises Invalid."""
        if everywhere and not parent:
            return EVERYWHERE
        wild = "/-" in parent or parent.startswith("-")
        if wild and name_fault(parent) is None and (found := several(resource, parent)) is not None:
            return found
        self._decisions.below(resource, parent)
        return Below(parent)

    def filters(self, resource: Resource) -> Filters:
        """What reads the filters of a resource."""
        found = self._filters.get(resource.message)
        if found is None:
            found = self._filters[resource.message] = Filters(self._schema, resource)
        return found

    def filter(self, resource: Resource, text: str) -> Filter:
        """What the text of a filter says. Raises Invalid."""
        return self.filters(resource).parse(text)

    def selection(
        self,
        resource: Resource,
        below: Below,
        asking: bytes | None,
        wanted: Wanted,
        filters: Sequence[Filter] = (),
    ) -> Selection:
        """The resources that are meant."""
        return Selection(resource, below, tuple(filters), asking, wanted.deleted, self._clock())

    def shown(self, resource: Resource, rows: Sequence[Shown], asking: bytes | None) -> list[Shown]:
        """As many of the first rows as a reply may hold, as the caller may see them."""
        fitting = _fitting(rows)
        if asking is None:
            return fitting
        return [
            row._replace(payload=self._access.shown(resource, row.payload, row.seen)) if "0" in row.seen else row
            for row in fitting
        ]

    async def check_parent(self, call: Asked, resource: Resource, parent: str) -> None:
        """Raises NotFound where the parent should be there and is not, or not for this caller."""
        kept = self._schema.parent_of(resource, self._decisions.below(resource, parent))
        if kept and not await self._access.readable(call, kept, parent, call.caller.name):
            raise absent(kept, parent)

    async def _total(self, call: Asked, selection: Selection, alone: int | None, shown: Sequence[Shown]) -> int:
        if alone is not None:
            return min(alone, TOTAL_MAX)
        counted = await self._queries.count(selection, TOTAL_MAX, call.caller.name)
        return len(shown) if counted is None else counted


def _fitting(rows: Sequence[Shown]) -> list[Shown]:
    """As many of the first rows as a reply may hold, at least one if there is one."""
    total = 0
    for i, row in enumerate(rows):
        total += len(row.payload)
        if i and total > PAGE_BYTES_MAX:
            return list(rows[:i])
    return list(rows)


def _opened(token: str, bound: str, order: Order) -> list[Value] | None:
    """The place where a token says to go on; None for the first page. That of an order by name is that of a plain page, which
    may follow one that skips some. Raises Invalid."""
    if not order.keys:
        after = pages.opened(token, bound)
        return [after] if after else None
    place = pages.opened_place(token, bound)
    return None if place is None else order.checked(place)


def _bound(resource: Resource, wanted: Wanted) -> str:
    """What a page's token is bound to: all that its results depend on."""
    asked = [resource.message, wanted.parent, wanted.scope]
    if wanted.filter or wanted.order_by or wanted.words or wanted.deleted:
        asked += [wanted.filter, wanted.order_by, wanted.words, "deleted" if wanted.deleted else ""]
    return "\n".join(f"{len(part)}:{part}" for part in asked) if len(asked) > 3 else "\n".join(asked)
