"""`python -m server`: one API server, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
import sys

import structlog
import uvloop
from prometheus_client import start_http_server

import server.wire.experiments  # noqa: F401 - before grpc is imported
from server import collector
from server.errors import Unavailable
from server.logs import configure
from server.schema.compilation import SchemaError
from server.serving import serve
from server.settings import Settings


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host)
    await serve(settings, stop)


def main() -> int:
    """The exit code: 0 after a drain, 1 where the schema is refused or Postgres cannot be reached."""
    collector.go_on()
    settings = Settings()
    configure(settings)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(settings))
    except (SchemaError, Unavailable) as fault:
        structlog.get_logger("main").error("cannot start", reason=str(fault))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
