"""How an app says that a function is due again and again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from server.apps.declarations import RETRIES_MAX, TIME_LIMIT_MAX, F, marked
from server.apps.named import Backoff
from server.apps.work import Work
from server.engine.cadence import CATCH_UP_USUAL, Cadence, CatchUp, Spec
from server.engine.schedules import NAME, Tick
from server.engine.tasks import PRIORITY_MAX


@dataclass(frozen=True, slots=True)
class Scheduled:
    """The function is run at each tick of a schedule."""

    name: str
    spec: Spec
    retries: int
    time_limit: float
    description: str
    function: Callable[[Tick, Work], Awaitable[None]]
    backoff: Backoff
    priority: int


def every(
    when: str | timedelta,
    *,
    tz: str = "UTC",
    catch_up: str = "latest",
    catch_up_most: int = CATCH_UP_USUAL,
    overlap: bool = True,
    name: str = "",
    retries: int = 8,
    time_limit: float = 300.0,
    backoff: Backoff | None = None,
    priority: int = 0,
) -> Callable[[F], F]:
    """Runs the function again and again: `async def f(tick: Tick, work: Work) -> None`, or a plain `def`, which runs in a
    thread.

    `when` is a cron expression, `"0 8 * * MON-FRI"`, in the time zone `tz`, or an interval, `timedelta(minutes=15)`. Each tick
    is run once, as a task by name, called `schedule.{name}`: what the function gathers in `work` commits when it returns; where
    it fails, it is tried again `retries` times as `backoff` says; `priority` as `@task` has it. Ticks for which no worker was
    there are made up for by one run (`catch_up="latest"`), each (`"all"`, of more than `catch_up_most` the latest), or not at
    all (`"skip"`). Without `overlap`, a tick is let go while the run of one before it has not ended, and of several that are
    made up for, or asked for, one runs after the other. The schedule is called like the function unless `name` says
    otherwise; its state is kept by that name.

    Raises ValueError for what is no schedule.
    """
    interval = when if isinstance(when, timedelta) else None
    cadence = Cadence("" if isinstance(when, timedelta) else when, tz, interval)
    if catch_up not in tuple(CatchUp):
        raise ValueError(f"catch_up is one of {', '.join(CatchUp)}")
    spec = Spec(cadence, CatchUp(catch_up), catch_up_most, overlap)
    if not 0 <= retries <= RETRIES_MAX or not 0 < time_limit <= TIME_LIMIT_MAX:
        raise ValueError(f"retries go from 0 to {RETRIES_MAX}, time_limit up to {TIME_LIMIT_MAX:.0f} s")

    if not -PRIORITY_MAX <= priority <= PRIORITY_MAX:
        raise ValueError(f"priorities go from {-PRIORITY_MAX} to {PRIORITY_MAX}")

    def declared(function: F) -> F:
        called = name or str(getattr(function, "__name__", ""))
        if not NAME.fullmatch(called):
            raise ValueError(
                f"a schedule's name is a lower case letter and up to 62 of a-z, 0-9, _, -: {called[:100]!r}"
            )
        about = _first_sentence(function)
        return marked(
            function, Scheduled(called, spec, retries, time_limit, about, function, backoff or Backoff(), priority)
        )

    return declared


def _first_sentence(function: Any) -> str:
    text = " ".join((getattr(function, "__doc__", None) or "").partition("\n\n")[0].split())
    return text[:200]
