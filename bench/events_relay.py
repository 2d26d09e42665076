"""One relay as it runs in production, for handlers that are there for their queues alone."""

from __future__ import annotations

import asyncio
import sys

from prometheus_client import CollectorRegistry

from consumers.relay import Relay, RelayMetrics

from .events import TYPE, VERB


def main(postgres: str, amqp: str, *handlers: str) -> None:
    """Relays until it is ended."""
    queues = [(name, f"{TYPE}.{VERB}") for name in handlers]
    asyncio.run(Relay(postgres, amqp, queues, RelayMetrics(CollectorRegistry())).run())


if __name__ == "__main__":
    main(*sys.argv[1:])
