"""Settings → one process that runs until it is asked to stop. Everything a consumer needs is opened and closed here."""

from __future__ import annotations

import asyncio
import signal

import structlog
from prometheus_client import start_http_server
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from consumers import mail, tasks
from consumers.inbox import Inbox
from consumers.relay import Relay, RelayMetrics
from consumers.runner import Runner, RunnerMetrics
from server.settings import Settings

log = structlog.get_logger("consumers")

POOL = 8
"""Connections of a worker to Postgres, for inbox and mails."""


async def relay(settings: Settings) -> None:
    """Relays events until SIGTERM."""
    running = Relay(
        settings.postgres.get_secret_value(),
        settings.amqp.get_secret_value(),
        [mail.ADDRESS, *tasks.addresses(settings)],
        RelayMetrics(),
        instance=settings.instance,
    )
    _prepare(settings, running.stop)
    await running.run()
    log.info("stopped")


async def work(settings: Settings) -> None:
    """Runs the app's tasks and sends mails until SIGTERM."""
    pool = AsyncConnectionPool(
        settings.postgres.get_secret_value(),
        min_size=1,
        max_size=POOL,
        timeout=10,
        kwargs={"autocommit": True, "row_factory": dict_row, "application_name": f"transom-{settings.instance}"[:63]},
        check=AsyncConnectionPool.check_connection,
        open=False,
    )
    async with pool, tasks.opened(settings) as (works, handlers):
        running = Runner(
            settings.amqp.get_secret_value(),
            Inbox(pool),
            works,
            [mail.Mails(pool, settings).handler, *handlers],
            RunnerMetrics(),
            instance=settings.instance,
            grace=settings.drain_grace,
        )
        _prepare(settings, running.stop)
        await running.run()
    log.info("stopped")


def _prepare(settings: Settings, stop: asyncio.Event) -> None:
    """Metrics, and signals that end the process in good order."""
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
