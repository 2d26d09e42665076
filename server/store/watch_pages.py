"""The pages of what a watch begins with. Each says which events it shows, read in one statement and so in one snapshot: all up
to a position, and of those that have none yet the ones that it names."""

from __future__ import annotations

from typing import NamedTuple

from server.query.rules.checking import ResourceRules
from server.store.changes import PAGE_BYTES_MAX, Shown
from server.store.page_statements import seen
from server.store.selections import Parts, Selection, Text

WAITING_MAX = 10_000
"""Events without a position that are told of a page: where there are more, the relay is far behind."""


class WatchPage(NamedTuple):
    """A page, and what it shows."""

    rows: list[Shown]
    numbered: int
    """All events up to this position are shown."""
    waiting: list[tuple[int, str, str]]
    """And these, which have none yet: id, message and name. WAITING_MAX + 1 at most."""


def page(selection: Selection, name: str, after: str, size: int, types: list[str], rules: ResourceRules) -> Text:
    """The statement of the rows after a name, or of the one called `name`: name, payload, version, which fields are seen; then
    the position, and what waits of these messages as JSON. There is always a row: its name is NULL where there are none."""
    parts = Parts(selection, rules)
    asking = parts.asking()
    conditions = parts.conditions()
    if name:
        conditions += f" and t.name = {parts.given(name)}"
    elif after:
        conditions += f" and t.name > {parts.given(after)}"
    bits = seen(rules) if selection.asking is not None else "''"
    kinds = ", ".join(parts.given(one) for one in types)
    # Sizes are known without reading what is stored apart (TOAST); the row that goes beyond is read, too: it says that there
    # are more.
    text = f"""select p.name, p._payload, p._version, p.seen, r.numbered,
        (select coalesce(json_agg(json_build_array(w.id, w.resource_type, w.name)), '[]')::text from (
          select id, resource_type, name from transom.events where position is null and resource_type in ({kinds})
          limit {WAITING_MAX + 1}) as w)
      from transom.relay r left join (
        select sized.* from {asking}(
          select wished.*, sum(octet_length(_payload)) over (order by name) - octet_length(_payload) as before from (
            select t.name, t._payload, t._version, {bits} as seen from {parts.rows()} where {conditions}
            order by t.name limit {parts.given(str(size), "int")}) as wished) as sized
        where before <= {PAGE_BYTES_MAX}) as p on true
      order by p.name"""
    return Text(text, parts.parameters)
