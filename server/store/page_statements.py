"""The SQL of plain pages, written once per resource at start: those that are in order of names and take all that is there."""

from __future__ import annotations

from psycopg import sql

from server.query.rules.checking import ResourceRules
from server.query.rules.sql import ASKING
from server.schema.model import Resource
from server.store.changes import PAGE_BYTES_MAX

Variant = tuple[bool, bool, bool]
"""Whether rules are asked, whether the page's bytes are looked at first, and whether what is deleted softly is shown."""


def page_statements(resource: Resource, rules: ResourceRules) -> dict[Variant, bytes]:
    """The statements of a resource's pages. What is never deleted softly has none that would show it."""
    return {
        (judged, large, deleted): _page(resource, rules, judged, large, deleted)
        for judged in (False, True)
        for large in (False, True)
        for deleted in ((False, True) if resource.soft_delete else (False,))
    }


def seen(rules: ResourceRules) -> str:
    """SQL: a text with 1 or 0 for each field with a read rule, whether the one who asks (`q`) sees it in the row `t`."""
    return " || ".join(f"(({one.condition}) is true)::int::text" for _, one in rules.reads) or "''"


def _page(resource: Resource, rules: ResourceRules, judged: bool, large: bool, deleted: bool) -> bytes:
    """Pages of several collections. Where rules are asked, each shows what the one who asks may see (`q`, a row whose
    columns are `rules.sql.ASKING`, of the rows `t`), and says which of the fields with a read rule they show."""
    rule = rules.actions.get("list")
    condition = f"and ({rule.condition if rule else 'false'}) is true" if judged else ""
    if resource.soft_delete and not deleted:
        condition += " and t._delete_time is null"
    rows = """select t.name, t._payload, t._version, {seen} as seen from {table} t
          where t._parent = q.parent and t.name > q.after {condition} order by t.name limit q.size"""
    if large:
        # Sizes are known without reading what is stored apart (TOAST); the row that goes beyond is read, too: it says
        # that there are more.
        rows = f"""select name, _payload, _version, seen from (
            select *, sum(octet_length(_payload)) over (order by name) - octet_length(_payload) as before
            from ({rows}) as wished) as sized
          where before <= {PAGE_BYTES_MAX}"""
    asked = "unnest($1::text[], $2::text[], $3::int[]) with ordinality as q(parent, after, size, i)"
    if judged:
        asked = """(select a.parent, a.after, a.size, a.i, s.*
          from unnest($1::text[], $2::text[], $3::int[], $4::text[]) with ordinality as a(parent, after, size, asking, i)
          cross join lateral jsonb_to_record(a.asking::jsonb) as s({asking}) offset 0) as q"""
    text = f"""select q.i::int, t.name, t._payload, t._version, t.seen from {asked}
        cross join lateral ({rows}) t order by q.i, t.name"""
    return (
        sql.SQL(text)
        .format(
            table=sql.Identifier(resource.table_schema, resource.table_name),
            condition=sql.SQL(condition),
            seen=sql.SQL(seen(rules) if judged else "''"),
            asking=sql.SQL(", ").join(sql.SQL(f"{name} {kind}") for name, kind in ASKING.values()),
        )
        .as_bytes(None)
    )
