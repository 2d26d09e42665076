"""The tables as they are: Postgres's catalogue and Transom's, as one State."""

from __future__ import annotations

import psycopg
from psycopg.rows import tuple_row

from server.schema.changes.state import VIEW, Column, State, TableState

_TABLES = """
select t.message, t.table_schema, t.table_name, coalesce(t.base, t.table_name), c.oid::bigint,
  greatest(c.reltuples, 0)::bigint
from transom.tables t
left join pg_class c on c.oid = to_regclass(format('%I.%I', t.table_schema, coalesce(t.base, t.table_name)))
order by t.message
"""
_NUMBERS = "select message, number, column_name, column_type from transom.catalogue"
_COLUMNS = """
select a.attrelid::bigint, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid)
from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where a.attrelid = any(%s::oid[]) and a.attnum > 0 and not a.attisdropped
"""
_VIEWS = """
select distinct d.refobjid::bigint, v.relname, obj_description(v.oid, 'pg_class')
from pg_depend d join pg_rewrite r on r.oid = d.objid join pg_class v on v.oid = r.ev_class
where d.refobjid = any(%s::oid[]) and d.classid = 'pg_rewrite'::regclass and v.relkind = 'v'
  and obj_description(v.oid, 'pg_class') like 'transom: %%'
"""
_INDEXES = """
select i.indrelid::bigint, c.relname, i.indisvalid and i.indisready,
  case when i.indexprs is null and i.indpred is null then
    array(select a.attname::text from unnest(i.indkey::int[]) with ordinality k(n, o)
      join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.n order by k.o) end
from pg_index i join pg_class c on c.oid = i.indexrelid
where i.indrelid = any(%s::oid[])
"""
_CHECKS = "select conrelid::bigint, conname from pg_constraint where contype = 'c' and conrelid = any(%s::oid[])"


def state(connection: psycopg.Connection) -> State:
    """What is there now. A table of the catalogue that somebody removed counts as one without columns."""
    cursor = connection.cursor(row_factory=tuple_row)
    tables = cursor.execute(_TABLES).fetchall()
    relations = [row[4] for row in tables if row[4]]
    numbers: dict[str, dict[int, str]] = {}
    types: dict[str, dict[int, str]] = {}
    for message, number, column, kind in cursor.execute(_NUMBERS):
        numbers.setdefault(message, {})[number] = column
        types.setdefault(message, {})[number] = kind
    columns: dict[int, dict[str, Column]] = {}
    for relation, name, kind, not_null, default in cursor.execute(_COLUMNS, [relations]):
        # A column called as Postgres writes the type, and as a schema does.
        columns.setdefault(relation, {})[name] = Column(name, kind.replace("(20,0)", "(20)"), not_null, default)
    views: dict[int, dict[str, str]] = {}
    for relation, name, said in cursor.execute(_VIEWS, [relations]):
        views.setdefault(relation, {})[name] = said.removeprefix(VIEW)
    indexes: dict[int, dict[str, bool]] = {}
    keys: dict[int, set[tuple[str, ...]]] = {}
    for relation, name, whole, over in cursor.execute(_INDEXES, [relations]):
        indexes.setdefault(relation, {})[name] = whole
        if whole and over:
            keys.setdefault(relation, set()).add(tuple(over))
    checks: dict[int, set[str]] = {}
    for relation, name in cursor.execute(_CHECKS, [relations]):
        checks.setdefault(relation, set()).add(name)
    return State(
        {
            message: TableState(
                schema=schema,
                name=name,
                base=base,
                numbers=numbers.get(message, {}),
                types=types.get(message, {}),
                columns=columns.get(relation, {}),
                views=views.get(relation, {}),
                indexes=indexes.get(relation, {}),
                keys=frozenset(keys.get(relation, ())),
                constraints=frozenset(checks.get(relation, ())),
                rows=rows or 0,
            )
            for message, schema, name, base, relation, rows in tables
        },
        schemas=frozenset(row[0] for row in cursor.execute("select nspname from pg_namespace")),
        filled=frozenset(row[0] for row in cursor.execute("select key from transom.schema_fills where done")),
    )
