"""Settings → the running parts: of every process, whatever it is for. This file and the one above it know every class."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import structlog
from prometheus_client import Gauge

from server.apps.loading import App, load
from server.apps.templates import Templates
from server.engine.access import Access
from server.engine.account_data import AccountData
from server.engine.accounts import Accounts
from server.engine.addresses import Addresses
from server.engine.admins import Admins
from server.engine.aggregates import Aggregates
from server.engine.anonymous import Anonymous
from server.engine.audit import Audit
from server.engine.authentication import Authentication as Callers
from server.engine.authorizations import Authorizations
from server.engine.ceremonies import RelyingParty
from server.engine.consequences import consequences_of
from server.engine.decisions import Decisions
from server.engine.deletions import Deletions
from server.engine.endings import Endings
from server.engine.explanations import Explanations
from server.engine.exports import Exports
from server.engine.files import Files
from server.engine.filing import FileReferrers
from server.engine.identities import Identities
from server.engine.keys import Keys
from server.engine.letters import Letters
from server.engine.lifetimes import Lifetimes
from server.engine.limits import Limits as CallLimits
from server.engine.mail_codes import MailCodes
from server.engine.networks import network
from server.engine.new_passwords import NewPasswords
from server.engine.notices import Notices
from server.engine.operations import Operations
from server.engine.passkeys import Passkeys
from server.engine.password_rules import PasswordRules
from server.engine.post import Post
from server.engine.processing import Processing, wanted
from server.engine.proving import Proving
from server.engine.requests import Requests
from server.engine.resources import Resources
from server.engine.revocations import Revocations
from server.engine.schedules import Schedules, enqueued
from server.engine.scopes import Scopes
from server.engine.sealing import Seal
from server.engine.second_factors import PURPOSE, SecondFactors, methods_of
from server.engine.sessions import Sessions
from server.engine.sign_ins import SignIns
from server.engine.sign_up_policy import Policy, SignUpPolicy
from server.engine.sign_ups import SignUps
from server.engine.task_enqueuing import Enqueuing
from server.engine.tasks import Tasks
from server.engine.throttle import Attempts, Throttle
from server.engine.webhook_events import WebhookEvents
from server.engine.webhook_signing import PURPOSE as WEBHOOK_SECRETS
from server.engine.webhooks import Webhooks
from server.engine.words import Words
from server.errors import Unavailable
from server.query.rules.checking import rules_of
from server.schema.model import Schema
from server.schema.reading import read
from server.services.accounts import People
from server.services.current import CurrentCarried
from server.services.said import said
from server.services.task_following import Following
from server.settings import Settings
from server.store import mails
from server.store.account_data import StoredAccountData
from server.store.accounts import StoredAccounts
from server.store.anonymous import StoredAnonymous
from server.store.archives import Archives
from server.store.attempts import StoredAttempts
from server.store.audit import StoredAudit
from server.store.bars import Bars
from server.store.deeds import Deeds
from server.store.event_log import EventLog
from server.store.file_references import FileReferences
from server.store.file_uploads import Quota
from server.store.files import StoredFiles
from server.store.freshness import Freshness
from server.store.hot import Hot
from server.store.identities import StoredIdentities
from server.store.issuers import Issuers
from server.store.keys import StoredKeys
from server.store.known_networks import KnownNetworks
from server.store.lane import Lane
from server.store.last_seen import LastSeen
from server.store.limits import Buckets
from server.store.marks import RedisMarks
from server.store.objects import Objects
from server.store.operations import StoredOperations
from server.store.owned import Owned
from server.store.passkeys import StoredPasskeys
from server.store.passwords import Passwords
from server.store.pooled import Pool, pool_to
from server.store.positions import Positions
from server.store.processing import StoredProcessing
from server.store.queries import Queries
from server.store.query_lane import QueryLane
from server.store.reads import READS, reads
from server.store.records import Records
from server.store.redis import Redis
from server.store.redis_wire import RedisWire
from server.store.requests import StoredRequests
from server.store.schedules import StoredSchedules
from server.store.schemas.presence import Presence
from server.store.second_factors import StoredSecondFactors
from server.store.sessions import StoredSessions
from server.store.slow_lists import SlowLists
from server.store.task_handlers import StoredHandlers
from server.store.tasks import StoredTasks
from server.store.tokens import Tokens
from server.store.users import StoredUsers
from server.store.webhook_deliveries import StoredDeliveries
from server.store.webhooks import StoredEndpoints
from server.store.words import StoredWords

LANE_CONNECTIONS = 2
"""Pipelined connections to each Postgres server: while one batch is under way, the next one forms."""
POOL_CONNECTIONS = 4
"""Connections of each pool: of units of work, and of accounts and files. They are apart so that work which waits for a
locked row keeps nobody from signing in."""
START_SECONDS = 60
"""How long a start waits for Postgres."""

log = structlog.get_logger("app")
LAG = Gauge("transom_replica_lag_seconds", "How far the replica is behind, at most, as this process knows.")
POOL = Gauge(
    "transom_database_pool", "Pools for what is not on the hot path, as psycopg_pool counts.", ["pool", "stat"]
)
PENDING = Gauge("transom_database_batches_in_flight", "Batches under way.", ["server"])


@dataclass(frozen=True, slots=True)
class Parts:
    """What every process of Transom is made of, opened."""

    settings: Settings
    schema: Schema
    resources: Resources
    aggregates: Aggregates
    people: People
    identities: Identities
    passkeys: Passkeys
    second_factors: SecondFactors
    account_data: AccountData
    deletions: Deletions
    exports: Exports
    files: Files
    processing: Processing
    keys: Keys
    admins: Admins
    explanations: Explanations
    requests: Requests
    operations: Operations
    queries: Queries
    event_log: EventLog
    sessions: Sessions
    callers: Callers
    """Remembers only while an Announcements tells it what has changed: ApiServer has one."""
    limits: CallLimits
    freshness: Freshness
    presence: Presence
    """Told to whoever changes the schema; says when that has gone on without this process."""
    pool: Pool
    """Of units of work; what must be in one transaction with them uses it, too."""
    app: App
    templates: Templates
    """The app's mails."""
    schedules: Schedules
    tasks: Tasks
    enqueuing: Enqueuing
    following: Following
    webhook_events: WebhookEvents
    webhooks: Webhooks
    sweeps: Mapping[str, Callable[[], Awaitable[int]]]
    """What removes some of what is left behind, by what it removes; how much it was."""


@asynccontextmanager
async def opened(
    settings: Settings,
    functions: Sequence[str] = (),
    *,
    replica_reads: bool = True,
    connections: int = POOL_CONNECTIONS,
) -> AsyncIterator[Parts]:
    """The parts, closed again at the end. `functions` are the files of the app that are loaded (apps.loading.FILES);
    without `replica_reads` everything is read from the primary; `connections` is for units of work.

    Raises SchemaError for a schema or an app that cannot be served, or whose tables are not there, Unavailable where
    Postgres cannot be reached in time. Everything else may be away.
    """
    schema = read(settings.descriptor.read_bytes())
    rules = rules_of(schema)
    async with AsyncExitStack() as stack:
        app = load(settings.app, schema, functions)
        templates = Templates.of(settings.app, app=settings.relying_party_name, url=settings.public_url).sound()
        dsn = settings.postgres.get_secret_value()
        primary = Lane(dsn, settings.instance, LANE_CONNECTIONS)
        stack.push_async_callback(primary.close)
        await _patiently(primary)
        presence = Presence(dsn, settings.instance, schema)
        stack.push_async_callback(presence.aclose)
        await presence.open()
        pool = await stack.enter_async_context(pool_to(dsn, settings.instance, connections))
        identity = await stack.enter_async_context(pool_to(dsn, settings.instance, POOL_CONNECTIONS))
        redis = Redis(settings.redis.get_secret_value())
        stack.push_async_callback(redis.aclose)
        replica, replica_pool = None, None
        if settings.replica is not None and replica_reads:
            replica = Lane(settings.replica.get_secret_value(), settings.instance, LANE_CONNECTIONS)
            stack.push_async_callback(replica.close)
            replica_pool = await stack.enter_async_context(
                pool_to(settings.replica.get_secret_value(), settings.instance, POOL_CONNECTIONS)
            )
        wire = RedisWire(settings.redis.get_secret_value())
        stack.push_async_callback(wire.aclose)
        positions = Positions(primary, replica, settings.replica_lag_max)
        await positions.open()
        stack.push_async_callback(positions.close)
        marks = RedisMarks(wire, settings.replica_lag_max)
        freshness = Freshness(marks, positions, settings.replica_lag_max, CurrentCarried())
        bars, hot = Bars(wire, schema, settings.replica_lag_max), None
        if replica_reads or settings.replica is None:  # else what is read here is ahead of what others read
            hot = Hot(wire, marks.memory, freshness, bars, settings.replica_lag_max)
            stack.push_async_callback(hot.aclose)
        READS.of = partial(reads, freshness, hot)
        LAG.set_function(lambda: positions.lag if replica else 0.0)
        PENDING.labels("primary").set_function(lambda: primary.pending)
        if replica is not None:
            PENDING.labels("replica").set_function(lambda: replica.pending)
        _measure("work", pool)
        _measure("identity", identity)
        records = Records(schema, primary, replica, pool, freshness, rules, consequences_of(schema, micros), bars, hot)
        access = Access(schema, rules, records, micros)
        slow_lists = SlowLists(identity)
        stack.push_async_callback(slow_lists.aclose)
        query_lane, replica_query_lane = QueryLane(dsn, settings.instance), None
        stack.push_async_callback(query_lane.close)
        if settings.replica is not None and replica_reads:
            replica_query_lane = QueryLane(settings.replica.get_secret_value(), settings.instance)
            stack.push_async_callback(replica_query_lane.close)
        queries = Queries(rules, query_lane, replica_query_lane, freshness, slow_lists.note)
        sizes = {"page_size": settings.page_size, "page_size_max": settings.page_size_max}
        referrers = FileReferrers(schema, Decisions(schema, micros), access, records, FileReferences(identity))
        resources = Resources(schema, records, queries, access, micros, **sizes, replaced=app.methods, files=referrers)
        requests = Requests(StoredRequests(identity, timedelta(hours=settings.request_hours)))
        kept_operations = StoredOperations(identity, timedelta(days=settings.operation_days))
        operations = Operations(resources, kept_operations, micros, **sizes)
        tokens = Tokens(identity, redis, replica_pool, lambda: positions.lag)
        stack.push_async_callback(tokens.aclose)
        passwords = Passwords(whose=lambda: network(said().address))
        stack.callback(passwords.close)
        stored_accounts, stored_sessions = StoredAccounts(identity), StoredSessions(identity)
        last_seen = LastSeen(stored_sessions)
        stack.push_async_callback(last_seen.aclose)
        callers = Callers(tokens, listening=True, note=last_seen.note)
        stored_audit = StoredAudit(identity)
        stack.push_async_callback(stored_audit.aclose)
        audit = Audit(stored_audit, said, days=settings.audit_days, **sizes)
        networks = KnownNetworks(identity)
        throttle = Throttle(StoredAttempts(wire), networks, audit, settings.attempts_address, settings.attempts_account)
        buckets = Buckets(wire)
        stack.push_async_callback(buckets.aclose)
        limits = CallLimits(
            buckets,
            caller=settings.limit_caller,
            key=settings.limit_key,
            address=settings.limit_address,
            methods=settings.limit_methods,
        )
        served = {f"{service.name}/{method.name}" for service in schema.services for method in service.methods}
        if unknown := sorted(settings.limit_methods.keys() - served):
            log.warning("limits of methods that there are not", methods=unknown)
        words = Words(StoredWords(identity))
        factors = StoredSecondFactors(identity)
        lifetimes = Lifetimes(
            short=timedelta(seconds=settings.session_lifetime),
            short_idle=timedelta(seconds=settings.session_idle),
            long=timedelta(seconds=settings.remembered_lifetime),
            long_idle=timedelta(seconds=settings.remembered_idle),
        )
        sign_ins = SignIns(
            stored_accounts, stored_sessions, tokens, callers, words, methods_of(factors), audit, lifetimes
        )
        revocations = Revocations(stored_sessions, tokens, callers, audit)
        sessions = Sessions(stored_sessions, stored_accounts, tokens, callers, revocations, audit, **sizes)
        letters = Letters(settings.relying_party_name, settings.public_url)
        notices = Notices(Post(micros, said), letters)
        policy = SignUpPolicy(Policy(settings.sign_up), settings.sign_up_domains, verify=settings.sign_up_verify)
        passkeys = Passkeys(
            StoredPasskeys(identity),
            stored_accounts,
            words,
            sign_ins,
            revocations,
            sessions.rotate,
            audit,
            notices,
            RelyingParty(settings.relying_party_id, settings.relying_party_name, settings.relying_party_origins),
            policy,
        )
        second_factors = SecondFactors(
            factors,
            sign_ins,
            sessions.rotate,
            throttle,
            audit,
            notices,
            Seal([secret.get_secret_value() for secret in settings.secret], PURPOSE),
            issuer=settings.relying_party_name,
        )
        people = people_of(
            identity,
            stored_accounts,
            passwords,
            words,
            letters,
            policy,
            PasswordRules([settings.relying_party_name]),
            throttle,
            sign_ins,
            sessions,
            revocations,
            audit,
            anonymous=settings.anonymous,
        )
        issuers = Issuers(ca=settings.oidc_ca, fresh=settings.oidc_keys_fresh)
        stack.push_async_callback(issuers.aclose)
        identities = Identities(
            Authorizations(settings.oidc, issuers, words, time.time),
            StoredIdentities(identity),
            policy,
            sign_ins,
            sessions,
            revocations,
            audit,
        )
        objects = Objects(
            endpoint=settings.s3_endpoint,
            public_endpoint=settings.s3_public_endpoint,
            region=settings.s3_region,
            bucket=settings.s3_bucket,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key.get_secret_value(),
        )
        stack.callback(objects.close)
        files = Files(
            StoredFiles(identity),
            objects,
            referrers=referrers,
            processed=wanted(settings.files_processed),
            upload_bytes_max=settings.upload_bytes_max,
            multipart_bytes_max=settings.multipart_bytes_max,
            quota=Quota(settings.owner_files_max, settings.owner_bytes_max),
            page_size=settings.page_size,
            page_size_max=settings.page_size_max,
        )
        processing = Processing(StoredFiles(identity), StoredProcessing(identity), objects)
        data = StoredAccountData(pool)
        account_data = AccountData(
            data,
            Deeds(identity),
            Post(micros, said),
            letters,
            Proving(stored_accounts, passwords, throttle),
            revocations,
            audit,
            said,
            delay=timedelta(days=settings.account_delete_after),
        )
        deletions = Deletions(
            schema,
            resources.decisions,
            records,
            Owned(schema, pool),
            data,
            files,
            revocations,
            letters,
            audit,
            micros,
        )
        archives = Archives()
        stack.callback(archives.close)
        exports = Exports(
            schema,
            access,
            data,
            files,
            archives,
            letters,
            audit,
            micros,
            app=settings.relying_party_name,
            url=settings.public_url,
            bytes_max=settings.export_files_bytes_max,
            life=timedelta(days=settings.export_days),
        )
        scopes = Scopes(schema)
        users, stored_keys = StoredUsers(identity), StoredKeys(identity)
        admins = Admins(users, people.sign_ups, sessions, revocations, scopes, factors, notices, audit, **sizes)
        keys = Keys(stored_keys, tokens, audit, scopes)
        schedules = Schedules(StoredSchedules(identity), audit, enqueued, **sizes)
        stored_tasks, handlers = StoredTasks(identity), StoredHandlers(identity)
        tasks = Tasks(stored_tasks, audit, handlers, **sizes)
        webhook_events = WebhookEvents(schema, access)
        webhooks = Webhooks(
            StoredEndpoints(identity),
            StoredDeliveries(identity),
            webhook_events,
            Seal([secret.get_secret_value() for secret in settings.secret], WEBHOOK_SECRETS),
            audit,
            micros,
            settings.webhook_networks,
            days=settings.webhook_days,
            **sizes,
        )
        explanations = Explanations(schema, access, records, users, stored_keys, audit, micros)
        yield Parts(
            settings=settings,
            schema=schema,
            resources=resources,
            aggregates=Aggregates(schema, resources.lists, queries, access, resources.methods),
            people=people,
            identities=identities,
            passkeys=passkeys,
            second_factors=second_factors,
            account_data=account_data,
            deletions=deletions,
            exports=exports,
            files=files,
            processing=processing,
            keys=keys,
            admins=admins,
            explanations=explanations,
            requests=requests,
            operations=operations,
            queries=queries,
            event_log=EventLog(primary),
            sessions=sessions,
            callers=callers,
            limits=limits,
            freshness=freshness,
            presence=presence,
            pool=pool,
            app=app,
            templates=templates,
            schedules=schedules,
            tasks=tasks,
            enqueuing=Enqueuing(stored_tasks, handlers, schema, resources.decisions, micros),
            following=Following(tasks, stored_tasks),
            webhook_events=webhook_events,
            webhooks=webhooks,
            sweeps={
                "sessions": sessions.sweep,
                "words": words.sweep,
                "mails": people.sign_ups.sweep,
                "schedules": schedules.sweep,
                "tasks": tasks.sweep,
                "webhooks": webhooks.sweep,
                "old mails": partial(mails.sweep, identity, settings.mail_days),
                "anonymous": people.anonymous.sweep,
                "files": files.sweep,
                "files left behind": files.sweep_orphans,
                "processing": processing.sweep,
                "audit": audit.sweep,
                "networks": networks.sweep,
                "endings": Endings(schema, resources.decisions, records).sweep,
                "deletions": deletions.begin,
                "exports": exports.sweep,
                "requests": requests.sweep,
                "operations": operations.sweep,
            },
        )


def people_of(
    pool: Pool,
    stored: StoredAccounts,
    passwords: Passwords,
    words: Words,
    letters: Letters,
    policy: SignUpPolicy,
    rules: PasswordRules,
    attempts: Attempts,
    sign_ins: SignIns,
    sessions: Sessions,
    revocations: Revocations,
    audit: Audit,
    *,
    anonymous: bool,
) -> People:
    """What callers may do with accounts."""
    deeds, post = Deeds(pool), Post(micros, said)
    sign_ups = SignUps(policy, rules, passwords, stored, deeds, words, post, letters, sign_ins, audit)
    proving = Proving(stored, passwords, attempts)
    return People(
        accounts=Accounts(stored, deeds, passwords, attempts, sign_ins, audit),
        sign_ups=sign_ups,
        addresses=Addresses(stored, deeds, post, letters, sign_ups, proving, revocations, audit),
        new_passwords=NewPasswords(
            stored,
            deeds,
            words,
            post,
            letters,
            rules,
            passwords,
            proving,
            sessions,
            revocations,
            sign_ins,
            audit,
        ),
        mail_codes=MailCodes(policy, deeds, words, post, letters, attempts, revocations, sign_ins, audit),
        anonymous=Anonymous(
            stored,
            StoredAnonymous(pool),
            deeds,
            words,
            post,
            letters,
            policy,
            rules,
            passwords,
            revocations,
            sign_ins,
            audit,
            allowed=anonymous,
        ),
        sessions=sessions,
    )


def micros() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1000


def _measure(label: str, pool: Pool) -> None:
    def measured(name: str) -> float:
        return float(pool.get_stats().get(name, 0))

    for name in ("pool_size", "pool_available", "requests_waiting"):
        POOL.labels(label, name).set_function(partial(measured, name))


async def _patiently(primary: Lane) -> None:
    """Waits for Postgres: at the start of a whole system, everything comes up at once."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return await primary.open()
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            log.info("waiting for postgres")
            await asyncio.sleep(0.5)
