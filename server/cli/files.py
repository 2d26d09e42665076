"""`transom files`: what is known of files, straight in the database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import click

from ._chosen import port_option, settings_of

if TYPE_CHECKING:
    from server.store.files import StoredFiles

T = TypeVar("T")
MOST = 1000
"""Files of one list."""
STATES = ("pending", "uploaded", "ready", "rejected")


@click.group("files")
def command() -> None:
    """Show files: whose they are, where they are in their lives, why they were rejected.

    \b
    transom files list --state rejected
    transom files list --owner users/USER
    transom files show FILE

    Works on the stack with edge port --port, or on what TRANSOM_POSTGRES and the other settings name. Copies of accounts are not
    shown.
    """


@command.command("list")
@click.option("--state", type=click.Choice(STATES, case_sensitive=False), help="Only those in this state.")
@click.option("--owner", default="", help="Only those of this owner: users/USER, keys/KEY, or system.")
@click.option("-n", "count", type=click.IntRange(1, MOST), default=50, show_default=True, help="At most so many.")
@port_option
def list_(state: str | None, owner: str, count: int, port: int | None) -> None:
    """Show files, the newest first: name, state, bytes, type, when it was announced, owner, filename, why it was rejected."""
    found = _run(port, lambda files: files.newest(owner, (state or "").upper(), count))
    shown = [one for one in found if not one.private]
    if not shown:
        click.echo("no files", err=True)
    for one in shown:
        rejection = one.rejection["reason"] if one.rejection and one.state == "REJECTED" else ""
        told = [click.style(f"files/{one.id}", bold=True), f"{one.state.lower():8}", f"{one.size_bytes:>11}"]
        told += [f"{one.content_type:20}", _moment(one.create_time), one.owner, _plain(one.filename), rejection]
        click.echo("  ".join(told).rstrip())


@command.command()
@click.argument("file")
@port_option
def show(file: str, port: int | None) -> None:
    """Show one file: its life, its variants, what was found out about it, or why it was rejected."""
    one = _run(port, lambda files: files.one(file.removeprefix("files/")))
    if one is None or one.private:
        raise click.ClickException(f"there is no file {file}")
    rejection = one.rejection if one.state == "REJECTED" else None
    variants = one.variants if one.state == "READY" else []
    rows = [
        ("file", f"files/{one.id}"),
        ("owner", one.owner),
        ("filename", _plain(one.filename)),
        ("type", one.content_type),
        ("bytes", f"{one.size_bytes}{' at most' if one.bounded and one.state == 'PENDING' else ''}"),
        ("sha256", one.sha256.hex() if one.sha256 else ""),
        ("state", one.state.lower()),
        ("rejected", f"{rejection['reason']}: {_plain(rejection['message'])}" if rejection else ""),
        ("read by", "everybody" if one.public else "its owner, and who may see what refers to it"),
        ("parts of", str(one.part_size_bytes or "")),
        ("announced", _moment(one.create_time)),
        ("complete", _moment(one.complete_time)),
        ("processed", _moment(one.process_time)),
        *((("found", f"{name} {_plain(str(value))}")) for name, value in one.metadata.items()),
        *(("variant", f"{v['name']} {v['content_type']} {v['size_bytes']} bytes") for v in variants),
    ]
    for label, text in rows:
        if text.strip():
            click.echo(f"{label:9}  {text}")


def _plain(text: str) -> str:
    """Text of others, without what a terminal would act on."""
    return "".join(c if c.isprintable() else "�" for c in text)


def _moment(time: datetime | None) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z" if time else ""


def _run(port: int | None, work: Callable[[StoredFiles], Awaitable[T]]) -> T:
    from psycopg_pool import AsyncConnectionPool

    from server.errors import Refusal
    from server.store.files import StoredFiles

    dsn = settings_of(port).postgres.get_secret_value()

    async def main() -> T:
        async with AsyncConnectionPool(dsn, min_size=1, max_size=1, open=False, timeout=5, reconnect_timeout=3) as pool:
            return await work(StoredFiles(pool))

    try:
        return asyncio.run(main())
    except Refusal as refusal:
        raise click.ClickException(refusal.message) from refusal
