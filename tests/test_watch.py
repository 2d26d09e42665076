"""Watching: what there is, then what changes, once each and in order, whoever may see what."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from library_ground import Database, asynchronous, database
from watch_ground import ADA, BOB, ROOT, newsroom, relayed, schema

from deploy.native.stack import Stack


@pytest.fixture(scope="module")
def at(components: Stack) -> Iterator[Database]:
    with database(components, schema()) as made:
        yield made


@asynchronous
async def test_what_there_is_and_then_what_changes(at: Database) -> None:
    async with relayed(at), newsroom(at) as here:
        await here.make("Team", "teams/one")
        a = await here.make("Note", "teams/one/notes/a", title="A")
        watch = here.watch("Note", "teams/one")
        await watch.says(f"CURRENT {a}", "synced")
        b = await here.make("Note", "teams/one/notes/b", title="B")
        await here.change("Note", a, title="AA")
        await here.remove("Note", b)
        await watch.says(f"CURRENT {a}", "synced", f"CREATED {b}", f"UPDATED {a}", f"DELETED {b}")
        titles = [
            schema().message_class("newsroom.v1.Note").FromString(t.payload).title for t in watch.told if t.payload
        ]
        assert titles == ["A", "B", "AA", "B"]
