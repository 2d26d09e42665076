"""The SQL of lists that ask for more than a plain page: a filter, an order, several parents, a count, words, groups.

Every one is made of the same parts: rows `t` of the resource's table, the row `q` of who asks, and conditions: of the place in
the tree, of the schema's rules, of filters. What the caller may not see of a row is there as if it were not set, so that
nothing can be found, ordered or counted by it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from server.query.filters import Filter
from server.query.groups import Grouping
from server.query.orders import Key, Order, Value
from server.query.parents import Below
from server.query.rules.checking import ResourceRules
from server.query.rules.sql import ASKING, table
from server.schema.model import Resource
from server.store.changes import PAGE_BYTES_MAX
from server.store.page_statements import seen

Parameters = list[str | None]


@dataclass(frozen=True, slots=True)
class Text:
    """A statement with its parameters, $1 and so on, all of them texts."""

    statement: str
    parameters: Parameters


@dataclass(frozen=True, slots=True)
class Selection:
    """Which resources of a type."""

    resource: Resource
    below: Below
    filters: tuple[Filter, ...]
    """All of which they meet."""
    asking: bytes | None
    """Who asks, as for a Page."""
    deleted: bool
    """Whether those are meant as well that are deleted and can be undeleted."""
    now: int
    """Microseconds since 1970."""
    action: str = "list"
    """Whose rule says which of them may be seen."""

    @property
    def fields(self) -> list[str]:
        """Names of the top-level fields that decide which they are."""
        return sorted({name for one in self.filters for name in one.fields})


@dataclass(frozen=True, slots=True)
class Cut:
    """Which part of a selection, in which order: at most `size` rows after a place, after `skip` others."""

    order: Order
    place: list[Value] | None
    size: int
    skip: int


@dataclass(slots=True)
class Parts:
    """The parts of statements over one selection. They share parameters, which are added as parts are made."""

    selection: Selection
    rules: ResourceRules
    parameters: Parameters = field(default_factory=list)

    def given(self, value: str | None, kind: str = "text") -> str:
        """A new parameter."""
        self.parameters.append(value)
        return f"${len(self.parameters)}::{kind}"

    def readable(self, name: str) -> str | None:
        """The SQL by which a row shows a field to who asks; None where every row does."""
        if self.selection.asking is None:
            return None
        if name in self.rules.copies:
            return "false"
        return next((f"({rule.condition}) is true" for f, rule in self.rules.reads if f.name == name), None)

    def asking(self) -> str:
        """What stands in FROM before the rows, with its comma: the row `q`. Each column is a parameter, and so a constant to
        whom plans the statement: what depends on the caller alone is reckoned out before any row is looked at."""
        if self.selection.asking is None:
            return ""
        asked = orjson.loads(self.selection.asking)
        columns = ", ".join(f"{self.given(_said(asked[name]), kind)} as {name}" for name, kind in ASKING.values())
        return f"(select {columns}) as q cross join lateral "

    def conditions(self) -> str:
        """The conditions of all rows that are meant."""
        selection, rule = self.selection, self.rules.actions.get(self.selection.action)
        parts = [selection.below.condition(self.parameters)]
        if selection.resource.soft_delete and not selection.deleted:
            parts.append("t._delete_time is null")
        parts += [
            one.condition(self.parameters, readable=self.readable, now=selection.now) for one in selection.filters
        ]
        if selection.asking is not None:
            parts.append(rule.selection if rule else "false")
        return " and ".join(parts)

    def rows(self) -> str:
        """The rows' table, as `t`."""
        return f"{table(self.selection.resource)} t"


def pages(selection: Selection, cut: Cut, rules: ResourceRules) -> list[Text]:
    """The statements of a page, to be run in order until it is full: each answers name, payload, version, and which of the
    fields with a read rule are seen.

    There is more than one where an index could not find in one go where the page begins, as NULLs come after all others.
    """
    return [_page(selection, cut, rules, at) for at in range(_spans(cut))]


def count(selection: Selection, most: int, rules: ResourceRules) -> Text:
    """The statement that counts, to `most` at most."""
    parts = Parts(selection, rules)
    asking = parts.asking()
    rows = f"select 1 from {parts.rows()} where {parts.conditions()} limit {parts.given(str(most), 'int')}"
    return Text(f"select count(*) from {asking}({rows}) as c", parts.parameters)


def groups(selection: Selection, grouping: Grouping, size: int, skip: int, rules: ResourceRules) -> Text:
    """The statement of groups: each row has a text for each column, NULL where there is no value, and how many resources the
    group has. Of what is beyond the bytes of a page, one row is answered."""
    parts = Parts(selection, rules)
    asking = parts.asking()
    columns = [
        f"{column.sql(parts.parameters, parts.readable, selection.now)} as c{i}"
        for i, column in enumerate(grouping.columns)
    ]
    grouped = ", ".join(str(i + 1) for i in range(len(grouping.groups)))
    rows = f"""select {", ".join(columns)}, count(*) as n from {parts.rows()} where {parts.conditions()}
        {f"group by {grouped}" if grouped else ""}"""
    texts = [f"g.c{i}::text as c{i}" for i in range(len(columns))]
    order = ", ".join(f"g.c{at} {'desc nulls last' if down else 'nulls first'}" for at, down in grouping.order)
    limit = f"limit {parts.given(str(size), 'int')} offset {parts.given(str(skip), 'int')}"
    lengths = " + ".join(f"coalesce(octet_length(w.c{i}), 0)" for i in range(len(columns)))
    text = f"""select * from (
        select w.*, sum({lengths}) over (rows unbounded preceding) - ({lengths}) as before from (
          select {", ".join(texts)}, g.n from {asking}({rows}) g {f"order by {order}" if order else ""} {limit}) w) s
        where before <= {PAGE_BYTES_MAX}"""
    return Text(text, parts.parameters)


def _page(selection: Selection, cut: Cut, rules: ResourceRules, span: int) -> Text:
    parts = Parts(selection, rules)
    asking = parts.asking()
    conditions = parts.conditions()
    if cut.place is not None:
        conditions += f" and {_begin(parts, cut, span)}"
        conditions += f" and ({cut.order.after(cut.place, parts.parameters, readable=parts.readable)})"
    bits = seen(rules) if selection.asking is not None else "''"
    limit = f"limit {parts.given(str(cut.size), 'int')} offset {parts.given(str(cut.skip), 'int')}"
    # Sizes are known without reading what is stored apart (TOAST); the row that goes beyond is read, too: it says that there
    # are more.
    text = f"""select t.name, t._payload, t._version, t.seen from {asking}(
        select sized.*, row_number() over () as i from (
          select wished.*, sum(octet_length(_payload)) over (rows unbounded preceding) - octet_length(_payload) as before from (
            select t.name, t._payload, t._version, {bits} as seen from {parts.rows()} where {conditions}
            order by {cut.order.sql(parts.readable)} {limit}) as wished) as sized
        where before <= {PAGE_BYTES_MAX}) as t order by t.i"""
    return Text(text, parts.parameters)


def _said(value: Any) -> str | None:
    """What JSON says, as the text of a parameter."""
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()


def _first(cut: Cut) -> tuple[Key, Value] | None:
    """The first key and where it stands, of a cut that begins at a place and not by names alone."""
    return (cut.order.keys[0], cut.place[0]) if cut.place and cut.order.keys else None


def _spans(cut: Cut) -> int:
    first = _first(cut)
    if first is None or not first[0].nullable or cut.skip:
        return 1
    key, value = first
    # NULLs come first, and last where it descends.
    return 2 if (value is None) != key.descending else 1


def _begin(parts: Parts, cut: Cut, span: int) -> str:
    """What the first key alone says of the rows after a place, that an index may begin there. The NULLs and the others are two
    spans, where both come after."""
    first = _first(cut)
    if first is None or (first[0].nullable and cut.skip):
        return "true"
    key, value = first
    found = key.sql(parts.readable)
    if value is None:
        return f"{found} is null" if span == 0 else f"{found} is not null"
    if span == 1:
        return f"{found} is null"
    return f"{found} {'<=' if key.descending else '>='} {parts.given(value, key.type)}"
