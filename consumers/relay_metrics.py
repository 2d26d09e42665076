"""What the relay says of itself, and how it looks at what waits for it."""

from __future__ import annotations

from typing import Any, LiteralString

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

DEPTH_MAX = 100_000
"""The outbox's depth is counted up to here."""

MEASURE_OUTBOX: LiteralString = """
    select numbered - published + (
               select count(*) from (select from transom.events where position is null limit %s) as waiting),
           coalesce(extract(epoch from clock_timestamp() - least(
               (select create_time from transom.events where position is null order by id limit 1),
               (select create_time from transom.events where position > published order by position limit 1))), 0),
           numbered - trimmed, kept_bytes
    from transom.relay"""
"""Events the broker has not confirmed, the age of the oldest in seconds, and how many events and bytes the log has."""


class RelayMetrics:
    """What the relay says of itself. Only the active one measures the outbox."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        to: dict[str, Any] = {} if registry is None else {"registry": registry}
        self.active = Gauge("transom_relay_active", "1 in the relay that publishes, 0 in those that stand by.", **to)
        self.connected = Gauge("transom_relay_broker_connected", "1 while there is a connection to the broker.", **to)
        self.depth = Gauge("transom_outbox_events", f"Events not yet confirmed by the broker, up to {DEPTH_MAX}.", **to)
        self.age = Gauge("transom_outbox_oldest_seconds", "Age of the oldest of them.", **to)
        self.kept = Gauge("transom_event_log_events", "Events in the log that have a position.", **to)
        self.kept_bytes = Gauge("transom_event_log_bytes", "Bytes of them, about.", **to)
        self.published = Counter("transom_relay_published", "Events confirmed by the broker.", **to)
        self.refused = Counter("transom_relay_refused", "Batches in which the broker refused an event.", **to)
        self.confirm = Histogram(
            "transom_relay_confirm_seconds",
            "From a batch's first publish to its last confirm.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            **to,
        )
