"""The numbers of calls for the metrics, counted at a fifth of what the library's own counters cost: each call adds to six."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

import grpc
from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds: the upper bounds of the histogram's buckets."""


class Tally:
    """The calls of one method. Counted by the event loop alone; read by the thread of the metrics, a moment late at worst."""

    __slots__ = ("codes", "counts", "seconds", "under_way")

    def __init__(self) -> None:
        self.under_way = 0
        self.codes: dict[grpc.StatusCode, int] = {}
        self.counts = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def ended(self, code: grpc.StatusCode, seconds: float) -> None:
        """Counts a call that was under way."""
        self.under_way -= 1
        self.codes[code] = self.codes.get(code, 0) + 1
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds


class Tallies(Collector):
    """All of a process, by method."""

    def __init__(self) -> None:
        self._methods: dict[str, Tally] = {}

    def of(self, method: str) -> Tally:
        """The tally of the method with that path."""
        return self._methods.setdefault(method, Tally())

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        """Calls by method and status, their duration, and how many are being served."""
        calls = CounterMetricFamily("transom_calls", "Calls by method and status.", labels=("method", "code"))
        seconds = HistogramMetricFamily("transom_call_seconds", "Duration of calls.", labels=("method",))
        methods = list(self._methods.items())
        for method, tally in methods:
            for code, count in list(tally.codes.items()):
                calls.add_metric((method, code.name), count)
            buckets, so_far = [], 0
            for bound, count in zip((*map(float, BOUNDS), "+Inf"), tuple(tally.counts), strict=True):
                so_far += count
                buckets.append((str(bound), so_far))
            if so_far:
                seconds.add_metric((method,), buckets, tally.seconds)
        yield calls
        yield seconds
        yield GaugeMetricFamily(
            "transom_calls_in_flight", "Calls being served.", sum(tally.under_way for _, tally in methods)
        )


TALLIES = Tallies()
REGISTRY.register(TALLIES)
