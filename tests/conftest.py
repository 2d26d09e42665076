"""The real thing, started once for all tests: servers on private ports, with a state of their own.

Both stacks end with the test process, however that ends: their supervisors watch a pipe from it.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import structlog

from deploy.native.stack import COMPONENTS, EVERYTHING, PROJECT, Stack

# Tracebacks as Python writes them: to draw one with all its variables takes a second.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)

LONG = (
    "test_consumers_runner.py",
    "test_schema_change.py",
    "test_accounts.py",
    "test_oidc.py",
    "test_schedules.py",
    "test_deaths.py",
    "test_account_data.py",
    "test_migrations.py",
    "test_schema_change_refusals.py",
    "test_cli.py",
    "test_webhooks.py",
    "test_consumers_relay.py",
    "test_records.py",
    "test_reads_hot.py",
    "test_native.py",
    "test_files.py",
    "test_tasks.py",
    "test_consumers_mail.py",
    "test_events_killed.py",
    "test_reads_property.py",
)
"""Files that take long for the number of tests that are in them."""

WHOLE = pytest.StashKey[bool]()
"""Whether a test's file wants the whole system."""

ROOM = 8 << 30
"""Bytes that must be free for the servers' data to be kept in memory."""

_standing = ExitStack()
"""The whole system, while tests want it."""


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts first the files that want the whole system, all for one worker, so that it is started once and soon stopped; then
    those that take longest: a file is one worker's, and at the end each shall have something to do."""
    tests = Counter(item.path for item in items)
    whole = {item.path for item in items if "stack" in _fixtures(item)}
    items.sort(key=lambda item: (item.path not in whole, item.path.name not in LONG, -tests[item.path], item.path))
    for item in items:
        item.add_marker(pytest.mark.xdist_group("stack" if item.path in whole else item.path.stem))
        item.stash[WHOLE] = item.path in whole


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Stops the whole system when the last who want it are through."""
    if not item.stash[WHOLE]:
        _standing.close()


def _fixtures(item: pytest.Item) -> list[str]:
    return getattr(item, "fixturenames", [])


@pytest.fixture(scope="session")
def components() -> Iterator[Stack]:
    """Postgres pair, Redis, RabbitMQ, S3 and mail catcher, empty; `components.env` is what a process needs to know."""
    with _folder("components") as folder:
        Path(folder).chmod(0o755)
        with Stack(Path(folder) / "state", parts=COMPONENTS).running() as stack:
            yield stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The whole system serving examples/inspect with its seed, behind its edge at `stack.edge`."""
    with _standing:
        folder = _standing.enter_context(_folder("stack"))
        Path(folder).chmod(0o755)
        app = PROJECT / "examples" / "inspect"
        yield _standing.enter_context(Stack(Path(folder) / "state", app=app, parts=EVERYTHING).running())


def _folder(name: str) -> TemporaryDirectory[str]:
    """In memory where there is room: nothing here must outlive a power cut, so nobody shall wait for the disk."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > ROOM
    return TemporaryDirectory(prefix=f"transom-{name}-", dir=memory if roomy else None)
