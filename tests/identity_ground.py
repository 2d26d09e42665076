"""Where accounts and files are tested: a database of its own on the real components, and the services on a real port.

Harm comes through `Cable`, a wire that can be cut and held: one test's Redis or S3 is away without others noticing.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import grpc
import psycopg
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health, health_pb2_grpc
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool
from transom.accounts.v1 import accounts_pb2_grpc
from transom.files.v1 import files_pb2_grpc

from deploy.native.stack import Stack
from server.app import people_of
from server.engine.accounts import Accounts
from server.engine.audit import Audit
from server.engine.authentication import Authentication
from server.engine.files import Files
from server.engine.keys import Keys
from server.engine.letters import Letters
from server.engine.password_rules import PasswordRules
from server.engine.revocations import Revocations
from server.engine.sessions import Sessions
from server.engine.sign_ins import SignIns
from server.engine.sign_up_policy import SignUpPolicy
from server.engine.sign_ups import SignUps
from server.engine.throttle import Throttle
from server.engine.words import Words
from server.interceptors.authentication import Authentication as Authenticating
from server.interceptors.chain import Chain
from server.interceptors.errors import DETAILS, Errors
from server.interceptors.lines import Lines
from server.interceptors.observe import Observe
from server.services.accounts import AccountsService, People
from server.services.cookie_rules import DEFAULT, CookieRules
from server.services.files import FilesService
from server.services.said import said
from server.store.accounts import StoredAccounts
from server.store.announcements import Announcements
from server.store.attempts import StoredAttempts
from server.store.audit import StoredAudit
from server.store.files import StoredFiles
from server.store.keys import StoredKeys
from server.store.known_networks import KnownNetworks
from server.store.last_seen import LastSeen
from server.store.migrations import changing
from server.store.objects import Objects
from server.store.passwords import Passwords
from server.store.redis import Redis
from server.store.redis_wire import RedisWire
from server.store.sessions import StoredSessions
from server.store.tokens import Tokens
from server.store.words import StoredWords


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test on a loop of its own, for at most a minute."""

    @functools.wraps(test)
    def run(**given: Any) -> None:
        asyncio.run(asyncio.wait_for(test(**given), 60))

    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return run


@dataclass(frozen=True)
class Place:
    """Addresses of the components, with a fresh database."""

    postgres: str
    replica: str
    redis: str
    s3: str
    env: dict[str, str]

    @property
    def postgres_url(self) -> str:
        """The primary as a URL, for a `cable`: that of the two servers which leads."""
        with psycopg.connect(self.postgres) as connection:
            at = connection.info
            return f"postgresql://{at.user}:{at.password}@{at.host}:{at.port}/{at.dbname}"

    def wait_replica(self) -> None:
        """Returns once the replica has all that the primary has now."""
        [[lsn]] = self.sql("select pg_current_wal_lsn()::text")
        until = time.monotonic() + 20
        while True:
            with suppress(psycopg.OperationalError), psycopg.connect(self.replica, autocommit=True) as replica:
                row = replica.execute("select pg_last_wal_replay_lsn() >= %s::pg_lsn", [lsn]).fetchone()
                if row and row[0]:
                    return
            assert time.monotonic() < until, "the replica does not catch up"
            time.sleep(0.05)

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of a statement, run apart from everything under test."""
        with psycopg.connect(self.postgres, autocommit=True) as connection:
            cursor = connection.execute(statement, values)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []


@contextmanager
def place(components: Stack) -> Iterator[Place]:
    """A database with Transom's tables, for as long as the block lasts."""
    env = components.env
    name = f"identity_{secrets.token_hex(4)}"
    with psycopg.connect(env["TRANSOM_POSTGRES"], autocommit=True) as connection:
        connection.execute(f"create database {name}")
        postgres = make_conninfo(env["TRANSOM_POSTGRES"], dbname=name)
        try:
            with changing(postgres):
                pass  # Transom's own tables are there now
            yield Place(
                postgres,
                make_conninfo(env["TRANSOM_REPLICA"], dbname=name),
                env["TRANSOM_REDIS"],
                env["TRANSOM_S3_ENDPOINT"],
                env,
            )
        finally:
            connection.execute(f"drop database {name} with (force)")


class Cable:
    """A TCP wire to `target`: whole, cut (connections are refused and broken off) or held (nothing passes)."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._whole = asyncio.Event()
        self._whole.set()
        self._ends: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.passed = 0
        """Chunks that clients sent through."""

    async def mend(self) -> None:
        self._whole.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for end in tuple(self._ends):
            end.transport.abort()

    def hold(self) -> None:
        self._whole.clear()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(self._pump(reader, far_writer, True), self._pump(far_reader, writer, False))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, outward: bool) -> None:
        self._ends.add(sink)
        try:
            while data := await source.read(1 << 16):
                await self._whole.wait()
                self.passed += outward
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            self._ends.discard(sink)
            sink.close()


@asynccontextmanager
async def cable(url: str) -> AsyncIterator[tuple[Cable, str]]:
    """A whole wire to the server of `url`, and the URL that leads through it."""
    parts = urlsplit(url)
    wire = Cable(parts.hostname or "", parts.port or 0)
    await wire.mend()
    try:
        yield wire, urlunsplit(parts._replace(netloc=parts.netloc.replace(str(parts.port), str(wire.port))))
    finally:
        await wire.cut()


@dataclass
class Server:
    """One API server's part in identity: what `server/app.py` wires, on a port."""

    people: People
    files: Files
    keys: Keys
    authentication: Authentication
    tokens: Tokens
    words: Words
    sign_ins: SignIns
    objects: Objects
    revocations: Revocations
    last_seen: LastSeen
    port: int = 0

    @property
    def accounts(self) -> Accounts:
        return self.people.accounts

    @property
    def sign_ups(self) -> SignUps:
        return self.people.sign_ups

    @property
    def sessions(self) -> Sessions:
        return self.people.sessions

    def stubs(self, token: str = "") -> Caller:
        return Caller(self.port, token)


class Caller:
    """A client with a token, or none: `await caller.accounts("GetMe", pb.GetMeRequest())`."""

    def __init__(self, port: int, token: str = "", scheme: str = "Bearer") -> None:
        self._port = port
        self.token = token
        self._metadata = (("authorization", f"{scheme} {token}"),) if token else ()

    async def accounts(self, method: str, request: Any) -> Any:
        return await self._call(accounts_pb2_grpc.AccountsServiceStub, method, request)

    async def files(self, method: str, request: Any) -> Any:
        return await self._call(files_pb2_grpc.FilesServiceStub, method, request)

    async def _call(self, stub: Callable[[Any], Any], method: str, request: Any) -> Any:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            return await getattr(stub(channel), method)(request, metadata=self._metadata, timeout=20)


async def no_second_factors(user_id: str) -> tuple[str, ...]:
    """Where nobody has one."""
    return ()


async def refused(call: Awaitable[Any]) -> tuple[str, str, tuple[str, ...]]:
    """Code, reason and wrong fields of a call that must be refused."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        status, info, bad = Status(), ErrorInfo(), BadRequest()
        status.ParseFromString(dict(error.trailing_metadata() or ())[DETAILS])
        for detail in status.details:
            detail.Unpack(info)
            detail.Unpack(bad)
        assert "psycopg" not in str(status) and "boto" not in str(status)  # nothing internal leaks
        return error.code().name, info.reason, tuple(violation.field for violation in bad.field_violations)
    raise AssertionError(f"answered {answer}")


@asynccontextmanager
async def server(
    at: Place,
    *,
    redis: str = "",
    s3: str = "",
    postgres: str = "",
    replica: str = "",
    behind: float = 0.0,
    policy: SignUpPolicy | None = None,
    anonymous: bool = False,
    told: str = "",
    cookies: CookieRules = DEFAULT,
    safe: Collection[str] = (),
    **options: Any,
) -> AsyncIterator[Server]:
    """The services of accounts and files on a port of their own, all of it real. `told` is the primary that tells it
    which callers have changed; without it is told nothing."""
    env = at.env
    objects = Objects(
        endpoint=s3 or at.s3,
        public_endpoint=at.s3,
        region=env["TRANSOM_S3_REGION"],
        bucket=env["TRANSOM_S3_BUCKET"],
        access_key=env["TRANSOM_S3_ACCESS_KEY"],
        secret_key=env["TRANSOM_S3_SECRET_KEY"],
    )
    cache = Redis(redis or at.redis)
    passwords = Passwords(waiting=options.pop("waiting", 32))
    pool = AsyncConnectionPool(postgres or at.postgres, min_size=1, max_size=8, open=False)
    second = AsyncConnectionPool(replica, min_size=1, max_size=2, open=False) if replica else None
    await pool.open()
    if second:
        await second.open()
    tokens = Tokens(pool, cache, second, lambda: behind)
    stored_accounts, stored_sessions = StoredAccounts(pool), StoredSessions(pool)
    last_seen = LastSeen(stored_sessions)
    authentication = Authentication(tokens, listening=bool(told), note=last_seen.note)
    announcements = Announcements(told, "test", authentication)
    words = Words(StoredWords(pool))
    wire = RedisWire(redis or at.redis)
    audit = Audit(StoredAudit(pool), said)
    throttle = Throttle(StoredAttempts(wire), KnownNetworks(pool), audit, None, None)
    sign_ins = SignIns(stored_accounts, stored_sessions, tokens, authentication, words, no_second_factors, audit)
    revocations = Revocations(stored_sessions, tokens, authentication, audit)
    sessions = Sessions(stored_sessions, stored_accounts, tokens, authentication, revocations, audit)
    people = people_of(
        pool,
        stored_accounts,
        passwords,
        words,
        Letters("Transom", "https://app.example"),
        policy or SignUpPolicy(verify=False),
        PasswordRules(["Transom"]),
        throttle,
        sign_ins,
        sessions,
        revocations,
        audit,
        anonymous=anonymous,
    )
    files = Files(StoredFiles(pool), objects, **options)
    made = Server(
        people,
        files,
        Keys(StoredKeys(pool), tokens, audit),
        authentication,
        tokens,
        words,
        sign_ins,
        objects,
        revocations,
        last_seen,
    )
    layers = [Observe(Lines("test", enabled=False)), Errors(), Authenticating(authentication, cookies, safe)]
    handlers, grpc_server = Chain(layers), grpc.aio.server()
    grpc_server.add_generic_rpc_handlers((handlers,))
    accounts_pb2_grpc.add_AccountsServiceServicer_to_server(AccountsService(people), handlers)
    files_pb2_grpc.add_FilesServiceServicer_to_server(FilesService(files), handlers)
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), handlers)  # for an edge in front
    made.port = grpc_server.add_insecure_port("127.0.0.1:0")
    if told:
        announcements.open()
    await grpc_server.start()
    try:
        yield made
    finally:
        await grpc_server.stop(0)
        await announcements.aclose()
        await last_seen.aclose()
        await tokens.aclose()
        await cache.aclose()
        await wire.aclose()
        await pool.close()
        if second:
            await second.close()
        passwords.close()
        objects.close()
