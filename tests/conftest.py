"""The real thing, started once for all tests: servers on private ports, with a state of their own.

Both stacks end with the test process, however that ends: their supervisors watch a pipe from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
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
    "test_consumers_relay.py",
    "test_events_model.py",
    "test_events_killed.py",
    "test_native.py",
    "test_schema_change.py",
    "test_schema_change_endings.py",
    "test_access_table.py",
    "test_rules_property.py",
    "test_reads_property.py",
    "test_lists_property.py",
    "test_webhooks.py",
    "test_schedules.py",
    "test_file_processing.py",
    "test_processing.py",
    "test_mail.py",
    "test_cli.py",
)
"""Files that take long for the number of tests that are in them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take longest first: a file is one worker's, and at the end each shall have something to do."""
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.name not in LONG, -tests[item.path], item.path))


@pytest.fixture(scope="session")
def components() -> Iterator[Stack]:
    """Postgres pair, Redis, RabbitMQ, S3 and mail catcher, empty; `components.env` is what a process needs to know."""
    with TemporaryDirectory(prefix="transom-components-") as folder:
        Path(folder).chmod(0o755)
        with Stack(Path(folder) / "state", parts=COMPONENTS).running() as stack:
            yield stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The whole system serving examples/inspect with its seed, behind its edge at `stack.edge`."""
    with TemporaryDirectory(prefix="transom-stack-") as folder:
        Path(folder).chmod(0o755)
        app = PROJECT / "examples" / "inspect"
        with Stack(Path(folder) / "state", app=app, parts=EVERYTHING).running() as stack:
            yield stack
