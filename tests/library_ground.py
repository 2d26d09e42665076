"""Where schema, decisions and records are tested: an app of every shape, compiled once, and a database of its own."""

from __future__ import annotations

import asyncio
import functools
import inspect
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import grpc_tools
import psycopg
from databases import create
from grpc_tools import protoc
from psycopg.conninfo import make_conninfo
from psycopg.errors import InsufficientPrivilege, ObjectInUse

from deploy.native.stack import Stack
from server.caller import Caller, Kind
from server.engine.access import Access as Judge
from server.engine.consequences import consequences_of
from server.engine.decisions import Decisions
from server.engine.lists import Wanted
from server.engine.resources import Call, Resources
from server.query.rules.checking import Rules, rules_of
from server.schema.compilation import compile_app
from server.schema.model import Access, Audience, Schema
from server.schema.reading import read
from server.services.current import CurrentCarried
from server.store.bars import Bars
from server.store.freshness import Freshness
from server.store.hot import Hot
from server.store.lane import Lane
from server.store.marks import RedisMarks
from server.store.pooled import Pool, pool_to
from server.store.positions import Positions
from server.store.queries import Note, Queries
from server.store.query_lane import QueryLane
from server.store.records import Records
from server.store.redis_wire import RedisWire

PROTOS = Path(__file__).parent / "protos"
ADA = Call(Caller(Kind.USER, "users/ada"), request_id="request-ada")
BOB = Call(Caller(Kind.USER, "users/bob"), request_id="request-bob")


@functools.cache
def library_descriptor() -> bytes:
    return compile_app(PROTOS / "library")


@functools.cache
def library() -> Schema:
    return read(library_descriptor())


def made_of(files: Mapping[str, str]) -> Schema:
    """The schema of proto files given as text, by path; by protoc, which is quicker than buf for a line or two."""
    with tempfile.TemporaryDirectory() as folder:
        for path, text in files.items():
            target = Path(folder) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        shared = [
            str(distribution("googleapis-common-protos").locate_file("")),
            str(Path(grpc_tools.__file__).parent / "_proto"),
        ]
        where = [f"-I{place}" for place in (folder, str(PROTOS.parents[1] / "proto"), *shared)]
        out = Path(folder) / "out.binpb"
        assert protoc.main(["protoc", *where, "--include_imports", f"--descriptor_set_out={out}", *files]) == 0
        return read(out.read_bytes())


def now() -> int:
    return time.time_ns() // 1000


def message(name: str, /, **fields: Any) -> Any:
    """A message of the library: `message("Book", title="x")`."""
    full = name if "." in name else f"library.v1.{name}"
    return library().message_class(full)(**fields)


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test on a loop of its own, for at most half a minute."""

    @functools.wraps(test)
    def run(**given: Any) -> None:
        asyncio.run(asyncio.wait_for(test(**given), 30))

    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return run


@dataclass(frozen=True)
class Database:
    """A database of one test module, with the library's tables."""

    postgres: str
    replica: str
    redis: str

    def sql(self, statement: str, *values: Any, binary: bool = False) -> list[tuple[Any, ...]]:
        """Rows of a statement, run apart from everything under test."""
        with psycopg.connect(self.postgres, autocommit=True) as connection:
            connection.execute("set timezone to 'UTC'")
            cursor = connection.execute(statement, values or None, binary=binary)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def empty(self) -> None:
        """Takes away every row. DELETE, as TRUNCATE makes new files, which costs more than these few rows."""
        tables = [f"{r.table_schema}.{r.table_name}" for r in library().resources.values()]
        self.sql(
            "; ".join(f"delete from {t}" for t in (*tables, *(f"transom.{t}" for t in ("events", "mails", "inbox"))))
        )

    def events(self, name: str) -> list[str]:
        """Verbs of a resource's events, in order."""
        return [verb for (verb,) in self.sql("select verb from transom.events where name = %s order by id", name)]

    def wait_replica(self) -> None:
        """Returns once the replica has all that the primary has now."""
        [[lsn]] = self.sql("select pg_current_wal_insert_lsn()::text")
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with suppress(psycopg.OperationalError), psycopg.connect(self.replica, autocommit=True) as replica:
                row = replica.execute("select pg_last_wal_replay_lsn() >= %s::pg_lsn", [lsn]).fetchone()
                if row and row[0]:
                    return
            time.sleep(0.05)
        raise AssertionError("the replica does not catch up")


@contextmanager
def database(components: Stack, schema: Schema | None) -> Iterator[Database]:
    """A database with Transom's tables and those of `schema`, for as long as the block lasts."""
    env = components.env
    name = f"library_{secrets.token_hex(4)}"
    create(env["TRANSOM_POSTGRES"], name, schema)
    try:
        made = Database(
            make_conninfo(env["TRANSOM_POSTGRES"], dbname=name),
            make_conninfo(env["TRANSOM_REPLICA"], dbname=name),
            env["TRANSOM_REDIS"],
        )
        made.wait_replica()  # a copy is here sooner than there
        yield made
    finally:
        with psycopg.connect(env["TRANSOM_POSTGRES"], autocommit=True) as connection:
            while True:  # an autovacuum in it may be in the way, and is not ours to end
                try:
                    connection.execute(f"drop database {name} with (force)")
                    break
                except (InsufficientPrivilege, ObjectInUse):
                    time.sleep(0.1)


def open_to_all(schema: Schema) -> Schema:
    """The schema, with rules that let everybody do everything."""
    open_rules, everybody = (("read", "true"), ("write", "true")), Access(Audience.PUBLIC)
    resources = {m: replace(r, rules=open_rules) for m, r in schema.resources.items()}
    services = [
        replace(s, methods=tuple(m if m.kind.standard else replace(m, access=everybody) for m in s.methods))
        for s in schema.services
    ]
    return replace(schema, resources=resources, services=tuple(services))


@dataclass
class Engine:
    """What one API server has of resources: engine, store and connections, all of it real."""

    schema: Schema
    resources: Resources
    records: Records
    primary: Lane
    replica: Lane | None
    freshness: Freshness
    pool: Pool
    hot: Hot
    queries: Queries

    @property
    def decisions(self) -> Decisions:
        return self.resources.decisions

    async def create(self, type: str, parent: str, id: str, by: Call = ADA, **fields: Any) -> Any:
        """A new resource of the library, as it was answered."""
        resource = self.schema.resources[f"library.v1.{type}"]
        body = self.schema.message_class(resource.message)(**fields)
        return self.decisions.parse(resource, await self.resources.create(by, resource, parent, id, body))

    async def update(
        self, type: str, name: str, paths: list[str] | None, by: Call = ADA, etag: str = "", **fields: Any
    ) -> Any:
        resource = self.schema.resources[f"library.v1.{type}"]
        body = self.schema.message_class(resource.message)(name=name, **fields)
        return self.decisions.parse(resource, await self.resources.update(by, resource, body, paths, etag=etag))

    async def get(self, type: str, name: str, by: Call = ADA) -> Any:
        resource = self.schema.resources[f"library.v1.{type}"]
        return self.decisions.parse(resource, await self.resources.get(by, resource, name))

    async def delete(self, type: str, name: str, by: Call = ADA, **how: Any) -> None:
        await self.resources.delete(by, self.schema.resources[f"library.v1.{type}"], name, **how)

    async def names(self, type: str, parent: str, size: int = 1000, by: Call = ADA) -> list[str]:
        """Names of one page."""
        listing = await self.resources.lists.page(by, self.schema.resources[f"library.v1.{type}"], Wanted(parent, size))
        return [name for name, *_ in listing.rows]


@functools.cache
def open_library() -> tuple[Schema, Rules]:
    """The library, where everybody may do everything, and its rules."""
    schema = open_to_all(library())
    return schema, rules_of(schema)


@asynccontextmanager
async def engine(
    at: Database,
    *,
    schema: Schema | None = None,
    replica: str = "",
    postgres: str = "",
    redis: str = "",
    lag_max: float = 1.0,
    forgotten: float = 0.0,
    ruled: bool = False,
    slow: Note | None = None,
    plans: Sequence[str] = (),
    hot: Sequence[str] = (),
) -> AsyncIterator[Engine]:
    """The engine on that database; it reads from the replica where one is given. Everybody may do everything, but where
    the schema is `ruled`. The messages of the library that are called `hot` are."""
    schema = schema or library()
    dsn = postgres or at.postgres
    primary, second = Lane(dsn, "test", 2), Lane(replica, "test", 2) if replica else None
    cache = RedisWire(redis or at.redis)
    pool = pool_to(dsn, "test", 4)
    positions = Positions(primary, second, lag_max)
    marks = RedisMarks(cache, forgotten)
    freshness = Freshness(marks, positions, lag_max, CurrentCarried())
    await primary.open()
    if second is not None:
        await second.open()
    await pool.open()
    await positions.open()
    if schema is library() and not ruled:
        schema, rules = open_library()
    else:
        schema = schema if ruled else open_to_all(schema)
        rules = rules_of(schema)
    warm = {m: replace(r, hot=r.hot or m.removeprefix("library.v1.") in hot) for m, r in schema.resources.items()}
    bars = Bars(cache, replace(schema, resources=warm), lag_max)
    kept = Hot(cache, marks.memory, freshness, bars, lag_max)
    records = Records(schema, primary, second, pool, freshness, rules, consequences_of(schema, now), bars, kept)
    lanes = [QueryLane(at, "test", *plans) for at in (dsn, replica) if at]
    queries = Queries(rules, lanes[0], lanes[1] if replica else None, freshness, slow or (lambda *_: None))
    resources = Resources(schema, records, queries, Judge(schema, rules, records, now), now, 50, 1000)
    try:
        yield Engine(schema, resources, records, primary, second, freshness, pool, kept, queries)
    finally:
        await kept.aclose()
        await positions.close()
        for one in (pool, *lanes):
            await one.close()
        await primary.close()
        if second is not None:
            await second.close()
        await cache.aclose()
