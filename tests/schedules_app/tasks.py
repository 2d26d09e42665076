"""A schedule that leaves a thing for each of its ticks, and others that are only looked at."""

from datetime import timedelta

from server.apps import Tick, Work, every


@every(timedelta(seconds=1), catch_up="all")
async def beat(tick: Tick, work: Work) -> None:
    """Leaves a thing. Named by its tick."""
    work.create("test.v1.Thing", "", f"beat-{tick.time:%H-%M-%S}", {})


@every("0 8 * * MON-FRI", tz="Europe/Berlin")
def morning(tick: Tick, work: Work) -> None:
    """Is never due while tests run, or nearly."""
