"""Real processes, killed with -9 while everything is written, posted and told: a relay, a worker that posts webhooks, and the
broker, which is away for as long as it takes to start. What happens at random is in tests/test_events_model.py."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from consumers_ground import Ground, Tap, eventually
from events_ground import Receiver, WatchingClient
from google.protobuf import json_format
from library_ground import Database
from watch_ground import APP, BOB, Newsroom, newsroom, schema

from deploy.native.stack import Stack
from server.caller import OPERATOR
from server.engine.webhooks import CHANGEABLE, Wanted
from server.store.broker import BrokerLost

TEAM = "teams/killed"
AHEAD = 40
"""Writes that are not posted yet."""
PATIENCE = 90.0
"""Seconds in which processes start, and the broker, on a machine that has much else to do."""


@pytest.fixture
def ground(components: Stack, tmp_path: Path) -> Iterator[Ground]:
    with Ground.on(components, tmp_path, APP) as ground:
        ground.env |= {"TRANSOM_SECRET": "s" * 40, "TRANSOM_WEBHOOK_NETWORKS": "127.0.0.0/8"}
        yield ground


@dataclass
class Author:
    """Makes, changes and deletes notes until it is stopped, no farther ahead than AHEAD, and keeps what there is."""

    here: Newsroom
    posted: Callable[[], int]
    """How many of the writes are posted."""
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
            while not self.stop and self.written > self.posted() + AHEAD:
                await asyncio.sleep(0.01)
            if self.stop:
                return
            await asyncio.sleep(0.01)


async def kill(process: subprocess.Popen[bytes]) -> None:
    """Kills with -9."""
    process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(process.wait)


def test_whoever_is_killed_everybody_is_told_everything(ground: Ground, components: Stack) -> None:
    asyncio.run(_killed(ground, components))


async def _killed(ground: Ground, components: Stack) -> None:
    at = Database(ground.postgres, "", ground.env["TRANSOM_REDIS"])
    async with newsroom(at) as here, ground.workshop() as shop, Receiver.open() as receiver:
        tap = await Tap.on(ground.amqp)
        await here.make("Team", TEAM)
        wanted = Wanted(frozenset(CHANGEABLE), receiver.url, ("newsroom.v1.Note.*",), "")
        await shop.parts.webhooks.create(OPERATOR, "receiver", wanted)
        relay, worker = ground.start("relay"), ground.start("work")
        watcher = WatchingClient("Note", strict=True)
        watcher.begin(here.watch("Note", TEAM, BOB))
        author = Author(here, lambda: len(receiver.heard))
        writing = asyncio.create_task(author.write())

        async def more(count: int) -> None:
            """So many more are posted, told and written."""
            posted, told, written = len(receiver.heard) + count, watcher.position + count, author.written + count

            def all_have() -> bool:
                watcher.follow()
                return len(receiver.heard) >= posted and watcher.position >= told and author.written >= written

            await eventually(all_have, within=PATIENCE)

        await more(5)
        await eventually(lambda: len(tap.events) > 5, within=PATIENCE)
        [broker] = [p for p in components.status()["processes"] if p["name"] == "rabbitmq"]
        os.kill(broker["pid"], signal.SIGKILL)
        await more(5)
        await kill(relay)
        ground.start("relay")
        await more(5)
        receiver.be("slow")  # it has taken in what the worker does not know of when it is killed
        heard = len(receiver.heard)
        await eventually(lambda: len(receiver.heard) > heard, within=PATIENCE)
        await kill(worker)
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
        await eventually(lambda: receiver.resources == as_json, within=PATIENCE)
        assert not receiver.wrong
        assert receiver.again, "what it had taken in was posted again"

        # The broker is back, and gets all that it has not.
        again = None
        while again is None:
            await asyncio.sleep(0.1)
            with suppress(BrokerLost):
                again = await Tap.on(ground.amqp)
        numbered = ground.value("select numbered from transom.relay")
        everything = list(range(1, numbered + 1))

        def firsts() -> list[int]:
            return list(dict.fromkeys(event.position for event in [*tap.events, *again.events]))

        await eventually(lambda: len(firsts()) >= numbered, within=PATIENCE)
        assert firsts() == everything
        await again.close()
        await tap.close()
