"""Settings → one process that runs until it is asked to stop."""

from __future__ import annotations

import asyncio
import secrets
import signal

import structlog
from prometheus_client import start_http_server

from consumers import account_data, file_processing, mail, schedules, tasks
from consumers.declaring import declaring
from consumers.inbox import Inbox
from consumers.keeping import Keeping
from consumers.processing import folders, isolation
from consumers.relay import Relay
from consumers.relay_metrics import RelayMetrics
from consumers.runner import Runner, RunnerMetrics
from consumers.scheduler import Scheduler, SchedulerMetrics
from consumers.sweeping import sweep
from consumers.task_runner import TaskMetrics, TaskRunner
from consumers.webhooks import WebhookMetrics, WebhookWorker
from consumers.workshop import open_workshop
from server.app import Parts, micros
from server.apps.loading import TASKS, load
from server.apps.named import declared as task_handlers
from server.engine.schedules import Ticking, enqueued
from server.engine.sealing import Seal
from server.engine.webhook_delivering import Delivering, Patience
from server.engine.webhook_signing import PURPOSE as WEBHOOK_SECRETS
from server.schema.reading import read
from server.settings import Settings
from server.store.positions_told import hear
from server.store.schedules import StoredSchedules
from server.store.task_handlers import StoredHandlers
from server.store.tasks import StoredTasks
from server.store.webhook_deliveries import StoredDeliveries
from server.store.webhook_fanning import Fanning
from server.store.webhook_posts import WebhookPosts

log = structlog.get_logger("consumers")


async def relay(settings: Settings) -> None:
    """Relays events until SIGTERM."""
    schema = read(settings.descriptor.read_bytes())
    app = load(settings.app, schema, [TASKS])
    handlers = tasks.handlers(app.tasks, schema)
    relay = Relay(
        settings.postgres.get_secret_value(),
        settings.amqp.get_secret_value(),
        [
            mail.ADDRESS,
            file_processing.ADDRESS,
            *account_data.ADDRESSES,
            *((handler.name, handler.key) for handler in handlers),
            *schedules.addresses(app.schedules),
        ],
        RelayMetrics(),
        instance=settings.instance,
        keeping=Keeping(
            events=settings.event_days, waiting=settings.webhook_hours / 24, bytes=settings.event_bytes_max
        ),
    )
    _prepare(settings, relay.stop)
    await relay.run()
    log.info("stopped")


async def work(settings: Settings) -> None:
    """Runs the app's tasks, sends mails, deletes and exports accounts until SIGTERM."""
    isolation.closed()
    if left := folders.swept():
        log.info("removed what a killed worker left of files", folders=left)
    async with open_workshop(settings) as shop:
        parts = shop.parts
        runner = Runner(
            settings.amqp.get_secret_value(),
            Inbox(parts.pool),
            shop.work,
            [
                mail.Mails(parts.pool, parts.files, settings).handler,
                file_processing.FileProcessing(parts.processing, parts.app.checks, settings).handler,
                *account_data.handlers(parts.deletions, parts.exports),
                *tasks.handlers(parts.app.tasks, parts.schema, parts.files),
                *schedules.handlers(parts.app.schedules),
            ],
            RunnerMetrics(),
            instance=settings.instance,
            grace=settings.drain_grace,
        )
        _prepare(settings, runner.stop)
        declared = schedules.declared(parts.app.schedules)
        scheduler = Scheduler(
            Ticking(StoredSchedules(parts.pool), declared, enqueued), len(declared), SchedulerMetrics()
        )
        functions = [*parts.app.named, *schedules.named(parts.app.schedules)]
        posts = WebhookPosts(settings.webhook_networks)
        named = TaskRunner(
            settings.postgres.get_secret_value(),
            StoredTasks(parts.pool),
            shop.work,
            functions,
            TaskMetrics(),
            instance=settings.instance,
            grace=settings.drain_grace,
            message=parts.schema.message_class,
        )
        known = declaring(StoredHandlers(parts.pool), task_handlers(functions), secrets.token_hex(8), runner.stop)
        beside = [
            asyncio.create_task(known),
            asyncio.create_task(named.run(runner.stop)),
            asyncio.create_task(sweep(parts.sweeps, runner.stop)),
            asyncio.create_task(scheduler.run(runner.stop)),
            asyncio.create_task(
                WebhookWorker(
                    delivering(parts, posts),
                    WebhookMetrics(),
                    lambda told: hear(settings.postgres.get_secret_value(), f"{settings.instance} webhooks"[:63], told),
                ).run(runner.stop)
            ),
        ]
        try:
            await runner.run()
            await asyncio.gather(*beside)
        finally:
            await posts.aclose()
    log.info("stopped")


def delivering(parts: Parts, posts: WebhookPosts, patience: Patience | None = None) -> Delivering:
    """What tells webhook endpoints of what happened."""
    settings = parts.settings
    return Delivering(
        Fanning(parts.pool),
        StoredDeliveries(parts.pool),
        parts.webhook_events,
        posts,
        Seal([secret.get_secret_value() for secret in settings.secret], WEBHOOK_SECRETS),
        micros,
        patience or Patience(horizon=settings.webhook_hours * 3600),
        lambda: secrets.token_hex(8),
    )


def _prepare(settings: Settings, stop: asyncio.Event) -> None:
    """Metrics, and signals that end the process in good order."""
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
