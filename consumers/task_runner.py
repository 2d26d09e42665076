"""Runs the tasks that were enqueued by name, from the table in which they stand.

Priority, delay, unique keys, cancelling, and bounds over all workers are questions of order and count, which the database
that holds the tasks answers in the statement that takes one; a broker between them could answer none, and would be a second
copy to be kept true. A take is a lease: a worker that dies loses it, and another one takes the task. What a run gathered
commits together with the task's end, and that fails where the run is not the task's any more: its effect happens once,
whatever dies when.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import random
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import structlog
from google.protobuf import json_format
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from structlog.contextvars import bind_contextvars

from consumers.apart import PROCESSES, Apart
from consumers.waiting import Backoff, either
from server.apps import Cancel, Discard, Order, Retry, Snooze, Work
from server.apps.named import Named
from server.engine.tasks import COLLECTION
from server.errors import Refusal, Stale, Unavailable
from server.store.tasks import CHANNEL, StoredTask, StoredTasks, finished

log = structlog.get_logger("tasks")

RUNS_MAX = 16
"""Tasks that one worker runs at one time."""
POLL = 1.0
"""Seconds after which the table is looked at without having been told to."""
SOON = 0.02
"""And at least so long after the last look."""
RECLAIMS = 3
"""Looks for workers that died, in the time of a lease."""
AWAY = ("DATABASE_AWAY", "OUTCOME_UNKNOWN")
"""Reasons of the database's: they use up no attempts."""
AWAY_FIRST, AWAY_MOST = 1.0, 30.0
"""Seconds until a run that met with one of them comes again: as many as have gone since it was away, within these."""
LOST_MAX = 5
"""So many workers may die under one task; then it is dead."""
RERUNS = 5
"""Times a task is run again at once when somebody changed what it had read."""
RESULT_BYTES, ERROR_CHARS, TRACEBACK_CHARS = 64 << 10, 500, 8000
"""Bounds of what is kept of a run."""
PROGRESS_SECONDS = 0.5
"""Between two words on progress that are written down."""
MEASURED, DEPTH_MAX = 15.0, 100_000
"""Seconds between two counts of what there is to do, and up to where it is counted."""
WAIT_MAX = 366 * 86_400.0
"""Seconds that a task may ask to wait."""


class TaskMetrics:
    """What a worker says of tasks."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        to: dict[str, Any] = {} if registry is None else {"registry": registry}
        self.runs = Counter("transom_named_task_runs", "Runs by the state they left.", ["handler", "state"], **to)
        self.depth = Gauge(
            "transom_named_tasks", "Tasks that have not ended, as far as they are counted.", ["handler", "state"], **to
        )
        self.running = Gauge("transom_named_tasks_running", "Tasks that run in this worker.", **to)
        self.lost = Counter("transom_named_task_leases_lost", "Tasks taken back from workers that died.", **to)
        self.seconds = Histogram("transom_named_task_seconds", "Duration of a run.", ["handler"], **to)
        self.late = Histogram(
            "transom_named_task_late_seconds",
            "How much later than it was due a run began.",
            buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 30, 60, 600, 3600),
            **to,
        )


class TaskRunner:
    """One worker's. `run` returns after `stop` was set and what ran has finished or was given back."""

    def __init__(
        self,
        dsn: str,
        stored: StoredTasks,
        works: Callable[[StoredTask], Work],
        named: Sequence[Named],
        metrics: TaskMetrics,
        *,
        instance: str = "worker",
        grace: float = 8.0,
        message: Callable[[str], Any] | None = None,
    ) -> None:
        """`message` is the class of a message by its full name, for tasks that are told one."""
        self._dsn = dsn
        self._stored = stored
        self._works = works
        self._named = {one.name: one for one in named}
        self._metrics = metrics
        self._instance = instance
        self._grace = grace
        self._message = message
        self._wake = asyncio.Event()
        # By task and take: of a task that was given up elsewhere and taken again here, both runs are held.
        self._runs: dict[tuple[str, int], tuple[StoredTask, asyncio.Task[None]]] = {}
        self._cancelled: set[tuple[str, int]] = set()
        self._apart = Apart()
        self._away_since: float | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set; outlives Postgres being away."""
        if not self._named:  # others' leases end all the same
            keeping = asyncio.create_task(self._keep())
            await stop.wait()
            keeping.cancel()
            return
        beside = [asyncio.create_task(one) for one in (self._listen(), self._keep(), self._measure())]
        ending = asyncio.create_task(stop.wait())
        ending.add_done_callback(lambda _: self._wake.set())
        backoff = Backoff()
        try:
            while not stop.is_set():
                self._wake.clear()
                try:
                    if await self._take():
                        continue
                    backoff.reset()
                    due = await self._stored.wait(list(self._named))
                    wait = POLL if due is None else min(POLL, max(due, SOON))
                except Refusal as away:
                    wait = backoff.next()
                    log.warning("tasks wait", reason=away.reason, retry_in=round(wait, 2))
                except Exception:  # a fault of ours: what runs goes on, and so does this
                    wait = backoff.next()
                    log.exception("tasks wait", retry_in=round(wait, 2))
                await either(self._wake, wait)
            await self._drain()
        finally:
            for one in (*beside, ending):
                one.cancel()
            self._apart.close()

    async def _take(self) -> bool:
        """Begins what there is room for; whether something was."""
        free = [one for one in self._named.values() if not one.at_once and one.rate is None]
        bound: dict[str, list[Named]] = {}
        for one in self._named.values():
            if one not in free:
                bound.setdefault(one.queue, []).append(one)
        begun = 0
        apart, inside = [one for one in free if one.cpu], [one for one in free if not one.cpu]
        groups: list[tuple[str, list[Named]]] = [*bound.items(), ("", apart), ("", inside)]
        for queue, members in groups:
            room = RUNS_MAX - len(self._runs)
            if any(one.cpu for one in members):  # waiting here would use up its time limit; another worker may be free
                room = min(room, PROCESSES - sum(self._named[task.handler].cpu for task, _ in self._runs.values()))
            if room <= 0 or not members:
                continue
            at_once = min((one.at_once for one in members if one.at_once), default=0)
            rate = next((one.rate for one in members if one.rate is not None), None)
            names = [one.name for one in members]
            for task in await self._stored.take(self._instance, names, room, queue, at_once, rate):
                begun += 1
                self._metrics.late.observe(
                    max(0.0, (task.start_time or task.run_time).timestamp() - task.run_time.timestamp())
                )
                run = asyncio.create_task(self._run(self._named[task.handler], task))
                key = task.id, task.takes
                self._runs[key] = task, run
                self._metrics.running.set(len(self._runs))
                run.add_done_callback(lambda _, key=key: self._ended(key))  # type: ignore[misc]
        return begun > 0

    async def _measure(self) -> None:
        """Says how much there is to do."""
        while True:
            try:
                depths = await self._stored.depths(DEPTH_MAX)
            except Refusal:
                depths = None
            if depths is not None:
                self._metrics.depth.clear()
                for one in depths:
                    self._metrics.depth.labels(one.handler, one.state).set(one.number)
            await asyncio.sleep(MEASURED)

    def _ended(self, key: tuple[str, int]) -> None:
        self._runs.pop(key, None)
        self._cancelled.discard(key)
        self._metrics.running.set(len(self._runs))
        self._wake.set()

    async def _run(self, named: Named, task: StoredTask) -> None:
        bind_contextvars(handler=task.handler, task=f"{COLLECTION}/{task.id}")
        start = time.monotonic()
        try:
            state = await self._settled(named, task)
            self._metrics.runs.labels(task.handler, state).inc()
        except asyncio.CancelledError:
            if (task.id, task.takes) in self._cancelled:
                await self._settle(task, "CANCELLED", error="cancelled while it ran")
                self._metrics.runs.labels(task.handler, "CANCELLED").inc()
                return
            await self._settle(task, "QUEUED", free=True, patient=False)
            raise
        except Exception:
            log.exception("not settled; its lease ends and it runs again")
        finally:
            self._metrics.seconds.labels(task.handler).observe(time.monotonic() - start)

    async def _settled(self, named: Named, task: StoredTask) -> str:
        """Runs it and writes down how it ended; the state it is in."""
        if task.lost > LOST_MAX:
            return await self._settle(task, "DEAD", error=f"{task.lost} workers died under it")
        for rerun in range(RERUNS + 1):
            limit = asyncio.timeout(named.time_limit)
            try:
                async with limit:
                    await self._once(named, task)
                self._away_since = None
                return "SUCCEEDED"
            except Stale as stale:
                held = await self._stored.renew([(task.id, task.takes)])
                if task.id not in held:
                    return "LOST"
                if held[task.id]:
                    return await self._settle(task, "CANCELLED", error="cancelled while it ran")
                if rerun < RERUNS:
                    await asyncio.sleep(0.02 * 2**rerun)
                    continue
                return await self._failed(named, task, stale)
            except Discard as discard:
                return await self._settle(task, "DISCARDED", error=str(discard))
            except Cancel as cancel:
                return await self._settle(task, "CANCELLED", error=str(cancel))
            except Snooze as snooze:
                return await self._settle(task, "QUEUED", after=snooze.after, free=True)
            except Retry as retry:
                return await self._failed(named, task, retry, retry.after)
            except Exception as error:
                late = TimeoutError(f"over its time limit of {named.time_limit:g} s") if limit.expired() else None
                return await self._failed(named, task, late or error)
        raise AssertionError

    async def _once(self, named: Named, task: StoredTask) -> None:
        work = self._works(task)
        told, last = json.loads(task.payload), 0.0

        async def tell(part: float, text: str) -> None:
            nonlocal last
            if time.monotonic() - last >= PROGRESS_SECONDS:
                last = time.monotonic()
                await self._stored.progress(task, part, text)

        work.tell_progress = tell
        payload = told
        if named.payload and self._message is not None:
            payload = json_format.ParseDict(told, self._message(named.payload)())
        order = Order(f"{COLLECTION}/{task.id}", payload, task.attempts, task.id, task.caller)
        if named.cpu:
            result = await self._apart.call(named.function, told)
        elif inspect.iscoroutinefunction(named.function):
            result = await named.function(order, work)
        else:
            result = await asyncio.to_thread(named.function, order, work)
        text = "" if result is None else json.dumps(result, allow_nan=False)
        if len(text.encode()) > RESULT_BYTES or "\\u0000" in text:
            raise ValueError(f"a result is at most {RESULT_BYTES} bytes as JSON, without NUL: store a file instead")
        await work.commit(extra=[finished(task.id, task.takes, text)])

    async def _failed(self, named: Named, task: StoredTask, error: Exception, after: float | None = None) -> str:
        told = "".join(traceback.format_exception(error))[-TRACEBACK_CHARS:]
        why = f"{type(error).__name__}: {error}"
        if isinstance(error, Unavailable) and error.reason in AWAY:  # the database: that is not the task's fault
            return await self._settle(task, "QUEUED", after=self._away_for(), error=why, free=True)
        hopeless = isinstance(error, json_format.ParseError)
        if task.attempts > named.retries or hopeless:
            log.error("the task is dead", attempts=task.attempts, reason=why[:ERROR_CHARS])
            return await self._settle(task, "DEAD", error=why, told=told)
        wait = named.backoff.after(task.attempts) if after is None else after
        log.warning("the task failed", attempts=task.attempts, reason=why[:ERROR_CHARS], retry_in=round(wait, 2))
        return await self._settle(task, "FAILED", after=wait, error=why, told=told)

    def _away_for(self) -> float:
        """How long to leave the database alone: longer the longer it is away, and not all at the same moment."""
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
        return min(max(now - self._away_since, AWAY_FIRST), AWAY_MOST) * random.uniform(0.5, 1)

    async def _settle(
        self,
        task: StoredTask,
        state: str,
        *,
        after: float = 0,
        error: str = "",
        told: str = "",
        free: bool = False,
        patient: bool = True,
    ) -> str:
        """Writes it down, while the database is away again and again: nobody else has the task before its lease ends. Where it is
        not `patient`, because the worker ends, it leaves the rest to that."""
        backoff = Backoff()
        error, told = error.replace("\0", "")[:ERROR_CHARS], told.replace("\0", "")
        after = min(max(after, 0.0), WAIT_MAX)
        while True:
            try:
                held = await self._stored.settle(task, state, after=after, error=error, traceback=told, free=free)
                return state if held else "LOST"
            except Unavailable:
                if not patient:
                    return "LOST"
                await asyncio.sleep(backoff.next())

    async def _keep(self) -> None:
        """Renews what runs, cancels what shall be, and takes back what nobody renews."""
        every = self._stored.lease / RECLAIMS
        looked = -every
        while True:
            try:
                held = sorted(self._runs)  # first, so that nothing of its own is taken for lost
                newest = dict(held)
                still = await self._stored.renew(held) if held else {}
                for key in held:
                    id, take = key
                    ours = id in still and take == newest[id]
                    if key in self._runs and (not ours or still[id]):
                        if ours:
                            self._cancelled.add(key)
                        self._runs[key][1].cancel()
                if time.monotonic() - looked >= every:
                    lost = await self._stored.reclaim()
                    self._metrics.lost.inc(lost)
                    looked = time.monotonic()
                    if lost:
                        self._wake.set()
            except Refusal as away:
                log.warning("leases are not renewed", reason=away.reason)
                # Others were cut off as well, perhaps for longer than a lease: they live, and renew before this looks.
                looked = time.monotonic()
            except Exception:  # whatever it was, what runs must keep its lease
                log.exception("leases are not renewed")
            # Whoever asks for a run to be cancelled shall not wait for a lease.
            await asyncio.sleep(min(POLL, every))

    async def _listen(self) -> None:
        """Wakes whoever takes, when something was enqueued."""
        backoff = Backoff()
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as connection:
                    await connection.execute(f"listen {CHANNEL}")
                    backoff.reset()
                    async for note in connection.notifies():
                        if note.payload in self._named:
                            self._wake.set()
            except (psycopg.Error, OSError):
                await asyncio.sleep(backoff.next())  # meanwhile it is polled

    async def _drain(self) -> None:
        """Waits for what runs, then gives the rest back, to be taken by others at once."""
        runs = {run for _, run in self._runs.values()}
        if runs:
            _, runs = await asyncio.wait(runs, timeout=self._grace)
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
