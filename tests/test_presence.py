"""A process that serves what is past says so to whoever asks for its health, and takes it back when its schema is back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from library_ground import Database, asynchronous, database, made_of
from schema_change_ground import applied

from deploy.native.stack import Stack
from server.schema.model import Schema
from server.store.schemas import presence as presence_module
from server.store.schemas.presence import Presence


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Database]:
    with database(components, None) as made:
        yield made


def bed(field: str) -> Schema:
    return made_of(
        {
            "garden.proto": 'syntax = "proto3";\npackage garden.v1;\nimport "google/api/resource.proto";\n'
            'message Bed { option (google.api.resource) = {type: "garden.test/Bed" pattern: "beds/{bed}"}; '
            f"string name = 1; {field} }}\n"
        }
    )


@asynchronous
async def test_what_serves_the_past_says_so_until_it_is_back(at: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_module, "EVERY", 0.05)
    monkeypatch.setattr(presence_module, "RETRY", (0.05, 0.05))
    enter, way = Presence._enter, asyncio.Event()

    async def when_it_can(self: Presence) -> None:
        await way.wait()
        await enter(self)

    monkeypatch.setattr(Presence, "_enter", when_it_can)
    first, second = bed("string soil = 2;"), bed("string soil = 2; string light = 3;")
    assert await asyncio.to_thread(applied, at, first)
    told: asyncio.Queue[bool] = asyncio.Queue()
    here = Presence(at.postgres, "garden", first)
    here.tell = told.put
    way.set()
    await here.open()
    try:
        # Its connection breaks, and the schema goes on before there is another: nobody knows of the process.
        way.clear()
        at.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'garden presence'")
        assert await asyncio.to_thread(applied, at, second, 20.0)
        way.set()
        assert await told.get() is False
        assert await asyncio.to_thread(applied, at, first)
        while not await told.get():
            pass
    finally:
        await here.aclose()
