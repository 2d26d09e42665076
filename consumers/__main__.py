"""python -m consumers relay | work"""

from __future__ import annotations

import argparse
import asyncio

from consumers.wiring import relay, work
from server import logs
from server.settings import Settings

COMMANDS = {"relay": relay, "work": work}


def main() -> None:
    """Runs one process until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m consumers", description="Relays events, or works on them.")
    parser.add_argument(
        "command",
        choices=COMMANDS,
        help="relay: outbox to broker, one of any number is active; work: runs the app's tasks and sends mails",
    )
    command = COMMANDS[parser.parse_args().command]
    settings = Settings()
    logs.configure(settings)
    asyncio.run(command(settings))


if __name__ == "__main__":
    main()
