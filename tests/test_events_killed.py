"""Real processes, killed with -9 while everything is written, posted and told: a relay, a worker that posts webhooks, and the
broker, which is away for as long as it takes to start. What happens at random is in tests/test_events_model.py."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from consumers_ground import Ground, Tap, asynchronous, eventually
from events_ground import Receiver, WatchingClient
from google.protobuf import json_format
from library_ground import Database
from watch_ground import APP, BOB, Newsroom, newsroom, schema

from deploy.native.stack import Stack
from server.caller import OPERATOR
from server.engine.webhooks import CHANGEABLE, Wanted

TEAM = "teams/killed"


@pytest.fixture
def ground(components: Stack, tmp_path: Path) -> Iterator[Ground]:
    with Ground.on(components, tmp_path, APP) as ground:
        ground.env |= {"TRANSOM_SECRET": "s" * 40, "TRANSOM_WEBHOOK_NETWORKS": "127.0.0.0/8"}
        yield ground


@dataclass
class Author:
    """Makes, changes and deletes notes until it is stopped, and keeps what there is."""

    here: Newsroom
    notes: dict[str, Any] = field(default_factory=dict)
    written: int = 0
    stop: bool = False

    async def write(self) -> None:
        """Writes."""
        note = schema().message_class("newsroom.v1.Note")
        for number in itertools.count():
            name = f"{TEAM}/notes/{'abcde'[number % 5]}"
            if name not in self.notes:
                await self.here.make("Note", name, public=True, rank=number)
                self.notes[name] = note(name=name, public=True, rank=number)
            elif number % 7 == 0:
                await self.here.remove("Note", name)
                del self.notes[name]
            else:
                await self.here.change("Note", name, rank=number)
                self.notes[name].rank = number
            self.written += 1
            if self.stop:
                return
            await asyncio.sleep(0.01)


async def killed(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(process.wait)


@asynchronous
async def test_whoever_is_killed_everybody_is_told_everything(ground: Ground, components: Stack) -> None:
    at = Database(ground.postgres, "", ground.env["TRANSOM_REDIS"])
    async with newsroom(at) as here, ground.workshop() as shop, Receiver.open() as receiver:
        tap = await Tap.on(ground.amqp)
        await here.make("Team", TEAM)
        wanted = Wanted(frozenset(CHANGEABLE), receiver.url, ("newsroom.v1.Note.*",), "")
        await shop.parts.webhooks.create(OPERATOR, "receiver", wanted)
        relay, worker = ground.start("relay"), ground.start("work")
        watcher = WatchingClient("Note", strict=True)
        watcher.begin(here.watch("Note", TEAM, BOB))
        author = Author(here)
        writing = asyncio.create_task(author.write())

        async def more(count: int) -> None:
            """So many more are posted, told and written."""
            posted, told, written = len(receiver.heard) + count, watcher.position + count, author.written + count

            def all_have() -> bool:
                watcher.follow()
                return len(receiver.heard) >= posted and watcher.position >= told and author.written >= written

            await eventually(all_have)

        await more(5)
        await eventually(lambda: len(tap.events) > 5)
        [broker] = [p for p in components.status()["processes"] if p["name"] == "rabbitmq"]
        os.kill(broker["pid"], signal.SIGKILL)
        await more(5)
        await killed(relay)
        ground.start("relay")
        await more(5)
        receiver.be("slow")  # it has taken in what the worker does not know of when it is killed
        heard = len(receiver.heard)
        await eventually(lambda: len(receiver.heard) > heard)
        await killed(worker)
        receiver.be("well")
        # Its lease, of a minute, goes by at once.
        ground.execute("update transom.webhook_deliveries set next_time = clock_timestamp() where lease is not null")
        ground.start("work")
        await more(5)
        author.stop = True
        await writing

        last = f"{TEAM}/notes/last"
        await here.make("Note", last, public=True)
        author.notes[last] = schema().message_class("newsroom.v1.Note")(name=last, public=True)
        await watcher.until(last, author.notes)
        as_json = {name: json_format.MessageToDict(note) for name, note in author.notes.items()}
        await eventually(lambda: receiver.resources == as_json)
        assert not receiver.wrong
        assert receiver.again, "what it had taken in was posted again"

        # The broker is back, and gets all that it has not.
        again = None
        while again is None:
            with suppress(Exception):
                again = await Tap.on(ground.amqp)
        numbered = ground.value("select numbered from transom.relay")
        heard_of = [tap.events, again.events]
        await eventually(
            lambda: {event.position for event in itertools.chain(*heard_of)} >= set(range(1, numbered + 1))
        )
        firsts = list(dict.fromkeys(event.position for event in itertools.chain(*heard_of)))
        assert firsts == list(range(1, numbered + 1))
        await again.close()
        await tap.close()
