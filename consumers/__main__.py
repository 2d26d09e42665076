"""python -m consumers relay | work | replay --hours N"""

from __future__ import annotations

import argparse
import asyncio
import sys
from datetime import timedelta

import structlog

import server.collector
from consumers import wiring
from consumers.relay import replay
from server import logs
from server.schema.compilation import SchemaError
from server.settings import Settings


def main() -> int:
    """Runs one process until SIGTERM or SIGINT; the exit code is 1 where the app is refused."""
    parser = argparse.ArgumentParser(prog="python -m consumers", description="Events: relayed, worked on, replayed.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("relay", help="publishes committed events; of any number, one is active")
    commands.add_parser("work", help="runs the app's tasks and sends mails; any number share the work")
    again = commands.add_parser("replay", help="has past events published again, after the broker lost them")
    again.add_argument(
        "--hours", type=float, required=True, help="how far back; events are kept for TRANSOM_EVENT_DAYS"
    )
    given = parser.parse_args()

    server.collector.go_on()
    settings = Settings()
    logs.configure(settings)
    try:
        match given.command:
            case "relay":
                asyncio.run(wiring.relay(settings))
            case "work":
                asyncio.run(wiring.work(settings))
            case "replay":
                count = replay(settings.postgres.get_secret_value(), timedelta(hours=given.hours))
                print(f"{count} events will be published again; what is done already is recognised.")
    except SchemaError as fault:
        structlog.get_logger("main").error("cannot start", reason=str(fault))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
