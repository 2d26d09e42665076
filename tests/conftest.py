"""The real thing, started once for all tests: servers on private ports, with a state of their own.

Both stacks end with the test process, however that ends: their supervisors watch a pipe from it.
"""

from __future__ import annotations

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
