"""Tasks that can be held, so that a test can do harm while they run. FOLDER names where they meet the test."""

import asyncio
import os
from pathlib import Path

from server.apps import Discard, Event, Work, on


@on("test.v1.Thing", "counted")
async def count(event: Event, work: Work) -> None:
    """Counts, while `hold` is there only after it has gone."""
    folder = Path(os.environ["FOLDER"])
    (folder / f"started-{os.getpid()}").touch()
    while (folder / "hold").exists():
        await asyncio.sleep(0.01)
    thing = await work.get(event.name)
    work.update(thing, {"runs": thing.runs + 1}, event="was_counted")


@on("test.v1.Thing", "reported")
async def report(event: Event, work: Work) -> None:
    """Stores a file and mails it."""
    name = await work.store_file(event.id, "report.txt", "text/plain", f"On {event.resource.name}".encode())
    work.mail("manager@example.com", "Ready", "The report is ready.", [name])


@on("test.v1.Thing", "dropped", retries=0)
def drop(event: Event, work: Work) -> None:
    """An ordinary function, which runs in a thread."""
    raise Discard("not wanted")
