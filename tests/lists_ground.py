"""Where lists, searches and aggregates are tested: the catalog (tests/protos/catalog), its rules in force."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from library_ground import Database, Engine, engine
from transom.data.v1 import data_pb2

from server.caller import Caller, Kind
from server.engine.aggregates import Aggregates
from server.errors import Refusal
from server.schema.compilation import compile_app
from server.schema.model import Schema
from server.schema.reading import read
from server.services import aggregate_messages
from server.services.current import CURRENT, Current
from server.services.standard import StandardMethods, calling
from server.store.queries import Note

APP = Path(__file__).parent / "protos" / "catalog"
NOBODY = Caller()
ANN, BEN = (Caller(Kind.USER, f"users/{name}") for name in ("ann", "ben"))
KEY = Caller(Kind.KEY, "keys/k")
SHELF = "publishers/p/shelves/s"


@functools.cache
def catalog() -> Schema:
    """The schema of the catalog."""
    return read(compile_app(APP))


@dataclass(frozen=True)
class Catalog:
    """The engine, as services call it: JSON in, JSON out; a Refusal where it was refused."""

    on: Engine
    at: Database

    async def call(self, by: Caller, method: str, request: Mapping[str, Any]) -> Any:
        """The answer to a standard method, as a message."""
        found = next(m for m in catalog().methods() if m.name == method)
        said = json_format.ParseDict(request, catalog().message_class(found.request)())
        self._says(by)
        data = await StandardMethods(self.on.resources).behavior(found)(said.SerializeToString(), None)
        return catalog().message_class(found.answer).FromString(data)

    async def books(self, by: Caller, **asked: Any) -> list[str]:
        """Ids of the books of one page."""
        return ids(await self.call(by, "ListBooks", {"parent": SHELF, **asked}))

    async def aggregate(self, by: Caller, **asked: Any) -> list[dict[str, Any]]:
        """Rows of an aggregate of books: groups and values, as JSON has them, without what says their type."""
        answer = await self.aggregated(by, {"type": "catalog.test/Book", "parent": SHELF, **asked})
        return [
            {
                name: next(iter(value.values()), None)
                for part in ("group", "values")
                for name, value in row.get(part, {}).items()
            }
            for row in answer.get("rows", [])
        ]

    async def aggregated(self, by: Caller, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to an Aggregate, as JSON."""
        self._says(by)
        over = self.on.resources
        aggregates = Aggregates(catalog(), over.lists, self.on.queries, over.access, over.methods)
        said = json_format.ParseDict(request, data_pb2.AggregateRequest())
        answer = await aggregates.page(calling(), aggregate_messages.question(said))
        return json_format.MessageToDict(aggregate_messages.response(answer))

    async def add(self, id: str, by: Caller = ANN, shelf: str = SHELF, **fields: Any) -> None:
        """A book."""
        await self.call(by, "CreateBook", {"parent": shelf, "bookId": id, "book": fields})

    @staticmethod
    def _says(caller: Caller) -> None:
        call = Current("m", None, "request", "")
        call.caller = caller
        CURRENT.set(call)


@asynccontextmanager
async def opened(
    at: Database, replica: str = "", slow: Note | None = None, plans: Sequence[str] = ()
) -> AsyncIterator[Catalog]:
    """The catalog, with a publisher and two shelves."""
    async with engine(at, schema=catalog(), ruled=True, replica=replica, slow=slow, plans=plans) as on:
        made = Catalog(on, at)
        await made.call(ANN, "CreatePublisher", {"publisherId": "p", "publisher": {}})
        for shelf in ("s", "t"):
            await made.call(ANN, "CreateShelf", {"parent": "publishers/p", "shelfId": shelf, "shelf": {}})
        yield made


def ids(page: Any) -> list[str]:
    """Of the books of a page."""
    return [book.name.rpartition("/")[2] for book in page.books]


async def refused(call: Any) -> tuple[str, list[tuple[str, str]]]:
    """The reason of a refusal, and its fields with theirs."""
    try:
        answer = await call
    except Refusal as refusal:
        return refusal.reason, [(v.field, v.reason) for v in refusal.violations]
    raise AssertionError(f"answered: {answer}")


def empty(at: Database) -> None:
    """Takes away every row."""
    tables = [f"{r.table_schema}.{r.table_name}" for r in catalog().resources.values()]
    at.sql("; ".join(f"delete from {table}" for table in (*tables, "transom.events", "transom.filters")))
