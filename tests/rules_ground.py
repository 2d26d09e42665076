"""Where rules are judged three times: by Google's CEL, by the predicate in Python and by the condition in Postgres.

Google's CEL is the measure. It evaluates the same text over the same messages; `get` and `exists` are functions that look
into the same rows. All three must say the same of every row and caller: true, false, or an error.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import psycopg
from cel_expr_python import cel
from google.api import resource_pb2
from google.protobuf import descriptor_pb2, duration_pb2, timestamp_pb2, wrappers_pb2
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.errors import InsufficientPrivilege, ObjectInUse
from transom.schema.v1 import options_pb2

from server.caller import Caller
from server.engine.columns import Columns
from server.query.rules.checking import GIVENS, Rule
from server.query.rules.scene import Asking, Fault, Scene
from server.query.rules.sql import ASKING
from server.schema.model import Resource, Schema
from server.schema.reading import read
from server.schema.tables import created

ERROR = "error"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MARK = "\ue000"
"""Stands between `get` or `exists` and the number of what is looked up, in the text of a rule that is still to be told to
one of the three."""

_SHARED = (
    descriptor_pb2.DESCRIPTOR,
    timestamp_pb2.DESCRIPTOR,
    duration_pb2.DESCRIPTOR,
    wrappers_pb2.DESCRIPTOR,
    resource_pb2.DESCRIPTOR,
    options_pb2.DESCRIPTOR,
)


def schema_of(file: descriptor_pb2.FileDescriptorProto) -> Schema:
    """The schema of one file that imports what it likes of protobuf's own, google.api.resource and Transom's options."""
    files = descriptor_pb2.FileDescriptorSet()
    for one in _SHARED:
        files.file.add().ParseFromString(one.serialized_pb)
    files.file.append(file)
    return read(files.SerializeToString())


@dataclass
class Row:
    """A stored resource."""

    resource: Resource
    name: str
    message: Any
    owner: str = ""
    request: Any = None
    """What it would become."""

    @property
    def parent(self) -> str:
        pattern = self.resource.pattern_of(self.name)
        assert pattern is not None, self.name
        return pattern.parent_of(self.name)


@dataclass
class World:
    """Rows of a schema and those who ask."""

    schema: Schema
    rows: list[Row]
    callers: list[Caller]
    now: int
    by_name: dict[tuple[str, str], Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.by_name = {(r.resource.message, r.name): r.message for r in self.rows}

    def of(self, resource: Resource) -> list[Row]:
        return [r for r in self.rows if r.resource.message == resource.message]


def plain(text: str) -> str:
    """A rule as an author writes it."""
    out = text
    for verb in ("get", "exists"):
        while (at := out.find(f"{verb}{MARK}")) >= 0:
            end = out.index("(", at)
            out = out[:at] + verb + out[end:]
    return out


class Google:
    """Google's CEL over the rows of a world."""

    def __init__(self, world: World, resource: Resource, *, request: bool) -> None:
        self._world = world
        self._resource = resource
        kinds = {
            "bool": cel.Type.BOOL,
            "string": cel.Type.STRING,
            "timestamp": cel.Type.TIMESTAMP,
            "duration": cel.Type.DURATION,
            "list": cel.Type.List(cel.Type.STRING),
        }
        variables = {name: kinds[given.kind] for name, given in GIVENS.items()}
        variables |= {"owner": cel.Type.STRING, "parent": cel.Type.STRING}
        self._variables = variables_of(resource)
        variables |= {f"path.{v}": cel.Type.STRING for v in self._variables}
        variables["resource"] = cel.Type(resource.message)
        if request:
            variables["request"] = cel.Type(resource.message)
        functions, impls = [], {}
        for i, other in enumerate(world.schema.resources.values()):
            for verb, result in (("get", cel.Type(other.message)), ("exists", cel.Type.BOOL)):
                overload = cel.Overload(f"{verb}_{i}", result, [cel.Type.STRING], False)
                functions.append(cel.FunctionDecl(f"{verb}__{i}", [overload]))
                impls[f"{verb}_{i}"] = self._got(other) if verb == "get" else self._existing(other)
        self._environment = cel.NewEnv(
            descriptor_pool=world.schema.pool,
            variables=variables,
            functions=functions,
            function_impls=impls,
            container=resource.message,
        )

    def _got(self, resource: Resource) -> Any:
        return lambda name: self._world.by_name[resource.message, name]

    def _existing(self, resource: Resource) -> Any:
        return lambda name: (resource.message, name) in self._world.by_name

    def close(self) -> None:
        """Lets go of all that CEL holds: its functions know this, and Python's collector does not see through CEL."""
        del self._environment

    def compiled(self, text: str) -> Any:
        """An expression whose look-ups are marked (`MARK`)."""
        return self._environment.compile(text.replace(MARK, "__"))

    def says(self, expression: Any, row: Row, caller: Caller) -> bool | str:
        """True, False or ERROR."""
        asking = Asking(caller, self._world.now)
        segments = row.name.split("/")
        data = {
            "caller.name": caller.name,
            "caller.id": caller.id,
            "caller.kind": caller.kind.value,
            "caller.roles": sorted(caller.roles),
            "caller.verified": caller.verified,
            "now": EPOCH + timedelta(microseconds=self._world.now),
            "parent": row.parent,
            "resource": row.message,
            **{f"path.{v}": segments[i] for v, i in self._variables.items()},
        }
        if row.request is not None:
            data["request"] = row.request
        # What there is not is not known to CEL, which is an error like any other.
        if row.owner:
            data["owner"] = row.owner
        if asking.session_age is not None:
            data["caller.session_age"] = timedelta(microseconds=asking.session_age)
        value = expression.eval(data=data)
        if value.type() == cel.Type.BOOL:
            return bool(value.value())
        assert value.type().name() in ("ERROR", "UNKNOWN", "*error*", "*unknown*"), value.type().name()
        return ERROR


def variables_of(resource: Resource) -> dict[str, int]:
    """Where in the name the variables of its patterns stand, for those that stand at one place in all."""
    places = [{s[1:-1]: i for i, s in enumerate(p.text.split("/")) if s.startswith("{")} for p in resource.patterns]
    return {v: i for v, i in places[0].items() if all(p.get(v) == i for p in places)}


def in_python(rule: Rule, row: Row, caller: Caller, world: World) -> bool | str:
    """True, False or ERROR, as the engine judges: again and again, with what the last try asked for looked up."""
    asking = Asking(caller, world.now)
    for _ in range(100):
        scene = Scene(asking, row.name, read=lambda: row.message, owner=row.owner, request=row.request)
        try:
            found = rule.holds(scene)
            assert found is True or found is False, found
            return found
        except Fault:
            if not scene.wanted:
                return ERROR
            for resource, name in scene.wanted:
                asking.found[resource.message, name] = world.by_name.get((resource.message, name))
    raise AssertionError("looks up without an end")


def unread(rule: Rule, row: Row, caller: Caller, world: World) -> bool | str:
    """The same where nothing is known of the row but its name, and all look-ups are done."""
    asking = Asking(caller, world.now)
    for _ in range(100):
        scene = Scene(asking, row.name)
        try:
            return rule.holds(scene)
        except Fault:
            if not scene.wanted:
                return ERROR
            for resource, name in scene.wanted:
                asking.found[resource.message, name] = world.by_name.get((resource.message, name))
    raise AssertionError("looks up without an end")


@contextmanager
def sorted_otherwise(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a database of its own that compares texts as people do, where CEL compares their bytes."""
    name = f"rules_{secrets.token_hex(4)}"
    with psycopg.connect(dsn, autocommit=True) as outside:
        outside.execute(f"create database {name} template template0 locale_provider icu icu_locale 'en-US'")
        try:
            with psycopg.connect(make_conninfo(dsn, dbname=name)) as connection:
                connection.execute("set timezone to 'UTC'")
                connection.execute("create extension pg_trgm")
                connection.commit()
                yield connection
        finally:
            while True:  # an autovacuum in it may be in the way, and is not ours to end
                try:
                    outside.execute(f"drop database {name} with (force)")
                    break
                except (InsufficientPrivilege, ObjectInUse):
                    time.sleep(0.1)


def tables_made(connection: psycopg.Connection[Any], world: World) -> None:
    """The real tables of the schema with the rows in them, in the transaction of the connection."""
    for resource in world.schema.resources.values():
        connection.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(resource.table_schema)))
        for statement in created(resource):
            connection.execute(statement)
    encoders = {m: Columns(r) for m, r in world.schema.resources.items()}
    for row in world.rows:
        values = encoders[row.resource.message].values(row.message)
        columns = [(f.column, f.column_type) for f in row.resource.fields if f.column != "name"]
        connection.execute(
            sql.SQL(
                "insert into {} (name, _parent, _uid, _owner, _version, _create_time, _update_time, _payload{}) "
                "values (%s, %s, %s, %s, 1, now(), now(), %s{})"
            ).format(
                sql.Identifier(row.resource.table_schema, row.resource.table_name),
                sql.SQL("").join(sql.SQL(", {}").format(sql.Identifier(c)) for c, _ in columns),
                sql.SQL("").join(sql.SQL(f", %s::{kind}") for _, kind in columns),
            ),
            [row.name, row.parent, uuid.uuid4(), row.owner, row.message.SerializeToString(), *values],
        )


def asking_of(caller: Caller, now: int) -> dict[str, Any]:
    """The row `q` of a caller."""
    asking = Asking(caller, now)
    values = {
        "caller.name": caller.name,
        "caller.id": caller.id,
        "caller.kind": caller.kind.value,
        "caller.roles": sorted(caller.roles),
        "caller.verified": caller.verified,
        "caller.session_age": asking.session_age,
        "now": (EPOCH + timedelta(microseconds=now)).isoformat(),
    }
    return {ASKING[name][0]: value for name, value in values.items()}


def in_sql(
    connection: psycopg.Connection[Any], world: World, resource: Resource, conditions: Sequence[str]
) -> dict[tuple[int, int, str], bool | str]:
    """What each condition says, by its index, the caller's index and the row's name; one statement for all."""
    asked = orjson.dumps([asking_of(c, world.now) for c in world.callers]).decode()
    shape = ", ".join(f"{name} {kind}" for name, kind in ASKING.values())
    said = ", ".join(f"({c})" for c in conditions)
    table = sql.Identifier(resource.table_schema, resource.table_name).as_string(None)
    text = (
        f"select q.i::int, t.name, array[{said}]::boolean[] from {table} t cross join (select a.i, s.* "
        f"from jsonb_array_elements({sql.Literal(asked).as_string(None)}::jsonb) with ordinality as a(asking, i) "
        f"cross join lateral jsonb_to_record(a.asking) as s({shape}) offset 0) q"
    )
    found = connection.execute(text.encode()).fetchall()
    return {(n, i - 1, name): ERROR if one is None else one for i, name, all in found for n, one in enumerate(all)}
