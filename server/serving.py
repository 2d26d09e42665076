"""The running parts → the API server: which layers a call goes through, and who answers it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Sequence

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from transom.accounts.v1 import (
    account_data_pb2_grpc,
    accounts_pb2_grpc,
    identities_pb2_grpc,
    passkeys_pb2_grpc,
    second_factors_pb2_grpc,
)
from transom.admin.v1 import admin_pb2_grpc
from transom.data.v1 import data_pb2_grpc
from transom.files.v1 import direct_pb2_grpc, files_pb2_grpc
from transom.schedules.v1 import schedules_pb2_grpc
from transom.tasks.v1 import tasks_pb2_grpc
from transom.webhooks.v1 import webhooks_pb2_grpc

from server.app import Parts, micros, opened
from server.apps.loading import METHODS
from server.engine.commits import Commits
from server.engine.file_watching import FileStreams
from server.engine.watch_streams import Streams
from server.engine.watching import Watching
from server.interceptors.authentication import Authentication
from server.interceptors.bodies import Bodies
from server.interceptors.chain import Chain, Layer
from server.interceptors.consistency import Consistency
from server.interceptors.errors import Errors
from server.interceptors.limits import Limits
from server.interceptors.lines import Lines
from server.interceptors.observe import Observe
from server.schema.model import Kind
from server.services.account_data import AccountDataService
from server.services.accounts import AccountsService
from server.services.admin import AdminService
from server.services.cookie_rules import CookieRules
from server.services.custom import CustomMethods, unimplemented
from server.services.data import DataService
from server.services.data_watch import DataWatch
from server.services.file_watch import FileWatch
from server.services.files import FilesService
from server.services.files_direct import DirectFilesService
from server.services.hearing import Hearing
from server.services.identities import IdentitiesService
from server.services.operations import SERVICE as OPERATIONS
from server.services.operations import OperationsService
from server.services.passkeys import PasskeysService
from server.services.reflection import add_reflection
from server.services.schedules import SchedulesService
from server.services.second_factors import SecondFactorsService
from server.services.standard import StandardMethods
from server.services.standard.repeating import Repeating
from server.services.task_operations import TaskOperations
from server.services.tasks import TasksService
from server.services.watching import Watches
from server.services.webhooks import WebhooksService
from server.settings import Settings
from server.store.announcements import Announcements
from server.store.log_tail import LogTail
from server.store.mailboxes import Turns
from server.wire.queue import Unpollable
from server.wire.server import Server

CALLS_MAX = 10_000
"""Calls under way at one time in one server; beyond it they are refused with RESOURCE_EXHAUSTED."""
WATCH_TURNS = 3
"""Watches that read what there is at one time: they share connections with lists that ask for more than a plain page."""

log = structlog.get_logger("app")


class ApiServer:
    """The gRPC server of one process."""

    def __init__(self, parts: Parts) -> None:
        settings = parts.settings
        self._parts = parts
        self._lines = Lines(settings.instance, enabled=settings.log_level.lower() in ("debug", "info"))
        cookies = CookieRules(
            settings.cookie_secure,
            frozenset(settings.allowed_origins),
            int(max(settings.session_lifetime, settings.remembered_lifetime)),
        )
        safe = [
            f"/{service.name}/{method.name}"
            for service in parts.schema.services
            for method in service.methods
            if method.safe
        ]
        layers: list[Layer] = [
            Observe(self._lines),  # outermost: sees the final status of everything below
            Errors(),  # above all who may refuse
            # Says who calls; what they may do is decided further in. Whose token is nobody's goes no further.
            Authentication(parts.callers, cookies, safe, parts.limits),
            Limits(parts.limits),  # whose calls they are is known; nothing was done for them yet
            Consistency(parts.freshness),  # the last that may refuse a call for its headers
            Bodies(parts.schema),  # what a JSON body says and the request does not
        ]
        self._handlers = Chain(layers)
        self._server = _server(
            settings,
            [
                ("grpc.max_receive_message_length", settings.message_bytes_max + 65_536),
                ("grpc.so_reuseport", 0),
                # The edge takes 16 KiB of headers and adds some; gRPC would refuse some calls, at random, from 8 KiB on.
                ("grpc.max_metadata_size", 32_768),
                ("grpc.absolute_max_metadata_size", 65_536),
                # The edge asks a silent connection every 5 s whether it lives (envoy.yaml); gRPC would hang up on that.
                ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
                ("grpc.http2.max_ping_strikes", 0),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        self._server.add_generic_rpc_handlers((self._handlers,))
        dsn = settings.postgres.get_secret_value()
        self._watching = Watching(parts.schema, parts.resources.access, parts.resources.lists, micros)
        self._tail = LogTail(dsn, settings.instance, parts.event_log, self._watching)
        streams = Streams(
            parts.resources, self._watching, self._tail, parts.event_log, parts.queries, Turns(WATCH_TURNS)
        )
        self._watches = Watches(streams, parts.callers)
        self._file_streams = FileStreams(parts.files, self._watching, self._tail)
        self._announcements = Announcements(dsn, settings.instance, Hearing(parts.callers, self._watching))
        self._health = health.aio.HealthServicer()
        self._services: list[str] = []

    async def start(self) -> int:
        """Serves; the port is answered."""
        parts, server = self._parts, self._handlers
        self._announcements.open()
        self._tail.open()
        self._add_app(parts)
        accounts_pb2_grpc.add_AccountsServiceServicer_to_server(AccountsService(parts.people), server)
        identities_pb2_grpc.add_IdentitiesServiceServicer_to_server(IdentitiesService(parts.identities), server)
        passkeys_pb2_grpc.add_PasskeysServiceServicer_to_server(PasskeysService(parts.passkeys), server)
        second_factors_pb2_grpc.add_SecondFactorsServiceServicer_to_server(
            SecondFactorsService(parts.second_factors), server
        )
        account_data_pb2_grpc.add_AccountDataServiceServicer_to_server(AccountDataService(parts.account_data), server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(
            AdminService(parts.admins, parts.keys, parts.explanations), server
        )
        schedules_pb2_grpc.add_SchedulesServiceServicer_to_server(SchedulesService(parts.schedules), server)
        tasks_service = TasksService(parts.tasks, parts.enqueuing, parts.following, parts.callers)
        server.add_generic_rpc_handlers((tasks_service.handlers(),))
        tasks_pb2_grpc.add_TasksServiceServicer_to_server(tasks_service, server)
        webhooks_pb2_grpc.add_WebhooksServiceServicer_to_server(WebhooksService(parts.webhooks), server)
        server.add_generic_rpc_handlers((FileWatch(self._watches, self._file_streams).handlers(),))
        files_pb2_grpc.add_FilesServiceServicer_to_server(FilesService(parts.files), server)
        direct_pb2_grpc.add_DirectFilesServiceServicer_to_server(DirectFilesService(parts.files), server)
        server.add_generic_rpc_handlers((DataWatch(self._watches).handlers(),))
        data_pb2_grpc.add_DataServiceServicer_to_server(
            DataService(parts.aggregates, parts.resources, Commits(parts.resources), parts.requests),
            server,
        )
        if any(service.name == OPERATIONS for service in parts.schema.services):
            of_tasks = TaskOperations(parts.schema, parts.tasks, parts.following, parts.callers)
            operations_service = OperationsService(parts.schema, parts.operations, of_tasks)
            server.add_generic_rpc_handlers((operations_service.handlers(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        self._services = [s.name for s in parts.schema.services]
        add_reflection(server, parts.schema.pool, [*self._services, health.SERVICE_NAME])
        port = int(self._server.add_insecure_port(f"{parts.settings.host}:{parts.settings.port}"))
        await self._server.start()
        await self._say(True)
        parts.presence.tell = self._say
        log.info("serving", port=port, services=self._services)
        return port

    async def _say(self, serves: bool) -> None:
        """Says to whoever asks for health, the edge first, whether calls are well here."""
        status = health_pb2.HealthCheckResponse
        for service in ("", *self._services):
            await self._health.set(service, status.SERVING if serves else status.NOT_SERVING)

    def _add_app(self, parts: Parts) -> None:
        repeating = Repeating(parts.resources, parts.requests, parts.operations)
        standard = StandardMethods(parts.resources, repeating)
        accounts = parts.people.accounts
        custom = CustomMethods(
            parts.resources, parts.files, accounts, repeating, templates=parts.templates, tasks=parts.tasks
        )
        for service in parts.schema.services:
            if service.own:
                continue
            handlers = {}
            for method in service.methods:
                implements = parts.app.methods.get(method.full_name)
                if method.kind is Kind.WATCH:
                    watch = self._watches.behavior(method)
                    handlers[method.name] = grpc.unary_stream_rpc_method_handler(watch)
                    continue
                if method.client_streaming or method.server_streaming:
                    behavior = unimplemented(method)
                elif implements:  # also in place of a standard method, where the app wants it otherwise
                    behavior = custom.behavior(method, implements)
                elif standard.serves(method):
                    behavior = standard.behavior(method)
                else:
                    behavior = unimplemented(method)
                handlers[method.name] = grpc.unary_unary_rpc_method_handler(behavior)
            self._handlers.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.name, handlers),))

    async def stop(self) -> None:
        """Graceful: says NOT_SERVING, gives the edge time to see it, lets calls in flight finish, ends."""
        settings = self._parts.settings
        await self._health.enter_graceful_shutdown()
        log.info("draining")
        await asyncio.sleep(settings.drain_notice)
        self._watching.drain()
        self._parts.following.drain()
        await self._server.stop(settings.drain_grace)
        await self._announcements.aclose()
        await self._tail.aclose()
        self._lines.flush()


def _server(settings: Settings, options: Sequence[tuple[str, int]]) -> Server | grpc.aio.Server:
    """Who takes calls from grpc's core: the event loop itself, where it can."""
    if settings.wire == "loop":
        try:
            return Server(options, CALLS_MAX)
        except Unpollable as reason:
            log.warning("grpc.aio serves", reason=str(reason))
    return grpc.aio.server(options=options, maximum_concurrent_rpcs=CALLS_MAX)


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set, then drains."""
    async with opened(settings, [METHODS]) as parts:
        server = ApiServer(parts)
        await server.start()
        # What the start made, schema and all, lives for ever: the collector need not walk it again and again. What calls
        # leave is looked at less often than Python would: hardly any of it is in circles.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 10, 10)
        with contextlib.suppress(asyncio.CancelledError):
            await stop.wait()
        await server.stop()
    log.info("stopped")
