"""`transom audit`: what was done to accounts and by admins."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from ._chosen import port_option, settings_of

if TYPE_CHECKING:
    from server.settings import Settings
    from server.store.audit import StoredEntry, Wanted

EVERY = 1.0
"""Seconds between two looks while following."""
LATE = timedelta(seconds=30)
"""How much later an entry may be written than what it tells: following looks back as far."""
MOST = 1000
"""Entries of one look."""

_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@click.command()
@click.option("--actor", default="", help="What this one did: users/..., keys/..., operator.")
@click.option("--target", default="", help="What was done to this: users/..., keys/...")
@click.option("--action", default="", help="sign_in, roles_changed, ...")
@click.option("--since", default="", metavar="TIME", help="Since 30m, 2h, 7d ago, or since 2026-01-31[T12:00].")
@click.option("-n", "count", type=click.IntRange(1, MOST), default=50, show_default=True, help="The last so many.")
@click.option("-f", "--follow", is_flag=True, help="Show what comes, too.")
@port_option
def command(actor: str, target: str, action: str, since: str, count: int, follow: bool, port: int | None) -> None:
    """Show the audit log: what was done to accounts and by admins, and what was refused.

    A line each, oldest first: when, who (and the admin who acted as them), what, to what, how it ended, from which
    address, and what else is known.

    Works on the stack with edge port --port, or on what TRANSOM_POSTGRES and the other settings name.
    """
    from server.errors import Refusal
    from server.store.audit import Wanted

    wanted = Wanted(actor, target, action, _time(since) if since else None)
    try:
        asyncio.run(_shown(settings_of(port), wanted, count, follow))
    except Refusal as refusal:
        raise click.ClickException(refusal.message) from refusal
    except KeyboardInterrupt:
        pass  # the usual end of following


async def _shown(settings: Settings, wanted: Wanted, count: int, follow: bool) -> None:
    from dataclasses import replace

    from psycopg_pool import AsyncConnectionPool

    from server.store.audit import StoredAudit

    pool = AsyncConnectionPool(
        settings.postgres.get_secret_value(), min_size=1, max_size=1, open=False, reconnect_timeout=3
    )
    async with pool:
        audit = StoredAudit(pool)
        found = await audit.page(wanted, None, count)
        for entry in reversed(found):
            click.echo(_line(entry))
        if not found and not follow:
            click.echo("nothing", err=True)
        # Entries are not written in the order of their numbers: those of the last moments are looked at again.
        shown = deque((entry.id for entry in found), maxlen=10 * MOST)
        begin = max([entry.time for entry in found], default=datetime.now(UTC))
        while follow:
            await asyncio.sleep(EVERY)
            recent = await audit.page(replace(wanted, since=begin - LATE), None, MOST)
            for entry in reversed(recent):
                if entry.id not in shown:
                    shown.append(entry.id)
                    click.echo(_line(entry))
            begin = max([begin, *(entry.time for entry in recent)])


def _line(entry: StoredEntry) -> str:
    who = _plain(entry.actor) or "nobody"
    if entry.impersonator:
        who += f" (by {_plain(entry.impersonator)})"
    outcome = _plain(entry.outcome)
    told = [
        f"{entry.time:%Y-%m-%d %H:%M:%S}",
        who,
        click.style(_plain(entry.action), bold=True),
        _plain(entry.target) or "-",
        outcome if outcome == "ok" else click.style(outcome, fg="red"),
        _plain(entry.address) or "-",
        _plain(entry.device),
        *(_plain(f"{key}={value}") for key, value in sorted(entry.details.items())),
    ]
    return "  ".join(filter(None, told))


def _plain(text: str) -> str:
    # Texts of strangers are among them: nothing of it is for the terminal to obey.
    return "".join(c if c.isprintable() else " " for c in text)


def _time(text: str) -> datetime:
    if ago := _AGO.fullmatch(text):
        return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither 2h nor 2026-01-31T12:00", param_hint="--since") from None
    return given if given.tzinfo else given.astimezone()
