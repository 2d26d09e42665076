"""The SQL of a table, written once per resource at start.

Every writing statement takes arrays, one element a change, and answers one Outcome for each in the order asked; the
row and its event are written by the same statement. Rows are locked in the order of their names, so that two batches
cannot wait for each other. A parent is held with FOR KEY SHARE while a child is made, and locked FOR UPDATE before
it is looked at for children: neither can miss the other.
"""

from __future__ import annotations

from psycopg import sql

from server.schema.model import Resource, Schema
from server.schema.tables import ENDS
from server.store.changes import Act

_ORIGIN = ("verb", "caller", "request_id", "traceparent")
INSERT_LEAD = ("name", "parent", "owner", "uid", "version", "at", "payload", *_ORIGIN)
REPLACE_LEAD = ("name", "expected", "version", "at", "payload", *_ORIGIN)
REMOVE_LEAD = ("name", "expected", *_ORIGIN)

_EVENT = "insert into transom.events (resource_type, verb, name, payload, caller, request_id, traceparent, owner, before, gone)"
_NOTED = (
    """noted as (
  """
    + _EVENT
    + """
  select {message}, a.verb, a.name, {payload}, a.caller, a.request_id, a.traceparent, {owner}, {before}, {gone}
  from asked a join {rows} r using (name) {more} order by a.i)"""
)


def columns(resource: Resource) -> list[tuple[str, str]]:
    """Name and type of the columns of the resource's fields, without the name's, in the order of Change.values; and of those
    that say when it was deleted and goes, where it does so by itself."""
    fields = [(f.column, f.column_type) for f in resource.fields if f.column != "name"]
    return [*fields, *((column, "timestamptz") for column in ENDS if resource.ends)]


class Statements:
    """The statements of one resource's table."""

    def __init__(self, schema: Schema, resource: Resource) -> None:
        self.resource = resource
        self._schema = schema
        self._table = sql.Identifier(resource.table_schema, resource.table_name)
        self._columns = columns(resource)
        self.kinds = [kind for _, kind in self._columns]
        self.fetch = self._text("select name, _payload, _version, _owner from {table} where name = any($1::text[])")
        self.fetch_locked = self._text(
            "select name, _payload, _version, _owner from {table} where name = any($1::text[]) order by name "
            "for no key update"
        )
        self.insert: dict[str | None, bytes] = {None: self._insert(None)}
        for pattern in resource.patterns:
            if parent := schema.parent_of(resource, pattern):
                self.insert[parent.message] = self._insert(parent)
        self.replace = self._replace()
        self.lock = self._text("select 1 from {table} where name = any($1::text[]) order by name for update")
        self.remove = self._remove()
        self.mark = self._mark() if resource.soft_delete else b""
        self.remove_tree = self._remove_tree()

    def _text(self, text: str, **parts: sql.Composable) -> bytes:
        return sql.SQL(text).format(table=self._table, **parts).as_bytes(None)

    def _asked(self, lead: tuple[str, ...], fields: bool) -> sql.Composable:
        """The arrays as rows: the leading columns are text (bytea: the payload), the fields' as the column wants them."""
        names = [*lead, *(f"c{i}" for i in range(len(self._columns)) if fields)]
        types = ["bytea" if n == "payload" else "text" for n in lead]
        types += ["bytea" if kind == "bytea" else "text" for _, kind in self._columns if fields]
        arrays = [sql.SQL("${}::{}[]").format(sql.SQL(str(i + 1)), sql.SQL(t)) for i, t in enumerate(types)]
        return sql.SQL("asked as materialized (select * from unnest({}) with ordinality as a({}, i))").format(
            sql.SQL(", ").join(arrays), sql.SQL(", ").join(map(sql.Identifier, names))
        )

    def _values(self) -> list[sql.Composable]:
        return [
            sql.SQL("a.{}::{}").format(sql.Identifier(f"c{i}"), sql.SQL(t)) for i, (_, t) in enumerate(self._columns)
        ]

    def _noted(self, rows: str, payload: str, *, owner: str, before: str, more: str = "") -> sql.Composable:
        """`before` is NULL, too, where there is nothing after the change, and the payload is that."""
        return sql.SQL(_NOTED).format(
            message=sql.Literal(self.resource.message),
            rows=sql.SQL(rows),
            payload=sql.SQL(payload),
            owner=sql.SQL(owner),
            before=sql.SQL(before),
            gone=sql.SQL(str(rows == "gone")),
            more=sql.SQL(more),
        )

    def _insert(self, parent: Resource | None) -> bytes:
        held: sql.Composable = sql.SQL("")
        join = sql.SQL("")
        orphan: sql.Composable = sql.SQL("false")
        if parent is not None:
            held = sql.SQL(
                ", held as materialized (select p.name from {} p where p.name = any($2::text[]){} order by p.name for key share)"
            ).format(
                sql.Identifier(parent.table_schema, parent.table_name),
                sql.SQL(" and p._delete_time is null" if parent.soft_delete else ""),
            )
            join = sql.SQL("join held h on h.name = a.parent")
            orphan = sql.SQL("not exists (select 1 from held h where h.name = a.parent)")
        return self._text(
            """with {asked}{held}, made as (
              insert into {table} (name, _parent, _owner, _uid, _version, _create_time, _update_time, _payload{names})
              select a.name, a.parent, a.owner, a.uid::uuid, a.version::bigint, a.at::timestamptz, a.at::timestamptz,
                a.payload{values}
              from asked a {join} order by a.name
              on conflict (name) do nothing returning name), {noted}
            select case when m.name is not null then 'done' when {orphan} then 'orphan' else 'taken' end
            from asked a left join made m using (name) order by a.i""",
            asked=self._asked(INSERT_LEAD, fields=True),
            held=held,
            join=join,
            orphan=orphan,
            names=sql.SQL("").join(sql.SQL(", {}").format(sql.Identifier(c)) for c, _ in self._columns),
            values=sql.SQL("").join(sql.SQL(", {}").format(v) for v in self._values()),
            noted=self._noted("made", "a.payload", owner="a.owner", before="null"),
        )

    def _sets(self) -> sql.Composable:
        return sql.SQL("").join(
            sql.SQL(", {} = {}").format(sql.Identifier(c), v)
            for (c, _), v in zip(self._columns, self._values(), strict=True)
        )

    def _replace(self) -> bytes:
        return self._text(
            """with {asked}, locked as materialized (
              select t.name, t._version, t._owner, t._payload from {table} t where t.name = any($1::text[]) order by t.name
              for no key update),
            changed as (
              update {table} t set _version = a.version::bigint, _update_time = a.at::timestamptz, _payload = a.payload{sets}
              from asked a join locked l using (name)
              where t.name = a.name and (a.expected is null or l._version = a.expected::bigint) returning t.name), {noted}
            select case when c.name is not null then 'done' when l.name is null then 'absent' else 'changed' end
            from asked a left join changed c using (name) left join locked l using (name) order by a.i""",
            asked=self._asked(REPLACE_LEAD, fields=True),
            sets=self._sets(),
            noted=self._noted(
                "changed", "a.payload", owner="l._owner", before="l._payload", more="join locked l using (name)"
            ),
        )

    def _mark(self) -> bytes:
        """As a replacement; what has something below it that is not deleted softly stays. To be locked before."""
        return self._text(
            """with {asked}, found as materialized (
              select t.name, t._version, t._owner, t._payload, {occupied} as occupied from {table} t
              where t.name = any($1::text[])),
            changed as (
              update {table} t set _version = a.version::bigint, _update_time = a.at::timestamptz, _payload = a.payload{sets}
              from asked a join found f using (name)
              where t.name = a.name and not f.occupied and (a.expected is null or f._version = a.expected::bigint)
              returning t.name), {noted}
            select case when c.name is not null then 'done' when f.name is null then 'absent'
              when a.expected is not null and f._version <> a.expected::bigint then 'changed' else 'occupied' end
            from asked a left join changed c using (name) left join found f using (name) order by a.i""",
            asked=self._asked(REPLACE_LEAD, fields=True),
            occupied=self._occupied(" and c._delete_time is null"),
            sets=self._sets(),
            noted=self._noted(
                "changed", "a.payload", owner="f._owner", before="f._payload", more="join found f using (name)"
            ),
        )

    def _occupied(self, unless_marked: str) -> sql.Composable:
        """Whether the row `t` has children that do not go with it unasked."""
        attached = attached_to(self._schema, self.resource)
        children = [c for c in self._schema.children_of(self.resource) if c not in attached]
        found = [
            sql.SQL("exists (select 1 from {} c where c._parent = t.name{})").format(
                sql.Identifier(c.table_schema, c.table_name), sql.SQL(unless_marked if c.soft_delete else "")
            )
            for c in children
        ]
        return sql.SQL(" or ").join(found) if found else sql.SQL("false")

    def _detached(self, i: int, child: Resource) -> sql.Composable:
        """The parts of a removal by which what is attached goes, with its events."""
        return sql.SQL(
            """detached_{i} as (
              delete from {child} b using asked a join found f using (name)
              where b._parent = a.name and not f.occupied and (a.expected is null or f._version = a.expected::bigint)
              returning b.name, b._payload, b._owner, a.caller, a.request_id, a.traceparent),
            noted_{i} as (
              {event}
              select {message}, 'deleted', name, _payload, caller, request_id, traceparent, _owner, null, true
              from detached_{i} order by name), """
        ).format(
            event=sql.SQL(_EVENT),
            i=sql.SQL(str(i)),
            child=sql.Identifier(child.table_schema, child.table_name),
            message=sql.Literal(child.message),
        )

    def _remove(self) -> bytes:
        attached = attached_to(self._schema, self.resource)
        return self._text(
            """with {asked}, found as materialized (
              select t.name, t._version, t._owner, t._payload, {occupied} as occupied from {table} t
              where t.name = any($1::text[])),
            {attached}gone as (
              delete from {table} t using asked a join found f using (name)
              where t.name = a.name and not f.occupied and (a.expected is null or f._version = a.expected::bigint)
              returning t.name), {noted}
            select case when g.name is not null then 'done' when f.name is null then 'absent'
              when a.expected is not null and f._version <> a.expected::bigint then 'changed' else 'occupied' end
            from asked a left join gone g using (name) left join found f using (name) order by a.i""",
            asked=self._asked(REMOVE_LEAD, fields=False),
            occupied=self._occupied(""),
            attached=sql.SQL("").join(self._detached(i, child) for i, child in enumerate(attached)),
            noted=self._noted("gone", "f._payload", owner="f._owner", before="null", more="join found f using (name)"),
        )

    def _remove_tree(self) -> list[tuple[bytes, bool]]:
        """Statements of one transaction, and whether each takes the name's range (else the change itself).

        Top down everything is locked, level by level, each with a snapshot of its own: once a level is locked, nobody
        can add below it. Then, bottom up, everything goes, if the resource is still at the version expected.
        """
        levels = self._levels()
        steps = [(self.lock, False)]
        for resource in (r for level in levels for r in level):
            table = sql.Identifier(resource.table_schema, resource.table_name)
            text = "select 1 from {below} where name >= $1 and name < $2 order by name for update"
            steps.append((self._text(text, below=table), True))
        below = {r.message: r for level in levels for r in level}
        for resource in reversed(below.values()):
            steps.append((self._remove_below(resource), False))
        return [*steps, (self.remove, False)]

    def _remove_below(self, resource: Resource) -> bytes:
        # `0` is the character after `/`: in "C" order, all that is below a/b lies between a/b/ and a/b0.
        return self._text(
            """with {asked}, gone as (
              delete from {below} b using asked a join {table} t using (name)
              where b.name >= a.name || '/' and b.name < a.name || '0'
                and (a.expected is null or t._version = a.expected::bigint)
              returning b.name, b._payload, b._owner, a.caller, a.request_id, a.traceparent)
            {event}
            select {message}, 'deleted', name, _payload, caller, request_id, traceparent, _owner, null, true
            from gone order by name""",
            event=sql.SQL(_EVENT),
            asked=self._asked(REMOVE_LEAD, fields=False),
            below=sql.Identifier(resource.table_schema, resource.table_name),
            message=sql.Literal(resource.message),
        )

    def _levels(self) -> list[list[Resource]]:
        """The resources below this one: its children, their children, and so on. A resource that lives below itself
        (folders in folders) is on a level for each of its patterns."""
        out: list[list[Resource]] = []
        level = [(self.resource, p) for p in self.resource.patterns]
        while level := [
            (child, pattern)
            for child in self._schema.resources.values()
            for pattern in child.patterns
            if any(pattern.is_below(above) and self._schema.parent_of(child, pattern) is r for r, above in level)
        ]:
            out.append(list({child.message: child for child, _ in level}.values()))
        return out


def attached_to(schema: Schema, resource: Resource) -> list[Resource]:
    """The kinds of resources below one that go with it though nobody says so: its revisions (AIP-162), and singletons
    (AIP-156), which are there because it is. Not those that have something below themselves."""
    return [
        child
        for child in schema.children_of(resource)
        if (child.snapshot_of == resource.message or all(p.singleton for p in child.patterns))
        and not schema.children_of(child)
    ]


LEADS = {
    Act.INSERT: INSERT_LEAD,
    Act.REPLACE: REPLACE_LEAD,
    Act.REMOVE: REMOVE_LEAD,
    Act.REMOVE_TREE: REMOVE_LEAD,
    Act.MARK: REPLACE_LEAD,
    Act.MARK_TREE: REPLACE_LEAD,
    Act.UNMARK: REPLACE_LEAD,
}
