"""Where reads were answered, as metrics: counted as plain numbers, and told when they are asked for, since a read is cheap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import REGISTRY, CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from server.store.freshness import Freshness
from server.store.hot import Hot

_SAID = {
    "transom_reads": ("Reads by where they were answered, but for those that writes are decided on.", "source"),
    "transom_hot_looks": (
        "Looks for hot rows in Redis: hits, misses; shared are those of either that were asked along with another.",
        "outcome",
    ),
    "transom_hot_entries": (
        "Entries of hot rows: made, and not made because the row was changed meanwhile.",
        "outcome",
    ),
}


def reads(freshness: Freshness, hot: Hot | None) -> Mapping[str, Mapping[str, int]]:
    """What was counted: of each metric, its values by label."""
    answered = {"replica": freshness.from_replica, "primary": freshness.from_primary}
    if hot is None:
        return {"transom_reads": answered}
    return {
        "transom_reads": answered | {"redis": hot.hits},
        "transom_hot_looks": {"hit": hot.hits, "miss": hot.misses, "shared": hot.shared},
        "transom_hot_entries": {"made": hot.filled, "barred": hot.barred},
    }


class Reads(Collector):
    """The collector of this process; `of` says what it counts."""

    def __init__(self) -> None:
        self.of: Callable[[], Mapping[str, Mapping[str, int]]] = dict

    def collect(self) -> Iterable[Metric]:
        """The metrics now."""
        for name, values in self.of().items():
            said, label = _SAID[name]
            family = CounterMetricFamily(name, said, labels=[label])
            for value, count in values.items():
                family.add_metric([value], count)
            yield family


READS = Reads()
REGISTRY.register(READS)
