"""When a schedule is due: cron expressions in a time zone, and intervals. Pure: every question brings its own time.

Cron expressions are Debian's, read by cronsim: minute, hour, day of month, month, day of week; a sixth field in front is
seconds; `L` and `LW` are the last day and the last weekday of a month, `MON#2` is the second Monday, `FRI#L` the last Friday.
Where day of month and day of week are both given, either will do. Where clocks change:

    skipped    a fixed time that does not exist (02:30, where 02:00 becomes 03:00) is the first moment that does
    repeated   a fixed time that comes twice counts once, the first time
    else       what names no fixed hour (`*/15 * * * *`) goes by the real time: nothing is left out and nothing twice

Intervals are counted from the beginning of 1970, UTC, so that all processes agree: every 15 minutes is at :00, :15, :30, :45.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

EXPRESSION_CHARS = 100
INTERVAL_LEAST, INTERVAL_MOST = timedelta(seconds=1), timedelta(days=366)
CATCH_UP_USUAL, CATCH_UP_MOST = 100, 1000
"""Ticks that are made up for at once: as many as a schedule says, and as many as it may say."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class CatchUp(StrEnum):
    """What becomes of ticks that nobody was there for."""

    LATEST = "latest"
    """They are made up for by one run, for the latest of them."""
    ALL = "all"
    """Each is made up for, oldest first; of more than the schedule's bound the latest."""
    SKIP = "skip"
    """They are let go; only what is due within GRACE runs."""


GRACE = timedelta(seconds=60)
"""How late a tick may be and still count as in time, where those that were missed are let go."""


@dataclass(frozen=True, slots=True)
class Cadence:
    """When: either `cron`, in a time zone, or an `interval`."""

    cron: str = ""
    time_zone: str = "UTC"
    interval: timedelta | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for what is no cadence, or comes never."""
        if (self.interval is None) == (not self.cron):
            raise ValueError("a schedule has either a cron expression or an interval")
        if self.interval is not None:
            if not INTERVAL_LEAST <= self.interval <= INTERVAL_MOST or self.interval.microseconds:
                raise ValueError("an interval is 1 second to 366 days, in whole seconds")
            return
        try:
            zone = ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"there is no time zone {self.time_zone[:100]!r}") from error
        try:
            if len(self.cron) > EXPRESSION_CHARS:
                raise CronSimError(f"longer than {EXPRESSION_CHARS} characters")
            next(CronSim(self._expression, datetime(2026, 1, 1, tzinfo=zone)))
        except (CronSimError, ValueError) as error:
            raise ValueError(f"{self.cron[:EXPRESSION_CHARS]!r} is no cron expression: {error}") from error
        except (StopIteration, RuntimeError):
            raise ValueError(f"{self.cron!r} comes never") from None

    def after(self, moment: datetime) -> datetime:
        """The first tick after a moment, UTC."""
        return next(self._after(moment))

    def following(self, moment: datetime, count: int) -> list[datetime]:
        """The next ticks after a moment, UTC."""
        ticks = self._after(moment)
        return [next(ticks) for _ in range(count)]

    def due(self, first: datetime, until: datetime, most: int) -> list[datetime]:
        """The latest ticks from `first` to `until`, both included, oldest first; at most `most`."""
        if first > until:
            return []
        if self.interval is not None:
            last = _EPOCH + (until - _EPOCH) // self.interval * self.interval
            count = min(most, (last - first) // self.interval + 1)
            return [last - n * self.interval for n in reversed(range(count)) if last - n * self.interval >= first]
        # Cron runs forwards only. Looked at is no more than what holds enough of them: twice as far back each time.
        begin, back = first - timedelta(microseconds=1), timedelta(hours=1)
        while True:
            start = max(begin, until - back)
            found = []
            for tick in self._after(start):
                if tick > until:
                    break
                found.append(tick)
            if len(found) >= most or start == begin:
                return found[-most:]
            back *= 2

    @property
    def _expression(self) -> str:
        return _NAMED.get(self.cron.strip().lower(), self.cron)

    def _after(self, moment: datetime) -> Iterator[datetime]:
        if self.interval is not None:
            tick = _EPOCH + ((moment - _EPOCH) // self.interval + 1) * self.interval
            while True:
                yield tick
                tick += self.interval
        begin = moment.astimezone(ZoneInfo(self.time_zone))
        if begin.fold:
            # In an hour that comes twice cronsim, which looks at fixed times without their zone, would begin in the first.
            begin = (moment - timedelta(hours=3)).astimezone(ZoneInfo(self.time_zone))
        for tick in CronSim(self._expression, begin):
            if (found := tick.astimezone(UTC)) > moment:
                yield found


@dataclass(frozen=True, slots=True)
class Spec:
    """What an app's code says of a schedule, but for its name."""

    cadence: Cadence
    catch_up: CatchUp = CatchUp.LATEST
    catch_up_most: int = CATCH_UP_USUAL
    overlap: bool = True
    """Whether a tick runs while the run of one before it goes on."""

    def __post_init__(self) -> None:
        if not 1 <= self.catch_up_most <= CATCH_UP_MOST:
            raise ValueError(f"catch_up_most is 1 to {CATCH_UP_MOST}")

    def written(self) -> str:
        """As text: the same for what is the same, whichever process writes it."""
        interval = self.cadence.interval
        told = {
            "cron": self.cadence.cron,
            "time_zone": self.cadence.time_zone,
            "interval": int(interval.total_seconds()) if interval else 0,
            "catch_up": self.catch_up.value,
            "catch_up_most": self.catch_up_most,
            "overlap": self.overlap,
        }
        return json.dumps(told, sort_keys=True)

    @classmethod
    def read(cls, text: str) -> Spec:
        """From what `written` wrote."""
        told = json.loads(text)
        interval = timedelta(seconds=told["interval"]) if told["interval"] else None
        cadence = Cadence(told["cron"], told["time_zone"], interval)
        return cls(cadence, CatchUp(told["catch_up"]), told["catch_up_most"], told["overlap"])

    def taken(self, first: datetime, now: datetime) -> tuple[list[datetime], int]:
        """Of the ticks from `first` to `now`, those to be run, oldest first, and how many are let go; of more than
        CATCH_UP_MOST those that lie further back are not counted."""
        due = self.cadence.due(first, now, CATCH_UP_MOST)
        match self.catch_up:
            case CatchUp.ALL:
                run = due[-self.catch_up_most :]
            case CatchUp.LATEST:
                run = due[-1:]
            case CatchUp.SKIP:
                run = [tick for tick in due[-1:] if now - tick <= GRACE]
        return run, len(due) - len(run)
