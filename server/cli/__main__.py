"""`transom`: one command per file of this folder, loaded only when it is asked for."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import click

SECTIONS = {
    "A system on this machine": ("up", "status", "logs", "down", "clean"),
    "An app": ("check", "plan", "apply", "build", "migrate", "seed"),
    "Using it": ("call", "key"),
    "Looking after it": (
        "user",
        "audit",
        "events",
        "explain",
        "files",
        "mail",
        "schedules",
        "tasks",
        "webhooks",
        "dead",
        "replay",
        "psql",
        "env",
        "failover",
        "replication",
    ),
}
"""Commands in the order somebody meets them; one that is not named here is listed last."""


class Commands(click.Group):
    """Finds a command in the file of its name: `command` in server/cli/<name>.py."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_"))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        found = import_module(f"server.cli.{name}").command
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        left = self.list_commands(ctx)
        for title, names in (*SECTIONS.items(), ("More", tuple(left))):
            if found := [name for name in names if name in left]:
                left = [name for name in left if name not in found]
                with formatter.section(title):
                    commands = [(name, self.get_command(ctx, name)) for name in found]
                    formatter.write_dl([(name, c.get_short_help_str(80)) for name, c in commands if c])


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Your .proto files, running.

    \b
    transom up                      the whole system, serving examples/inspect on port 8080
    transom up --app ../my-app      serving your own
    transom status                  what runs, and how it is
    transom call inspect.v1.InspectionService/ListSites '{}' --as ines@example.com
    transom down                    all of it stopped; data stays
    """


if __name__ == "__main__":
    sys.exit(main(prog_name="transom"))
